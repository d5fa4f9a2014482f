"""Sizes a weight is reshaped to."""

from itertools import pairwise
from math import prod

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from edgecompress.codecs.dimensions import ORDERS, balanced
from edgecompress.errors import PlanError
from edgecompress.storing.axes import image_axes

LENETS = {
    (20, 1, 5, 5): (10, 10, 5),
    (50, 20, 5, 5): (25, 40, 25),
    (500, 50, 4, 4): (50, 100, 80),
    (10, 500): (10, 20, 25),
    (300, 28, 28): (60, 70, 56),
    (100, 300): (25, 40, 30),
    (10, 100): (10, 10, 10),
}
AXES = st.lists(st.integers(1, 24), min_size=1, max_size=4).map(tuple)


@pytest.mark.parametrize(("axes", "sizes"), LENETS.items(), ids=str)
def test_the_layers_of_the_lenets(axes: tuple[int, ...], sizes: tuple[int, ...]) -> None:
    assert balanced(axes, 3) == sizes


def behind(sizes: tuple[int, ...]) -> list[int]:
    """Products of the last sizes, from 1 to all."""
    return [prod(sizes[at:]) for at in range(len(sizes), -1, -1)]


def tears_no_axis(sizes: tuple[int, ...], axes: tuple[int, ...]) -> bool:
    """Is every border one of the axes', or between two of them and dividing?"""
    own = behind(axes)
    return all(
        any(low <= border <= high and border % low == high % border == 0 for low, high in pairwise(own))
        for border in behind(sizes)
    )


def ways(count: int, order: int) -> list[tuple[int, ...]]:
    """All ordered factorizations."""
    if order == 1:
        return [(count,)]
    return [(d, *rest) for d in range(1, count + 1) if count % d == 0 for rest in ways(count // d, order - 1)]


@given(AXES)
def test_sizes_tear_no_axis_and_no_others_that_do_not_have_a_smaller_sum(axes: tuple[int, ...]) -> None:
    axes = axes[:2] + tuple(min(size, 4) for size in axes[2:])
    sizes = balanced(axes, 3)
    assert prod(sizes) == prod(axes)
    assert tears_no_axis(sizes, axes)
    assert sum(sizes) == min(sum(way) for way in ways(prod(axes), 3) if tears_no_axis(way, axes))


@given(AXES, st.sampled_from(ORDERS))
def test_sizes_multiply_to_the_count_at_every_order(axes: tuple[int, ...], order: int) -> None:
    sizes = balanced(axes, order)
    assert len(sizes) == order
    assert prod(sizes) == prod(axes)
    assert tears_no_axis(sizes, axes)


@given(st.integers(1, 100_000), st.sampled_from(ORDERS))
def test_padding_only_adds_and_only_where_sizes_are_far_apart(count: int, order: int) -> None:
    exact, sizes = balanced((count,), order), balanced((count,), order, pad=True)
    assert prod(sizes) >= count
    if max(exact) <= 8 * min(exact):
        assert sizes == exact
    else:
        assert sum(sizes) < sum(exact)


def test_a_prime_stays_as_it_is_unless_padding_is_asked_for() -> None:
    assert balanced((431,), 3) == (1, 1, 431)
    assert balanced((431,), 3, pad=True) == (6, 8, 9)


@pytest.mark.parametrize(("axes", "order"), [((10,), 2), ((10,), 6), ((0, 3), 3), ((), 3)])
def test_what_has_no_sizes_is_refused(axes: tuple[int, ...], order: int) -> None:
    with pytest.raises(PlanError, match="orders are 3, 4, 5"):
        balanced(axes, order)


class Flattens(nn.Module):
    """One Linear that reads maps, flattened in one of several ways, and two that do not."""

    def __init__(self, way: int) -> None:
        super().__init__()
        self.way, self.conv = way, nn.Conv2d(1, 6, 3)
        self.wide, self.narrow, self.pooled = nn.Linear(96, 8), nn.Linear(8, 4), nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = functional.max_pool2d(self.conv(x), 2)
        flat = (
            maps.flatten(1),
            torch.flatten(input=maps, start_dim=1),
            maps.view(len(maps), -1),
            maps.reshape(len(maps), -1),
            nn.Flatten()(maps),
        )[self.way]
        sums: torch.Tensor = self.narrow(self.wide(flat).relu()) + self.pooled(maps.mean((2, 3)))
        return sums


@pytest.mark.parametrize("way", range(5))
def test_a_linear_layer_knows_the_maps_it_reads(way: int) -> None:
    assert image_axes(Flattens(way), (torch.zeros(2, 1, 10, 10),)) == {"wide": (6, 4, 4)}
