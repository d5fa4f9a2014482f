"""What a rank selector chooses from, and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from edgecompress.costs import Cost
from edgecompress.plans import Ranks


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to replace a layer; ``error`` is the relative squared error of its weight."""

    method: str
    ranks: Ranks
    error: float
    cost: Cost


@dataclass(frozen=True, slots=True)
class LayerCandidates:
    """A layer, what it costs dense, and every candidate with fewer parameters and fewer MACs."""

    name: str
    shape: tuple[int, ...]
    dense: Cost
    candidates: tuple[Candidate, ...]


Choice = Candidate | str
"""A candidate, or the reason in words why the layer stays dense."""


class Selector(Protocol):
    """A rule that gives each layer a candidate, or leaves it dense."""

    @property
    def name(self) -> str:
        """The key in ``SELECTORS``."""

    @property
    def summary(self) -> str:
        """One line for people."""

    def select(self, layers: Sequence[LayerCandidates], total: Cost, /) -> dict[str, Choice]:
        """A choice for every layer; ``total`` is the cost of the whole dense model.

        Raises:
            BudgetError: no choice meets the budget.
        """
