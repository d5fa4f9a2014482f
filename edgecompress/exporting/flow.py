"""Which layer's output is another's input, and nobody else's: read off a real run, not off how modules are kept."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from edgecompress.models import Call, observing
from edgecompress.models.datasets import Inputs

METADATA = frozenset({"shape", "dtype", "device", "ndim", "is_cuda", "requires_grad", "layout", "itemsize", "nbytes"})
METHODS = frozenset({"size", "dim", "numel", "is_floating_point", "is_contiguous", "element_size", "stride", "__len__"})
"""What reads of a tensor everything but its numbers."""


@dataclass(slots=True)
class Seen:
    """What happened to a layer in one run; layers by their ids, 0 for the model's own code.

    ``source`` is the layer whose output it took, ``given`` its own output, ``users`` who saw that.
    """

    runs: int = 0
    source: int = 0
    given: weakref.ref[Tensor] | None = None
    users: set[int] = field(default_factory=set)
    read_elsewhere: bool = False


class _Watch(TorchFunctionMode):
    """Notes every call of PyTorch that takes a watched tensor, and within which watched layer it was made."""

    def __init__(self, seen: dict[int, Seen], owners: dict[int, int]) -> None:
        super().__init__()
        self.seen, self.owners = seen, owners
        self.outputs: dict[int, int] = {}
        self.running: list[int] = []

    def __torch_function__(
        self, func: Any, _types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if not _reads_no_numbers(func):
            for tensor in tree_leaves((args, kwargs)):
                if isinstance(tensor, Tensor):
                    self._note(tensor)
        return func(*args, **kwargs)

    def _note(self, tensor: Tensor) -> None:
        within = self.running[-1] if self.running else 0
        owner = self.owners.get(id(tensor))
        if owner is not None and owner != within:
            self.seen[owner].read_elsewhere = True
        if giver := self._giver(tensor):
            self.seen[giver].users.add(within)

    def _giver(self, tensor: Tensor) -> int:
        """The layer whose output this is, or 0."""
        giver = self.outputs.get(id(tensor), 0)
        given = self.seen[giver].given if giver else None
        return giver if given is not None and given() is tensor else 0

    def begun(self, call: Call) -> None:
        """A watched layer starts."""
        mine, args = self.seen[id(call.layer)], call.args
        mine.runs += 1
        mine.source = self._giver(args[0]) if len(args) == 1 and isinstance(args[0], Tensor) else 0
        self.running.append(id(call.layer))

    def ended(self, call: Call) -> None:
        """It ends."""
        self.running.pop()
        if isinstance(call.output, Tensor):
            self.seen[id(call.layer)].given = weakref.ref(call.output)
            self.outputs[id(call.output)] = id(call.layer)


def _reads_no_numbers(func: Any) -> bool:
    name = getattr(func, "__name__", "")
    if name == "__get__":
        return getattr(getattr(func, "__self__", None), "__name__", "") in METADATA
    return name in METHODS


def bonds(model: nn.Module, layers: Iterable[nn.Module], inputs: Inputs) -> list[tuple[nn.Module, nn.Module]]:
    """Pairs of ``layers`` of which the second takes the first's output itself, which nobody else sees; on ``inputs``.

    Both run once, nobody but they read their parameters, and when the run is over the tensor between them is gone: it
    is no output and was kept nowhere.
    """
    times = Counter(id(layer) for _, layer in model.named_modules(remove_duplicate=False))
    shared = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))
    alone = (layer for layer in layers if all(shared[id(p)] == 1 for p in layer.parameters(recurse=False)))
    watched = {id(layer): layer for layer in alone if times[id(layer)] == 1 and not _altered(layer)}
    owners = {id(p): number for number, layer in watched.items() for p in layer.parameters(recurse=False)}
    seen = {number: Seen() for number in watched}
    watch = _Watch(seen, owners)
    pairs = (("", layer) for layer in watched.values())
    with observing(pairs, before=watch.begun, after=watch.ended), watch, torch.no_grad():
        outputs = model(*inputs)
    found = [(watched[one], watched[other]) for one, other in _pairs(seen)]
    del outputs  # only here, so that an output is not taken for gone
    return found


def _altered(layer: nn.Module) -> bool:
    """Whether a layer does more than its class says: a forward of its own, or somebody's hooks."""
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    return "forward" in vars(layer) or any(hooks)


def _pairs(seen: dict[int, Seen]) -> Iterator[tuple[int, int]]:
    alone = {number: what for number, what in seen.items() if what.runs == 1 and not what.read_elsewhere}
    for number, first in alone.items():
        (user,) = first.users if len(first.users) == 1 else (0,)
        gone = first.given is not None and first.given() is None
        if gone and user in alone and alone[user].source == number:
            yield number, user
