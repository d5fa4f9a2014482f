"""Layers that are slow in bfloat16 run in float32 within autocast, and change nothing else."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from edgecompress.finetuning.halving import is_slow_halved, sparing_slow_layers


@pytest.mark.parametrize(
    ("layer", "slow"),
    [
        (nn.Conv2d(8, 8, 3, groups=8), False),
        (nn.Conv2d(8, 8, (3, 1), groups=8), False),
        (nn.Conv1d(8, 8, 3, groups=8), False),
        (nn.Conv2d(8, 8, 3, stride=2, groups=8), True),
        (nn.Conv2d(8, 8, (3, 1), stride=(2, 1), groups=8), True),
        (nn.Conv2d(8, 8, 5, groups=8), True),
        (nn.Conv2d(8, 8, 3, dilation=2, groups=8), True),
        (nn.Conv2d(8, 16, 3, groups=8), True),
        (nn.ConvTranspose2d(8, 8, 2, stride=2, groups=8), True),
        (nn.Conv2d(8, 8, 3, stride=2, groups=4), False),
        (nn.Conv2d(8, 8, 3, stride=2), False),
        (nn.ConvTranspose2d(8, 8, 2, stride=2), False),
        (nn.Conv2d(1, 8, 5), False),
        (nn.Linear(8, 8), False),
    ],
)
def test_depthwise_layers_but_the_plainest_are_slow(layer: nn.Module, slow: bool) -> None:
    assert is_slow_halved(layer) is slow


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(4, 8, 1), nn.Conv2d(8, 8, 3, stride=2, groups=8), nn.Conv2d(8, 3, 1))


def types(model: nn.Sequential, x: Tensor) -> list[torch.dtype]:
    """What each layer gives in autocast."""
    given = []
    with torch.autocast("cpu", torch.bfloat16):
        for layer in model:
            x = layer(x)
            given.append(x.dtype)
    return given


def test_they_run_in_float32_within_autocast_and_the_others_do_not(model: nn.Sequential) -> None:
    x, half, full = torch.randn(2, 4, 6, 6), torch.bfloat16, torch.float32
    assert types(model, x) == [half, half, half]
    sparing_slow_layers(model)
    assert types(model, x) == types(deepcopy(model), x) == [half, full, half]


def test_without_autocast_outputs_and_gradients_stay_the_same(model: nn.Sequential) -> None:
    spared, x = deepcopy(model), torch.randn(2, 4, 6, 6)
    sparing_slow_layers(spared)
    for one in (model, spared):
        one(x).square().sum().backward()
    torch.testing.assert_close(spared(x), model(x), rtol=0, atol=0)
    for ours, theirs in zip(spared.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=0)


def test_autocast_is_as_it_was_after_a_layer_that_fails(model: nn.Sequential) -> None:
    sparing_slow_layers(model)
    with torch.autocast("cpu", torch.bfloat16):
        with pytest.raises(RuntimeError):
            model[1](torch.randn(2, 3, 6, 6))
        assert torch.is_autocast_enabled("cpu")
    assert not torch.is_autocast_enabled("cpu")
