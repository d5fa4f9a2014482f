"""Ratios of times with their intervals, and the order statistics of one series."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RESAMPLES = 4_000
RESOLUTION = 0.01
"""A ratio nearer to 1 than this is no claim, however narrow its interval: loads of one file differ by as much."""

Blocks = tuple[tuple[float, ...], ...]


def quantile(values: Sequence[float], fraction: float) -> float:
    """Linear interpolation between order statistics, as numpy's default."""
    ordered = sorted(values)
    place = fraction * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def statistics(values: Sequence[float]) -> dict[str, float]:
    """p50, p90, p99, min, mean and stdev of runs, in their unit."""
    spread = stdev(values) if len(values) > 1 else 0.0
    marks = {f"p{percent}": quantile(values, percent / 100) for percent in (50, 90, 99)}
    return {**marks, "min": min(values), "mean": fmean(values), "stdev": spread}


@dataclass(frozen=True, slots=True)
class Ratio:
    """Baseline time over candidate time and its bootstrap 95 % interval, see :func:`paired_ratio`."""

    value: float
    low: float
    high: float

    @property
    def resolved(self) -> bool:
        """Whether the interval lies clear of 1.0 by more than two loads of one file differ."""
        return self.low > 1 + RESOLUTION or self.high < 1 - RESOLUTION


def paired_ratio(baseline: Blocks, candidate: Blocks, loads: Sequence[int], seed: int = 0) -> Ratio:
    """Baseline over candidate time with its 95 % interval.

    Blocks that stand beside each other in time saw the same machine, so what disturbs both cancels in the ratio of
    their medians. Each load of the two files lays memory out anew and shifts that ratio for all its blocks; so the
    value is the mean over loads of each load's median, and the interval is the percentile bootstrap that draws
    loads, and blocks within them, widened for the small number of loads.
    """
    import numpy as np

    ratios: dict[int, list[float]] = {}
    for before, after, load in zip(baseline, candidate, loads, strict=True):
        ratios.setdefault(load, []).append(median(before) / median(after))
    generator = np.random.default_rng(seed)
    resampled = np.stack([_bootstrap_medians(np.array(group), generator) for group in ratios.values()])
    chosen = generator.integers(0, len(resampled), (RESAMPLES, len(resampled)))
    means = resampled[chosen, generator.integers(0, RESAMPLES, chosen.shape)].mean(1)
    value = fmean(median(group) for group in ratios.values())
    widening = math.sqrt(len(resampled) / max(1, len(resampled) - 1))
    low, high = (value + widening * (float(mark) - value) for mark in np.quantile(means, (0.025, 0.975)))
    return Ratio(value, min(low, value), max(high, value))


def ratio_of_medians(above: Sequence[float], below: Sequence[float], seed: int = 0) -> Ratio:
    """The median of ``above`` over that of ``below`` with its bootstrap 95 % interval."""
    import numpy as np

    generator = np.random.default_rng(seed)
    tops, bottoms = (_bootstrap_medians(np.array(values, np.float64), generator) for values in (above, below))
    low, high = map(float, np.quantile(tops / bottoms, (0.025, 0.975)))
    value = median(above) / median(below)
    return Ratio(value, min(low, value), max(high, value))


def _bootstrap_medians(values: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.float64]:
    """The medians of ``RESAMPLES`` resamples."""
    import numpy as np

    draws = generator.integers(0, len(values), (RESAMPLES, len(values)))
    medians: NDArray[np.float64] = np.median(values[draws], axis=1)
    return medians
