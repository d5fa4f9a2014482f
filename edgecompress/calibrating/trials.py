"""What a layer's replacement costs at the model's output, measured: the layer alone is changed, the rest runs on.

Layers that ran before the changed one give what they gave in the dense model, from a cache, so that a trial costs the
part of the model from that layer on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from edgecompress.calibrating.batching import REHEARSED, affordable, inputs_at_once, leaves, rehearsed
from edgecompress.calibrating.sensitivity import TEMPERATURE, temperature_of
from edgecompress.calibrating.texts import shortest_first
from edgecompress.decompositions.kernels import kernels, weight_from
from edgecompress.memory import naming_shortage, without
from edgecompress.models import Call, Outputs, as_outputs, calibrated, evaluating, named_layers, observing
from edgecompress.models.datasets import Inputs, first

MOST_CACHED_BYTES = 1 << 28
"""Of outputs of the dense model in memory at once."""


COMPARED_MACS, FEWEST_COMPARED = 3e10, 8
"""Multiply-accumulates of the dense model's runs over the inputs that whole models are compared on; fewer inputs than
the latter tell nothing."""


FEW_SCORES = 64
"""Inputs whose scores are turned into probabilities at once: a vocabulary's take much memory in float64."""

ROWS = 256
"""Of a weight that are changed at once."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A change of the layer ``name``.

    Its kernels change by ``change`` (groups, T, D); ``shift`` (groups, T) is what its outputs gain on average.
    """

    name: str
    change: Tensor
    shift: Tensor


def trial_losses(model: nn.Module, inputs: Inputs, trials: Sequence[Trial], *, classes: bool = True) -> Tensor:
    """(trials, inputs): the divergence of the outputs that each of ``trials`` alone causes, in float64.

    Raises:
        ModelError: the model does not run on the inputs.
    """
    found = list[Tensor]()
    with evaluating(model), torch.no_grad():
        untouched = _untouched(model, inputs)
        for part in shortest_first(model, inputs, _at_once(model, inputs)):
            cache = _Cache.of(model, part, untouched)
            found.append(_of_part(cache, part, trials, classes=classes))
    return torch.cat(found, 1)


def _of_part(cache: _Cache, inputs: Inputs, trials: Sequence[Trial], *, classes: bool) -> Tensor:
    model = cache.model
    losses = torch.zeros(len(trials), len(inputs[0]), dtype=torch.float64)
    for index, trial in enumerate(trials):
        shortage = naming_shortage(f"{trial.name}: trying what replaces it", without(trial.name))
        with shortage, cache.before(trial.name), changed(model, trial):
            losses[index] = divergences(cache.outputs, as_outputs(calibrated(model, inputs)), classes=classes)
    return losses


@dataclass(frozen=True, slots=True)
class Joint:
    """Divergences of the outputs that several changes cause.

    ``together`` (inputs,) by all of them, ``without`` (trials, inputs) by all but one.
    """

    together: Tensor
    without: Tensor


def joint_losses(model: nn.Module, inputs: Inputs, trials: Sequence[Trial], *, classes: bool = True) -> Joint:
    """What all of ``trials`` together cost, and what they cost without each of them.

    Raises:
        ModelError: the model does not run on the inputs.
    """
    found = list[Joint]()
    with evaluating(model), torch.no_grad():
        untouched = _untouched(model, inputs)
        for part in shortest_first(model, inputs, _at_once(model, inputs)):
            dense = as_outputs(calibrated(model, part))
            with all_changed(model, trials):
                cache = _Cache.of(model, part, untouched)
            found.append(_joint_of_part(cache, part, dense, trials, classes=classes))
    return Joint(torch.cat([each.together for each in found]), torch.cat([each.without for each in found], 1))


def together_losses(model: nn.Module, inputs: Inputs, trials: Sequence[Trial], *, classes: bool = True) -> Tensor:
    """(inputs,): what all of ``trials`` together cost.

    Raises:
        ModelError: the model does not run on the inputs.
    """
    losses = list[Tensor]()
    with evaluating(model), torch.no_grad():
        for part in shortest_first(model, inputs, inputs_at_once(model, inputs)):
            dense = as_outputs(calibrated(model, part))
            with all_changed(model, trials):
                losses.append(divergences(dense, as_outputs(calibrated(model, part)), classes=classes))
    return torch.cat(losses)


def _joint_of_part(cache: _Cache, inputs: Inputs, dense: Outputs, trials: Sequence[Trial], *, classes: bool) -> Joint:
    model = cache.model
    without = torch.zeros(len(trials), len(inputs[0]), dtype=torch.float64)
    for index, trial in enumerate(trials):
        later = [other for other in trials if other is not trial and not cache.knows(other.name, before=trial.name)]
        with all_changed(model, later), cache.before(trial.name):
            without[index] = divergences(dense, as_outputs(calibrated(model, inputs)), classes=classes)
    return Joint(divergences(dense, cache.outputs, classes=classes), without)


def divergences(dense: Outputs, changed: Outputs, *, classes: bool, temperature: float = TEMPERATURE) -> Tensor:
    """(inputs,): what sets the outputs of each input apart, in the unit of :func:`sensitivity.change_losses`.

    Of class scores the Kullback-Leibler divergence of the probabilities softened by the ``temperature`` T, times T^2;
    of other outputs half the squared distance.
    """
    losses = torch.zeros(len(dense[0]), dtype=torch.float64)
    for theirs, ours in zip(dense, changed, strict=True):
        if theirs.is_floating_point():
            each = _softened(theirs, ours, temperature) if classes else (theirs - ours).double().square() / 2
            losses += each.reshape(len(each), -1).sum(1)
    return losses


def outputs_apart(dense: nn.Module, others: Sequence[nn.Module], inputs: Inputs, *, classes: bool) -> list[float]:
    """The mean divergence per input of the outputs of each of ``others`` from the dense ones: see :func:`divergences`.

    Of the class probabilities as they are: softened ones set apart what changes no answer. Asymmetric and symmetric
    refits of EfficientNet-Lite1 at 0.7 of the MACs are 0.19 and 0.22 apart from it softened by 4, 0.53 and 0.33 as they
    are; 74.5 and 77.0 % of the answers are right. Of large models (``COMPARED_MACS``) on fewer of the inputs.
    """
    return apart_by_input(dense, others, inputs, classes=classes).mean(1).tolist()


def apart_by_input(dense: nn.Module, others: Sequence[nn.Module], inputs: Inputs, *, classes: bool) -> Tensor:
    """(others, inputs): the divergences whose means :func:`outputs_apart` gives."""
    inputs = first(inputs, affordable(dense, inputs, COMPARED_MACS, FEWEST_COMPARED))
    found: list[list[Tensor]] = [[] for _ in others]
    size = inputs_at_once(dense, inputs)
    with ExitStack() as stack, torch.no_grad():
        for model in (dense, *others):
            stack.enter_context(evaluating(model))
        for part in shortest_first(dense, inputs, size):
            wanted = as_outputs(calibrated(dense, part))
            for index, model in enumerate(others):
                ours = as_outputs(calibrated(model, part))
                found[index].append(divergences(wanted, ours, classes=classes, temperature=1.0))
    return torch.stack([torch.cat(parts) for parts in found])


def _softened(theirs: Tensor, ours: Tensor, temperature: float) -> Tensor:
    """(N,) or (N, positions): the divergence of the softened probabilities."""
    temperature = temperature_of(theirs, temperature)
    of_each = []
    for few in zip(theirs.split(FEW_SCORES), ours.split(FEW_SCORES), strict=True):
        wanted, given = ((scores.double() / temperature).log_softmax(-1) for scores in few)
        of_each.append((wanted.exp() * (wanted - given)).sum(-1))
    return temperature**2 * torch.cat(of_each)


def _at_once(model: nn.Module, inputs: Inputs) -> int:
    """So many inputs that the outputs of all layers take at most ``MOST_CACHED_BYTES``; two where that is unknown."""
    seen = rehearsed(model, inputs)
    return 2 if seen is None else max(2, int(MOST_CACHED_BYTES / max(1, seen.outputs)))


def _untouched(model: nn.Module, inputs: Inputs) -> set[str]:
    """The leaf modules of whose outputs nothing is changed in place afterwards: they need not be copied."""
    given: dict[str, tuple[Tensor, int]] = {}

    def ran(call: Call) -> None:
        if isinstance(call.output, Tensor) and not call.output.is_inference():
            given[call.name] = call.output, call.output._version

    with observing(leaves(model), after=ran):
        calibrated(model, first(inputs, REHEARSED))
    return {name for name, (output, version) in given.items() if output._version == version}


@dataclass(slots=True)
class _Cache:
    """What each leaf module that ran once gave, in the order in which they ran, and the model's outputs.

    What is given by those that are ``untouched`` is not copied.
    """

    model: nn.Module
    untouched: set[str]
    order: dict[str, int] = field(default_factory=dict)
    given: dict[str, Tensor] = field(default_factory=dict)
    outputs: Outputs = ()

    @classmethod
    def of(cls, model: nn.Module, inputs: Inputs, untouched: set[str]) -> _Cache:
        cache, twice = cls(model, untouched), set[str]()

        def ran(call: Call) -> None:
            if call.name in cache.order or not isinstance(call.output, Tensor):
                twice.add(call.name)
            cache.order.setdefault(call.name, len(cache.order))
            if call.name not in twice:
                cache.given[call.name] = call.output if call.name in untouched else call.output.clone()

        with observing(leaves(model), after=ran):
            cache.outputs = as_outputs(calibrated(model, inputs))
        for name in twice:
            cache.given.pop(name, None)
        return cache

    def knows(self, name: str, *, before: str) -> bool:
        """Did the layer ``name`` run once, and earlier than the other, so that what it gave is known?"""
        return name in self.given and self.order[name] < self.order.get(before, 0)

    @contextmanager
    def before(self, name: str) -> Iterator[None]:
        """While this is open, the layers that ran before ``name`` give what they gave."""
        with ExitStack() as stack:
            for earlier, output in self.given.items():
                if self.knows(earlier, before=name):
                    whose = self.model.get_submodule(earlier)
                    stack.enter_context(_giving(whose, output, copied=earlier not in self.untouched))
            yield


@contextmanager
def _giving(layer: nn.Module, output: Tensor, *, copied: bool) -> Iterator[None]:
    """``layer`` gives ``output``, or a copy, without running."""
    own = layer.__dict__.get("forward")
    layer.__dict__["forward"] = lambda *_args, **_kwargs: output.clone() if copied else output
    try:
        yield
    finally:
        del layer.__dict__["forward"]
        if own is not None:
            layer.__dict__["forward"] = own


@contextmanager
def changed(model: nn.Module, trial: Trial) -> Iterator[None]:
    """While this is open, a layer of ``model`` is changed as ``trial`` says."""
    layer = model.get_submodule(trial.name)
    weight = layer.weight
    assert isinstance(weight, Tensor)
    dense = weight.data

    def shifted(call: Call) -> Any:
        axis = -1 if isinstance(layer, nn.Linear | nn.Embedding) else 1
        shape = [1] * call.output.dim()
        shape[axis] = -1
        return call.output + trial.shift.flatten().to(call.output).reshape(shape)

    weight.data = weight_from(layer, _moved(kernels(layer), trial.change)).to(dense)
    try:
        with observing(named_layers(model, (trial.name,)), after=shifted):
            yield
    finally:
        weight.data = dense


def _moved(own: Tensor, change: Tensor) -> Tensor:
    """Kernels (groups, T, C, *taps) by ``change`` (groups, T, D), some rows at a time: it may be of fewer bytes."""
    moved = own.clone(memory_format=torch.contiguous_format)
    rows = zip(moved.flatten(0, 1).split(ROWS), change.flatten(0, 1).split(ROWS), strict=True)
    for ours, theirs in rows:
        ours.add_(theirs.reshape(ours.shape).to(ours))
    return moved


@contextmanager
def all_changed(model: nn.Module, trials: Sequence[Trial]) -> Iterator[None]:
    """While this is open, layers of ``model`` are changed as ``trials`` say, one a layer."""
    with ExitStack() as stack:
        for trial in trials:
            stack.enter_context(changed(model, trial))
        yield
