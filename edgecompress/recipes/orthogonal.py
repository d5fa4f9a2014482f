"""Orthogonal over-parameterization: its options; the training is in :mod:`edgecompress.recipes.orthogonal_training`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from edgecompress.fields import option
from edgecompress.recipes.base import Needs, RecipeInputs, RecipeResult


@dataclass(frozen=True, slots=True)
class Orthogonal:
    """``penalty`` weighs the sum over factors of ``|C - I|^2 / r``, C being the cosines between a factor's r vectors.

    0 trains the same chains without it. Cosines leave out the vectors' lengths, which a chain without non-linearities
    moves freely between its links. Layers that ``form`` cannot replace take ``svd``.
    """

    penalty: float = option(1.0, "Weight of the penalty.", low=0, codecs=False)
    form: str = option("tucker2", "Of the chains while they are trained.", filled_by="method")
    name: str = "orthogonal"
    summary: str = "train full-rank chains with orthogonality penalties, then ranks by EVBMF; after He et al. 2024"
    needs: ClassVar[Needs] = Needs("vbmf")

    def start(self, given: RecipeInputs) -> RecipeResult:
        """Over-parameterize, train, merge, choose ranks, decompose.

        Raises:
            DataError: the sample has no data.
            PlanError: there is no such form.
            BudgetError: the budget cannot be met; said before training.
            TrainingError: training diverged.
        """
        from edgecompress.recipes.orthogonal_training import train

        return train(self, given)
