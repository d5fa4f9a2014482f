"""Operators that move numbers, or make tensors of given shapes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from edgecompress.sources.onnx_operators.base import DTYPES, Node, Operator, axes_of, each, several, single


def _shape(node: Node, data: Tensor) -> Tensor:
    start, end = node.get("start", 0), node.get("end")
    return torch.tensor(tuple(data.shape)[start:end], dtype=torch.int64)


def _size(data: Tensor) -> Tensor:
    return torch.tensor(data.numel(), dtype=torch.int64)


def _reshape(node: Node, data: Tensor, shape: Sequence[int]) -> Tensor:
    """0 keeps an axis, unless zeros are allowed."""
    if node.get("allowzero", 0):
        return data.reshape(tuple(shape))
    return data.reshape([data.shape[axis] if isinstance(n, int) and n == 0 else n for axis, n in enumerate(shape)])


def _flatten(node: Node, data: Tensor) -> Tensor:
    axis = node.get("axis", 1)
    axis = axis + data.dim() if axis < 0 else axis
    if axis == 1 and data.dim() > 1:
        return torch.flatten(data, 1)
    return data.reshape(math.prod(data.shape[:axis]), -1 if data.numel() else math.prod(data.shape[axis:]))


def _transpose(node: Node, data: Tensor) -> Tensor:
    return data.permute(node.get("perm") or list(range(data.dim()))[::-1])


def _squeeze(node: Node, data: Tensor, axes: Sequence[int] | None = None) -> Tensor:
    found = axes_of(node, axes, data.dim())
    return data.squeeze() if found is None else data.squeeze(tuple(found))


def _unsqueeze(node: Node, data: Tensor, axes: Sequence[int] | None = None) -> Tensor:
    given = node.get("axes") if axes is None else several(axes)
    for axis in sorted(int(axis) % (data.dim() + len(given)) for axis in given):
        data = data.unsqueeze(axis)
    return data


def _concat(node: Node, *inputs: Tensor) -> Tensor:
    return torch.cat(inputs, node.get("axis", 0))


def _split(node: Node, data: Tensor, sizes: Sequence[int] | None = None) -> tuple[Tensor, ...]:
    axis, given = node.get("axis", 0), node.get("split") if sizes is None else sizes
    if given is None:
        count = int(node.get("num_outputs", len(node.outputs)))
        piece = -(-int(data.shape[axis]) // count)
        given = [min(piece, int(data.shape[axis]) - piece * index) for index in range(count)]
    return torch.split(data, list(given), axis)


def _expand(_node: Node, data: Tensor, shape: Sequence[int]) -> Tensor:
    """Both shapes may have 1 where the other has more."""
    rank = max(data.dim(), len(shape))
    wanted = [1] * (rank - len(shape)) + list(shape)
    own = [1] * (rank - data.dim()) + list(data.shape)
    return data.expand(
        [mine if isinstance(size, int) and size == 1 else size for size, mine in zip(wanted, own, strict=True)]
    )


def _tile(_node: Node, data: Tensor, repeats: Sequence[int]) -> Tensor:
    return data.repeat(list(repeats))


def _constant_of_shape(node: Node, shape: Sequence[int]) -> Tensor:
    value = node.get("value")
    fill = torch.zeros(1) if value is None else value
    return torch.full(list(shape), fill.item(), dtype=fill.dtype)


def _constant(node: Node) -> Tensor:
    for name, kind in (
        ("value_float", torch.float32),
        ("value_floats", torch.float32),
        ("value_int", torch.int64),
        ("value_ints", torch.int64),
    ):
        if name in node.attributes:
            return torch.tensor(node.get(name), dtype=kind)
    if not isinstance(node.get("value"), Tensor):
        raise node.refused("is no tensor of numbers")
    found: Tensor = node.get("value")
    return found


def _range(node: Node, start: Any, limit: Any, delta: Any) -> Tensor:
    kind = node.dtypes[0] if node.dtypes and node.dtypes[0] else torch.int64
    start, limit, delta = single(start), single(limit), single(delta)
    if kind in (torch.float16, torch.bfloat16):
        return torch.arange(start, limit, delta, dtype=torch.float32).to(kind)
    return torch.arange(start, limit, delta, dtype=kind)


def _pad(node: Node, data: Tensor, pads: Sequence[int], value: Any = None, axes: Sequence[int] | None = None) -> Tensor:
    """Modes in the order of their axes; negative pads cut."""
    mode, rank = node.get("mode", "constant"), data.dim()
    chosen = list(range(rank)) if axes is None else [axis % rank for axis in axes]
    pairs = {axis: (pads[index], pads[index + len(chosen)]) for index, axis in enumerate(chosen)}
    if mode == "constant":
        flat = [size for axis in reversed(range(rank)) for size in pairs.get(axis, (0, 0))]
        return _padded(data, flat, single(value) or 0)
    for axis, pair in pairs.items():
        if pair != (0, 0):
            data = data.index_select(axis, _places(int(data.shape[axis]), *pair, mode))
    return data


def _padded(data: Tensor, pads: list[int], value: float) -> Tensor:
    while len(pads) > 2 and pads[-2:] == [0, 0]:
        pads = pads[:-2]
    if data.dtype == torch.bool:
        return functional.pad(data.to(torch.uint8), pads, value=int(value)).bool()
    return functional.pad(data, pads, value=value)


def _places(size: int, before: int, after: int, mode: str) -> Tensor:
    """Where the numbers of a padded axis come from."""
    places = torch.arange(-before, size + after)
    if mode == "edge":
        return places.clamp(0, size - 1)
    if mode == "wrap":
        return places % size
    period = max(2 * (size - 1), 1)
    places = places.remainder(period)
    return torch.minimum(places, period - places)


def _center(node: Node, data: Tensor, shape: Sequence[int]) -> Tensor:
    """CenterCropPad: cut or padded with zeros around the middle."""
    axes = axes_of(node, None, data.dim()) or list(range(data.dim()))
    pads = [0] * (2 * data.dim())
    for axis, wanted in zip(axes, shape, strict=True):
        missing = wanted - int(data.shape[axis])
        before = missing // 2 if missing >= 0 else -((-missing) // 2)
        pads[2 * (data.dim() - 1 - axis)], pads[2 * (data.dim() - 1 - axis) + 1] = before, missing - before
    return functional.pad(data, pads)


def _eye(node: Node, data: Tensor) -> Tensor:
    kind = DTYPES[int(node.get("dtype"))] if node.get("dtype") else data.dtype
    rows, columns = data.shape
    places = torch.arange(columns) - torch.arange(rows)[:, None]
    on = torch.eq(places, node.get("k", 0))
    return on.to(kind)


def _triangle(node: Node, data: Tensor, diagonal: int | None = None) -> Tensor:
    run = torch.triu if node.get("upper", 1) else torch.tril
    return run(data, single(diagonal) or 0)


def _depth_to_space(node: Node, data: Tensor) -> Tensor:
    _, channels, height, width = data.shape
    block = node.get("blocksize")
    rest = channels // block**2
    if node.get("mode", "DCR") == "DCR":
        moved = data.reshape(-1, block, block, rest, height, width).permute(0, 3, 4, 1, 5, 2)
    else:
        moved = data.reshape(-1, rest, block, block, height, width).permute(0, 1, 4, 2, 5, 3)
    return moved.reshape(-1, rest, height * block, width * block)


def _space_to_depth(node: Node, data: Tensor) -> Tensor:
    _, channels, height, width = data.shape
    block = node.get("blocksize")
    order = (0, 3, 5, 1, 2, 4) if node.get("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    moved = data.reshape(-1, channels, height // block, block, width // block, block).permute(order)
    return moved.reshape(-1, channels * block**2, height // block, width // block)


def _reverse(node: Node, data: Tensor, lengths: Tensor) -> Tensor:
    """ReverseSequence: the first ``lengths`` numbers of each row, backwards."""
    time, batch = node.get("time_axis", 0), node.get("batch_axis", 1)
    moved = data.movedim((batch, time), (0, 1))
    steps = torch.arange(moved.shape[1])[None]
    places = torch.where(steps < lengths[:, None], lengths[:, None] - 1 - steps, steps)
    places = places.reshape(*places.shape, *[1] * (moved.dim() - 2)).expand(moved.shape)
    return moved.gather(1, places).movedim((0, 1), (batch, time))


OPERATORS = {
    "Shape": Operator(_shape),
    "Size": each(_size),
    "Reshape": Operator(_reshape, known=(1,)),
    "Flatten": Operator(_flatten),
    "Transpose": Operator(_transpose),
    "Squeeze": Operator(_squeeze, known=(1,)),
    "Unsqueeze": Operator(_unsqueeze, known=(1,)),
    "Concat": Operator(_concat),
    "Split": Operator(_split, known=(1,)),
    "Expand": Operator(_expand, known=(1,)),
    "Tile": Operator(_tile, known=(1,)),
    "Constant": Operator(_constant),
    "ConstantOfShape": Operator(_constant_of_shape, known=(0,)),
    "Range": Operator(_range, known=(0, 1, 2)),
    "Pad": Operator(_pad, known=(1, 2, 3)),
    "CenterCropPad": Operator(_center, known=(1,)),
    "EyeLike": Operator(_eye),
    "Trilu": Operator(_triangle, known=(1,)),
    "DepthToSpace": Operator(_depth_to_space),
    "SpaceToDepth": Operator(_space_to_depth),
    "ReverseSequence": Operator(_reverse),
}
