"""The knapsack's losses are corrected for kinds of layers and for depth, by trying whole plans.

A loss says what a layer costs alone; beside all others queries may cost less than that and values more, early layers
more than late ones. So the losses of each kind of layer are multiplied by a factor, and those of deep layers by more or
less than those of the first: few numbers, by which the knapsack chooses, so that the budget is always met. Trial 0 is
the knapsack itself. Tried plans are judged by what they change of the outputs on inputs that nothing was fitted to.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from edgecompress.fields import option
from edgecompress.plans import Cost
from edgecompress.progress import notice
from edgecompress.selectors.base import Candidate, Choice, LayerCandidates, as_known
from edgecompress.selectors.budget import Budget
from edgecompress.selectors.studies import Point, Range, Sampler, found, refuse_missing

MOST_KINDS = 12
"""Kinds of layers with a factor of their own: those that hold most; all others share one."""

FARTHEST = math.log(8.0)
"""How far from 1 a factor may be, and how much more the last layer may count than the first, in the logarithm."""

DEPTH, OTHERS = "depth", "others"
"""The variable that is no kind's, and the kind of what has none of its own."""

Judge = Callable[[Mapping[str, Choice]], float]
"""What a whole plan costs on inputs that nothing was fitted to; less is better."""


@dataclass(frozen=True, slots=True)
class Search(Budget):
    """The options of :class:`Budget`, and those of the search.

    Args:
        evaluations: whole plans that are tried, by all processes that share the study.
        sampler: of Optuna.
        storage: ``journal:FILE`` or a database's address, where a study is kept and shared; empty: in memory.
        seed: of the sampler.
    """

    evaluations: int = option(
        12, "Plans that are tried.", usual="{}; 50 with bolaco", low=1, high=100_000, chooses=True, codecs=False
    )
    sampler: Sampler = option(
        "tpe", "What chooses the next plan to try.", usual="{}; gp with bolaco", chooses=True, codecs=False
    )
    storage: str = option(
        "", "journal:FILE or a database, in which a search goes on and which several share.", codecs=False
    )
    seed: int = 0
    name: str = "search"
    summary: str = "budget, its losses corrected by kind of layer and depth by trying whole plans; Optuna"
    weighs_losses: bool = True
    by_perplexity: ClassVar[bool] = False

    def refuse_in_vain(self, calibration: object) -> None:
        """Prove, before any work, that plans can be tried; without calibration inputs none are, with a notice.

        Raises:
            MissingExtra: Optuna is not installed.
        """
        if calibration is None:
            notice(f"--select {self.name} tries plans on calibration inputs: there are none, so it is --select budget")
        else:
            refuse_missing(self.name)

    def search(
        self,
        layers: Sequence[LayerCandidates],
        total: Cost,
        usual: Mapping[str, Choice],
        judge: Judge,
        told: Callable[[int, float], None],
    ) -> dict[str, Choice]:
        """A choice for every layer, within the budget: that of the best of the plans that were tried, ``usual`` first.

        Raises:
            BudgetError: no choice meets the budget.
            FileError: the storage cannot be used.
        """
        kinds = kinds_of(layers)
        variables = [*dict.fromkeys(kinds.values()), DEPTH]

        def chosen(point: Point) -> dict[str, Choice]:
            if not any(point.values()):
                return dict(usual)
            each = [
                scaled(layer, _factor(point, kinds[layer.name], at, len(layers))) for at, layer in enumerate(layers)
            ]
            return self.select(each, total)

        known: dict[tuple[object, ...], float] = {}

        def value_of(point: Point) -> float:
            choices = chosen(point)
            key = tuple(c.chain if isinstance(c, Candidate) else None for c in choices.values())
            if key not in known:
                known[key] = judge(choices)
            return known[key]

        ranges, start = dict.fromkeys(variables, (-FARTHEST, FARTHEST)), dict.fromkeys(variables, 0.0)
        return as_known(layers, chosen(self.best(layers, ranges, start, value_of, told)))

    def best(
        self,
        layers: Sequence[LayerCandidates],
        ranges: Mapping[str, Range],
        start: Point,
        value_of: Callable[[Point], float],
        told: Callable[[int, float], None],
        **more: str,
    ) -> Point:
        """The point of least value of those that are tried, ``start`` first; ``more`` tells this study from others.

        Raises:
            FileError: the storage cannot be used.
        """
        problem = {"layers": [[layer.name, list(layer.shape)] for layer in layers], "keep": self.keep, "of": self.of}
        return found(
            {**problem, **more},
            ranges,
            [start],
            value_of,
            evaluations=self.evaluations,
            sampler=self.sampler,
            storage=self.storage,
            seed=self.seed,
            told=told,
        )


def kinds_of(layers: Sequence[LayerCandidates]) -> dict[str, str]:
    """The kind of each layer, by name: the name without its numbers; rare kinds are ``OTHERS``."""
    own = {layer.name: re.sub(r"\d+", "*", layer.name) for layer in layers}
    held = Counter[str]()
    for layer in layers:
        held[own[layer.name]] += layer.dense.params
    kept = {kind for kind, _ in held.most_common(MOST_KINDS)}
    return {name: kind if kind in kept else OTHERS for name, kind in own.items()}


def _factor(point: Point, kind: str, at: int, count: int) -> float:
    """By which the losses of the layer number ``at`` of ``count`` are multiplied."""
    return math.exp(point[kind] + point[DEPTH] * (at / max(1, count - 1) - 0.5))


def scaled(layer: LayerCandidates, factor: float) -> LayerCandidates:
    """The layer with its losses, or errors where it has none, times ``factor``."""
    scored = any(candidate.loss is not None for candidate in layer.candidates)

    def of(candidate: Candidate) -> Candidate:
        loss = candidate.loss if scored else candidate.error
        return candidate if loss is None else replace(candidate, loss=loss * factor)

    return replace(layer, candidates=tuple(map(of, layer.candidates)))
