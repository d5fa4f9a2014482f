"""Short measurements of things that run in this process, taking turns: CPU time, ratios, intervals."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median

from edgecompress.profiling.ratios import Ratio, paired_ratio

WARM_NS, MOST_WARM = 10e6, 4
"""Before each turn runs that are not kept take about so long, and are no more: they refill the caches.

What ran in between has evicted weights, of larger files more than of smaller ones. After one run those of ResNet-20 in
ncnn were still half cold: a file that is 1.46 times as fast in blocks of runs, as ``profile`` measures it, was 1.6 to
2.1 times as fast so; after four it was 1.45 to 1.47 times as fast."""
KEPT_NS, FEWEST_KEPT, MOST_KEPT = 10e6, 2, 8
"""Runs of a turn that are kept take about so long; their median counts."""
FEWEST_TURNS = 8


def in_turns(
    runs: Sequence[Callable[[], object]],
    *,
    turns: int = 40,
    seconds: float = 2.0,
    tick: Callable[[], int] = time.process_time_ns,
    seed: int = 0,
) -> list[list[float]]:
    """Nanoseconds of CPU time of one run of each of ``runs``, in every turn, in which each has its own in random order.

    There are ``turns``, or fewer where ``seconds`` are over, but for the first few; of each the median of a few runs
    counts.
    """
    import numpy as np

    found, draw = list[list[float]](), np.random.default_rng(seed)
    for run in runs:
        run()
    usual = [_timed(run, tick) for run in runs]
    end = time.perf_counter() + seconds
    while len(found) < turns and (len(found) < FEWEST_TURNS or time.perf_counter() < end):
        row = [0.0] * len(runs)
        for at in draw.permutation(len(runs)):
            row[at] = _turn(runs[at], usual[at], tick)
        found.append(row)
    return [list(column) for column in zip(*found, strict=True)]


def runs_in_turn(nanoseconds: float) -> tuple[int, int]:
    """Of something that takes so long: runs that warm up, and those that are kept."""
    fit = 1 / max(1.0, nanoseconds)
    warm, kept = (min(most, round(time * fit)) for time, most in ((WARM_NS, MOST_WARM), (KEPT_NS, MOST_KEPT)))
    return max(1, warm), max(FEWEST_KEPT, kept)


def _turn(run: Callable[[], object], usual: float, tick: Callable[[], int]) -> float:
    warm, kept = runs_in_turn(usual)
    for _ in range(warm):
        run()
    return median(_timed(run, tick) for _ in range(kept))


def _timed(run: Callable[[], object], tick: Callable[[], int]) -> int:
    before = tick()
    run()
    return tick() - before


def ratio_of(baseline: Sequence[float], candidate: Sequence[float]) -> Ratio:
    """Baseline over candidate, turn by turn, with the 95 % interval."""
    blocks, others = (tuple((one,) for one in series) for series in (baseline, candidate))
    return paired_ratio(blocks, others, [0] * len(blocks))
