"""Short measurements of things that run in this process, taking turns: CPU time, ratios, intervals."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from edgecompress.profiling.ratios import Ratio, paired_ratio

WARM_RUNS = 1
"""Before each turn, which refills the caches."""
FEWEST_TURNS = 8


def in_turns(
    runs: Sequence[Callable[[], object]],
    *,
    turns: int = 40,
    seconds: float = 2.0,
    each: int = 2,
    tick: Callable[[], int] = time.process_time_ns,
    seed: int = 0,
) -> list[list[float]]:
    """Nanoseconds of CPU time of one run of each of ``runs``, in every turn, in which each has its own in random order.

    There are ``turns``, or fewer where ``seconds`` are over, but for the first few; the mean of ``each`` runs counts.
    """
    import numpy as np

    found, draw = list[list[float]](), np.random.default_rng(seed)
    for run in runs:
        run()
    end = time.perf_counter() + seconds
    while len(found) < turns and (len(found) < FEWEST_TURNS or time.perf_counter() < end):
        row = [0.0] * len(runs)
        for at in draw.permutation(len(runs)):
            row[at] = _timed(runs[at], each, tick)
        found.append(row)
    return [list(column) for column in zip(*found, strict=True)]


def _timed(run: Callable[[], object], each: int, tick: Callable[[], int]) -> float:
    for _ in range(WARM_RUNS):
        run()
    before = tick()
    for _ in range(each):
        run()
    return (tick() - before) / each


def ratio_of(baseline: Sequence[float], candidate: Sequence[float]) -> Ratio:
    """Baseline over candidate, turn by turn, with the 95 % interval."""
    blocks, others = (tuple((one,) for one in series) for series in (baseline, candidate))
    return paired_ratio(blocks, others, [0] * len(blocks))
