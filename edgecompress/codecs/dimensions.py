"""Dimension adjustment: the sizes of the tensor that a weight is reshaped to before it is factored.

ADA-Tucker (Zhong, Wei, Lin & Zhang, Neural Networks 110, 2019) gives a weight "proper order and balanced dimension"
first: at equal ranks a Tucker form has the fewest parameters where the sizes are as equal as possible. How sizes are
found is ours: they split or join the weight's own axes, so that no index of the tensor mixes, say, a part of the
kernel's taps with a part of the channels.
"""

from __future__ import annotations

from functools import cache
from itertools import combinations_with_replacement
from math import prod

from edgecompress.errors import PlanError

ORDERS = (3, 4, 5)
STRETCH = 8
"""Sizes further apart than so many times are no balance: padding is then worth its zeros, where it is allowed."""

Dims = tuple[int, ...]


@cache
def balanced(axes: Dims, order: int, *, pad: bool = False) -> Dims:
    """``order`` sizes as equal as possible (least sum) into which a weight of the sizes ``axes`` is reshaped.

    Every border between two sizes is one between two axes or divides an axis: with axes (50, 20, 5, 5) the sizes may be
    (25, 40, 25), the 40 being 2 of the 50 by 20, but not (25, 25, 40). With ``pad`` the product of the sizes may be
    larger than that of the axes (the rest is padding) where the exact ones differ by more than ``STRETCH`` times, as
    those of a prime do.

    Raises:
        PlanError: an axis or ``order`` is out of range.
    """
    if order not in ORDERS or not axes or min(axes) < 1:
        raise PlanError(f"a weight of the sizes {axes} at order {order}: orders are {', '.join(map(str, ORDERS))}")
    exact = _exact(axes, order)
    if not pad or max(exact) <= STRETCH * min(exact):
        return exact
    return _padded(prod(axes), order)


def _exact(axes: Dims, order: int) -> Dims:
    """The sizes of least sum, of equals those of the least largest, by borders from the last axis on.

    A border is the product of all sizes behind it; ``reached`` has the best sizes behind each one, one more a round.
    """
    reached: dict[int, Dims] = {1: ()}
    borders = _borders(axes)
    for _ in range(order):
        reached = {border: _best_behind(border, reached) for border in borders if _before(border, reached)}
    return reached[prod(axes)]


def _borders(axes: Dims) -> list[int]:
    """Products behind every border that divides an axis, or is between two."""
    found, behind = {1}, 1
    for axis in reversed(axes):
        found |= {behind * part for part in range(1, axis + 1) if axis % part == 0}
        behind *= axis
    return sorted(found)


def _before(border: int, reached: dict[int, Dims]) -> list[int]:
    return [other for other in reached if border % other == 0]


def _best_behind(border: int, reached: dict[int, Dims]) -> Dims:
    ways = [(border // other, *reached[other]) for other in _before(border, reached)]
    return min(ways, key=lambda dims: (sum(dims), max(dims), dims))


def _padded(count: int, order: int) -> Dims:
    """The least product of at least ``count`` over sizes around its root."""
    root = round(count ** (1 / order))
    around = range(max(1, root - 2), root + 3)
    fitting = [dims for dims in combinations_with_replacement(around, order) if prod(dims) >= count]
    return min(fitting, key=lambda dims: (prod(dims), sum(dims)))
