"""Ranks by few shared ratios and Bayesian optimisation over whole plans: Bolaco.

Ji et al. 2024, "Feature-based Low-Rank Compression of Large Language Models via Bayesian Optimization" (arXiv
2405.10616): queries and keys share a ratio, every other kind of layer has one, values stay dense; 50 plans are tried,
by a Gaussian process, within a tenth of the wanted size. Plans are judged by the perplexity on a few inputs and a
thousandth of the divergence from the dense model. Layers are cut by a PCA of their outputs (``planning.pooling``).
Plans of another size are brought to the nearest one that is allowed, all ratios by one factor.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from edgecompress.errors import BudgetError
from edgecompress.fields import option
from edgecompress.plans import Cost
from edgecompress.selectors.base import NO_RANK, Choice, LayerCandidates
from edgecompress.selectors.search import Judge, Search, kinds_of
from edgecompress.selectors.studies import Point, Sampler

LEAST, MOST, SLACK = 0.2, 1.0, 0.1
"""The range of a ratio, and how much smaller than wanted a plan may be."""

QUERY_OR_KEY = re.compile(r"(q|k|query|key)(_proj|_lin)?")
VALUE = re.compile(r"(v|value)(_proj|_lin)?")
SHARED = "queries and keys"


@dataclass(frozen=True, slots=True)
class Bolaco(Search):
    """The options of :class:`Search`, with the paper's defaults."""

    evaluations: int = option(50, "Plans that are tried.", low=1, high=100_000, chooses=True, codecs=False)
    sampler: Sampler = option("gp", "What chooses the next plan to try.", chooses=True, codecs=False)
    name: str = "bolaco"
    summary: str = (
        "one ratio for each kind of layer, by Bayesian optimisation of the perplexity; Ji et al. 2024; Optuna"
    )
    by_perplexity: ClassVar[bool] = True

    def search(
        self,
        layers: Sequence[LayerCandidates],
        total: Cost,
        usual: Mapping[str, Choice],
        judge: Judge,
        told: Callable[[int, float], None],
    ) -> dict[str, Choice]:
        """A choice for every layer, within the budget: that of the best of the plans that were tried.

        Raises:
            BudgetError: values dense and all else at the least ratio keep more.
            FileError: the storage cannot be used.
        """
        del usual
        kinds = shared_kinds(layers)
        variables = sorted(set(kinds.values()))

        def chosen(point: Point) -> dict[str, Choice]:
            return self._fitting(point, layers, kinds, total)

        ranges, start = dict.fromkeys(variables, (LEAST, MOST)), dict.fromkeys(variables, _in_range(self.keep))
        return chosen(self.best(layers, ranges, start, lambda point: judge(chosen(point)), told, by=self.name))

    def _fitting(
        self, point: Point, layers: Sequence[LayerCandidates], kinds: Mapping[str, str], total: Cost
    ) -> dict[str, Choice]:
        """What the ratios choose, all of them made larger or smaller by one factor where the size is not as wanted."""
        low, high = LEAST / MOST, MOST / LEAST
        own = self._share(choices := at_ratios(layers, kinds, point), layers, total)
        if self.keep - SLACK <= own <= self.keep:
            return choices
        wanted = self.keep if own > self.keep else self.keep - SLACK
        for _ in range(40):
            factor = (low * high) ** 0.5
            choices = at_ratios(layers, kinds, {kind: ratio * factor for kind, ratio in point.items()})
            low, high = (low, factor) if self._share(choices, layers, total) > wanted else (factor, high)
        choices = at_ratios(layers, kinds, {kind: ratio * low for kind, ratio in point.items()})
        if (least := self._share(choices, layers, total)) > self.keep:
            raise BudgetError.beyond(self.keep, self.of, int(least * self.size(total)), self.size(total), _way_out)
        return choices

    def _share(self, choices: Mapping[str, Choice], layers: Sequence[LayerCandidates], total: Cost) -> float:
        """What remains of the whole model."""
        saved = [
            self.size(layer.dense) - self.size(choice.cost)
            for layer in layers
            if not isinstance(choice := choices[layer.name], str)
        ]
        return 1 - sum(saved) / self.size(total)


def shared_kinds(layers: Sequence[LayerCandidates]) -> dict[str, str]:
    """The kind of each layer that has a ratio, by name; values have none."""
    ends = {layer.name: layer.name.rsplit(".", 1)[-1] for layer in layers}
    kinds = kinds_of([layer for layer in layers if not VALUE.fullmatch(ends[layer.name])])
    return {name: SHARED if QUERY_OR_KEY.fullmatch(ends[name]) else kind for name, kind in kinds.items()}


def at_ratios(layers: Sequence[LayerCandidates], kinds: Mapping[str, str], ratios: Point) -> dict[str, Choice]:
    """Of each layer what leaves a share of its parameters nearest to its kind's ratio."""

    def choice(layer: LayerCandidates) -> Choice:
        if layer.name not in kinds:
            return "values stay dense"
        ratio = _in_range(ratios[kinds[layer.name]])
        nearest = min(layer.candidates, key=lambda one: abs(one.cost.params / layer.dense.params - ratio), default=None)
        if nearest is None:
            return NO_RANK
        share = nearest.cost.params / layer.dense.params
        return nearest if abs(share - ratio) < MOST - ratio else "its kind's ratio is 1"

    return {layer.name: choice(layer) for layer in layers}


def _in_range(ratio: float) -> float:
    return min(MOST, max(LEAST, ratio))


def _way_out(nearest: float) -> str:
    return (
        f": with values dense and {LEAST:g} of all other layers {nearest:.3f} is left; ask for --keep {nearest:.3f} or "
        "more, or take --select search"
    )
