"""Studies of a search: shared by several workers, and none the worse for workers that are killed."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from threading import Thread

import pytest

from edgecompress.selectors import studies
from edgecompress.selectors.studies import Point

pytest.importorskip("optuna", reason="optuna is not installed: pip install 'edgecompress[search]'")

START = {"x": 0.0}


def searched(storage: str, evaluations: int, tried: list[float], told: list[tuple[int, float]]) -> Point:
    """The least of a parabola."""

    def value_of(point: Point) -> float:
        tried.append(point["x"])
        return (point["x"] - 0.5) ** 2

    return studies.found(
        {"a": "problem"},
        {"x": (-1.0, 1.0)},
        [START],
        value_of,
        evaluations=evaluations,
        sampler="tpe",
        storage=storage,
        seed=0,
        told=lambda done, best: told.append((done, best)),
    )


def test_two_workers_share_a_study_which_goes_on_later(tmp_path: Path) -> None:
    storage, tried, told = f"journal:{tmp_path / 'new' / 'study.log'}", list[float](), list[tuple[int, float]]()
    workers = [Thread(target=partial(searched, storage, 6, tried, told)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert 1 <= tried.count(0.0) <= 2  # both may begin with it at the same moment
    assert len(set(tried)) >= len(tried) - 1
    # when the sixth is told, the other may still run, and its point be the start, which is then tried again
    assert 6 <= len(tried) <= 8
    later = list[float]()
    best = searched(storage, 9, later, told)
    assert len(later) == 9 - len(tried)
    assert (best["x"] - 0.5) ** 2 == min((x - 0.5) ** 2 for x in [*tried, *later]) == told[-1][1]


def test_what_a_killed_worker_had_begun_is_tried_by_another(tmp_path: Path) -> None:
    storage = f"journal:{tmp_path / 'study.log'}"

    class Killed(BaseException):
        pass

    def dies(_point: Point) -> float:
        raise Killed

    with pytest.raises(Killed):
        studies.found(
            {"a": "problem"}, {"x": (-1.0, 1.0)}, [START], dies,
            evaluations=3, sampler="tpe", storage=storage, seed=0, told=lambda *_: None,
        )  # fmt: skip
    tried = list[float]()
    best = searched(storage, 3, tried, [])
    assert 0.0 in tried
    assert (best["x"] - 0.5) ** 2 == min((x - 0.5) ** 2 for x in tried)
