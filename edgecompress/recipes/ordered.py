"""Ordered low rank: its options; the training is in :mod:`edgecompress.recipes.ordered_training`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from edgecompress.fields import option
from edgecompress.recipes.base import Needs, RecipeInputs, RecipeResult


@dataclass(frozen=True, slots=True)
class Ordered:
    """``lasso`` weighs the group lasso; tails below ``threshold`` of their layer's norm product are dropped.

    ``full_pass`` runs the whole model too in every step and lets it teach the sampled one, in the place of the dense
    model: ``CE(full, y) + CE(sampled, softmax(full))``, without mixup. It is off: it takes about twice the time, and a
    trained dense model is there to teach from the first step on. Weights are not averaged: an average of ranks is none.
    """

    lasso: float = option(1e-5, "Weight of the group lasso.", low=0, codecs=False)
    threshold: float = 1e-2
    full_pass: bool = False
    name: str = "ordered"
    summary: str = "train once, cut to any budget: sampled ranks and group lasso; Maestro, Horvath et al. 2024"
    needs: ClassVar[Needs] = Needs(
        other_selector="truncates to a budget: use --keep, not --select",
        methods=("svd",),
        other_method="trains svd chains only: drop --method",
    )

    def start(self, given: RecipeInputs) -> RecipeResult:
        """Train at full rank, then cut to the budget of ``given.selector``.

        Raises:
            BudgetError: the budget cannot be met.
            DataError: the sample has no data.
            PlanError: the selector is no budget.
            TrainingError: training diverged.
        """
        from edgecompress.recipes.ordered_training import train

        return train(self, given)
