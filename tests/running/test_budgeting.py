"""What plans may lose is measured on validation data, and on nothing else."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import edgecompress as ec
from edgecompress.devices import device_named
from edgecompress.errors import BudgetError, DataError, PlanError
from edgecompress.models import Sample
from edgecompress.planning import survey
from edgecompress.plans import CompressionPlan
from edgecompress.profiling.ratios import Ratio
from edgecompress.running import budgeting
from edgecompress.running.budgeting import Planning, in_float, plan_within, refuse_lost
from edgecompress.selectors import Budget
from edgecompress.selectors.ceilings import Ceilings
from edgecompress.settings import FineTuning, Scope
from edgecompress.sources import resolve
from edgecompress.targets import target_named
from edgecompress.timing.planning import Place
from tests.processes import command

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


def test_weights_that_have_seen_the_data_are_named(
    given: Planning, scores: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    seen = replace(given, sample=replace(given.sample, validation_seen=True))
    for one, said in ((given, False), (seen, True)):
        plan_within(one, Ceilings(max_acc_drop=100, keep=0.6))
        assert ("have seen the validation data" in capsys.readouterr().err) == said
    assert scores


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


@pytest.mark.parametrize(("int8", "said"), [(2.5, True), (1.95, True), (1.8, False)])
def test_int8_is_recommended_where_it_is_as_fast(
    given: Planning, int8: float, said: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = CompressionPlan(layers=(), measured={"latency": {"dense": 2e6, "speedup": 2.0}})
    found = SimpleNamespace(ratio=Ratio(int8, int8 - 0.1, int8 + 0.1), bytes_after=7)
    monkeypatch.setattr(budgeting, "timed_plan", lambda *_, **__: made)
    monkeypatch.setattr(budgeting, "measured_int8", lambda *_: found)
    planned = plan_within(given, Budget(0.5, "latency"))
    assert planned.measured is not None
    assert planned.measured["int8"] == {
        "speedup": int8, "ci95": [int8 - 0.1, int8 + 0.1], "size_bytes": 7, "as_fast": said
    }  # fmt: skip
    assert ("--quantize int8" in capsys.readouterr().err) == said
    elsewhere = replace(given, place=replace(given.place, threads=2))
    assert plan_within(elsewhere, Budget(0.5, "latency")) == made


def test_what_fine_tuning_does_not_win_back_is_refused() -> None:
    made = CompressionPlan(layers=(), measured={"score": {"dense": 90.0, "compressed": 80.0}})
    history = [{"epoch": 1, "loss": 1.0, "score": 85.0}, {"epoch": 2, "loss": 0.5, "score": 89.5}]
    by, training = Ceilings(max_acc_drop=1), {"best_epoch": 2, "history": history}
    refuse_lost(by, made, training)
    refuse_lost(by, made, None)
    refuse_lost(Budget(0.5), made, training)
    for best, lost in ((1, 5), (0, 10)):
        with pytest.raises(BudgetError, match=rf"--max-acc-drop 1 is missed: {lost}\.00 points are lost on validation"):
            refuse_lost(by, made, {**training, "best_epoch": best})


def test_the_command_refuses_what_no_plan_keeps_and_makes_no_folder(tiny_file: Path, tmp_path: Path) -> None:
    answer = command("run", tiny_file, "--max-macs", "10", "--max-size-mb", "1", "-o", tmp_path / "no")
    assert answer.code == 1
    assert re.search(r"--max-macs 10 cannot be met: the nearest plan has [\d,]+ MACs, .* MB; what binds", answer.err)
    assert not (tmp_path / "no").exists()


def test_a_run_is_held_against_the_limits_it_was_planned_within(tiny_file: Path, tmp_path: Path) -> None:
    out, quick = tmp_path / "small", ("--epochs", "0", "--calibrate", "0", "--seconds", "0.05", "--threads", "1")
    more = ("--max-size-mb", "0.1", "--max-acc-drop", "100", "--max-macs", "50e3", *quick)
    answer = command("run", tiny_file, *more, "-o", out, "--json")
    assert answer.code == 0, answer.err
    assert [(one["name"], one["met"]) for one in json.loads(answer.out)["checks"]] == [
        ("file size", True),
        ("accuracy drop", True),
    ]
    plan = ec.CompressionPlan.load(out / "plan.json")
    assert plan.compressed is not None
    assert plan.compressed.macs <= 50e3


def test_compress_plans_within_them(tiny_file: Path, tmp_path: Path) -> None:
    quick = {"tuning": FineTuning(epochs=0), "calibrate": 0}
    total = ec.resolve(str(tiny_file))
    macs = 0.6 * survey(total.model(), total.inputs, SCOPE).total.macs
    made = ec.compress(tiny_file, tmp_path / "small", selector=Ceilings(max_macs=macs, max_acc_drop=100), **quick)
    assert made.cost.compressed.macs <= macs
    plan = ec.CompressionPlan.load(tmp_path / "small" / "plan.json")
    assert plan.measured is not None
    assert plan.measured["score"]["split"] == "validation"


SEPARABLE = """
import torch
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(16, 48, 1), nn.Conv2d(48, 48, 3, padding=1, groups=48), nn.Conv2d(48, 16, 1))
example = torch.randn(1, 16, 8, 8)
"""


def test_every_way_to_a_plan_says_before_where_low_rank_buys_little(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(SEPARABLE)
    for way in (["plan", "-o", tmp_path / "plan.json"], ["compress", "-o", tmp_path / "small"]):
        answer = command(way[0], tmp_path / "net.py", "--keep", "0.8", *way[1:])
        assert answer.code == 0, answer.err
        assert len(re.findall("^note: .* in 1x1 convolutions beside depthwise ones", answer.err, re.MULTILINE)) == 1
        assert "`edgecompress inspect MODEL` measures what int8 buys" in answer.err
