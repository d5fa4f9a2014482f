"""A finished run goes to where a team keeps its runs; what is not installed is named before any work."""

from __future__ import annotations

import contextlib
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from edgecompress.errors import FileError, MissingExtra
from edgecompress.running.tracking import figures_logged, tracker_of
from tests import reports


class Stub(types.ModuleType):
    """MLflow's calls, kept."""

    def __init__(self) -> None:
        super().__init__("mlflow")
        self.calls: list[tuple[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            self.calls.append((name, arguments or named))
            return contextlib.nullcontext()

        return call


def test_mlflow_gets_options_figures_and_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    stub = Stub()
    monkeypatch.setitem(sys.modules, "mlflow", stub)
    report = reports.report(reports.document())
    tracker_of("mlflow:http://here")(report, Path("out"))
    calls = dict(stub.calls[:4])
    assert calls["set_tracking_uri"] == ("http://here",)
    assert calls["log_params"][0]["keep"] == "0.5"
    assert calls["log_metrics"][0]["compressed/macs"] == report.cost.compressed.macs
    assert stub.calls[-1] == ("log_artifact", ("out/report.html",))


def test_figures_have_their_units() -> None:
    figures = figures_logged(reports.report(reports.document()))
    assert figures["dense/accuracy"] == 91.73
    assert figures["speedup"] == 1.25
    assert figures["compressed/size_bytes"] < figures["dense/size_bytes"]
    assert "speedup" not in figures_logged(reports.report(reports.bare(reports.document())))


@pytest.mark.parametrize(("kind", "module"), [("tensorboard:runs", "torch.utils.tensorboard"), ("mlflow", "mlflow")])
def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, kind: str, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=r"pip install 'edgecompress\[tracking\]'"):
        tracker_of(kind)


def test_another_place_is_refused() -> None:
    with pytest.raises(FileError, match=r"--log wandb: no such place; there are tensorboard:FOLDER and mlflow"):
        tracker_of("wandb")
    with pytest.raises(FileError, match="name the folder"):
        tracker_of("tensorboard")
