"""Ranks by a continuous relaxation: its options; the search is in :mod:`edgecompress.selectors.relaxation`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgecompress.errors import PlanError
from edgecompress.fields import option
from edgecompress.plans import Cost
from edgecompress.selectors.base import Choice, LayerCandidates


@dataclass(frozen=True, slots=True)
class Continuous:
    """Options of the search, and the search that looks at weights alone.

    ``lr`` is the factors' and ``logits_lr`` the logits' learning rate; ``step`` the spacing of the first candidates (0:
    in ``ladders.MOST`` steps to a layer's highest rank that saves something), divided by ``shrink`` at each window.
    """

    gamma: float = 0.4
    beta: float = option(0.8, "Higher for lower ranks.", low=0, chooses=True, codecs=False)
    iterations: int = 100
    warm_up: int = 20
    lr: float = 1e-3
    logits_lr: float = 0.1
    step: int = 0
    shrink: int = 10
    name: str = "continuous"
    summary: str = "tied ranks by a learned mixture of candidates; no budget; after Aghababaei-Harandi & Amini 2024"
    weighs_losses: bool = False

    def __post_init__(self) -> None:
        for name in ("gamma", "beta", "iterations", "lr", "logits_lr"):
            if not 0 < getattr(self, name) < float("inf"):
                raise PlanError(f"{name} {getattr(self, name)} of the continuous search has to be above 0")
        for name, least in (("warm_up", 0), ("step", 0), ("shrink", 2)):
            if getattr(self, name) < least:
                raise PlanError(f"{name} {getattr(self, name)} of the continuous search is below {least}")

    def select(self, layers: Sequence[LayerCandidates], _total: Cost) -> dict[str, Choice]:
        """The rank of every layer that has one that saves something.

        Raises:
            TrainingError: the search diverged, at the layer it names.
        """
        from edgecompress.selectors.relaxation import choose

        return choose(layers, self)
