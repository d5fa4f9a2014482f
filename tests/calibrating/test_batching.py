"""Inputs at a time by the bytes they take, and in all by what they cost."""

import pytest
import torch
from torch import nn

from edgecompress.calibrating import batching
from edgecompress.calibrating.batching import affordable, inputs_at_once, rehearsed


def net():
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5))


def inputs(count=100):
    return (torch.randn(count, 3, 6, 6),)


def test_a_rehearsal_counts_bytes_and_work_of_one_input():
    seen = rehearsed(net(), inputs())
    assert seen.widest == 4 * 8 * 36
    assert seen.outputs == 4 * (3 * 8 * 36 + 5)
    assert seen.macs == 8 * 36 * 27 + 8 * 36 * 5


@pytest.mark.parametrize(("most", "gradients", "expected"), [(1, False, 1), (1 << 16, True, 9), (1 << 30, True, 64)])
def test_as_many_as_fit_are_run_at_once(monkeypatch, most, gradients, expected):
    monkeypatch.setattr(batching, "MOST_RUN_BYTES", most)
    assert inputs_at_once(net(), inputs(), gradients=gradients) == expected


def test_large_models_get_fewer_inputs_and_none_gets_too_few():
    macs = rehearsed(net(), inputs()).macs
    assert [affordable(net(), inputs(), times * macs) for times in (1, 50, 1000)] == [24, 50, 100]
    assert affordable(net(), inputs(5), macs) == 5


def test_a_model_that_does_not_run_is_left_to_say_so_itself():
    assert rehearsed(nn.Linear(4, 4), inputs()) is None
    assert inputs_at_once(nn.Linear(4, 4), inputs()) == 64
    assert affordable(nn.Linear(4, 4), inputs(), 1) == 100
