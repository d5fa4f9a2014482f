"""One budget for the whole model, spent where it buys most: a multiple-choice knapsack.

Each layer takes one candidate or stays dense; the sum of their losses is least while the whole model stays within the
budget. A loss is the estimated change of the model's output; the relative error where there is no such estimate.
Solved by bisection on the price of a unit of cost (Lagrange relaxation; Shoham & Gersho 1988), then repaired: what is
left of the budget goes where it still lowers the loss most.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal, get_args

from edgecompress.errors import BudgetError, PlanError
from edgecompress.fields import option
from edgecompress.plans import Cost
from edgecompress.selectors.base import NO_RANK, Candidate, Choice, LayerCandidates, scored
from edgecompress.settings import CODED_KEEP

Of = Literal["macs", "params", "bytes", "latency"]

LEAST_GAIN = 0.001
"""What is added to the smallest fraction that can be reached, in the advice of a message."""

MOST_REASONS = 3
"""Why layers stay dense, in a message."""


@dataclass(frozen=True, slots=True)
class Budget:
    """At most a fraction of the dense model's cost may remain; it is spent where it buys most.

    Args:
        keep: the fraction, in (0, 1].
        of: of "macs", "params" or "bytes".
        name: its key in ``SELECTORS``.
        summary: one line for people.
        weighs_losses: candidates are weighed by what they cost at the model's output.
    """

    keep: float = option(
        0.5,
        "Fraction of the dense cost to keep.",
        usual=f"{{}}; {CODED_KEEP:g} with a codec",
        above=0,
        high=1,
        basic=True,
        chooses=True,
    )
    of: Of = option("macs", "Which cost.", usual="{}; params with a codec", basic=True, chooses=True)
    name: str = "budget"
    summary: str = "least total loss with at most --keep of the dense --of macs|params|bytes; knapsack over all layers"
    weighs_losses: bool = True

    def __post_init__(self) -> None:
        if self.of not in get_args(Of):
            raise PlanError(f"no budget of {self.of!r}; there are {', '.join(get_args(Of))}")
        if not 0 < self.keep <= 1:
            raise PlanError(f"keep {self.keep} is outside (0, 1]: it is the fraction of the dense {self.of} to keep")

    def select(self, layers: Sequence[LayerCandidates], total: Cost) -> dict[str, Choice]:
        """A candidate or a reason for every layer, within the budget."""
        typical = typical_loss(layers)
        options = [self._options(layer, typical) for layer in layers]
        fixed = self.size(total) - sum(self.size(layer.dense) for layer in layers)
        room = int(self.keep * self.size(total)) - fixed
        sizes = [
            [self.size(layer.dense), *(self.size(c.cost) for c in kept)]
            for layer, kept in zip(layers, options, strict=True)
        ]
        losses = [[0.0, *(loss_or_error(candidate, typical) for candidate in kept)] for kept in options]
        self._refuse_impossible(sizes, room, fixed, total, {})
        picks = solve_knapsack(losses, sizes, room)
        return {
            layer.name: kept[pick - 1] if pick else self._why_dense(kept)
            for layer, kept, pick in zip(layers, options, picks, strict=True)
        }

    def size(self, cost: Cost) -> int:
        """The cost that the budget is of."""
        return {"macs": cost.macs, "params": cost.params, "bytes": cost.weight_bytes, "latency": cost.time}[self.of]

    def _options(self, layer: LayerCandidates, typical: float | None) -> list[Candidate]:
        """The candidates that no other beats in both size and loss, smallest first."""
        kept: list[Candidate] = []
        for candidate in sorted(scored(layer.candidates), key=lambda c: (self.size(c.cost), loss_or_error(c, typical))):
            if not kept or loss_or_error(candidate, typical) < loss_or_error(kept[-1], typical):
                kept.append(candidate)
        return kept

    def refuse_out_of_reach(
        self, costs: Sequence[Sequence[Cost]], total: Cost, reasons: Mapping[str, str] | None = None
    ) -> None:
        """Refuse a budget that the smallest of each layer's ``costs``, the dense one among them, exceed together.

        ``reasons`` say, by name, why other layers stay dense.

        Raises:
            BudgetError: with the smallest fraction that can be reached.
        """
        sizes = [[self.size(cost) for cost in of_layer] for of_layer in costs]
        fixed = self.size(total) - sum(of_layer[0] for of_layer in sizes)
        self._refuse_impossible(sizes, int(self.keep * self.size(total)) - fixed, fixed, total, reasons or {})

    def _refuse_impossible(
        self, sizes: list[list[int]], room: int, fixed: int, total: Cost, reasons: Mapping[str, str]
    ) -> None:
        least = sum(min(of_layer) for of_layer in sizes)
        if least > room:
            raise BudgetError.beyond(
                self.keep,
                self.of,
                least + fixed,
                self.size(total),
                lambda nearest: f": {_way_out(nearest, sizes)}{_left_dense(reasons)}",
            )

    def _why_dense(self, kept: list[Candidate]) -> str:
        if not kept:
            return NO_RANK
        return "the budget is met at less loss by compressing other layers"


def _way_out(nearest: float, sizes: list[list[int]]) -> str:
    """The smallest fraction in words, and what to ask for instead; ``sizes`` of each layer that may be replaced."""
    if not sizes:
        return "no layer of this model can be replaced"
    if nearest > 1 - LEAST_GAIN:
        return "no layer of this model can be made smaller; allow more methods or a smaller --multiple"
    return (
        f"the smallest candidates keep {nearest:.3f}; ask for --keep {nearest + LEAST_GAIN:.3f} or more, or allow more "
        "methods or a smaller --multiple"
    )


def _left_dense(reasons: Mapping[str, str]) -> str:
    """The commonest reasons why layers stay dense, each with a layer and how many more there are."""
    counts = Counter(reasons.values())
    first = {reason: name for name, reason in reversed(list(reasons.items()))}
    groups = [
        f"{first[reason] or 'the layer'}{f' and {count - 1} more' if count > 1 else ''}: {reason}"
        for reason, count in counts.most_common(MOST_REASONS)
    ]
    return f" (left dense: {'; '.join(groups)})" if groups else ""


def typical_loss(layers: Sequence[LayerCandidates]) -> float | None:
    """What a relative error of 1 costs, in the median over all candidates with a loss; None where there are none."""
    known = [c.loss / c.error for layer in layers for c in layer.candidates if c.loss is not None and c.error > 0]
    return median(known) if known else None


def loss_or_error(candidate: Candidate, typical: float | None) -> float:
    """Its loss; where it has none beside others that do, what its error costs elsewhere; without any, its error."""
    if candidate.loss is not None:
        return candidate.loss
    return candidate.error if typical is None else candidate.error * typical


def solve_knapsack(losses: list[list[float]], sizes: list[list[int]], room: int) -> list[int]:
    """One option per group, small total loss with total size at most ``room``; needs a feasible choice."""
    low, high = 0.0, _price_of_smallest(losses)
    picks = _at_price(high, losses, sizes)
    for _ in range(100):
        price = (low + high) / 2
        tried = _at_price(price, losses, sizes)
        if _total(sizes, tried) > room:
            low = price
        else:
            high, picks = price, tried
    return _repaired(picks, losses, sizes, room)


def _at_price(price: float, losses: list[list[float]], sizes: list[list[int]]) -> list[int]:
    """Each group's best option where a unit of size costs ``price``; of equals the smallest."""
    picks = []
    for loss, size in zip(losses, sizes, strict=True):
        picks.append(min(range(len(loss)), key=lambda option: (loss[option] + price * size[option], size[option])))
    return picks


def _price_of_smallest(losses: list[list[float]]) -> float:
    """A price at which every group takes its smallest option."""
    return 1 + sum(max(loss) for loss in losses)


def _total(sizes: list[list[int]], picks: list[int]) -> int:
    return sum(size[pick] for size, pick in zip(sizes, picks, strict=True))


def _repaired(picks: list[int], losses: list[list[float]], sizes: list[list[int]], room: int) -> list[int]:
    """Spend what is left: again and again the change that still fits and lowers the loss most for its size."""
    left = room - _total(sizes, picks)
    while True:
        gains = [
            ((losses[group][pick] - loss) / max(1, size - sizes[group][pick]), group, option)
            for group, pick in enumerate(picks)
            for option, (loss, size) in enumerate(zip(losses[group], sizes[group], strict=True))
            if loss < losses[group][pick] and size - sizes[group][pick] <= left
        ]
        if not gains:
            return picks
        _, group, option = max(gains)
        left -= sizes[group][option] - sizes[group][picks[group]]
        picks[group] = option
