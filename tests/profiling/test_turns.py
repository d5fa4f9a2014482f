"""Files that take turns in one process are timed as they run when nothing else does."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import pytest

from edgecompress.profiling.turns import FEWEST_TURNS, in_turns, runs_in_turn


@dataclass
class Processor:
    """A clock, and a cache from which a file is driven by any other: its first runs after that take longer."""

    now: int = 0
    last: str = ""
    cold: dict[str, int] = field(default_factory=dict)

    def run(self, name: str, nanoseconds: int, runs_to_fill: int, slower: float) -> None:
        if self.last != name:
            self.cold[name], self.last = runs_to_fill, name
        self.now += round(nanoseconds * (slower if self.cold[name] > 0 else 1))
        self.cold[name] -= 1

    def tick(self) -> int:
        return self.now


def test_runs_that_refill_the_caches_are_not_kept() -> None:
    at = Processor()
    runs = [partial(at.run, "large", 600_000, 4, 1.5), partial(at.run, "small", 400_000, 1, 1.1)]
    large, small = in_turns(runs, turns=12, tick=at.tick)
    assert set(large) == {600_000}
    assert set(small) == {400_000}
    assert len(large) == len(small) == 12


def test_one_run_that_was_disturbed_does_not_count() -> None:
    at, count = Processor(), iter(range(10**6))

    def run() -> None:
        at.run("one", 500_000 * (3 if next(count) % 5 == 0 else 1), 0, 1)

    (found,) = in_turns([run], turns=9, tick=at.tick)
    assert set(found) == {500_000}


@pytest.mark.parametrize(
    ("milliseconds", "runs"), [(0.0, (4, 8)), (0.5, (4, 8)), (2.4, (4, 4)), (5, (2, 2)), (35, (1, 2)), (1e4, (1, 2))]
)
def test_what_takes_long_runs_less_often(milliseconds: float, runs: tuple[int, int]) -> None:
    assert runs_in_turn(milliseconds * 1e6) == runs


def test_there_are_a_few_turns_even_where_time_is_over() -> None:
    at = Processor()
    (found,) = in_turns([partial(at.run, "one", 1000, 0, 1)], turns=50, seconds=0.0, tick=at.tick)
    assert len(found) == FEWEST_TURNS
