"""What plans may lose is measured on validation data, and on nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import edgecompress as ec
from edgecompress.devices import device_named
from edgecompress.errors import BudgetError, DataError, PlanError
from edgecompress.models import Sample
from edgecompress.planning import survey
from edgecompress.running import budgeting
from edgecompress.running.budgeting import Planning, in_float, plan_within
from edgecompress.selectors import Budget
from edgecompress.selectors.ceilings import Ceilings
from edgecompress.settings import FineTuning, Scope
from edgecompress.sources import resolve
from edgecompress.targets import target_named
from edgecompress.timing.planning import Place

SCOPE = Scope(methods=("svd",), multiple=4)


@pytest.fixture(scope="module")
def given(tiny_file: Path) -> Planning:
    sample = resolve(str(tiny_file))
    place = Place(target_named("onnx"), device_named("local"))
    return Planning(survey(sample.model(), sample.inputs, SCOPE), SCOPE, sample, place)


@pytest.fixture
def scores(monkeypatch: pytest.MonkeyPatch, given: Planning) -> list[str]:
    """A model scores the per cent of its parameters that are left; the splits that were looked at."""
    seen: list[str] = []
    dense = given.seen.total.params

    def score(model: Any, _sample: Sample, split: str, **_: Any) -> float:
        seen.append(split)
        return 100 * sum(one.numel() for one in model.parameters()) / dense

    monkeypatch.setattr(budgeting, "score", score)
    return seen


def test_the_smallest_plan_is_found_that_loses_no_more_than_it_may(given: Planning, scores: list[str]) -> None:
    made = plan_within(given, Ceilings(max_acc_drop=30, of="params"))
    assert made.compressed is not None
    assert made.dense is not None
    kept = made.compressed.params / made.dense.params
    assert 0.70 <= kept <= 0.70 + 1 / 2**budgeting.HALVINGS + 0.05
    assert made.measured == {"score": {"split": "validation", "dense": 100, "compressed": pytest.approx(100 * kept),
                                       "before": "fine-tuning"}}  # fmt: skip
    assert set(scores) == {"validation"}


def test_what_may_be_lost_within_other_limits_is_looked_at_once(given: Planning, scores: list[str]) -> None:
    made = plan_within(given, Ceilings(max_acc_drop=60, keep=0.6, of="params"))
    assert made.compressed == plan_within(given, Budget(0.6, "params")).compressed
    assert made.measured is not None
    assert scores == ["validation", "validation"]
    with pytest.raises(BudgetError, match=r"--max-acc-drop 5 cannot be met within the other limits: .* loses \d\d"):
        plan_within(given, Ceilings(max_acc_drop=5, keep=0.6, of="params"))
    tuned = plan_within(replace(given, tuned=True), Ceilings(max_acc_drop=5, keep=0.6, of="params"))
    assert tuned.layers == made.layers  # fine-tuning may win it back


def test_nothing_that_keeps_it_is_refused_with_the_nearest(given: Planning, scores: list[str]) -> None:
    with pytest.raises(BudgetError, match=r"--max-acc-drop 0\.1 cannot be met: the nearest plan .* points on"):
        plan_within(given, Ceilings(max_acc_drop=0.1))
    assert len(scores) > 1


def test_it_takes_data_and_costs(given: Planning) -> None:
    bare = replace(given, sample=replace(given.sample, splits=None))
    with pytest.raises(DataError, match="has no labelled data"):
        plan_within(bare, Ceilings(max_acc_drop=1))
    with pytest.raises(PlanError, match="give --max-latency-ms or --keep too"):
        plan_within(given, Ceilings(max_acc_drop=1, of="latency"))


def test_a_size_is_of_the_file_in_its_precision() -> None:
    assert in_float(Ceilings(max_size_mb=1), "int8") == Ceilings(max_size_mb=4)
    assert in_float(Ceilings(max_macs=1), "fp16") == Ceilings(max_macs=1)
    assert in_float(Budget(0.5), "int8") == Budget(0.5)


def test_compress_plans_within_them(tiny_file: Path, tmp_path: Path) -> None:
    quick = {"tuning": FineTuning(epochs=0), "calibrate": 0}
    total = ec.resolve(str(tiny_file))
    macs = 0.6 * survey(total.model(), total.inputs, SCOPE).total.macs
    made = ec.compress(tiny_file, tmp_path / "small", selector=Ceilings(max_macs=macs, max_acc_drop=100), **quick)
    assert made.cost.compressed.macs <= macs
    plan = ec.CompressionPlan.load(tmp_path / "small" / "plan.json")
    assert plan.measured is not None
    assert plan.measured["score"]["split"] == "validation"
