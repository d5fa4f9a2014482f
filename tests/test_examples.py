"""The scripts of examples/ run as they are, but for the seconds of measuring."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from tests.processes import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
PRINTED = {
    "compare_files": "x, 95 % interval",
    "hugging_face": "inputs input_ids, attention_mask",
    "mlp": "out/mlp.onnx",
    "own_cnn": "score -",
    "two_devices": "skipped adb:NONE",
}
"""By each, beside other things."""
GIVEN = {"two_devices": ["adb:NONE"]}
"""To those that would take long: there is no such device."""


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda script: script.stem)
@pytest.mark.usefixtures("brief_measuring")
def test_it_runs(script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    if script.stem == "hugging_face":
        pytest.importorskip("transformers", reason="the extra transformers is not installed")
    monkeypatch.chdir(tmp_path)
    main = runpy.run_path(str(script))["main"]
    main.__globals__.update({"SECONDS": 0.05} if "SECONDS" in main.__globals__ else {})
    main(*GIVEN.get(script.stem, []))
    assert PRINTED[script.stem] in capsys.readouterr().out


@pytest.mark.slow
def test_two_devices_are_compared_where_one_is_emulated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    main = runpy.run_path(str(ROOT / "examples" / "two_devices.py"))["main"]
    main.__globals__["SECONDS"] = 0.05
    main()
    local, other = capsys.readouterr().out.splitlines()
    assert "x, 95 % interval" in local
    assert "times fewer instructions (emulated)" in other or other.startswith("skipped emulated:cortex-a76")
