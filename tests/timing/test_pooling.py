"""Times of many loads, pooled: ratios are compared over loads that files share, and intervals hold what they say."""

from __future__ import annotations

import numpy as np
import pytest

from edgecompress.timing.pooling import Pool


def drawn(seed: int, spread: float, *, loads: int = 6) -> Pool:
    """Two files of which one takes half, in loads of which each brings its own, and one more in the first half."""
    draw, pool = np.random.default_rng(seed), Pool()
    for load in range(loads):
        drift = draw.normal(0, 0.2)
        times = {"dense": 2.0, "half": 1.0} | ({"third": 2 / 3} if load < loads // 2 else {})
        pool.add({key: [time * np.exp(drift + draw.normal(0, spread))] * 4 for key, time in times.items()})
    return pool


def test_what_a_load_brings_to_all_files_cancels() -> None:
    pool = drawn(0, 0.0)
    assert pool.ratio("half", "dense").value == pytest.approx(2)
    assert pool.ratio("third", "half").value == pytest.approx(1.5)
    assert (pool.loads_of("half"), pool.loads_of("third")) == (6, 3)


def test_files_of_different_loads_are_compared_over_what_both_were_beside() -> None:
    pool = Pool(exact=True)
    pool.add({"dense": [2.0], "one": [1.0]})
    pool.add({"dense": [4.0], "other": [1.0]})
    assert pool.ratio("other", "one").value == pytest.approx(2)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    for spread in (0.02, 0.06):
        ratios = [drawn(seed, spread).ratio("half", "dense") for seed in range(200)]
        assert sum(one.low <= 2 <= one.high for one in ratios) >= 184


def test_loads_that_disagree_widen_the_interval_more_loads_narrow_it() -> None:
    def width(pool: Pool) -> float:
        ratio = pool.ratio("half", "dense")
        return ratio.high - ratio.low

    assert width(drawn(0, 0.08)) > 1.5 * width(drawn(0, 0.02))
    assert width(drawn(0, 0.04, loads=24)) < 0.7 * width(drawn(0, 0.04))


def test_a_series_is_cut_into_its_loads_and_the_median_of_each_counts() -> None:
    pool = Pool(exact=True)
    pool.add({"dense": [1.0, 1.0, 9.0, 4.0, 4.0, 4.0], "one": [1.0, 1.0, 1.0, 2.0, 2.0, 99.0]}, loads=2)
    assert pool.loads == 2
    assert pool.ratio("one", "dense").value == pytest.approx(2**0.5)


def test_instructions_are_exact() -> None:
    pool = Pool(exact=True)
    pool.add({"dense": [3e9], "one": [1e9]}, loads=4)
    ratio = pool.ratio("one", "dense")
    assert ratio.low == ratio.value == ratio.high == pytest.approx(3)
