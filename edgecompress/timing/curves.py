"""What whole files save, by what was asked of the table of times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

Point = tuple[float, float]
MOST = 0.98
"""Of the dense time, that may be wanted of a table."""


@dataclass(slots=True)
class Curve:
    """Savings as shares of the dense time: straight between files that were measured, in proportion beyond them.

    It rises: neighbours that fall are noise and count as one. So a file that is wanted between two that were measured
    is looked for between them, and what is asked for does not swing.
    """

    points: list[Point] = field(default_factory=list)

    def expected(self, asked: float) -> float:
        """What a file is expected to save, for which so much is asked of the table."""
        return _along(self._rising(), asked)

    def needed(self, saving: float) -> float:
        """What has to be asked of the table for such a saving."""
        return min(MOST, max(0.0, _along([(y, x) for x, y in self._rising()], saving)))

    def _rising(self) -> list[Point]:
        """From nothing on, neighbours that do not rise averaged (pool adjacent violators)."""
        groups: list[list[Point]] = []
        for point in sorted(self.points):
            groups.append([point])
            while len(groups) > 1 and not _above(_mean(groups[-1]), _mean(groups[-2])):
                last = groups.pop()
                groups[-1] += last
        return [(0.0, 0.0), *(mean for mean in map(_mean, groups) if _above(mean, (0.0, 0.0)))]


def _above(one: Point, other: Point) -> bool:
    return one[0] > other[0] and one[1] > other[1]


def _mean(points: Sequence[Point]) -> Point:
    return sum(x for x, _ in points) / len(points), sum(y for _, y in points) / len(points)


def _along(points: Sequence[Point], at: float) -> float:
    """On the line through ``points``; beyond the last in proportion, and as it is where there is none but the first."""
    for (x0, y0), (x1, y1) in pairwise(points):
        if at <= x1:
            return y0 + (y1 - y0) * (at - x0) / (x1 - x0)
    return at * points[-1][1] / points[-1][0] if len(points) > 1 else at
