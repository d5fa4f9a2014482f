"""Whole files say what a table of times is off: by geometry, by chain, and how sure that is."""

from __future__ import annotations

import numpy as np
import pytest

from edgecompress.timing.corrections import Saved, Term, mended, saving

TABLE: dict[Term, float] = {
    (geometry, ("svd", (rank,))): 0.01 * (5 - rank / 16) for geometry in "ab" for rank in (16, 32, 48)
}
FIRST, *_ = TABLE


def file(share: float, error: float = 0.001, **counts: int) -> Saved:
    """So many layers of each geometry with rank 32."""
    return Saved({(geometry, ("svd", (32,))): count for geometry, count in counts.items()}, share, error)


def test_without_files_a_table_is_as_it_was_taken() -> None:
    assert mended(TABLE, []) == pytest.approx(TABLE)
    assert mended({}, []) == {}


def test_a_geometry_that_saves_nothing_is_known_by_all_its_chains() -> None:
    found = mended(TABLE, [file(0.0, a=5), file(0.15, b=5), file(0.15, a=5, b=5)])
    assert [abs(found[term]) < 0.3 * TABLE[term] for term in TABLE if term[0] == "a"] == [True] * 3
    assert [found[term] == pytest.approx(TABLE[term], rel=0.15) for term in TABLE if term[0] == "b"] == [True] * 3


def test_what_files_say_of_all_is_expected_of_a_geometry_that_was_not_in_them() -> None:
    found = mended(TABLE, [file(0.5 * 0.15, a=5)])
    assert all(0.5 * own < found[term] < 0.9 * own for term, own in TABLE.items() if term[0] == "b")


def test_a_chain_alone_may_be_off() -> None:
    others = [
        Saved({(g, ("svd", (r,))): 4}, 4 * TABLE[g, ("svd", (r,))], 0.001) for g, r in (("a", 16), ("a", 48), ("b", 32))
    ]
    found = mended(TABLE, [*others, file(4 * 0.045, a=4)])
    assert found["a", ("svd", (32,))] > 1.25 * TABLE["a", ("svd", (32,))]
    assert found["a", ("svd", (16,))] == pytest.approx(TABLE[FIRST], rel=0.15)


def test_draws_agree_on_what_was_measured_and_on_nothing_else() -> None:
    files = [file(0.1, a=5)]
    draws = [mended(TABLE, files, np.random.default_rng(seed)) for seed in range(400)]
    measured = [saving(draw, files[0].counts) for draw in draws]
    assert np.mean(measured) == pytest.approx(saving(mended(TABLE, files), files[0].counts), abs=0.002)
    assert np.std(measured) < 0.015
    other = ("b", ("svd", (16,)))
    assert np.mean([draw[other] for draw in draws]) == pytest.approx(mended(TABLE, files)[other], abs=0.004)
    assert np.std([draw[other] for draw in draws]) > 0.4 * TABLE[other]
