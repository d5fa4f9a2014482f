"""Im2col patches of what a layer is given, and its outputs, at the same sampled positions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import ceil, prod

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from edgecompress.decompositions.base import Conv, is_conv, is_transposed
from edgecompress.decompositions.kernels import kernel_shape

MOST_POSITIONS = 256
"""Of an image's output positions, spread evenly with another offset each batch: neighbours tell much the same."""

MOST_PATCH_BYTES = 1 << 26
"""Of patches unfolded at once."""

LEAST_SQUARES, MOST_SQUARES = 1e-25, 1e30
"""Sums of squares that float32 holds, products of two rows included."""

LEAST_SPREAD = 1e-3
"""Of the mean square, about the mean: less is lost among float32's seven digits."""


def images_at_once(layer: nn.Module, given: Tensor) -> int:
    """So many inputs that their patches take at most ``MOST_PATCH_BYTES``."""
    _, *rest = kernel_shape(layer)
    return max(1, MOST_PATCH_BYTES // max(1, 4 * prod(rest[1:]) * given[0].numel()))


def patches(layer: nn.Module, given: Tensor, *, offset: int = 0, most: int = MOST_POSITIONS) -> Tensor:
    """(groups, D, n): the im2col patches of a batch, at about ``most`` positions of each input.

    The weight of ``layer`` as kernels (groups, T, D) times these gives its outputs at these positions, without bias.
    """
    if not is_conv(layer):
        return given.reshape(-1, given.shape[-1]).T.unsqueeze(0)
    # A transposed convolution is a plain one over its input spread out by its stride, with the kernel mirrored.
    transposed = is_transposed(layer)
    padded = _spread(layer, given) if transposed else _padded(layer, given)
    strides = [1] * len(layer.kernel_size) if transposed else layer.stride
    lengths = [
        (size - step * (taps - 1) - 1) // stride + 1
        for size, step, taps, stride in zip(padded.shape[2:], layer.dilation, layer.kernel_size, strides, strict=True)
    ]
    chosen = _positions(lengths, offset, most)
    # unfold() has no positions left out and no 1D or dilated 1D form: one strided window for each tap does. Output
    # position p reads input p * stride + tap * dilation, so that a range of positions is a slice of the input.
    rows = []
    for tap in product(*(range(taps) for taps in layer.kernel_size)):
        at = [taps - 1 - t for t, taps in zip(tap, layer.kernel_size, strict=True)] if transposed else tap
        window = [
            slice(t * step + p.start * stride, t * step + (p[-1]) * stride + 1, p.step * stride)
            for t, step, stride, p in zip(at, layer.dilation, strides, chosen, strict=True)
        ]
        rows.append(padded[:, :, *window].transpose(0, 1).flatten(1))
    # (C, taps, n): the channels of a group lie together, each with its taps, as in a kernel
    return torch.stack(rows, 1).reshape(layer.groups, -1, rows[0].shape[1])


def output_rows(layer: nn.Module, output: Tensor, *, offset: int = 0, most: int = MOST_POSITIONS) -> Tensor:
    """(groups, T, n): a layer's outputs at the positions that :func:`patches` takes."""
    if not is_conv(layer):
        return output.reshape(-1, output.shape[-1]).T.unsqueeze(0)
    chosen = _positions(output.shape[2:], offset, most)
    window = [slice(p.start, p.stop, p.step) for p in chosen]
    return output[:, :, *window].transpose(0, 1).reshape(layer.groups, output.shape[1] // layer.groups, -1)


def _positions(lengths: Sequence[int], offset: int, most: int) -> list[range]:
    """Every so many positions along each axis, so that about ``most`` are left; ``offset`` counts the shifts."""
    apart = ceil((prod(lengths) / most) ** (1 / len(lengths)) - 1e-9)
    chosen = []
    for length in lengths:
        step = max(1, min(apart, length))
        chosen.append(range(offset % step, length, step))
        offset //= step
    return chosen


def _padded(layer: Conv, given: Tensor) -> Tensor:
    """The input with the layer's own padding around it."""
    axes = range(len(layer.kernel_size))
    if layer.padding == "same":
        reach = [layer.dilation[axis] * (layer.kernel_size[axis] - 1) for axis in axes]
        sides = [(total // 2, total - total // 2) for total in reach]
    else:
        sides = [(0, 0) if isinstance(layer.padding, str) else (layer.padding[axis],) * 2 for axis in axes]
    widths = [width for pair in reversed(sides) for width in pair]
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    return pad(given, widths, mode=mode) if any(widths) else given


def _spread(layer: Conv, given: Tensor) -> Tensor:
    """The input of a transposed convolution as the padded input of a plain one: zeros between and around."""
    assert isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d)
    assert not isinstance(layer.padding, str)
    lengths = [(size - 1) * step + 1 for size, step in zip(given.shape[2:], layer.stride, strict=True)]
    spread = given.new_zeros(*given.shape[:2], *lengths)
    spread[:, :, *(slice(None, None, step) for step in layer.stride)] = given
    sides = [
        (around := layer.dilation[axis] * (layer.kernel_size[axis] - 1) - layer.padding[axis],
         around + layer.output_padding[axis])
        for axis in range(len(lengths))
    ]  # fmt: skip
    return pad(spread, [width for pair in reversed(sides) for width in pair])


def summable(*rows: Tensor) -> tuple[Tensor, ...]:
    """Each of ``rows`` (groups, S, n) as it is, or all in float64 where sums of products would not fit into float32.

    They overflow, vanish, or lose the spread about a mean far larger than it.
    """
    return rows if all(map(_fits, rows)) else tuple(of.double() for of in rows)


def _fits(rows: Tensor) -> bool:
    """Do sums of products of ``rows`` (groups, S, n) fit into their dtype?"""
    squares, sums = float(rows.square().sum()), rows.sum(2)
    offset = float(sums.square().sum()) / rows.shape[2]
    return LEAST_SQUARES < squares < MOST_SQUARES and offset < (1 - LEAST_SPREAD) * squares
