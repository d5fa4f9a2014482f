"""One budget for the whole model, spent where it buys most: a multiple-choice knapsack.

Each layer takes one candidate or stays dense; the sum of the relative errors is least while the whole model
stays within the budget. Solved exactly (within 0.01 %) as a small integer program by HiGHS through SciPy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from edgecompress.costs import Cost
from edgecompress.errors import BudgetError, PlanError
from edgecompress.selectors.base import Candidate, Choice, LayerCandidates

Of = Literal["macs", "params"]


@dataclass(frozen=True, slots=True)
class Budget:
    """Keep at most the fraction ``keep`` in (0, 1] of the dense model's ``of`` (MACs or parameters)."""

    keep: float = 0.5
    of: Of = "macs"
    name: str = "budget"
    summary: str = "least total error with at most --keep of the dense --of macs|params; knapsack over all layers"

    def __post_init__(self) -> None:
        if self.of not in get_args(Of):
            raise PlanError(f"no budget of {self.of!r}; there are {', '.join(get_args(Of))}")
        if not 0 < self.keep <= 1:
            raise PlanError(f"keep {self.keep} is outside (0, 1]: it is the fraction of the dense {self.of} to keep")

    def select(self, layers: Sequence[LayerCandidates], total: Cost) -> dict[str, Choice]:
        """A candidate or a reason for every layer, within the budget."""
        options = [self._options(layer) for layer in layers]
        fixed = self._size(total) - sum(self._size(layer.dense) for layer in layers)
        room = int(self.keep * self._size(total)) - fixed
        sizes = [
            [self._size(layer.dense), *(self._size(c.cost) for c in kept)]
            for layer, kept in zip(layers, options, strict=True)
        ]
        errors = [[0.0, *(c.error for c in kept)] for kept in options]
        self._refuse_impossible(sizes, room, fixed, total)
        picks = solve_knapsack(errors, sizes, room)
        return {
            layer.name: kept[pick - 1] if pick else self._why_dense(kept)
            for layer, kept, pick in zip(layers, options, picks, strict=True)
        }

    def _size(self, cost: Cost) -> int:
        return cost.macs if self.of == "macs" else cost.params

    def _options(self, layer: LayerCandidates) -> list[Candidate]:
        """The candidates that no other beats in both size and error, smallest first."""
        kept: list[Candidate] = []
        for candidate in sorted(layer.candidates, key=lambda c: (self._size(c.cost), c.error)):
            if not kept or candidate.error < kept[-1].error:
                kept.append(candidate)
        return kept

    def _refuse_impossible(self, sizes: list[list[int]], room: int, fixed: int, total: Cost) -> None:
        least = sum(min(of_layer) for of_layer in sizes)
        if least <= room:
            return
        nearest = (least + fixed) / self._size(total)
        while int(nearest * self._size(total)) < least + fixed:
            nearest = math.nextafter(nearest, 2)
        raise BudgetError(
            f"keep {self.keep:g} of the {self.of} cannot be reached: the smallest candidates keep {nearest:.3f}; "
            f"ask for --keep {min(1, nearest + 0.001):.3f} or more, or allow more methods or a smaller --multiple",
            nearest_keep=nearest,
        )

    def _why_dense(self, kept: list[Candidate]) -> str:
        if not kept:
            return "no rank makes it smaller"
        return "the budget is met at less error by compressing other layers"


def solve_knapsack(errors: list[list[float]], sizes: list[list[int]], room: int) -> list[int]:
    """One option per group, least total error with total size at most ``room``; needs a feasible choice."""
    import numpy as np
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import block_diag, csr_matrix

    if not errors:
        return []
    flat_sizes = np.concatenate([np.asarray(group, dtype=float) for group in sizes])
    one_each = LinearConstraint(block_diag([np.ones((1, len(group))) for group in errors], "csr"), 1, 1)
    within = LinearConstraint(csr_matrix(flat_sizes / max(room, 1)), -np.inf, room / max(room, 1))
    found = milp(
        np.concatenate([np.asarray(group) for group in errors]),
        integrality=np.ones(len(flat_sizes)),
        bounds=Bounds(0, 1),
        constraints=[one_each, within],
        options={"mip_rel_gap": 1e-4},
    )
    if found.x is None:
        raise BudgetError(f"the knapsack was not solved: {found.message}", nearest_keep=1.0)
    borders = np.cumsum([len(group) for group in errors])[:-1]
    picks = [int(part.argmax()) for part in np.split(found.x, borders)]
    return _repaired(picks, sizes, room)


def _repaired(picks: list[int], sizes: list[list[int]], room: int) -> list[int]:
    """The solver's tolerance can overrun the budget by a few units: shrink the layers that lose least size."""
    while sum(group[pick] for group, pick in zip(sizes, picks, strict=True)) > room:
        steps = [
            (group[pick] - max(smaller), index, group.index(max(smaller)))
            for index, (group, pick) in enumerate(zip(sizes, picks, strict=True))
            if (smaller := [size for size in group if size < group[pick]])
        ]
        _, index, option = min(steps)
        picks[index] = option
    return picks
