"""Loads of files in this process: those that something else disturbed are taken again, within reason."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, repeat
from pathlib import Path
from typing import Any, cast

import pytest

from edgecompress.timing.stopwatches import MOST_TRIES, Here

FILES = [Path("dense"), Path("plan")]


def here(monkeypatch: pytest.MonkeyPatch, slowed: Iterator[float]) -> tuple[Here, list[int]]:
    """Loads take 1.0 and 0.7 ms, times how much each is slowed; the larger file by more."""
    watch, taken = Here(cast("Any", None), cast("Any", None), Path(), 1, cast("Any", ())), list[int]()

    def loaded(_self: Here, files: Sequence[Path], turns: int, number: int) -> list[list[float]]:
        taken.append(number)
        slow = next(slowed)
        assert list(files) == FILES
        return [[1e6 * slow**2] * turns, [0.7e6 * slow] * turns]

    monkeypatch.setattr(Here, "files", lambda _self, graphs: graphs)
    monkeypatch.setattr(Here, "_loaded", loaded)
    return watch, taken


def test_disturbed_loads_are_taken_again(monkeypatch: pytest.MonkeyPatch) -> None:
    watch, taken = here(monkeypatch, chain([1.5, 1.01, 1.6, 1.0, 1.7, 1.02], repeat(2.0)))
    dense, plan = watch.take(cast("Any", FILES), turns=8, loads=3)
    assert sorted(dense) == pytest.approx([1e6] * 2 + [1e6 * 1.01**2] * 2 + [1e6 * 1.02**2] * 2)
    assert [one / other for one, other in zip(plan, dense, strict=True)] == pytest.approx([0.7] * 6, rel=0.03)
    assert taken == list(range(6))


def test_where_nothing_disturbs_there_are_as_many_loads_as_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    watch, taken = here(monkeypatch, chain([1.0, 1.01, 0.99, 1.02], repeat(1.0)))
    assert [len(series) for series in watch.take(cast("Any", FILES), turns=12, loads=4)] == [12, 12]
    assert len(taken) == 4


def test_a_machine_that_is_never_quiet_is_measured_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """The least disturbed of a few more loads count; one load that was quiet long before is not what all wait for."""
    slowed = chain([1.0], (1.2 + 0.01 * at for at in range(10**6)))
    watch, taken = here(monkeypatch, slowed)
    watch.take(cast("Any", FILES), turns=1, loads=1)
    dense, _ = watch.take(cast("Any", FILES), turns=2, loads=2)
    assert 1 + 2 < len(taken) < 1 + 2 * MOST_TRIES
    assert dense == pytest.approx([1e6 * 1.2**2, 1e6 * 1.21**2])


def test_no_more_is_tried_than_a_few_times_as_many_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    watch, taken = here(monkeypatch, (1.0 if at < 10 else 1.5 + 0.1 * at for at in range(10**6)))
    watch.take(cast("Any", FILES), turns=10, loads=10)
    dense, _ = watch.take(cast("Any", FILES), turns=2, loads=2)
    assert len(taken) == 10 + 2 * MOST_TRIES
    assert dense == pytest.approx([1e6 * 2.5**2, 1e6 * 2.6**2])
