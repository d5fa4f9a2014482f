"""Layers that autocast should leave alone: on a CPU some are many times slower in bfloat16 than in float32."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from edgecompress.decompositions.base import is_transposed
from edgecompress.models.datasets import single


def sparing_slow_layers(model: nn.Module) -> None:
    """Have ``model``, in place, run each layer that :func:`is_slow_halved` in float32 within autocast too."""
    for layer in model.modules():
        if is_slow_halved(layer):
            _spare(layer)


def is_slow_halved(layer: nn.Module) -> bool:
    """Whether PyTorch has no fast gradient of a layer in bfloat16: depthwise, but for the plainest of them.

    Measured on an AMD EPYC with AVX-512 and bfloat16 (PyTorch 2.13, one thread, 128 x 64 x 16 x 16), bfloat16 against
    float32, forward and backward: 3x3 with stride 1 half the time; stride 2 21 times, 5x5 1.8 times, dilation 2
    1.8 times, two outputs of each channel twice, transposed 4x4 with stride 2 7 times.
    """
    if not isinstance(layer, _ConvNd) or layer.groups == 1 or layer.groups != layer.in_channels:
        return False
    shape = (*layer.stride, *layer.dilation, *(-(-taps // 3) for taps in layer.kernel_size))
    return is_transposed(layer) or layer.out_channels != layer.groups or max(shape) > 1


def _spare(layer: nn.Module) -> None:
    """Autocast is off while the layer runs; its inputs are in float32."""
    were: list[bool] = []

    def begin(_: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        were.append(torch.is_autocast_enabled("cpu"))
        torch.set_autocast_enabled("cpu", False)
        return tuple(single(value) if isinstance(value, Tensor) else value for value in given)

    def end(*_: Any) -> None:
        torch.set_autocast_enabled("cpu", were.pop())

    layer.register_forward_pre_hook(begin)
    layer.register_forward_hook(end, always_call=True)
