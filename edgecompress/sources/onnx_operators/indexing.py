"""Operators that choose numbers by their places."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from edgecompress.sources.onnx_operators.base import WIDE, Node, Operator, each, single

REDUCTIONS = {"add": "sum", "mul": "prod", "min": "amin", "max": "amax"}


def _inside(places: Tensor, size: int) -> Tensor:
    """Negative places count from the end."""
    places = places.long()
    return torch.where(places < 0, places + size, places)


def _gather(node: Node, data: Tensor, places: Tensor) -> Tensor:
    axis = node.get("axis", 0) % max(data.dim(), 1)
    found = data.index_select(axis, _inside(places, data.shape[axis]).reshape(-1))
    return found.reshape((*data.shape[:axis], *places.shape, *data.shape[axis + 1 :]))


def _gather_elements(node: Node, data: Tensor, places: Tensor) -> Tensor:
    axis = node.get("axis", 0)
    return data.gather(axis, _inside(places, data.shape[axis]))


def _gather_nd(node: Node, data: Tensor, places: Tensor) -> Tensor:
    """The last axis of ``places`` holds a place along each axis behind the batch axes."""
    batch, depth = node.get("batch_dims", 0), places.shape[-1]
    index: list[Tensor] = []
    for axis in range(batch):
        shape = [1] * (places.dim() - 1)
        shape[axis] = -1
        index.append(torch.arange(data.shape[axis]).reshape(shape))
    index += [_inside(places[..., item], data.shape[batch + item]) for item in range(depth)]
    return data[tuple(index)]


def _scatter_elements(node: Node, data: Tensor, places: Tensor, updates: Tensor) -> Tensor:
    axis, kind = node.get("axis", 0), node.get("reduction", "none")
    found = _inside(places, data.shape[axis])
    if kind == "none":
        return data.scatter(axis, found, updates)
    return data.scatter_reduce(axis, found, updates, REDUCTIONS[kind], include_self=True)


def _scatter_nd(node: Node, data: Tensor, places: Tensor, updates: Tensor) -> Tensor:
    kind, depth = node.get("reduction", "none"), places.shape[-1]
    index = tuple(_inside(places[..., item], data.shape[item]) for item in range(depth))
    if kind in ("none", "add"):
        return data.index_put(index, updates, accumulate=kind == "add")
    flat = torch.zeros_like(index[0])
    for item in range(depth):
        flat = flat * data.shape[item] + index[item]
    rows = data.reshape(-1, *data.shape[depth:])
    rest = rows.shape[1:]
    flat = flat.reshape(-1, *[1] * len(rest)).expand(-1, *rest)
    return rows.scatter_reduce(0, flat, updates.reshape(flat.shape), REDUCTIONS[kind]).reshape(data.shape)


def _slice(
    _node: Node,
    data: Tensor,
    starts: Sequence[int],
    ends: Sequence[int],
    axes: Sequence[int] | None = None,
    steps: Sequence[int] | None = None,
) -> Tensor:
    chosen = list(range(len(starts))) if axes is None else axes
    strides = [1] * len(starts) if steps is None else steps
    for start, end, axis, step in zip(starts, ends, chosen, strides, strict=True):
        data = _sliced(data, start, end, axis % data.dim(), step)
    return data


def _sliced(data: Tensor, start: int, end: int, axis: int, step: int) -> Tensor:
    if step > 0:
        index = [slice(None)] * axis + [slice(start, end, step)]
        return data[tuple(index)]
    places = range(int(data.shape[axis]))[start : None if end < -int(data.shape[axis]) else end : step]
    return data.index_select(axis, torch.tensor(list(places), dtype=torch.int64))


def _top(node: Node, data: Tensor, count: Any) -> tuple[Tensor, Tensor]:
    kind = data.dtype
    found = data.long() if kind in WIDE else data
    axis, largest = node.get("axis", -1), bool(node.get("largest", 1))
    order = torch.argsort(found, dim=axis, descending=largest, stable=True).narrow(axis, 0, single(count))
    return found.gather(axis, order).to(kind), order


def _one_hot(node: Node, places: Tensor, depth: Any, values: Tensor) -> Tensor:
    """A new axis of ``depth`` places, with the second value where it is hit."""
    size = int(single(depth))
    axis = node.get("axis", -1)
    axis = axis + places.dim() + 1 if axis < 0 else axis
    shape = [1] * (places.dim() + 1)
    shape[axis] = size
    whole = places.long()
    hit = torch.where(whole < 0, whole + size, whole).unsqueeze(axis) == torch.arange(size).reshape(shape)
    return torch.where(hit, values[1], values[0])


def _compress(node: Node, data: Tensor, condition: Tensor) -> Tensor:
    if node.get("axis") is None:
        data = data.reshape(-1)
    axis = node.get("axis", 0)
    return data.index_select(axis, condition.nonzero().reshape(-1))


def _non_zero(data: Tensor) -> Tensor:
    return data.nonzero().t()


def _unique(node: Node, data: Tensor) -> tuple[Tensor, ...]:
    """Values, the first place of each, the place of each number's value, and how often there is each."""
    axis = node.get("axis")
    kind, data = data.dtype, data.float() if data.dtype == torch.bfloat16 else data
    values, inverse, counts = torch.unique(data, return_inverse=True, return_counts=True, dim=axis)
    inverse = inverse.reshape(-1)
    first = torch.full((len(counts),), len(inverse)).scatter_reduce(0, inverse, torch.arange(len(inverse)), "amin")
    if not node.get("sorted", 1):
        order = first.argsort()
        values, first, counts = values.index_select(axis or 0, order), first[order], counts[order]
        inverse = order.argsort()[inverse]
    return values.to(kind), first, inverse, counts


def _tensor_scatter(node: Node, past: Tensor, update: Tensor, starts: Tensor | None = None) -> Tensor:
    """TensorScatter: new rows of a cache, from a place of their own in each item."""
    axis, size = node.get("axis", -2) % past.dim(), past.shape[node.get("axis", -2)]
    first = torch.zeros(past.shape[0], dtype=torch.int64) if starts is None else starts
    places = first[:, None] + torch.arange(update.shape[axis])
    places = places.remainder(size) if node.get("mode", "linear") == "circular" else places
    shape = [1] * past.dim()
    shape[0], shape[axis] = past.shape[0], update.shape[axis]
    return past.scatter(axis, places.reshape(shape).expand(update.shape), update)


OPERATORS = {
    "Gather": Operator(_gather),
    "GatherElements": Operator(_gather_elements),
    "GatherND": Operator(_gather_nd),
    "Scatter": Operator(_scatter_elements),
    "ScatterElements": Operator(_scatter_elements),
    "ScatterND": Operator(_scatter_nd),
    "Slice": Operator(_slice, known=(1, 2, 3, 4)),
    "TopK": Operator(_top, known=(1,)),
    "OneHot": Operator(_one_hot, known=(1,)),
    "Compress": Operator(_compress),
    "NonZero": each(_non_zero),
    "Unique": Operator(_unique),
    "TensorScatter": Operator(_tensor_scatter),
}
