"""Sizes a weight is reshaped to."""

from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecompress.codecs.dimensions import ORDERS, balanced
from edgecompress.errors import PlanError

LENETS = {
    500: (5, 10, 10),
    25_000: (25, 25, 40),
    400_000: (50, 80, 100),
    5_000: (10, 20, 25),
    235_200: (56, 60, 70),
    30_000: (25, 30, 40),
    1_000: (10, 10, 10),
}


@pytest.mark.parametrize(("count", "sizes"), LENETS.items(), ids=str)
def test_the_layers_of_the_lenets(count: int, sizes: tuple[int, ...]) -> None:
    assert balanced(count, 3) == sizes


@given(st.integers(1, 3_000), st.sampled_from(ORDERS))
def test_sizes_multiply_to_the_count_and_no_factorization_has_a_smaller_sum(count: int, order: int) -> None:
    sizes = balanced(count, order)
    assert prod(sizes) == count
    assert list(sizes) == sorted(sizes)

    def least(left: int, rest: int) -> int:
        return left if rest == 1 else min(d + least(left // d, rest - 1) for d in range(1, left + 1) if left % d == 0)

    if order == 3:
        assert sum(sizes) == least(count, 3)


@given(st.integers(1, 100_000), st.sampled_from(ORDERS))
def test_padding_only_adds_and_only_where_sizes_are_far_apart(count: int, order: int) -> None:
    exact, sizes = balanced(count, order), balanced(count, order, pad=True)
    assert prod(sizes) >= count
    if exact[-1] <= 8 * exact[0]:
        assert sizes == exact
    else:
        assert sum(sizes) < sum(exact)


def test_a_prime_stays_as_it_is_unless_padding_is_asked_for() -> None:
    assert balanced(431, 3) == (1, 1, 431)
    assert balanced(431, 3, pad=True) == (6, 8, 9)


@pytest.mark.parametrize(("count", "order"), [(10, 2), (10, 6), (0, 3)])
def test_what_has_no_sizes_is_refused(count: int, order: int) -> None:
    with pytest.raises(PlanError, match="orders are 3, 4, 5"):
        balanced(count, order)
