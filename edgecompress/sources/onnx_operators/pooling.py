"""Pooling, by the functions of PyTorch where they do the same, else by windows."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from edgecompress.sources.onnx_operators.base import Node, Operator, each
from edgecompress.sources.onnx_operators.convolution import Window, as_pad

MAXIMUM = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}
AVERAGE = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}


def _window(node: Node, data: Tensor) -> tuple[Window, list[int]]:
    """The window, and how much more than the padding the last one reaches beyond each axis."""
    window = Window.of(node, node.get("kernel_shape"), data.shape[2:])
    more = [0] * len(window.kernel)
    if node.get("ceil_mode", 0):
        more = [_beyond(window, axis, int(size)) for axis, size in enumerate(data.shape[2:])]
    return window, more


def _beyond(window: Window, axis: int, size: int) -> int:
    padded = size + window.begin[axis] + window.end[axis]
    reach, stride = window.dilations[axis] * (window.kernel[axis] - 1) + 1, window.strides[axis]
    count = -(-(padded - reach) // stride) + 1
    if (count - 1) * stride >= size + window.begin[axis]:  # no window may begin in what is padded behind
        count -= 1
    return max(0, (count - 1) * stride + reach - padded)


def _pads(window: Window, more: list[int]) -> tuple[int, ...]:
    return as_pad(window.begin, [size + extra for size, extra in zip(window.end, more, strict=True)])


def _is_plain(window: Window, more: list[int]) -> bool:
    """Whether PyTorch's pooling pads like this itself."""
    half = all(2 * begin <= taps for begin, taps in zip(window.begin, window.kernel, strict=True))
    return window.begin == window.end and not any(more) and half


def _maximum(node: Node, data: Tensor) -> Any:
    kind, rank = data.dtype, data.dim() - 2
    found = data if data.is_floating_point() else data.double()
    window, more = _window(node, data)
    if node.wants(1):
        values, places = _with_places(node, found, window, more)
        return values.to(kind), places
    padding: Any = window.begin
    if not _is_plain(window, more):
        found, padding = functional.pad(found, _pads(window, more), value=-math.inf), 0
    return MAXIMUM[rank](found, window.kernel, window.strides, padding, window.dilations).to(kind)


def _with_places(node: Node, data: Tensor, window: Window, more: list[int]) -> tuple[Tensor, Tensor]:
    """Values and their places in the flattened tensor, by rows or, as asked, by columns."""
    spatial = data.shape[2:]
    places = torch.arange(math.prod(spatial)).reshape(spatial)
    if node.get("storage_order", 0):
        places = torch.arange(math.prod(spatial)).reshape(spatial[::-1]).permute(*range(len(spatial))[::-1])
    outside = functional.pad(data, _pads(window, more), value=-math.inf)
    values, chosen = MAXIMUM[len(spatial)](
        outside, window.kernel, window.strides, 0, window.dilations, return_indices=True
    )
    own = functional.pad(places, _pads(window, more)).reshape(-1)[chosen]
    planes = torch.arange(data.shape[0] * data.shape[1]).reshape(*data.shape[:2], *[1] * len(spatial))
    return values, own + planes * math.prod(spatial)


def _average(node: Node, data: Tensor) -> Tensor:
    window, more = _window(node, data)
    counted, dilated = bool(node.get("count_include_pad", 0)), any(step > 1 for step in window.dilations)
    if _is_plain(window, more) and not dilated:
        return AVERAGE[data.dim() - 2](data, window.kernel, window.strides, window.begin, count_include_pad=counted)
    ones = torch.ones_like(data[:1, :1])
    inner = functional.pad(ones, _pads(window, [0] * len(more)), value=float(counted))
    pads = [size for extra in reversed(more) for size in (0, extra)]
    total = _summed(functional.pad(data, _pads(window, more)), window)
    return total / _summed(functional.pad(inner, pads), window)


def _summed(data: Tensor, window: Window) -> Tensor:
    """The sum of each window; ``data`` is padded."""
    for axis, (taps, stride, dilation) in enumerate(zip(window.kernel, window.strides, window.dilations, strict=True)):
        data = data.unfold(2 + axis, dilation * (taps - 1) + 1, stride)
    rank = len(window.kernel)
    index = [slice(None)] * (data.dim() - rank) + [slice(None, None, step) for step in window.dilations]
    return data[tuple(index)].sum(tuple(range(-rank, 0)))


def _power(node: Node, data: Tensor) -> Tensor:
    order, (window, more) = int(node.get("p", 2)), _window(node, data)
    padded = functional.pad(data.abs() ** order, _pads(window, more))
    return torch.pow(_summed(padded, window), 1 / order)


def _global(run: Any) -> Operator:
    return each(lambda data: run(data, tuple(range(2, data.dim())), True))


def _global_power(node: Node, data: Tensor) -> Tensor:
    order = int(node.get("p", 2))
    return torch.pow((data.abs() ** order).sum(tuple(range(2, data.dim())), True), 1 / order)


def _unpool(node: Node, data: Tensor, places: Tensor, shape: list[int] | None = None) -> Tensor:
    """MaxUnpool: numbers at their places in the flattened tensor, zeros elsewhere."""
    rank = data.dim() - 2
    strides, pads = node.get("strides", [1] * rank), node.get("pads", [0] * 2 * rank)
    sizes = [
        (size - 1) * strides[axis] - pads[axis] - pads[axis + rank] + node.get("kernel_shape")[axis]
        for axis, size in enumerate(data.shape[2:])
    ]
    natural = [*data.shape[:2], *sizes]
    flat = data.new_zeros(math.prod(natural)).scatter(0, places.reshape(-1), data.reshape(-1))
    whole = flat.reshape(natural)
    if shape is None:
        return whole
    return functional.pad(
        whole, [n for own, size in zip(natural[::-1], shape[::-1], strict=True) for n in (0, size - own)]
    )


OPERATORS = {
    "MaxPool": Operator(_maximum),
    "AveragePool": Operator(_average),
    "LpPool": Operator(_power),
    "GlobalAveragePool": _global(torch.mean),
    "GlobalMaxPool": _global(torch.amax),
    "GlobalLpPool": Operator(_global_power),
    "MaxUnpool": Operator(_unpool, known=(2,)),
}
