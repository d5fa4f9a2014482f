"""Ratios of times with their intervals, and the order statistics of one series."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev
from typing import TYPE_CHECKING

from edgecompress.files import Json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RESAMPLES = 4_000
DRAWS = 400
FEWEST_BEYOND = 10
"""A quantile with fewer runs on either side of it is not compared: of p99, that needs 1,000 runs."""
WIDTH = 4.0
"""Standard errors that a 95 % interval is wide, about."""
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


@dataclass(frozen=True, slots=True)
class Statistics:
    """Order statistics, mean and sample standard deviation of runs, in their unit."""

    p50: float
    p90: float
    p99: float
    min: float
    mean: float
    stdev: float


def statistics(values: Sequence[float]) -> Statistics:
    """Of one run or more."""
    spread = stdev(values) if len(values) > 1 else 0.0
    p50, p90, p99 = (quantile(values, percent / 100) for percent in (50, 90, 99))
    return Statistics(p50, p90, p99, min(values), fmean(values), spread)


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

    @property
    def error(self) -> float:
        """The standard error of the value, about."""
        return (self.high - self.low) / WIDTH

    @property
    def ci95(self) -> list[float]:
        """The ends of the interval."""
        return [self.low, self.high]

    @property
    def inverse(self) -> Ratio:
        """Candidate time over baseline time."""
        return Ratio(1 / self.value, 1 / self.high, 1 / self.low)

    def to_json(self) -> Json:
        """A JSON object."""
        return {"value": self.value, "ci95": self.ci95}


def apart(first: Sequence[float], second: Sequence[float]) -> bool:
    """Whether all of one lie on one side of all of the other: all that a few starts can show."""
    return bool(first and second) and (max(first) < min(second) or max(second) < min(first))


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


Series = tuple[Blocks, tuple[int, ...]]
"""Runs in blocks, and of each block the load it was measured on."""


def quantile_ratios(
    above: Series, below: Series, fractions: Sequence[float], *, together: bool = True
) -> list[Ratio | None]:
    """Quantiles of all runs of ``above`` over those of ``below``, with 95 % intervals; None of too few runs.

    The bootstrap draws loads, and blocks within them; the same for both where they were measured ``together``, block
    beside block.
    """
    import numpy as np

    generator, other = (np.random.default_rng(seed) for seed in (0, 0 if together else 1))
    tops, bottoms = _bootstrap_quantiles(above, fractions, generator), _bootstrap_quantiles(below, fractions, other)
    runs = [[run for block in blocks for run in block] for blocks, _ in (above, below)]
    loads, fewest = min(len(set(loads)) for _, loads in (above, below)), min(map(len, runs))
    widening = math.sqrt(loads / max(1, loads - 1))
    ratios: list[Ratio | None] = []
    for column, fraction in enumerate(fractions):
        value = quantile(runs[0], fraction) / quantile(runs[1], fraction)
        marks = np.quantile(tops[:, column] / bottoms[:, column], (0.025, 0.975))
        low, high = (value + widening * (float(mark) - value) for mark in marks)
        enough = fewest * min(fraction, 1 - fraction) >= FEWEST_BEYOND
        ratios.append(Ratio(value, min(low, value), max(high, value)) if enough else None)
    return ratios


def _bootstrap_quantiles(
    series: Series, fractions: Sequence[float], generator: np.random.Generator
) -> NDArray[np.float64]:
    """Quantiles of ``DRAWS`` resamples (rows): each block counts as often as it was drawn."""
    import numpy as np

    blocks, loads = series
    times = np.array([run for block in blocks for run in block])
    order = np.argsort(times, kind="stable")
    times, block_of = times[order], np.repeat(np.arange(len(blocks)), [len(block) for block in blocks])[order]
    by_load = np.argsort(loads, kind="stable")
    sizes = np.unique(loads, return_counts=True)[1]
    quantiles = np.empty((DRAWS, len(fractions)))
    for row in quantiles:
        reached = np.cumsum(_drawn(by_load, sizes, generator)[block_of])
        row[:] = times[np.searchsorted(reached, np.array(fractions) * reached[-1])]
    return quantiles


def _drawn(by_load: NDArray[np.int64], sizes: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
    """How often each block is drawn: loads with replacement, then as many blocks of each as it has."""
    import numpy as np

    starts, loads = np.cumsum(sizes) - sizes, generator.integers(0, len(sizes), len(sizes))
    of_each = np.repeat(loads, sizes[loads])
    chosen = by_load[starts[of_each] + generator.integers(0, sizes[of_each])]
    counts: NDArray[np.int64] = np.bincount(chosen, minlength=len(by_load))
    return counts


def _bootstrap_medians(values: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.float64]:
    """The medians of ``RESAMPLES`` resamples."""
    import numpy as np

    draws = generator.integers(0, len(values), (RESAMPLES, len(values)))
    medians: NDArray[np.float64] = np.median(values[draws], axis=1)
    return medians
