"""The ranks that are tried for a layer, and what its chain costs at each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import product
from math import prod

import torch
from torch import nn

from edgecompress.costs import Shape, chain_cost
from edgecompress.decompositions import DECOMPOSITIONS
from edgecompress.plans import Cost, Ranks

MOST_RANKS_PER_MODE = {1: 32, 2: 12, 3: 6}
"""By the number of ranks a method has: at most 32 to 216 combinations a layer."""

CostAt = Callable[[Ranks], Cost]
_COSTS: dict[tuple[object, ...], dict[Ranks, Cost]] = {}
"""Costs of all chains of a geometry: networks repeat few geometries many times."""


def grid_costs(method: str, layer: nn.Module, shapes: list[Shape], multiple: int) -> dict[Ranks, Cost]:
    """The cost of the method's chain at every rank of its grid, for inputs of ``shapes``."""
    key = (method, str(layer), str(next(layer.parameters()).dtype), tuple(shapes), multiple)
    if key not in _COSTS:
        decomposition = DECOMPOSITIONS[method]
        largest = decomposition.max_ranks(layer)
        grid = rank_grid(largest, multiple)
        with torch.device("meta"):
            _COSTS[key] = costs_of(lambda ranks: chain_cost(decomposition.chain(layer, ranks), shapes), grid, largest)
    return _COSTS[key]


def costs_of(built: CostAt, grid: Sequence[Ranks], largest: Ranks) -> dict[Ranks, Cost]:
    """Costs of chains at all ranks of ``grid`` from a few that are ``built``.

    A link costs what its channels in and out make, so that a chain's cost is linear in each rank, which its values at
    ranks 1 and 2 fix. Whether it is so is looked at three times; where it is not, all are built.
    """
    corners = [range(1, min(2, rank) + 1) for rank in largest]
    checked = {grid[0], grid[len(grid) // 2], grid[-1], largest}
    if len(grid) <= prod(map(len, corners)) + len(checked):
        return {ranks: built(ranks) for ranks in grid}
    cost_at = _interpolated({ranks: built(ranks) for ranks in product(*corners)})
    exact = all(cost_at(ranks) == built(ranks) for ranks in checked)
    return {ranks: (cost_at if exact else built)(ranks) for ranks in grid}


def _interpolated(corners: dict[Ranks, Cost]) -> CostAt:
    """The function, linear in each rank, that has these values where every rank is 1 or 2."""

    def cost_at(ranks: Ranks) -> Cost:
        weights = {
            corner: prod(rank - 1 if at == 2 else 2 - rank for at, rank in zip(corner, ranks, strict=True))
            for corner in corners
        }
        params, macs, size = (
            sum(weight * getattr(corners[corner], field) for corner, weight in weights.items())
            for field in ("params", "macs", "weight_bytes")
        )
        return Cost(params, macs, size)

    return cost_at


@cache
def rank_grid(largest: Ranks, multiple: int) -> tuple[Ranks, ...]:
    """Every combination of sensible ranks per mode."""
    most = MOST_RANKS_PER_MODE[len(largest)]
    return tuple(product(*(rank_steps(rank, multiple, most) for rank in largest)))


def rank_steps(largest: int, multiple: int, most: int) -> tuple[int, ...]:
    """Multiples of ``multiple`` up to ``largest``, thinned to ``most`` by equal ratios; ``largest`` where smaller."""
    steps = range(multiple, largest + 1, multiple) or range(largest, largest + 1)
    if len(steps) <= most:
        return tuple(steps)
    chosen, last = [], 0
    for left in range(most, 0, -1):
        last = max(last + 1, round(last * (len(steps) / max(last, 1)) ** (1 / left)))
        chosen.append(steps[min(last, len(steps)) - 1])
    return tuple(chosen)
