"""What stands beside a faster verdict of two files."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from edgecompress.cli import measuring
from edgecompress.cli.measuring import cost_in_outputs, print_measured
from tests.reports import comparison, profile

WRITTEN = Path(__file__).parents[1] / "data" / "version_0_1"


def test_what_a_file_cost_is_read_from_its_facts(tmp_path: Path) -> None:
    assert cost_in_outputs(WRITTEN / "run/model.onnx").startswith("compressed against dense, both in PyTorch: SQNR")
    assert cost_in_outputs(WRITTEN / "run/dense.onnx").startswith("the file against PyTorch: SQNR")
    (tmp_path / "other.onnx").write_bytes(b"")
    assert cost_in_outputs(tmp_path / "other.onnx") == "not known: no facts of an export are beside other.onnx"


@pytest.mark.parametrize(("wall", "said"), [(1.25, True), (0.8, False)])
def test_only_a_faster_verdict_has_its_cost_beside_it(wall: float, said: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(measuring, "say", lines.append)
    monkeypatch.setattr(measuring, "print_profiles", lambda *_profiles: None)
    monkeypatch.setattr("edgecompress.profiling.layers_of", lambda _found: [])
    found = SimpleNamespace(
        profile=profile("model.onnx", 9_000, 1.0), baseline=None, comparison=comparison(wall, wall), more=()
    )
    print_measured(found, WRITTEN / "run/model.onnx")
    assert any("what that cost: compressed against dense" in line for line in lines) is said
