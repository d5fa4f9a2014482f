"""Searches by Optuna (Akiba et al. 2019, arXiv 1907.10902), which several processes and machines may share."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgecompress.errors import FileError, MissingExtra, PlanError, first_line

if TYPE_CHECKING:
    from optuna import Study

Sampler = Literal["tpe", "gp"]
"""Tree of Parzen estimators (Bergstra et al. 2011), or a Gaussian process."""

JOURNAL = "journal:"
"""Before the file of a study that is kept in one; anything else is a database's address."""

RANDOM_FIRST = 5
"""Trials before a sampler trusts what it has seen."""

Point = dict[str, float]
Range = tuple[float, float]


def refuse_missing(selector: str) -> None:
    """Prove that Optuna is there, before any work.

    Raises:
        MissingExtra: it is not; the message holds the pip command.
    """
    if importlib.util.find_spec("optuna") is None:
        raise MissingExtra(f"{selector}: needs optuna, which is not installed; pip install 'edgecompress[search]'")


def found(
    problem: Mapping[str, Any],
    ranges: Mapping[str, Range],
    starts: Sequence[Point],
    value_of: Callable[[Point], float],
    *,
    evaluations: int,
    sampler: Sampler,
    storage: str,
    seed: int,
    told: Callable[[int, float], None],
) -> Point:
    """The point of least value that a study finds; one that is stored goes on where it stopped.

    Args:
        problem: what tells one study from another, as JSON: only equal problems share a study.
        ranges: for each variable its least and its largest value.
        starts: points that are tried first.
        value_of: less is better; infinity where a point is not allowed.
        evaluations: points that are tried in all, by all processes that share the study.
        sampler: how the next point is chosen.
        storage: ``journal:FILE``, a database's address, or empty: in memory.
        seed: of the sampler, where the study is in memory; workers that share one differ.
        told: is called with the number of points tried so far and the least value.

    Raises:
        MissingExtra: Optuna is not installed.
        FileError: the storage cannot be used.
        PlanError: no point is allowed.
    """
    refuse_missing("search")
    study = _study(problem, sampler, storage, seed, len(ranges))
    if not study.get_trials(deepcopy=False):
        for start in starts:
            study.enqueue_trial(start, skip_if_exists=True)
    while len(_done(study)) < evaluations:
        trial = study.ask()
        point = {name: trial.suggest_float(name, *ends) for name, ends in ranges.items()}
        value = value_of(point)
        study.tell(trial, min(value, 1e300))
        told(len(_done(study)), study.best_value)
    for start in starts:  # a worker that was killed may have had it
        if not any(trial.params == start for trial in _done(study)):
            _add(study, start, ranges, value_of(start))
    if not math.isfinite(study.best_value) or study.best_value >= 1e300:
        raise PlanError("search: none of the points that were tried is allowed; use more --evaluations")
    best: Point = study.best_params
    return best


def _add(study: Study, point: Point, ranges: Mapping[str, Range], value: float) -> None:
    """A trial that was made without being suggested."""
    from optuna.distributions import BaseDistribution, FloatDistribution
    from optuna.trial import create_trial

    spread: dict[str, BaseDistribution] = {name: FloatDistribution(*ends) for name, ends in ranges.items()}
    study.add_trial(create_trial(params=dict(point), distributions=spread, value=min(value, 1e300)))


def _done(study: Study) -> list[Any]:
    from optuna.trial import TrialState

    done: list[Any] = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return done


def _study(problem: Mapping[str, Any], sampler: Sampler, storage: str, seed: int, variables: int) -> Study:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    digest = hashlib.sha256(json.dumps(problem, sort_keys=True).encode()).hexdigest()[:16]
    first, own = max(RANDOM_FIRST, variables // 2), None if storage else seed  # workers with one seed try the same
    made = (
        optuna.samplers.GPSampler(seed=own, n_startup_trials=first)
        if sampler == "gp"
        else optuna.samplers.TPESampler(seed=own, n_startup_trials=first)
    )
    try:
        return optuna.create_study(
            study_name=f"edgecompress-{digest}", storage=_storage(storage), sampler=made, load_if_exists=True
        )
    except Exception as error:  # a storage fails in its own way: files, databases, drivers
        raise FileError(f"{storage}: cannot keep a study ({first_line(error)}); use {JOURNAL}FILE") from error


def _storage(where: str) -> Any:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    if where.startswith(JOURNAL):
        file = Path(where.removeprefix(JOURNAL))
        file.parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(str(file)))
    return where or None
