"""run() and compress() from Python: a line each, and the same as the commands."""

from __future__ import annotations

from pathlib import Path

import pytest

import edgecompress as ec
from edgecompress.errors import BudgetError
from edgecompress.reporting import read_report, render_html
from edgecompress.running.options import Options
from edgecompress.selectors import Budget
from edgecompress.settings import FineTuning

QUICK = {"tuning": FineTuning(epochs=0), "calibrate": 0}


def test_a_line_of_python_compresses_a_model_and_the_next_one_redoes_nothing(tiny_file: Path, tmp_path: Path) -> None:
    works: list[str] = []

    def listen(name: str, _done: int, _total: int, _detail: str) -> None:
        works.append(name)

    out = tmp_path / "small"
    first = ec.compress(tiny_file, out, selector=Budget(0.6), progress=listen, **QUICK)
    assert works
    assert first.cost.compressed.macs <= 0.6 * first.cost.dense.macs
    assert ec.resolve(str(out), trust=True).plan is not None
    works.clear()
    again = ec.compress(ec.resolve(str(tiny_file)), str(out), Options(Budget(0.6)), progress=listen, **QUICK)
    assert again == first
    assert works == []


def test_a_finished_run_looks_at_the_models_layers_no_more(
    tiny_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ec.compress(tiny_file, tmp_path / "small", selector=Budget(0.6), **QUICK)

    def survey(*_: object) -> None:
        raise AssertionError("surveyed again")

    monkeypatch.setattr("edgecompress.running.pipeline.survey", survey)
    ec.compress(tiny_file, tmp_path / "small", selector=Budget(0.6), **QUICK)
    with pytest.raises(AssertionError, match="surveyed again"):
        ec.compress(tiny_file, tmp_path / "small", selector=Budget(0.7), **QUICK)


def test_a_line_of_python_does_all_of_it(tiny_file: Path, tmp_path: Path) -> None:
    report = ec.run(tiny_file, tmp_path / "out", selector=Budget(0.6), seconds=0.02, threads=(1,), **QUICK)
    assert [file.path for file in report.artifacts] == ["dense.onnx", "model.onnx"]
    assert report == read_report(tmp_path / "out")
    assert (tmp_path / "out" / "report.html").read_text(encoding="utf-8") == render_html(report)


def test_what_does_not_fit_is_refused_before_the_folder_is_touched(tiny_file: Path, tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match="cannot be reached"):
        ec.compress(tiny_file, tmp_path / "small", selector=Budget(0.001), **QUICK)
    assert [file.name for file in (tmp_path / "small").iterdir()] == [".lock"]
    with pytest.raises(TypeError, match="epochs"):
        ec.run(tiny_file, tmp_path / "small", epochs=3)
