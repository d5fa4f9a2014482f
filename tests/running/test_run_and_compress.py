"""run() and compress() from Python: a line each, and the same as the commands."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

import edgecompress as ec
from edgecompress.errors import BudgetError, ExportError
from edgecompress.files import LOCK
from edgecompress.planning import Scope, Survey, survey
from edgecompress.recipes import RECIPES
from edgecompress.reporting import read_report, render_html
from edgecompress.running.compression import tuning_key
from edgecompress.running.history import plan_key
from edgecompress.running.keys import former_key, options_key
from edgecompress.running.options import Options
from edgecompress.running.resuming import key_of
from edgecompress.selectors import SELECTORS, Budget
from edgecompress.settings import DeviceOptions, FineTuning, Storage
from edgecompress.targets.onnx import Onnx

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


def test_the_models_layers_are_surveyed_once_and_not_for_a_finished_run(
    tiny_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    surveys: list[object] = []

    def counted(model: nn.Module, inputs: tuple[Tensor, ...], scope: Scope) -> Survey:
        surveys.append(scope)
        return survey(model, inputs, scope)

    monkeypatch.setattr("edgecompress.running.pipeline.survey", counted)
    monkeypatch.setattr("edgecompress.planning.survey", counted)
    for keep, expected in ((0.6, 1), (0.6, 1), (0.7, 2)):
        ec.compress(tiny_file, tmp_path / "small", selector=Budget(keep), **QUICK)
        assert len(surveys) == expected


def test_finished_folders_of_the_first_version_are_resumed() -> None:
    """What stages are keyed by reads as it did there, or hours of training would be done again."""
    assert repr(Scope()) == "Scope(methods=(), multiple=8, include=(), exclude=())"
    fields = ("remote_python", "identity", "known_hosts", "python_bundle", "runner")
    assert repr(DeviceOptions()) == f"DeviceOptions({', '.join(f'{field}=None' for field in fields)})"
    assert key_of(tuning_key(FineTuning())) == key_of(
        {
            "epochs": 3,
            "optimizer": "sgd",
            "lr": 0.01,
            "momentum": 0.9,
            "weight_decay": 0.0001,
            "batch_size": 128,
            "distill": 0.7,
            "temperature": 4.0,
            "clip": 5.0,
            "seed": 0,
            "bfloat16": False,
            "schedule": "onecycle",
            "warm_up": 0.3,
            "feature": 0.0,
            "ema": 0.0,
            "smoothing": 0.0,
            "mixup": 0.0,
            "cutout": 0,
            "accumulate": 1,
            "stages": 1,
            "pick": "best",
        }
    )
    assert plan_key({"recipe": "none", "portions": 2, "keep": 0.5}) == key_of(
        {"recipe": "plain", "stages": 2, "keep": 0.5}
    )
    assert repr(Storage("scada_tucker")) == (
        "Storage(codec='scada_tucker', rank=None, keep=0.02, order=3, mix_axes=False, pad=False, start='scratch', "
        "levels=15, core_levels=15, bias_levels=0, epochs=10, lr=0.008, rate=0.1, damp=0.0002)"
    )
    assert former_key(replace(Budget(), summary="in other words")) == (
        "Budget(keep=0.5, of='macs', name='budget', summary='least total loss with at most --keep of the dense "
        "--of macs|params|bytes; knapsack over all layers', weighs_losses=True)"
    )


@pytest.mark.parametrize("entry", [*SELECTORS.values(), *RECIPES.values()], ids=lambda one: type(one).__name__)
def test_keys_depend_on_options_and_not_on_words(entry: Any) -> None:
    reworded = replace(entry, summary="in other words")
    assert options_key(reworded) == options_key(entry)
    assert former_key(reworded) == former_key(entry) == repr(entry)
    options = [field for field in fields(entry) if type(getattr(entry, field.name)) in (int, float)]
    for field in options:
        changed = replace(entry, **{field.name: getattr(entry, field.name) / 2 or 1})
        assert options_key(changed) != options_key(entry)


def test_a_folder_finished_by_former_keys_is_finished(
    tiny_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "small"
    with monkeypatch.context() as then:
        then.setattr("edgecompress.running.compression.options_key", former_key)
        first = ec.compress(tiny_file, out, selector=Budget(0.6), **QUICK)
    works: list[str] = []

    def listen(name: str, _done: int, _total: int, _detail: str) -> None:
        works.append(name)

    reworded = replace(Budget(0.6), summary="in other words")
    assert ec.compress(tiny_file, out, selector=reworded, progress=listen, **QUICK) == first
    assert works == []


def test_a_refused_run_takes_its_claim_back(tiny_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")

    def refuse(*_: object) -> None:
        raise ExportError("no way to trace it")

    monkeypatch.setattr("edgecompress.exporting.Exporter.probe", refuse)
    with pytest.raises(ExportError, match="no way"):
        ec.run(tiny_file, out, selector=Budget(0.6), **QUICK)
    assert {entry.name for entry in out.iterdir()} <= {"notes.txt", LOCK}


@pytest.mark.usefixtures("brief_measuring")
def test_a_line_of_python_does_all_of_it(tiny_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    traced, trace = [], Onnx._traced
    monkeypatch.setattr(Onnx, "_traced", lambda *given: traced.append(given) or trace(*given))
    report = ec.run(tiny_file, tmp_path / "out", selector=Budget(0.6), seconds=0.02, threads=(1,), **QUICK)
    assert [file.path for file in report.artifacts] == ["dense.onnx", "model.onnx"]
    assert len(traced) == 2, "each model is traced once: the dense one before all work"
    assert report == read_report(tmp_path / "out")
    assert (tmp_path / "out" / "report.html").read_text(encoding="utf-8") == render_html(report)


def test_what_does_not_fit_is_refused_before_the_folder_is_touched(tiny_file: Path, tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match="cannot be reached"):
        ec.compress(tiny_file, tmp_path / "small", selector=Budget(0.001), **QUICK)
    assert not (tmp_path / "small").exists()
    with pytest.raises(TypeError, match="epochs"):
        ec.run(tiny_file, tmp_path / "small", epochs=3)
