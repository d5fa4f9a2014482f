"""What was asked of the table and what files saved."""

from __future__ import annotations

import pytest

from edgecompress.timing.curves import Curve


def curve(*points: tuple[float, float]) -> Curve:
    return Curve(list(points))


def test_without_files_the_table_is_believed() -> None:
    assert curve().needed(0.4) == 0.4
    assert curve().expected(0.4) == 0.4


def test_beyond_the_files_it_is_in_proportion_between_them_straight() -> None:
    two = curve((0.5, 0.4), (0.7, 0.6))
    assert two.needed(0.5) == pytest.approx(0.6)
    assert two.needed(0.2) == pytest.approx(0.25)
    assert two.expected(0.84) == pytest.approx(0.72)
    assert two.expected(two.needed(0.47)) == pytest.approx(0.47)


def test_files_that_fall_count_as_one() -> None:
    noisy = curve((0.4, 0.3), (0.6, 0.5), (0.62, 0.3), (0.8, 0.8))
    values = [noisy.expected(at / 100) for at in range(0, 90, 5)]
    assert values == sorted(values)
    assert noisy.expected(0.61) == pytest.approx(0.4, abs=0.02)


def test_files_that_save_nothing_show_nothing() -> None:
    assert curve((0.5, -0.2)).needed(0.5) == 0.5
    assert curve((0.5, 0.1)).needed(0.5) == 0.98  # no more than there is


def test_a_plan_is_looked_for_between_those_that_were_too_slow_and_fast_enough() -> None:
    def file(asked: float) -> float:
        """What it saves: nothing of use up to half, then all at once."""
        return 0.1 + 0.6 / (1 + 10 ** (30 * (0.5 - asked)))

    loop = Curve()
    for _ in range(6):
        asked = loop.needed(0.45)
        loop.points.append((asked, file(asked)))
    assert file(loop.needed(0.45)) == pytest.approx(0.45, abs=0.03)
