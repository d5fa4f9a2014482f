"""Convolutions whose weights are computed, or whose padding no layer has; what their attributes say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from edgecompress.sources.onnx_operators.base import Node, Operator

CONVOLVE = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
TRANSPOSED = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}


@dataclass(frozen=True, slots=True)
class Window:
    """What a sliding window does along each spatial axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]

    @classmethod
    def of(cls, node: Node, kernel: Sequence[int], spatial: Sequence[int]) -> Window:
        """Of a node's attributes, for an input of these spatial sizes."""
        rank = len(kernel)
        strides = tuple(node.get("strides", [1] * rank))
        dilations = tuple(node.get("dilations", [1] * rank))
        pads = node.get("pads", [0] * (2 * rank))
        begin, end = tuple(pads[:rank]), tuple(pads[rank:])
        if (automatic := node.get("auto_pad", "NOTSET")).startswith("SAME"):
            sizes = zip(spatial, kernel, strides, dilations, strict=True)
            begin, end = _same([_missing(*size) for size in sizes], automatic)
        elif automatic == "VALID":
            begin, end = (0,) * rank, (0,) * rank
        return cls(tuple(kernel), strides, dilations, begin, end)

    def padding(self) -> tuple[int, ...]:
        """As ``nn.functional.pad`` takes it: the last axis first."""
        return as_pad(self.begin, self.end)


def as_pad(begin: Sequence[int], end: Sequence[int]) -> tuple[int, ...]:
    """What is put around each axis as ``nn.functional.pad`` takes it: the last axis first."""
    return tuple(size for pair in reversed(list(zip(begin, end, strict=True))) for size in pair)


def _missing(size: int, kernel: int, stride: int, dilation: int) -> int:
    """What is padded so that there is an output for each stride."""
    return max(0, (-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size)


def _same(missing: Sequence[int], automatic: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    less, more = tuple(size // 2 for size in missing), tuple(size - size // 2 for size in missing)
    return (less, more) if automatic == "SAME_UPPER" else (more, less)


def transposed_padding(
    node: Node, kernel: Sequence[int], spatial: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Padding and output padding of a transposed layer; None where no layer has them."""
    begin, end, extra = transposed_cut(node, kernel, spatial)
    window = Window.of(node, kernel, spatial)
    output = tuple(more + left - right for left, right, more in zip(begin, end, extra, strict=True))
    bounds = [max(pair) for pair in zip(window.strides, window.dilations, strict=True)]
    fits = min(begin) >= 0 and all(0 <= size < bound for size, bound in zip(output, bounds, strict=True))
    return (begin, output) if fits else None


def transposed_cut(
    node: Node, kernel: Sequence[int], spatial: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """What is cut off at both ends of each axis, and what is added at its end before."""
    rank = len(kernel)
    strides = node.get("strides", [1] * rank)
    dilations = node.get("dilations", [1] * rank)
    extra = tuple(node.get("output_padding", [0] * rank))
    pads = node.get("pads", [0] * (2 * rank))
    automatic, wanted = node.get("auto_pad", "NOTSET"), node.get("output_shape")
    if wanted is None and not automatic.startswith("SAME"):
        return tuple(pads[:rank]), tuple(pads[rank:]), extra
    sizes = (wanted or [size * stride for size, stride in zip(spatial, strides, strict=True)])[-rank:]
    total = [
        stride * (size - 1) + more + (taps - 1) * dilation + 1 - out
        for size, stride, more, taps, dilation, out in zip(
            spatial, strides, extra, kernel, dilations, sizes, strict=True
        )
    ]
    return *_same(total, automatic), extra


def _convolve(node: Node, data: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    window = Window.of(node, weight.shape[2:], data.shape[2:])
    padded = functional.pad(data, window.padding())
    run = CONVOLVE[weight.dim() - 2]
    return run(padded, weight, bias, window.strides, 0, window.dilations, int(node.get("group", 1)))


def _transpose(node: Node, data: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    kernel, spatial = weight.shape[2:], data.shape[2:]
    window, groups = Window.of(node, kernel, spatial), int(node.get("group", 1))
    begin, end, extra = transposed_cut(node, kernel, spatial)
    run = TRANSPOSED[weight.dim() - 2]
    whole = run(data, weight, None, window.strides, 0, 0, groups, window.dilations)
    behind = [more - cut for cut, more in zip(end, extra, strict=True)]
    out = functional.pad(whole, as_pad([-cut for cut in begin], behind))
    return out if bias is None else out + bias.reshape(1, -1, *[1] * len(kernel))


def _unfold_columns(node: Node, data: Tensor, image: list[int], block: list[int]) -> Tensor:
    """Col2Im: overlapping blocks are added up."""
    rank = len(image)
    dilations = node.get("dilations", [1] * rank)
    strides, pads = node.get("strides", [1] * rank), node.get("pads", [0] * (2 * rank))
    counts = [
        (size + pads[axis] + pads[axis + rank] - dilations[axis] * (block[axis] - 1) - 1) // strides[axis] + 1
        for axis, size in enumerate(image)
    ]
    channels = data.shape[1] // int(torch.tensor(block).prod())
    padded = [size + pads[axis] + pads[axis + rank] for axis, size in enumerate(image)]
    index = torch.zeros(*block, *counts, dtype=torch.int64)
    for axis in range(rank):
        taps = torch.arange(block[axis]) * dilations[axis]
        starts = torch.arange(counts[axis]) * strides[axis]
        shape = [1] * (2 * rank)
        along = taps.reshape([*shape[:axis], -1, *shape[axis + 1 :]])
        along = along + starts.reshape([*shape[: rank + axis], -1, *shape[rank + axis + 1 :]])
        index = index * padded[axis] + along
    flat = data.new_zeros(data.shape[0], channels, int(torch.tensor(padded).prod()))
    values = data.reshape(data.shape[0], channels, -1)
    flat = flat.index_add(2, index.reshape(-1), values)
    whole = flat.reshape(data.shape[0], channels, *padded)
    for axis in range(rank):
        whole = whole.narrow(2 + axis, pads[axis], image[axis])
    return whole


OPERATORS = {
    "Conv": Operator(_convolve),
    "ConvTranspose": Operator(_transpose),
    "Col2Im": Operator(_unfold_columns, known=(1, 2)),
}
