"""Dimension adjustment: the sizes of the tensor that a weight is reshaped to before it is factored.

ADA-Tucker (Zhong, Wei, Lin & Zhang, Neural Networks 110, 2019) gives a weight "proper order and balanced dimension"
first: at equal ranks a Tucker form has the fewest parameters where the sizes are as equal as possible.
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
def balanced(count: int, order: int, *, pad: bool = False) -> Dims:
    """``order`` sizes, ascending and as equal as possible (least sum), whose product is ``count``.

    With ``pad`` the product may be larger (the rest is padding) where the exact sizes differ by more than ``STRETCH``
    times, as those of a prime do.

    Raises:
        PlanError: ``count`` or ``order`` is out of range.
    """
    if order not in ORDERS or count < 1:
        raise PlanError(f"a weight of {count} numbers at order {order}: orders are {', '.join(map(str, ORDERS))}")
    exact = _exact(count, order)
    if not pad or exact[-1] <= STRETCH * exact[0]:
        return exact
    return _padded(count, order)


def _exact(count: int, order: int) -> Dims:
    """Of all factorizations the one with the least sum; of equals the one with the least largest size."""
    return min(_factorizations(count, order, 1), key=lambda dims: (sum(dims), dims[-1]))


def _factorizations(count: int, order: int, least: int) -> list[Dims]:
    """All ways to write ``count`` as a product of ``order`` ascending sizes of at least ``least``."""
    if order == 1:
        return [(count,)] if count >= least else []
    found = []
    size = least
    while size**order <= count:
        if count % size == 0:
            found += [(size, *rest) for rest in _factorizations(count // size, order - 1, size)]
        size += 1
    return found


def _padded(count: int, order: int) -> Dims:
    """The least product of at least ``count`` over sizes around its root."""
    root = round(count ** (1 / order))
    around = range(max(1, root - 2), root + 3)
    fitting = [dims for dims in combinations_with_replacement(around, order) if prod(dims) >= count]
    return min(fitting, key=lambda dims: (prod(dims), sum(dims)))
