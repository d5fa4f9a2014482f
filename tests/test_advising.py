"""What low rank can reach in a model, and what would pay instead."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import edgecompress as ec
from edgecompress.advising import Int8, Reach, measured_int8, reach_of
from edgecompress.planning import EVERYTHING, survey
from edgecompress.running.advice import int8_sentence, reach_sentences


def separable() -> nn.Module:
    """4,096 MACs of 16 x 16, all of 1x1 convolutions but a depthwise one."""
    depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
    return nn.Sequential(nn.Conv2d(16, 48, 1), nn.Conv2d(48, 16, 1), depthwise)


def reached(model: nn.Module, *shape: int) -> Reach:
    return reach_of(survey(model.eval(), (torch.randn(1, *shape),), EVERYTHING), EVERYTHING)


def test_the_share_that_candidates_make_smaller() -> None:
    found = reached(separable(), 16, 8, 8)
    pointwise = 2 * 16 * 48 * 64
    assert (found.layers, found.reachable_layers, found.reachable_macs) == (3, 2, pointwise)
    assert found.macs == pointwise + 16 * 9 * 64
    assert found.least_macs == found.macs - pointwise + 2 * 8 * (16 + 48) * 64
    assert (found.separable, found.pointwise, found.rank_at_half) == (True, pointwise, 48 / (2 * 64))
    words = "\n".join(reach_sentences(found))
    assert "low rank reaches 91.4 % of the MACs, in 2 of 3 layers; with the smallest candidates" in words
    assert "91.4 % of the MACs are in 1x1 convolutions beside depthwise ones: at half its MACs" in words
    assert "keeps 38 % of its rank" in words
    assert "with 107.5 k MACs much of the time" in words


def test_a_net_of_large_convolutions_gets_no_lecture() -> None:
    found = reached(nn.Sequential(nn.Conv2d(16, 64, 3), nn.Conv2d(64, 64, 1)), 16, 32, 32)
    assert not found.separable
    assert not found.tiny
    assert len(list(reach_sentences(found))) == 1


def test_nothing_to_reach_is_said() -> None:
    (words,) = reach_sentences(reached(nn.Linear(3, 2), 3))
    assert words.startswith("low rank reaches nothing here")


@pytest.mark.usefixtures("brief_measuring")
def test_int8_is_measured_with_its_circumstances_or_said_not_to_be() -> None:
    sample = ec.Sample("net", "net", separable, (torch.randn(1, 16, 8, 8),))
    found = measured_int8(sample.model(), sample)
    assert isinstance(found, Int8)
    words = int8_sentence(found)
    assert "1 thread, ONNX Runtime" in words
    assert "its outputs were not looked at" in words
    assert found.to_json()["comparison"]["provenance"] == "measured"
    assert int8_sentence("no file") == "int8 of the dense model: not measured (no file)"
