"""Layers of one kind, size and input, and the chains that are timed for all of them at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgecompress.costs import Shape, chain_cost
from edgecompress.planning.candidates import Replaceable, supported
from edgecompress.planning.fronts import thinned
from edgecompress.planning.grids import grid_costs
from edgecompress.plans import Cost, Ranks
from edgecompress.timing.grafting import chain_of

MOST_TIMED, MOST_COUNTED = 8, 3
"""Chains of one method for one geometry, usually and where instructions of a large model are counted: those between
are interpolated."""

Chain = tuple[str, Ranks]


@dataclass(frozen=True, slots=True)
class Geometry:
    """Layers that take the same time: ``key`` says what is equal of them; ``items`` are the layers."""

    key: str
    items: tuple[Replaceable, ...]

    @property
    def first(self) -> Replaceable:
        """One for all."""
        return self.items[0]

    @property
    def dense(self) -> Cost:
        """Of one layer."""
        return chain_cost(self.first.layer, self.first.shapes)

    def costs(self, methods: Sequence[str], multiple: int) -> dict[Chain, Cost]:
        """Every chain of the grid that is smaller than the layer."""
        dense, item = self.dense, self.first
        return {
            (method, ranks): cost
            for method in supported(item, methods)
            for ranks, cost in grid_costs(method, item.layer, item.shapes, multiple).items()
            if cost.saves_over(dense)
        }

    def timed(self, methods: Sequence[str], multiple: int, most: int = MOST_TIMED) -> list[Chain]:
        """Of each method a few chains, evenly from few to many MACs."""
        costs, found = self.costs(methods, multiple), list[Chain]()
        for method in methods:
            own = sorted((chain for chain in costs if chain[0] == method), key=lambda chain: costs[chain].macs)
            if own and chain_of(self.first.layer, *own[0]) is not None:
                found += thinned(own, most)
        return found


def geometry_key(item: Replaceable) -> str:
    """What is equal of layers that take the same time, a bias aside, which fused norms have anyway."""
    shapes: list[Shape] = item.shapes
    kind = str(item.layer).replace(", bias=False", "").replace(", bias=True", "")
    return f"{kind} of {'; '.join('x'.join(map(str, shape)) for shape in shapes)}"


def geometries_of(items: Sequence[Replaceable]) -> list[Geometry]:
    """In the model's order."""
    groups: dict[str, list[Replaceable]] = {}
    for item in items:
        groups.setdefault(geometry_key(item), []).append(item)
    return [Geometry(key, tuple(group)) for key, group in groups.items()]
