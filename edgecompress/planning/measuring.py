"""Losses corrected by measuring: candidates replaced alone, the rest of the model run, outputs compared.

The second-order estimate of a loss (``sensitivity``) is blind where outputs are silent, and off by factors elsewhere.
Here the chosen candidate of each layer, or one of half its cost where it stays dense, is tried on inputs that nothing
was fitted to; the estimates of the layer's other candidates are multiplied by what the measured ones were off by,
interpolated between measured points in the logarithm.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from statistics import median

import torch
from torch import Tensor, nn

from edgecompress.calibrating import Calibration
from edgecompress.calibrating.batching import LARGE_MACS
from edgecompress.calibrating.moments import FewMoments, Moments, collect, in_passes
from edgecompress.calibrating.sensitivity import Metric
from edgecompress.calibrating.trials import Trial, joint_losses, together_losses, trial_losses
from edgecompress.decompositions.base import NUMERICAL
from edgecompress.models.datasets import Inputs, first
from edgecompress.planning.candidates import SCORED_INPUTS, collected_inputs
from edgecompress.planning.fits import Fits
from edgecompress.plans import Cost, Ranks
from edgecompress.progress import Progress
from edgecompress.selectors.base import Candidate, Choice, LayerCandidates

MOST_MACS, MOST_IN_ALL = 2e11, 3e11
"""Of one round's trials: with more to run, fewer inputs are used; and of all rounds of a large model,
beyond the first."""

FEWEST_INPUTS, MOST_INPUTS = 4, 64
"""That trials run on."""

MOST_TRIED_MACS = 3e12
"""Of one trial of each layer on so few inputs: models that take more are planned by estimates alone."""

JOINT_INPUTS = 8
"""Inputs that all that is chosen has to be run on, in little enough time, without each change in turn."""

LEAST_SPREAD = 0.01
"""Of what estimates are off by, between layers: squared, in the logarithm."""

LEAST_LOSS = 1e-9
"""Below it, measured or estimated, is rounding."""


NOTHING = -60.0
"""Stands for the logarithm of a loss of 0."""

MOST_RUN_MACS, MOST_JOINT_MACS = 5e10, 1e11
"""Of one run of the dense model on the inputs of a round; and of the runs without each change in turn, on
``JOINT_INPUTS``: models that take more are not run with all that is chosen."""

MOST_KEPT_BYTES = 1 << 28
"""Of changes that were tried: larger models are not run with all that is chosen together."""

LARGE_BYTES = 1 << 26
"""Of one change, from which on it is kept in half of them: three digits tell what it costs."""

Place = tuple[str, str, Ranks]
"""A candidate: layer, method and ranks."""


@dataclass(frozen=True, slots=True)
class Point:
    """A candidate that was tried.

    ``estimate`` is the logarithm of its estimated loss, ``off`` that of what the estimate was off by, ``variance`` how
    far inputs disagree about the latter, squared.
    """

    candidate: Candidate
    estimate: float
    off: float
    variance: float

    @classmethod
    def of(cls, candidate: Candidate, estimate: float, losses: Tensor) -> Point:
        """From the ``losses`` (inputs,) that were measured."""
        if not bool(losses.any()):
            return cls(candidate, math.log(estimate), NOTHING, 0.0)
        mean = max(LEAST_LOSS, float(losses.mean()))
        variance = float(losses.var()) / (len(losses) * mean**2) if len(losses) > 1 else 1.0
        return cls(candidate, math.log(estimate), math.log(mean / estimate), variance)


def _off_half(cost: Cost, dense: Cost) -> int:
    """How far a cost is from half of the dense layer's, in MACs, where it has any."""
    return abs(2 * cost.macs - dense.macs) if dense.macs else abs(2 * cost.params - dense.params)


def place(name: str, candidate: Candidate) -> Place:
    """Of a layer's candidate."""
    return name, candidate.method, candidate.ranks


def with_losses(layer: LayerCandidates, losses: Sequence[float | None]) -> LayerCandidates:
    """The layer, its candidates with these ``losses``."""
    pairs = zip(layer.candidates, losses, strict=True)
    return replace(layer, candidates=tuple(replace(candidate, loss=loss) for candidate, loss in pairs))


@dataclass(slots=True)
class Trials:
    """What was measured so far: ``points`` by layer, and the changes that were tried, for running them together."""

    model: nn.Module
    calibration: Calibration
    total: Cost
    progress: Progress
    points: dict[str, list[Point]] = field(default_factory=dict)
    made: dict[Place, Trial] = field(default_factory=dict)
    failed: set[Place] = field(default_factory=set)
    """Candidates whose numbers have no answer: not tried again."""
    spent: float = 0.0
    """Multiply-accumulates of all trials so far, about."""

    def measure(self, layers: Sequence[LayerCandidates], choices: Mapping[str, Choice]) -> bool:
        """Try what is chosen and was not tried yet, and one candidate of each other layer; was there any?"""
        found = {layer.name: self._untried(layer, choices[layer.name]) for layer in layers}
        wanted = {name: candidate for name, candidate in found.items() if candidate is not None}
        inputs = self._affordable(len(wanted))
        if inputs is None:
            return False
        by_name, modules = {layer.name: layer for layer in layers}, {n: self.model.get_submodule(n) for n in wanted}
        for part in in_passes(modules):
            self._try([by_name[name] for name in part], wanted, inputs)
        return bool(wanted)

    def too_many(self, layers: int) -> bool:
        """Would one trial of each of so many layers, on the fewest inputs, take too long?"""
        return layers * FEWEST_INPUTS * self.total.macs / 2 > MOST_TRIED_MACS

    def together(self, choices: Mapping[str, Choice]) -> Tensor | None:
        """(inputs,): what all that is chosen costs together; None where nothing is, or a trial of it is not at hand.

        Nor where all of them, each left out in turn, would take too long.
        """
        trials = self._made_for(choices)
        if trials is None or len(trials) * JOINT_INPUTS * self.total.macs / 2 > MOST_JOINT_MACS:
            return None
        return together_losses(self.model, self._inputs(1), trials, classes=self.calibration.classes)

    def each_in_context(self, choices: Mapping[str, Choice]) -> dict[str, float]:
        """What each layer costs beside all others that are chosen: without it outputs would be so much nearer."""
        trials = self._made_for(choices) or ()
        joint = joint_losses(self.model, self._inputs(len(trials)), trials, classes=self.calibration.classes)
        costs = (joint.together - joint.without).mean(1).tolist()
        return {trial.name: cost for trial, cost in zip(trials, costs, strict=True)}

    def _inputs(self, trials: int) -> Inputs:
        """That so many trials run on."""
        macs = max(1, self.total.macs)
        count = int(min(MOST_MACS / (max(1, trials) * macs / 2), MOST_RUN_MACS / macs))
        return self.calibration.held(min(MOST_INPUTS, max(FEWEST_INPUTS, count)))

    def _affordable(self, trials: int) -> Inputs | None:
        """As :meth:`_inputs`, as many as all rounds together leave; None where they are too few, but in the first."""
        inputs, each = self._inputs(trials), trials * self.total.macs / 2
        count = len(inputs[0])
        if self.spent and self.total.macs > LARGE_MACS:
            count = min(count, int((MOST_IN_ALL - self.spent) / max(1, each)))
        self.spent += max(0, count) * each
        return first(inputs, count) if count >= min(FEWEST_INPUTS, len(inputs[0])) else None

    def _made_for(self, choices: Mapping[str, Choice]) -> list[Trial] | None:
        places = [place(name, choice) for name, choice in choices.items() if not isinstance(choice, str)]
        return [self.made[at] for at in places] if places and all(at in self.made for at in places) else None

    def _keep(self, at: Place, trial: Trial) -> None:
        kept = sum(known.change.nbytes for known in self.made.values())
        if kept + trial.change.nbytes <= MOST_KEPT_BYTES:
            self.made[at] = trial

    def _untried(self, layer: LayerCandidates, choice: Choice) -> Candidate | None:
        tried = [point.candidate for point in self.points.get(layer.name, ())]
        known = {place(layer.name, candidate) for candidate in tried} | self.failed
        scored = [c for c in layer.candidates if c.loss is not None and place(layer.name, c) not in known]
        if isinstance(choice, Candidate):
            return next((c for c in scored if c.chain == choice.chain), None)
        return min(scored, key=lambda c: _off_half(c.cost, layer.dense)) if scored and not tried else None

    def _try(self, layers: Sequence[LayerCandidates], wanted: Mapping[str, Candidate], inputs: Inputs) -> None:
        trials = {layer.name: trial for layer in layers if (trial := _known(layer, wanted[layer.name])) is not None}
        trials |= self._fitted([layer for layer in layers if layer.name not in trials], wanted)
        losses = trial_losses(self.model, inputs, list(trials.values()), classes=self.calibration.classes)
        for done, (name, of_inputs) in enumerate(zip(trials, losses, strict=True), start=1):
            loss = wanted[name].loss
            assert loss is not None
            self.points.setdefault(name, []).append(Point.of(wanted[name], loss, of_inputs))
            self._keep(place(name, wanted[name]), trials[name])
            self.progress("plan: measured losses", done, len(trials), name)

    def of(self, layers: Sequence[LayerCandidates], wanted: Mapping[str, Candidate]) -> list[Trial]:
        """Trials of the candidates that are ``wanted`` of the layers, by name; of those without an answer none."""
        chosen = [layer for layer in layers if layer.name in wanted]
        known = {layer.name: self.made.get(place(layer.name, wanted[layer.name])) for layer in chosen}
        made = {layer.name: known[layer.name] or _known(layer, wanted[layer.name]) for layer in chosen}
        again = self._fitted([layer for layer in chosen if made[layer.name] is None], wanted)
        for name, fresh in again.items():
            self._keep(place(name, wanted[name]), fresh)
        return [trial for name in made if (trial := made[name] or again.get(name)) is not None]

    def _fitted(self, layers: Sequence[LayerCandidates], wanted: Mapping[str, Candidate]) -> dict[str, Trial]:
        """Trials of candidates that have to be fitted again."""
        names, trials = tuple(layer.name for layer in layers), dict[str, Trial]()
        if not names:
            return trials
        moments = collect(self.model, collected_inputs(self.model, self.calibration), names)
        metrics = self.calibration.output_metrics(self.model, names, SCORED_INPUTS)
        for layer in layers:
            own = wanted[layer.name]
            if layer.name in moments:
                with suppress(*NUMERICAL):
                    trials[layer.name] = _trial(layer, own, moments[layer.name], metrics.get(layer.name))
            if layer.name not in trials:
                self.failed.add(place(layer.name, own))
        return trials

    def corrected(self, layer: LayerCandidates) -> LayerCandidates:
        """The layer with its losses multiplied by what those that were measured are off by."""
        usual, spread = self._usual()
        points = sorted(self.points.get(layer.name, ()), key=lambda point: point.estimate)
        if points and all(point.off == NOTHING for point in points):
            return with_losses(layer, [None if c.loss is None else 0.0 for c in layer.candidates])
        known = [(point.estimate, drawn_towards(usual, spread, point)) for point in points]
        losses = [None if c.loss is None else corrected_loss(c.loss, known or [(0.0, usual)]) for c in layer.candidates]
        return with_losses(layer, losses)

    def _usual(self) -> tuple[float, float]:
        """The median of what estimates are off by, in the logarithm, and how that varies between layers."""
        offs = [point.off for of_layer in self.points.values() for point in of_layer if point.off != NOTHING] or [0.0]
        usual = median(offs)
        return usual, max(LEAST_SPREAD, (1.5 * median(abs(off - usual) for off in offs)) ** 2)


def drawn_towards(usual: float, spread: float, point: Point) -> float:
    """What ``point`` is off by, drawn towards the ``usual`` by how far its inputs disagree: empirical Bayes."""
    return (spread * point.off + point.variance * usual) / (spread + point.variance)


def corrected_loss(loss: float, known: Sequence[tuple[float, float]]) -> float:
    """``loss`` times what it is off by: between two measured points by their logarithms, beyond as the nearest."""
    at = math.log(loss)
    below, above = ([point for point in known if (point[0] <= at) is side] for side in (True, False))
    if not below or not above:
        return loss * math.exp((below[-1:] or above[:1])[0][1])
    (left, low), (right, high) = below[-1], above[0]
    return loss * math.exp(low + (high - low) * (at - left) / (right - left))


def _known(layer: LayerCandidates, candidate: Candidate) -> Trial | None:
    """The trial of a candidate whose change of the kernels is still in memory."""
    known = None if layer.changed is None else layer.changed(candidate)
    return None if known is None else _of_change(layer.name, *known)


def _of_change(name: str, change: Tensor, mean: Tensor) -> Trial:
    """Kernels moved by ``change`` (groups, T, D), the mean error of the outputs for patches of this mean corrected."""
    shifts = [(of_group.float() @ own.float()).double() for of_group, own in zip(change, mean, strict=True)]
    return Trial(name, change.bfloat16() if change.nbytes >= LARGE_BYTES else change, -torch.stack(shifts))


def _trial(layer: LayerCandidates, candidate: Candidate, moments: Moments | FewMoments, metric: Metric | None) -> Trial:
    """The layer with what ``candidate`` makes of its weight, the mean error of its outputs corrected."""
    return _of_change(layer.name, Fits(layer.kernels, moments.centred, metric).change(candidate), moments.mean)
