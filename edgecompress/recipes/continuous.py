"""The continuous rank search with labels; the search is in :mod:`edgecompress.recipes.labelled_search`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from edgecompress.recipes.base import Needs, RecipeInputs, RecipeResult


@dataclass(frozen=True, slots=True)
class Searched:
    """Ranks by the search, then factors: fitted to the calibration inputs where there are some, else the method's own.

    Options are those of ``given.selector`` where that is a ``Continuous``, else its defaults; of ``given.tuning`` the
    ``batch_size`` and ``seed`` of the validation batches are used, not the epochs. It keeps no checkpoint: a run that
    was interrupted searches again and finds the same.
    """

    name: str = "continuous"
    summary: str = "ranks by a learned mixture of candidates on labelled batches; after Aghababaei-Harandi & Amini 2024"
    needs: ClassVar[Needs] = Needs(
        "continuous", other_selector="finds the ranks itself: drop --keep and --select, use --beta"
    )

    def start(self, given: RecipeInputs) -> RecipeResult:
        """Search, plan, decompose.

        Raises:
            DataError: the sample has no data.
            TrainingError: the search diverged, at the layer it names.
        """
        from edgecompress.recipes.labelled_search import search

        return search(given)
