"""Which cases of a test are in the fast suite: few, in which all values of its parameters, or pairs of them, occur."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any

import pytest

Values = frozenset[tuple[str, int]]
"""Parameters with their values' identities, that one case has."""


def covering(cases: Sequence[dict[str, object]], strength: int) -> set[int]:
    """Indices of few of the cases in which all combinations of ``strength`` values occur that occur in any.

    The next is always the one that brings most that is new; a covering array as in Kuhn, Kacker and Lei, "Practical
    Combinatorial Testing", NIST SP 800-142, 2010: most faults are of one value, or of two that meet.
    """
    left = {index: _combinations(case, strength) for index, case in enumerate(cases)}
    wanted, chosen = set().union(*left.values()), set()
    while wanted:
        best = max(left, key=lambda index: (len(left[index] & wanted), -index))
        wanted -= left.pop(best)
        chosen.add(best)
    return chosen


def _combinations(case: dict[str, object], strength: int) -> set[Values]:
    values = [(name, id(value)) for name, value in sorted(case.items())]
    return {frozenset(some) for some in combinations(values, min(strength, len(values)))}


def slow(cases: Iterable[object]) -> list[Any]:
    """Values of a parameter whose cases only `make slow` runs."""
    return [pytest.param(case, marks=pytest.mark.slow) for case in cases]


def slow_ones(items: Iterable[pytest.Function]) -> list[pytest.Function]:
    """Of tests marked ``covering(strength)``, the cases that the fast suite does without."""
    by_test: dict[str, list[pytest.Function]] = {}
    for item in items:
        if item.get_closest_marker("covering"):
            by_test.setdefault(item.nodeid.split("[")[0], []).append(item)
    return [item for cases in by_test.values() for item in _not_covering(cases)]


def _not_covering(cases: list[pytest.Function]) -> list[pytest.Function]:
    marker = cases[0].get_closest_marker("covering")
    assert marker is not None
    chosen = covering([case.callspec.params for case in cases], *marker.args)
    return [case for index, case in enumerate(cases) if index not in chosen]
