"""The dry run: for which layers a model would notice that a chain has taken their place.

A chain computes what its layer computed, yet code may look at a layer as well as call it: read its weight, ask for its
type, keep it in a list of its own. Here each layer is replaced by a *stand-in*, an ``nn.Sequential`` of two layers of
the same kind as a chain has, which computes exactly what the layer computes; then the model runs on its example, in
eval and in training mode. Where it fails or gives something else, the layers that are to blame are found by halving
the set of stand-ins.
"""

from __future__ import annotations

import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.fx
from torch import Tensor, nn

from edgecompress.decompositions.base import placement
from edgecompress.errors import ModelError, first_line, user_line
from edgecompress.layers import put, with_geometry
from edgecompress.models import named_layers, observing, same, shared_copy, tensors_of
from edgecompress.models.datasets import Inputs

ATTRIBUTE = re.compile(r"'Sequential' object has no attribute '(\w+)'")
SEED = 0

Fails = Callable[[Sequence[str]], str]
"""Why the model notices stand-ins for these layers, or an empty string."""


def noticed(model: nn.Module, inputs: Inputs, names: Sequence[str]) -> dict[str, str]:
    """Those of the layers ``names`` whose replacement ``model`` notices, with the reason in words.

    Two runs on ``inputs`` in each mode where nothing is noticed; about two more for each layer that is. What these
    inputs or weights hide from the outputs may show in a trace. Nothing looks at a layer that is the whole model.

    Raises:
        ModelError: the model gives other outputs each time.
    """
    found: dict[str, str] = {}
    for training in (False, True):
        left = [name for name in names if name and name not in found]
        found |= _noticed(_Trial(model, inputs, left, training=training), left) if left else {}
    return found | noticed_by_trace(model, [name for name in names if name not in found])


def noticed_by_trace(model: nn.Module, names: Sequence[str]) -> dict[str, str]:
    """The same without inputs, as far as ``torch.fx`` can trace ``model``: where it cannot, nothing is noticed."""
    inner = [name for name in names if name]
    return _noticed(_Trace(model, inner), inner) if inner else {}


def _noticed(trial: _Trial | _Trace, names: Sequence[str]) -> dict[str, str]:
    """In one mode."""
    found: dict[str, str] = {}
    while trial.can_tell and trial.fails(left := [name for name in names if name not in found]):
        alone = list(_alone(trial.fails, left)) or [_last_needed(trial.fails, left)]
        found |= {name: trial.fails([name]) or trial.fails(left) for name in alone}
    return found


def _alone(fails: Fails, names: Sequence[str]) -> Iterator[str]:
    """Those of ``names``, whose stand-ins together are noticed, that are noticed alone."""
    if len(names) == 1:
        yield names[0]
        return
    middle = len(names) // 2
    for half in (names[:middle], names[middle:]):
        if fails(half):
            yield from _alone(fails, half)


def _last_needed(fails: Fails, names: Sequence[str]) -> str:
    """The last of the shortest beginning of ``names`` that is noticed: some are noticed only beside others."""
    low, high = 0, len(names)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fails(names[:middle]) else (middle, high)
    return names[high - 1]


@dataclass(frozen=True, slots=True)
class _Ran:
    """What a run gave, and how often each layer, or its stand-in, was called."""

    outputs: list[Tensor]
    calls: Mapping[str, int]


class _Trial:
    """Runs of a model on an example in one mode, with and without stand-ins."""

    def __init__(self, model: nn.Module, inputs: Inputs, watched: Sequence[str], *, training: bool) -> None:
        self.model, self.inputs, self.watched, self.training = model, inputs, watched, training
        self.known: dict[tuple[str, ...], str] = {}
        expected = self._ran(())
        self.can_tell = isinstance(expected, _Ran)
        self.expected = expected if isinstance(expected, _Ran) else _Ran([], {})

    def fails(self, names: Sequence[str]) -> str:
        """Why the model notices stand-ins for ``names``, or an empty string."""
        key = tuple(names)
        if key not in self.known:
            self.known[key] = self._why(key) if key else ""
        return self.known[key]

    def _why(self, names: tuple[str, ...]) -> str:
        ran, when = self._ran(names), " while it trains" if self.training else ""
        if isinstance(ran, Exception):
            return f"the model {_failure(ran)}{when}"
        if any(ran.calls.get(name, 0) != self.expected.calls.get(name, 0) for name in names):
            return f"the model reaches it by another way than its name{when}, where a chain would not be seen"
        if _alike(ran.outputs, self.expected.outputs):
            return ""
        self._refuse_change()
        return f"the model looks at its type or its attributes{when}: with a chain in its place its output is another"

    def _refuse_change(self) -> None:
        again = self._ran(())
        if not (isinstance(again, _Ran) and _alike(again.outputs, self.expected.outputs)) and not self.training:
            raise ModelError(
                f"{type(self.model).__name__}: gives other outputs each time it runs on the same inputs; take what is "
                "random, or counts its calls, out of forward"
            )

    def _ran(self, names: tuple[str, ...]) -> _Ran | Exception:
        """One run of a copy, from the same random numbers each time; an error is part of the answer."""
        calls = Counter[str]()
        try:
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                changed = _with_stand_ins(self.model, names).train(self.training)
                torch.manual_seed(SEED)
                with observing(named_layers(changed, self.watched), before=lambda call: calls.update([call.name])):
                    return _Ran(list(tensors_of(changed(*self.inputs))), calls)
        except Exception as error:  # whatever a model raises where it meets a stand-in is what is looked for
            return error


class _Trace:
    """Symbolic traces of a model in eval mode, with and without stand-ins."""

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        self.model, self.tracer = model, _Tracer(names)
        expected = self._traced(())
        self.can_tell = isinstance(expected, str)
        self.expected = expected

    def fails(self, names: Sequence[str]) -> str:
        """Why the model notices stand-ins for ``names``, or an empty string."""
        traced = self._traced(names)
        if isinstance(traced, Exception):
            return f"the model {_failure(traced)}"
        return "" if traced == self.expected else "the model looks at its type or its attributes"

    def _traced(self, names: Sequence[str]) -> str | Exception:
        """What a copy does, node by node; an error is part of the answer."""
        try:
            with torch.random.fork_rng(devices=[]):
                return str(self.tracer.trace(_with_stand_ins(self.model, names).eval()))
        except Exception as error:  # as in a run; much of what models do cannot be traced, too
            return error


class _Tracer(torch.fx.Tracer):
    """Records a call of one of the layers ``names``, or of its stand-in, as one node."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = frozenset(names)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module is one node."""
        return module_qualified_name in self.names or super().is_leaf_module(m, module_qualified_name)


def _with_stand_ins(model: nn.Module, names: Sequence[str]) -> nn.Module:
    changed = shared_copy(model)
    for name in names:
        changed = put(changed, name, stand_in(changed.get_submodule(name)))
    return changed


def _failure(error: Exception) -> str:
    """What the model does with a layer that a chain cannot answer."""
    place = user_line(error)
    where = f" ({place[0].name}:{place[1]})" if place else ""
    read = ATTRIBUTE.search(str(error))
    if read is not None:
        return f"reads its {read[1]}{where}"
    return f"does not run with a chain in its place: {type(error).__name__}: {first_line(error, 'no message')}{where}"


def _alike(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> bool:
    return len(ours) == len(theirs) and all(map(same, ours, theirs))


# -- stand-ins ---------------------------------------------------------------------------------------------------


def stand_in(layer: nn.Module) -> nn.Sequential:
    """What computes exactly what ``layer`` does and is, to code that looks, a chain of two layers of its kind."""
    if isinstance(layer, nn.Embedding):
        links = {"reduce": layer, "expand": _passing(nn.Linear)(1, 1, bias=False, **placement(layer))}
        return with_geometry(nn.Sequential(OrderedDict(links)), layer).train(layer.training)
    size = {} if isinstance(layer, nn.Linear) else {"kernel_size": 1}
    passing = _passing(type(layer))(1, 1, bias=False, **size, **placement(layer))
    return with_geometry(nn.Sequential(OrderedDict(reduce=passing, expand=layer)), layer).train(layer.training)


def _passing(kind: type[nn.Module]) -> type[nn.Module]:
    """Layers of this kind, with a weight of their own, that give on what they are given."""

    def forward(_self: nn.Module, given: Tensor) -> Tensor:
        return given

    return type(kind.__name__, (kind,), {"forward": forward})
