"""The candidates that are worth a closer look."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from edgecompress.planning.fits import MAX_SCORED
from edgecompress.plans import Ranks
from edgecompress.selectors.base import Candidate

Item = TypeVar("Item")


def pareto_front(candidates: Sequence[Candidate], most: int = MAX_SCORED) -> list[Candidate]:
    """Those that no other beats in error and MACs, or parameters, or time; thinned evenly along each front."""
    kept: dict[tuple[str, Ranks], Candidate] = {}
    timed = any(candidate.cost.time for candidate in candidates)
    for size in ("macs", "params", "time")[: 2 + timed]:
        front: list[Candidate] = []
        for candidate in sorted(candidates, key=lambda c: (getattr(c.cost, size), c.error)):
            if not front or candidate.error < front[-1].error:
                front.append(candidate)
        kept |= {candidate.chain: candidate for candidate in thinned(front, most)}
    return list(kept.values())


def thinned(items: Sequence[Item], most: int) -> list[Item]:
    """At most ``most`` of ``items``, evenly spread, with both ends."""
    stride = max(1.0, (len(items) - 1) / (most - 1))
    return [items[round(index * stride)] for index in range(min(most, len(items)))]
