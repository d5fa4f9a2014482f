"""``search``: whole plans are tried, and the best one is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgecompress.cli import run_command_line
from edgecompress.plans import CompressionPlan


def test_a_rule_that_tries_nothing_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["search", "lenet5", "--select", "energy", "-o", str(tmp_path / "a")]) == 2
    assert "--select energy tries no plans: use `edgecompress plan`, or --select search" in capfd.readouterr().err


def test_a_search_writes_its_best_plan_and_goes_on(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("optuna", reason="optuna is not installed: pip install 'edgecompress[search]'")
    folder = tmp_path / "search"
    command = ["search", "lenet5", "--keep", "0.4", "--of", "params", "--calibrate", "16", "--include", "fc*"]
    command += ["-o", str(folder)]
    for evaluations in ("2", "3"):
        assert run_command_line([*command, "--evaluations", evaluations]) == 0
    out = capfd.readouterr()
    assert f"the study is in journal:{folder / 'study.log'}" in out.err
    assert "edgecompress run lenet5 --plan" in out.out
    made = CompressionPlan.load(folder / "plan.json")
    assert made.dense is not None
    assert made.compressed is not None
    assert made.compressed.params <= 0.4 * made.dense.params
    text = (folder / "study.log").read_text(encoding="utf-8")
    assert text.count('"state": 1') + text.count('"state":1') >= 3
