"""Costs of a whole grid of ranks from a few chains."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgecompress.costs import chain_cost
from edgecompress.decompositions import DECOMPOSITIONS
from edgecompress.planning.grids import costs_of, rank_grid
from edgecompress.plans import Cost, Ranks

LAYERS = {
    "conv": (nn.Conv2d(24, 40, (3, 5), stride=2, bias=False), (24, 11, 13)),
    "pointwise": (nn.Conv2d(48, 64, 1), (48, 7, 7)),
    "grouped": (nn.Conv2d(32, 48, 3, groups=4), (32, 9, 9)),
    "few": (nn.Conv2d(1, 30, 5), (1, 28, 28)),
    "one dimension": (nn.Conv1d(20, 36, 7, dilation=2), (20, 50)),
    "transposed": (nn.ConvTranspose2d(24, 20, 4, stride=2, groups=2), (24, 6, 6)),
    "linear": (nn.Linear(120, 96), (120,)),
    "positions": (nn.Linear(64, 80, bias=False), (10, 64)),
}


@pytest.mark.parametrize("method", DECOMPOSITIONS)
@pytest.mark.parametrize("multiple", [1, 4])
@pytest.mark.covering(1)
def test_costs_are_those_of_the_chains_and_few_are_built(method: str, multiple: int) -> None:
    decomposition, compared = DECOMPOSITIONS[method], 0
    for layer, shape in LAYERS.values():
        if not decomposition.supports(layer):
            continue
        built: list[Ranks] = []
        largest = decomposition.max_ranks(layer)

        def cost_at(ranks: Ranks) -> Cost:
            built.append(ranks)  # noqa: B023
            with torch.device("meta"):
                return chain_cost(decomposition.chain(layer, ranks), [shape])  # noqa: B023

        grid = rank_grid(largest, multiple)
        costs = costs_of(cost_at, grid, largest)
        assert len(built) <= max(2 ** len(largest) + 4, min(len(grid), 12)), (layer, grid)
        assert costs == {ranks: cost_at(ranks) for ranks in grid}
        compared += 1
    assert compared


def test_a_chain_whose_cost_is_not_linear_in_its_ranks_is_built_at_each() -> None:
    grid = rank_grid((40, 40), 4)

    def cost_at(ranks: Ranks) -> Cost:
        return Cost(sum(ranks) ** 2, 1)

    assert costs_of(cost_at, grid, (40, 40)) == {ranks: cost_at(ranks) for ranks in grid}
