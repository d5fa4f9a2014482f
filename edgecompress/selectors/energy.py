"""The same accuracy of the weights everywhere: every layer keeps at least a given share of its energy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgecompress.costs import Cost
from edgecompress.errors import PlanError
from edgecompress.selectors.base import Choice, LayerCandidates


@dataclass(frozen=True, slots=True)
class Energy:
    """The cheapest candidate, in MACs, with ``1 - |W - W'|^2 / |W|^2 >= energy``, layer by layer.

    The energy is that of the reconstructed weight, so ranks of different methods compare.
    """

    energy: float = 0.9
    name: str = "energy"
    summary: str = "each layer keeps at least --energy of its squared norm; cheapest such candidate"

    def __post_init__(self) -> None:
        if not 0 < self.energy < 1:
            raise PlanError(f"energy {self.energy} is outside (0, 1); 0.9 is a usual start")

    def select(self, layers: Sequence[LayerCandidates], _total: Cost) -> dict[str, Choice]:
        """Each layer on its own; nothing is traded between layers."""
        return {layer.name: self._choose(layer) for layer in layers}

    def _choose(self, layer: LayerCandidates) -> Choice:
        enough = [candidate for candidate in layer.candidates if 1 - candidate.error >= self.energy]
        if not enough:
            return f"keeping {self.energy:g} of the energy needs ranks that save nothing"
        return min(enough, key=lambda candidate: (candidate.cost.macs, candidate.error))
