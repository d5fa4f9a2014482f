"""Times of files from many loads, pooled: how many times as fast as dense each is, and how sure that is.

Each load of a file lays its memory out anew, which moves its time by some percent for as long as it is loaded, and what
else the machine does meanwhile moves the times of all files that take turns: the interval of one load says little of
the next. So the logarithm of a time is taken for the sum of what its file takes, what its load of all files brought,
and chance, and is fitted by least squares over all loads (a two-way layout with empty cells): files that were measured
in other loads are compared over those that were in both. How far loads disagree is the error.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from math import exp, log
from statistics import median
from typing import TYPE_CHECKING

from edgecompress.profiling.ratios import Ratio

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

USUAL_SPREAD, WEIGHT = 0.02, 1
"""Relative, of a file's time between loads, and for how many loads that counts: the first may agree by chance."""


@dataclass(slots=True)
class Pool:
    """Times by load and file, whose keys are the caller's.

    Args:
        exact: are times counted instructions, so that nothing differs but by what the files are?
    """

    exact: bool = False
    loads: int = 0
    rows: list[tuple[Hashable, int, float]] = field(default_factory=list)
    fitted: _Fit | None = None

    def add(self, times: Mapping[Hashable, Sequence[float]], loads: int = 1) -> None:
        """Series of files that took turns in ``loads`` loads, each of which has as many of their times as the others.

        A series of one number is a load of its own.
        """
        fewest = min(map(len, times.values()))
        size = max(1, fewest // loads)
        for start in range(0, min(loads, fewest) * size, size):
            self.rows += [(key, self.loads, log(median(own[start : start + size]))) for key, own in times.items()]
            self.loads += 1
        self.fitted = None

    def loads_of(self, key: Hashable) -> int:
        """In how many loads a file was measured."""
        return sum(1 for other, _, _ in self.rows if other == key)

    def ratio(self, key: Hashable, base: Hashable) -> Ratio:
        """The time of ``base`` over that of the file, with its 95 % interval."""
        if self.fitted is None:
            self.fitted = _fit(self.rows, exact=self.exact)
        return self.fitted.ratio(key, base)


@dataclass(frozen=True, slots=True)
class _Fit:
    """Logarithms of times by file, their covariance, and the factor of a standard error that an interval is of."""

    places: Mapping[Hashable, int]
    logs: NDArray[np.float64]
    covariance: NDArray[np.float64]
    width: float

    def ratio(self, key: Hashable, base: Hashable) -> Ratio:
        one, other, cov = self.places[key], self.places[base], self.covariance
        apart = float(self.logs[other] - self.logs[one])
        variance = float(cov[one, one] + cov[other, other] - 2 * cov[one, other])
        half = self.width * max(0.0, variance) ** 0.5
        return Ratio(exp(apart), exp(apart - half), exp(apart + half))


def _fit(rows: Sequence[tuple[Hashable, int, float]], *, exact: bool) -> _Fit:
    import numpy as np

    places = {key: at for at, key in enumerate(dict.fromkeys(key for key, _, _ in rows))}
    loads = 1 + max(load for _, load, _ in rows)
    design = np.zeros((len(rows), len(places) + loads))
    for row, (key, load, _) in enumerate(rows):
        design[row, [places[key], len(places) + load]] = 1
    logs = np.array([value for _, _, value in rows])
    inverse = np.asarray(np.linalg.pinv(design.T @ design, hermitian=True), np.float64)
    fitted = inverse @ design.T @ logs
    free = len(rows) - (len(places) + loads - 1)
    squares = float(np.square(logs - design @ fitted).sum())
    weight = 0 if exact else WEIGHT
    variance = (squares + weight * USUAL_SPREAD**2) / max(1, free + weight)
    count = len(places)
    covariance: NDArray[np.float64] = np.asarray(variance * inverse[:count, :count], np.float64)
    return _Fit(places, fitted[:count], covariance, 0.0 if exact else _width(free + weight))


def _width(free: int) -> float:
    """The 97.5 % point of Student's t with so many degrees of freedom."""
    from scipy.special import stdtrit

    return float(stdtrit(max(1, free), 0.975))
