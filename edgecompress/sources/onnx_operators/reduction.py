"""Operators along axes: sums, extremes, softmax, running sums."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from edgecompress.sources.onnx_operators.base import Node, Operator, axes_of, single

Along = Callable[..., Tensor]


def _reduce(run: Along, node: Node, data: Tensor, axes: Sequence[int] | None = None) -> Tensor:
    found = axes_of(node, axes, data.dim())
    if not found and node.get("noop_with_empty_axes", 0):
        return run(data.unsqueeze(0), (0,), keep=False) if run in POINTWISE else data
    chosen = tuple(found) if found else tuple(range(data.dim()))
    return (
        run(data, chosen, keep=bool(node.get("keepdims", 1))).to(data.dtype)
        if chosen
        else run(data[None], (0,), keep=False)
    )


def _sum(data: Tensor, axes: tuple[int, ...], *, keep: bool) -> Tensor:
    return data.sum(axes, keep)


def _mean(data: Tensor, axes: tuple[int, ...], *, keep: bool) -> Tensor:
    if data.is_floating_point():
        return data.mean(axes, keep)
    return torch.div(data.sum(axes, keep), _count(data, axes), rounding_mode="trunc")


def _count(data: Tensor, axes: tuple[int, ...]) -> int:
    count = 1
    for axis in axes:
        count *= int(data.shape[axis])
    return count


def _product(data: Tensor, axes: tuple[int, ...], *, keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        data = data.prod(axis, keep)
    return data


def _largest(data: Tensor, axes: tuple[int, ...], *, keep: bool) -> Tensor:
    return _extreme(data, axes, torch.amax, keep=keep, least=True)


def _smallest(data: Tensor, axes: tuple[int, ...], *, keep: bool) -> Tensor:
    return _extreme(data, axes, torch.amin, keep=keep, least=False)


def _extreme(data: Tensor, axes: tuple[int, ...], run: Callable[..., Tensor], *, keep: bool, least: bool) -> Tensor:
    """Of no numbers it is the worst there is."""
    if _count(data, axes):
        return run(data, axes, keep)
    return torch.full_like(data.sum(axes, keep, dtype=data.dtype), _worst(data.dtype, least=least))


def _worst(kind: torch.dtype, *, least: bool) -> float:
    if kind == torch.bool:
        return not least
    if kind.is_floating_point:
        return float("-inf") if least else float("inf")
    return torch.iinfo(kind).min if least else torch.iinfo(kind).max


def _l1(data: Tensor, axes: tuple[int, ...], *, keep: bool) -> Tensor:
    return data.abs().sum(axes, keep)


def _l2(data: Tensor, axes: tuple[int, ...], *, keep: bool) -> Tensor:
    return torch.sqrt((data * data).sum(axes, keep).to(torch.get_default_dtype()))


def _log_sum(data: Tensor, axes: tuple[int, ...], *, keep: bool) -> Tensor:
    return torch.log(data.sum(axes, keep))


def _log_sum_exp(data: Tensor, axes: tuple[int, ...], *, keep: bool) -> Tensor:
    if not _count(data, axes):
        return torch.log(data.sum(axes, keep))
    return torch.logsumexp(data, axes, keep)


def _sum_square(data: Tensor, axes: tuple[int, ...], *, keep: bool) -> Tensor:
    return (data * data).sum(axes, keep)


POINTWISE = (_l1, _l2, _log_sum, _log_sum_exp, _sum_square)
"""Reductions that change each number even along no axis."""


def _arg(run: Callable[..., Tensor], node: Node, data: Tensor) -> Tensor:
    """The first place of the extreme, or the last one."""
    axis, keep, last = node.get("axis", 0), bool(node.get("keepdims", 1)), node.get("select_last_index", 0)
    if not last:
        return run(data, axis, keep)
    place: Tensor = data.shape[axis] - 1 - run(data.flip(axis), axis, keep)
    return place


def _along(function: Callable[[Tensor, int], Tensor]) -> Callable[[Node, Tensor], Tensor]:
    """Along one axis; before opset 13 along all that follow it too, as one."""

    def run(node: Node, data: Tensor) -> Tensor:
        if node.version >= 13:
            return function(data, node.get("axis", -1))
        axis = node.get("axis", 1) % max(data.dim(), 1)
        if axis == data.dim() - 1:
            return function(data, -1)
        return function(data.flatten(axis), -1).reshape(data.shape)

    return run


def _softmax(data: Tensor, axis: int) -> Tensor:
    return torch.softmax(data, axis)


def _log_softmax(data: Tensor, axis: int) -> Tensor:
    return torch.log_softmax(data, axis)


def _hardmax(data: Tensor, axis: int) -> Tensor:
    """1 at the first largest number."""
    return torch.zeros_like(data).scatter(axis, data.argmax(axis, keepdim=True), 1)


def _running(function: Callable[..., Tensor], start: int, node: Node, data: Tensor, axis: Any) -> Tensor:
    along = int(single(axis))
    data = data.flip(along) if node.get("reverse", 0) else data
    found = function(data, along, dtype=data.dtype)
    if node.get("exclusive", 0):
        first = torch.full_like(found.narrow(along, 0, 1), start)
        found = torch.cat([first, found.narrow(along, 0, found.shape[along] - 1)], along)
    return found.flip(along) if node.get("reverse", 0) else found


OPERATORS = {
    **{
        name: Operator(partial(_reduce, run), known=(1,))
        for name, run in {
            "ReduceL1": _l1,
            "ReduceL2": _l2,
            "ReduceLogSum": _log_sum,
            "ReduceLogSumExp": _log_sum_exp,
            "ReduceMax": _largest,
            "ReduceMean": _mean,
            "ReduceMin": _smallest,
            "ReduceProd": _product,
            "ReduceSum": _sum,
            "ReduceSumSquare": _sum_square,
        }.items()
    },
    "ArgMax": Operator(partial(_arg, torch.argmax)),
    "ArgMin": Operator(partial(_arg, torch.argmin)),
    "Softmax": Operator(_along(_softmax)),
    "LogSoftmax": Operator(_along(_log_softmax)),
    "Hardmax": Operator(_along(_hardmax)),
    "CumSum": Operator(partial(_running, torch.cumsum, 0), known=(1,)),
    "CumProd": Operator(partial(_running, torch.cumprod, 1), known=(1,)),
}
