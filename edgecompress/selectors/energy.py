"""The same energy everywhere: each rank keeps at least a given share of its unfolding's squared singular values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgecompress.decompositions import DECOMPOSITIONS
from edgecompress.errors import PlanError
from edgecompress.fields import option
from edgecompress.plans import Cost
from edgecompress.selectors.base import Candidate, Choice, LayerCandidates, cheapest, of_unfoldings

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Energy:
    """Per method, as its paper states it; where methods compete, the one of fewest MACs.

    The rank of each of the method's unfoldings (for HT-2 three: Gabor & Zdunek 2023) is the smallest that keeps
    ``energy`` of its squared singular values. A method without unfoldings keeps that share of the squared weight.

    Args:
        energy: the share, in (0, 1).
        name: its key in ``SELECTORS``.
        summary: one line for people.
        weighs_losses: candidates are weighed by what they cost at the model's output.
    """

    energy: float = option(
        0.9, "Share of the squared singular values to keep.", above=0, below=1, chooses=True, codecs=False
    )
    name: str = "energy"
    summary: str = "each rank keeps --energy of its unfolding's squared singular values; cheapest method"
    weighs_losses: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.energy < 1:
            raise PlanError(f"energy {self.energy} is outside (0, 1); 0.9 is a usual start")

    def select(self, layers: Sequence[LayerCandidates], _total: Cost) -> dict[str, Choice]:
        """Each layer on its own; nothing is traded between layers."""
        nothing = f"keeping {self.energy:g} of the energy needs ranks that save nothing"
        return {layer.name: cheapest(layer, self._candidates(layer), nothing) for layer in layers}

    def _candidates(self, layer: LayerCandidates) -> list[Candidate]:
        by_error = [c for c in layer.candidates if _has_no_unfolding(c.method, layer) and 1 - c.error >= self.energy]
        return [*of_unfoldings(layer, self._rank), *by_error]

    def _rank(self, matrix: Tensor) -> int:
        import torch

        from edgecompress.decompositions.base import kept_energy

        kept = kept_energy(matrix.detach().double())
        return int(torch.searchsorted(kept, self.energy * kept[-1] * (1 - 1e-12))) + 1


def _has_no_unfolding(method: str, layer: LayerCandidates) -> bool:
    return not DECOMPOSITIONS[method].unfoldings(layer.kernels[0])
