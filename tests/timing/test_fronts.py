"""Other plans of the front: which are kept of all that was measured, and that they become models of their own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import edgecompress as ec
from edgecompress.cli import run_command_line
from edgecompress.cli.planning import _save_others
from edgecompress.errors import PlanError
from edgecompress.files import Json, make_folder
from edgecompress.planning import plan
from edgecompress.plans import CompressionPlan
from edgecompress.reporting import Report, read_report, render_html, render_markdown
from edgecompress.reporting.front_views import front_view
from edgecompress.reporting.fronts import Front, front_from
from edgecompress.running.claiming import PARETO, forget_front
from edgecompress.running.resuming import Stages
from edgecompress.selectors import Budget
from edgecompress.settings import FineTuning
from edgecompress.sources import resolve
from edgecompress.timing.fronts import front_of
from tests import reports

KEEPS = (0.8, 0.6, 0.5, 0.4)
LATENCY = {
    "target": "onnx", "device": "local", "machine": "scales", "runtime": "onnxruntime 1.31.1", "threads": 1, "batch": 1,
    "unit": "ns", "dense": 1e6, "keep": 0.7, "rule": "latency", "loss": 0.6, "speedup": 1.6, "ci95": [1.5, 1.7],
    "predicted": 1.6, "chains": {}, "multiple": 8, "multiple_from": "timings", "load": 0.5, "busy": False,
}  # fmt: skip


def entry(made: CompressionPlan, keep: float, **more: Any) -> dict[str, Any]:
    facts = {"rule": f"rule of {keep}", "loss": 1 - keep, "speedup": 1 / keep, "ci95": [0.9 / keep, 1.1 / keep]}
    kept = {**facts, "predicted": 1 / keep, "loads": 8, "front": True, "chosen": False, "chains": {}}
    return {**kept, "plan": made.to_json(), **more}


@pytest.fixture(scope="module")
def made(tiny_file: Path) -> CompressionPlan:
    """A plan at 0.6 beside three of the front, of which the one at 0.5 is beaten."""
    sample = resolve(str(tiny_file))
    plans = {keep: plan(sample.model(), sample.inputs, Budget(keep), multiple=2, name="tiny") for keep in KEEPS}
    found = [
        entry(plans[0.4], 0.4),
        entry(plans[0.6], 0.6, chosen=True),
        entry(plans[0.5], 0.5, front=False),
        entry(plans[0.8], 0.8),
    ]
    return replace(plans[0.6], measured={"latency": {**LATENCY, "measured": found}})


def test_plans_of_the_front_are_kept_from_the_least_loss_to_the_fastest(made: CompressionPlan) -> None:
    found = front_of(made, 2)
    assert [at for at, _ in found] == [3, 0]
    macs = [one.compressed.macs for _, one in found if one.compressed]
    assert macs == sorted(macs, reverse=True)
    facts = [(one.measured or {})["latency"] for _, one in found]
    assert [one["speedup"] for one in facts] == [1 / 0.8, 1 / 0.4]
    assert all(one["machine"] == "scales" and "measured" not in one for one in facts)
    assert [at for at, _ in front_of(made, 1)] == [3]


def test_where_there_are_fewer_all_are_kept_and_it_is_said(
    made: CompressionPlan, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(front_of(made, 9)) == 2
    assert "--pareto 9: 2 other plan(s) of those measured are beaten by none; all are kept" in capsys.readouterr().err


def test_without_a_latency_there_is_no_front(made: CompressionPlan) -> None:
    with pytest.raises(PlanError, match="give --keep F --of latency or --max-latency-ms"):
        front_of(replace(made, measured=None), 2)
    older = {"latency": {**LATENCY, "measured": [{"front": True, "loss": 1.0}]}}
    with pytest.raises(PlanError, match="of an older version"):
        front_of(replace(made, measured=older), 2)


@pytest.mark.parametrize("stage", ["plan", "run"])
def test_the_command_refuses_a_front_without_a_latency_before_all_work(
    stage: str, tiny_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = str(tmp_path / ("plan.json" if stage == "plan" else "out"))
    assert run_command_line([stage, str(tiny_file), "--keep", "0.5", "--pareto", "2", "-o", output]) == 2
    assert "give --keep F --of latency or --max-latency-ms" in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())


def test_the_report_shows_all_that_was_measured(made: CompressionPlan) -> None:
    int8 = {"speedup": 1.9, "ci95": [1.8, 2.0], "size_bytes": 7, "as_fast": True}
    front = front_from({**(made.measured or {}), "int8": int8}, {0: ("pareto/2", 90.5)})
    assert Front.from_json(front.to_json()) == front
    report = replace(reports.report(reports.document()), front=front)
    assert Report.from_json(report.to_json()) == report
    view = front_view(report)
    assert view is not None
    assert [one.point.mark for one in view.plans] == ["other", "chosen", "beaten", "other"]
    assert all(one.low < one.point.x < one.high for one in view.plans)
    assert view.limit is not None
    assert 0 < view.limit < 100
    page, text = render_html(report), render_markdown(report)
    for words in ("Plans for a latency", "4 plans were measured as whole files", "rule of 0.5 (beaten)", "pareto/2",
                  "The dense model in int8 takes 52.6 %", "The dense model in int8 is about as fast"):  # fmt: skip
        assert words in page
        assert words in text
    assert page.count('class="dot beaten"') == 2  # in the legend, and one plan
    assert page.count('class="interval ') == 4


def test_plans_of_another_front_do_not_stay_beside_a_new_one(made: CompressionPlan, tmp_path: Path) -> None:
    """Of three wanted there are two; the third file was an earlier plan's, and would pass for this one's."""
    output = tmp_path / "plan.json"
    for number in (1, 2, 3, 4):
        made.save(tmp_path / f"plan.{number}.json")
    _save_others(made, 3, output)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["plan.1.json", "plan.2.json", "plan.4.json"]
    _save_others(made, 0, output)
    assert len(list(tmp_path.iterdir())) == 3


def test_folders_of_a_longer_front_are_removed_but_for_what_others_put_there(tmp_path: Path) -> None:
    for number in (1, 2, 3, 10):
        place = tmp_path / PARETO / str(number)

        def work(place: Path = place) -> Json:
            (place / "model.safetensors").write_bytes(b"numbers")
            return {}

        Stages(make_folder(place)).do("finetune", [number], work, ("model.safetensors",))
    (tmp_path / PARETO / "2" / "notes.txt").write_text("mine")
    (tmp_path / PARETO / "mine").mkdir()
    assert [path.name for path in forget_front(tmp_path, 1)] == ["2", "3", "10"]
    left = {path.relative_to(tmp_path / PARETO).as_posix() for path in (tmp_path / PARETO).rglob("*")}
    assert left == {"1", "1/model.safetensors", "1/stages", "1/stages/finetune.json", "2", "2/notes.txt", "mine"}


@pytest.mark.slow
def test_a_run_keeps_plans_of_the_front_as_models_and_reports_them(
    made: CompressionPlan, tiny_file: Path, tmp_path: Path
) -> None:
    works: list[str] = []

    def listen(name: str, _done: int, _total: int, _detail: str) -> None:
        works.append(name)

    quick: dict[str, Any] = {"tuning": FineTuning(epochs=0), "calibrate": 0, "seconds": 0.02, "threads": (1,)}
    wanted: dict[str, Any] = {"given": made, "pareto": 2, "progress": listen, **quick}
    report = ec.run(tiny_file, tmp_path / "out", **wanted)
    assert report.front is not None
    kept = {one.folder: one.kept for one in report.front.plans if one.folder}
    assert kept == {"pareto/1": pytest.approx(0.8), "pareto/2": pytest.approx(0.4)}
    sizes = []
    for folder in sorted(kept):
        model = ec.resolve(str(tmp_path / "out" / folder), trust=True)
        assert model.plan is not None
        assert model.plan.compressed is not None
        sizes.append(model.plan.compressed.macs)
        assert (tmp_path / "out" / folder / "model.onnx").is_file()
    assert sizes == sorted(sizes, reverse=True)
    works.clear()
    assert ec.run(tiny_file, tmp_path / "out", **wanted) == report
    assert works == []
    read = read_report(tmp_path / "out")
    assert read.front == report.front
    fewer = ec.run(tiny_file, tmp_path / "out", **{**wanted, "pareto": 1})
    assert [one.folder for one in fewer.front.plans if one.folder] == ["pareto/1"]
    assert [path.name for path in (tmp_path / "out" / "pareto").iterdir()] == ["1"]
    ec.run(tiny_file, tmp_path / "out", selector=Budget(0.7), **quick)  # another plan: of no front
    assert not (tmp_path / "out" / "pareto").exists()
