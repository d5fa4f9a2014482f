"""Decomposing is quick: a person waits for it."""

import time

import pytest
from torch import nn

from edgecompress.decomposing import decompose
from edgecompress.plans import CompressionPlan, LayerPlan

STAGES = ((64, 64), (64, 128), (128, 256), (256, 512))


def resnet18_convolutions():
    """The 3x3 convolutions of ResNet-18, two blocks of two a stage; up to 512 x 512 x 3 x 3."""
    widths = [pair for before, width in STAGES for pair in ((before, width), *[(width, width)] * 3)]
    return nn.Sequential(*(nn.Conv2d(*pair, 3, padding=1, bias=False) for pair in widths))


def seconds_to_decompose(model, plan):
    """By the clock, or by the processor where other programs kept us waiting for it."""
    clock, processor = time.perf_counter(), time.process_time()
    decompose(model, plan)
    return min(time.perf_counter() - clock, time.process_time() - processor)


@pytest.mark.slow
def test_a_resnet18_is_decomposed_at_half_its_ranks_in_under_five_seconds():
    model = resnet18_convolutions()
    layers = tuple(
        LayerPlan(name, "tucker2", (conv.out_channels // 2, conv.in_channels // 2), tuple(conv.weight.shape), 0.0)
        for name, conv in model.named_children()
    )
    plan = CompressionPlan(model="resnet18", layers=layers)
    tries = (seconds_to_decompose(model, plan) for _ in range(2))  # the second only if the machine was busy
    assert any(seconds < 5 for seconds in tries)
