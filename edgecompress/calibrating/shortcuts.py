"""Seeing which layers' outputs, perhaps through their batch norm, are added to another tensor: residual sums."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from edgecompress.models import Call, observing

Norm = nn.modules.batchnorm._BatchNorm
SUMS = (torch.add, torch.Tensor.add, torch.Tensor.add_)
NORMS = (torch.nn.functional.batch_norm, torch.batch_norm)

OnSum = Callable[[str, str, Tensor, Tensor], None]
"""Called with the layer's name, its batch norm's or an empty string, its own tensor and the other one."""

OnNorm = Callable[[str, str], None]
"""Called with the names of a layer and of the batch norm that reads its output."""


class _Mark(NamedTuple):
    """Whose output a tensor is; ``order`` counts layers as they run."""

    order: int
    layer: str
    norm: str = ""


@contextmanager
def watching_sums(
    model: nn.Module, names: Sequence[str], on_sum: OnSum, on_norm: OnNorm | None = None
) -> Iterator[None]:
    """While ``model`` runs, call ``on_sum`` before the output of one of ``names`` is added to a tensor of its shape.

    Of two layers that are added to each other, the one that ran last is the layer and the other its shortcut. A layer
    whose output anything else reads or changes before the sum is left alone: the shortcut may depend on it.
    """
    with marking(model, names, on_norm), Sums(on_sum):
        yield


@contextmanager
def marking(model: nn.Module, names: Sequence[str], on_norm: OnNorm | None = None) -> Iterator[None]:
    """While this is open, outputs of ``model``'s layers ``names`` are marked, for all threads' :class:`Sums`."""
    marks, modules = _Marks(iter(range(1 << 62)), on_norm), list(model.named_modules())
    layers = [(name, module) for name, module in modules if name in names]
    norms = [(n, m) for n, m in modules if n not in names and isinstance(m, Norm) and m.track_running_stats]
    with observing(layers, after=marks.ran), observing(norms, after=marks.normed):
        yield


class _Marks(NamedTuple):
    """Hooks that mark outputs."""

    order: Iterator[int]
    on_norm: OnNorm | None

    def ran(self, call: Call) -> None:
        if isinstance(call.output, Tensor):
            _mark(call.output, _Mark(next(self.order), call.name))

    def normed(self, call: Call) -> None:
        mark = _mark_of(call.given)
        if mark and not mark.norm:
            _mark(call.output, mark._replace(norm=call.name))
            if self.on_norm:
                self.on_norm(mark.layer, call.name)


class Sums(TorchFunctionMode):
    """While this is open, in this thread, ``on_sum`` is called as :func:`watching_sums` says."""

    def __init__(self, on_sum: OnSum) -> None:
        super().__init__()
        self.on_sum = on_sum

    def __torch_function__(self, func: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func in SUMS and not kwargs and _alike(args):
            # of two marked tensors the later layer's is the branch, the other one its shortcut
            _, own, other = max(((_mark_of(a), a, b) for a, b in (args, args[::-1])), key=lambda item: item[0] or (-1,))
            mark = _mark_of(own)
            if mark:
                _mark(own, None)
                self.on_sum(mark.layer, mark.norm, own, other)
        # Any other function may let the shortcut depend on a marked tensor it reads, so the mark goes, unless the very
        # same tensor comes out unchanged (contiguous(), dropout in eval mode): then nothing was done to it.
        read = [] if func in NORMS else [(t, _version(t)) for t in _tensors((args, kwargs)) if _mark_of(t)]
        result = func(*args, **(kwargs or {}))
        for tensor, before in read:
            passed_on = result is tensor and before is not None and before == _version(tensor)
            if not passed_on and (isinstance(result, Tensor) or func is Tensor.__setitem__):
                _mark(tensor, None)
        return result


def _alike(args: tuple[Any, ...]) -> bool:
    """Two different tensors of one shape?"""
    if len(args) != 2 or args[0] is args[1]:
        return False
    left, right = args
    return isinstance(left, Tensor) and isinstance(right, Tensor) and left.shape == right.shape


def _tensors(item: object) -> Iterator[Tensor]:
    """The tensors among arguments, in lists and dictionaries too."""
    if isinstance(item, Tensor):
        yield item
    elif isinstance(item, tuple | list | dict):
        for part in item.values() if isinstance(item, dict) else item:
            yield from _tensors(part)


def _version(tensor: Tensor) -> int | None:
    """Counts the changes in place; None where PyTorch does not."""
    return None if tensor.is_inference() else tensor._version


def _mark(tensor: Tensor, mark: _Mark | None) -> None:
    tensor._edgecompress_mark = mark  # type: ignore[attr-defined]


def _mark_of(tensor: Tensor) -> _Mark | None:
    return getattr(tensor, "_edgecompress_mark", None)
