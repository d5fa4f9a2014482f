"""Losses of the candidates of all layers, from gradients, in as few passes as their changes fit into memory for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from torch import Tensor, nn

from edgecompress.calibrating.sensitivity import Components, change_losses
from edgecompress.models.datasets import Inputs
from edgecompress.selectors.base import Candidate, LayerCandidates

MOST_CHANGE_BYTES = 1 << 29
"""Of what scored candidates change, in memory at once: beyond it losses take several passes."""

MOST_KEPT_BYTES = 1 << 28
"""Of what scored candidates change, for trials of them: what is not kept is fitted again."""

UNSEEN_NOTE = "no change of it reaches the model's output on the calibration inputs"


@dataclass(frozen=True, slots=True)
class Fitted:
    """A layer's candidates, those to be scored, and what each of them changes of its kernels, if that is known.

    ``again`` works out what one candidate changes, where that takes little time and memory.
    """

    layer: LayerCandidates
    chosen: Sequence[Candidate] = ()
    changes: Tensor | Components | None = None
    mean: Tensor | None = None
    again: Callable[[Candidate], Tensor] | None = None


@dataclass
class Scoring:
    """Losses of the candidates of all layers, in as few passes as their changes fit into memory for."""

    model: nn.Module
    inputs: Inputs
    classes: bool
    _chosen: dict[str, Sequence[Candidate]] = field(default_factory=dict, init=False)
    _changes: dict[str, Tensor | Components] = field(default_factory=dict, init=False)
    _means: dict[str, Tensor] = field(default_factory=dict, init=False)
    _kept: dict[str, Tensor] = field(default_factory=dict, init=False)
    _again: dict[str, Callable[[Candidate], Tensor]] = field(default_factory=dict, init=False)
    _losses: dict[str, Tensor] = field(default_factory=dict, init=False)

    def add(self, name: str, of_layer: Fitted) -> None:
        """Take what a layer's candidates change, for the next pass."""
        if of_layer.changes is None or of_layer.mean is None:
            return
        if sum(changes.nbytes for changes in (*self._changes.values(), of_layer.changes)) > MOST_CHANGE_BYTES:
            self._run()
        self._chosen[name], self._changes[name], self._means[name] = of_layer.chosen, of_layer.changes, of_layer.mean
        if of_layer.again is not None:
            self._again[name] = of_layer.again

    def priced(self, layer: LayerCandidates) -> LayerCandidates:
        """The layer with the loss of the candidates that no other beats."""
        self._run()
        priced = _with_losses(layer, self._chosen.get(layer.name, ()), self._losses.get(layer.name))
        known = layer.name in self._kept or layer.name in self._again
        return replace(priced, changed=partial(self._changed, layer.name)) if known else priced

    def _run(self) -> None:
        if self._changes:
            self._losses |= change_losses(self.model, self.inputs, self._changes, self._means, classes=self.classes)
            for name, changes in self._changes.items():
                if isinstance(changes, Tensor) and self._fits(changes):
                    self._kept[name] = changes
            self._changes.clear()

    def _fits(self, changes: Tensor) -> bool:
        return sum(kept.nbytes for kept in (*self._kept.values(), changes)) <= MOST_KEPT_BYTES

    def _changed(self, name: str, candidate: Candidate) -> tuple[Tensor, Tensor] | None:
        """What one candidate changes, and the mean patch."""
        if name in self._again:
            return self._again[name](candidate), self._means[name]
        places = [c.chain for c in self._chosen[name]]
        if name not in self._kept or candidate.chain not in places:
            return None
        return self._kept[name][places.index(candidate.chain)], self._means[name]


def _with_losses(layer: LayerCandidates, chosen: Sequence[Candidate], losses: Tensor | None) -> LayerCandidates:
    if losses is None:
        return layer
    known = {c.chain: loss for c, loss in zip(chosen, losses.tolist(), strict=True)}
    scored = (replace(c, loss=known.get(c.chain)) for c in layer.candidates)
    note = layer.note if bool(losses.any()) else layer.note or UNSEEN_NOTE
    return replace(layer, candidates=tuple(scored), note=note)
