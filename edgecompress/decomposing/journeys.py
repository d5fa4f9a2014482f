"""Inputs on their way through a dense and a compressed model, stopped at the layers that are fitted."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor, nn

from edgecompress.calibrating.shortcuts import OnSum, Sums, marking
from edgecompress.calibrating.texts import shortest_first
from edgecompress.decomposing.lockstep import Run, current
from edgecompress.decomposing.rehearsing import Known
from edgecompress.models import Call, calibrated, evaluating, named_layers, observing
from edgecompress.models.datasets import Inputs

GOLDEN = 0.6180339887498949
"""Multiples of it, without their whole part, lie evenly in [0, 1), however many there are."""


class Arrival(NamedTuple):
    """The input of a layer, and what its output is about to be added to, if that is known."""

    layer: str
    given: Tensor
    shortcut: Tensor | None = None


class Gave(NamedTuple):
    """What a layer of the dense model made of its input, or the sum that its output goes into."""

    layer: str
    given: Tensor
    output: Tensor
    is_sum: bool = False


@dataclass(frozen=True, slots=True)
class Models:
    """The dense and the compressed model; ``asymmetric`` says that it is the latter whose layers' inputs count."""

    dense: nn.Module
    compressed: nn.Module
    layers: Mapping[str, Known]
    done: Container[str]
    asymmetric: bool
    change_inputs: bool = True
    """May either change what it is given in place, so that it has to be given copies?"""

    @contextmanager
    def watched(self) -> Iterator[None]:
        """While this is open, :class:`Journey` sees what the layers do."""
        names = tuple(self.layers)
        dense = observing(named_layers(self.dense, names), after=self._ran)
        compressed = observing(named_layers(self.compressed, names), before=self._arrived)
        marked = marking(self.dense, names), marking(self.compressed, names)
        with evaluating(self.dense), evaluating(self.compressed), marked[0], marked[1], dense, compressed:
            yield

    # What runs inside a model touches no tensor: that would look as if the model read it.

    def _arrived(self, call: Call) -> None:
        run = current()
        if run is not None and call.name not in self.done:
            run.pause(Arrival(call.name, call.given))

    def _ran(self, call: Call) -> None:
        run = current()
        if run is not None and call.name not in self.done:
            run.pause(Gave(call.name, call.given, call.output))


@dataclass(slots=True, eq=False)
class Journey:
    """Some of the inputs, from the one with index ``start`` on."""

    models: Models
    inputs: Inputs
    start: int
    at: Arrival | None = None
    """Where it waits; None once it is through."""
    waiting: dict[str, Arrival] = field(default_factory=dict)
    """Layers that have run unfitted because the shortcut that they make up for came later."""
    _gave: dict[tuple[str, bool], Gave] = field(default_factory=dict)
    _dense: Run[Gave] = field(init=False)
    _compressed: Run[Arrival] = field(init=False)

    def __post_init__(self) -> None:
        self._dense = Run(partial(self._run, self.models.dense, self._dense_sum))
        self._compressed = Run(partial(self._run, self.models.compressed, self._sum))

    def go_on(self) -> None:
        """To the next layer that can be fitted."""
        self.at = self._next() if self.models.asymmetric else self._next_of_dense()

    def gave(self, layer: str, *, is_sum: bool = False) -> Gave | None:
        """What the dense model's layer gave, or the sum that went into; None if that did not come this time."""
        while (layer, is_sum) not in self._gave and (event := self._dense.advance()) is not None:
            self._gave[event.layer, event.is_sum] = event
        return self._gave.get((layer, is_sum))

    def unchanged(self, layer: str, arrival: Arrival | None) -> bool:
        """Is it given in the compressed model what it is given in the dense one, and nothing to make up for?"""
        gave = self.gave(layer)
        if gave is None or arrival is None or arrival.shortcut is not None:
            return False
        return torch.equal(gave.given, arrival.given)

    def forget(self, layer: str) -> None:
        """The layer is done."""
        self._gave.pop((layer, False), None)
        self._gave.pop((layer, True), None)

    def close(self) -> None:
        """End it where it is."""
        self._dense.close()
        self._compressed.close()

    def _run(self, model: nn.Module, on_sum: OnSum) -> None:
        with torch.no_grad(), Sums(on_sum):
            copied = self.models.change_inputs
            calibrated(model, tuple(tensor.clone() for tensor in self.inputs) if copied else self.inputs)

    def _next(self) -> Arrival | None:
        while (at := self._compressed.advance()) is not None:
            if at.shortcut is not None or not self.models.layers[at.layer].sums:
                return at
            self.waiting[at.layer] = at
        return None

    def _next_of_dense(self) -> Arrival | None:
        gave = self._dense.advance()
        if gave is None:
            return None
        self._gave[gave.layer, False] = gave
        return Arrival(gave.layer, gave.given)

    def _dense_sum(self, layer: str, _norm: str, own: Tensor, other: Tensor) -> None:
        run = current()
        wanted = self.models.asymmetric and self.models.layers[layer].sums and layer not in self.models.done
        if run is not None and wanted:
            run.pause(Gave(layer, own, own + other, is_sum=True))

    def _sum(self, layer: str, norm: str, own: Tensor, other: Tensor) -> None:
        """Wait with the shortcut, then put in what the layer gives now that it is fitted."""
        run, arrival = current(), self.waiting.get(layer)
        if run is None or arrival is None:
            return
        run.pause(arrival._replace(shortcut=other))
        del self.waiting[layer]
        output = self.models.compressed.get_submodule(layer)(arrival.given)
        own.copy_(self.models.compressed.get_submodule(norm)(output) if norm else output)


def journeys(models: Models, inputs: Inputs, size: int) -> list[Journey]:
    """Of ``inputs``, ``size`` at a time; the first ones, which may be all that early layers see, of every length."""
    parts = list(shortest_first(models.dense, inputs, size))
    starts = accumulate((len(part[0]) for part in parts), initial=0)
    found = [Journey(models, part, start) for part, start in zip(parts, starts, strict=False)]
    return [found[index] for index in sorted(range(len(found)), key=lambda index: index * GOLDEN % 1)]
