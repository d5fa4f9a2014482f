"""The benches' own parts: a row of real.py on a small net, and a child that is stopped at its limit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from edgecompress.sources import resolve
from tests.processes import ROOT

SETTING = {"keep": 0.4, "calibration": 12, "seed": 0, "scored": 200}


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def test_a_row_of_real(capsys: pytest.CaptureFixture[str]) -> None:
    import real
    from real_nets import Net

    sample = resolve("lenet5")
    net = Net("lenet5", sample.build, sample.data("train"), sample.data("validation"))
    dense, small, _ = real.compressed(net, SETTING)
    row = real.scores(net, dense, small, 200)
    for line in capsys.readouterr().out.splitlines():
        row |= json.loads(line)
    inputs, labels = net.scored.batch(torch.arange(200))
    with torch.no_grad():
        ours, theirs = small(inputs), dense(inputs)
    assert row["accuracy"] == pytest.approx(100 * float((ours.argmax(1) == labels).float().mean()))
    assert row["agreement"] == pytest.approx(100 * float((ours.argmax(1) == theirs.argmax(1)).float().mean()))
    wanted = torch.nn.functional.kl_div(
        ours.log_softmax(1), theirs.log_softmax(1), reduction="batchmean", log_target=True
    )
    assert row["kl"] == pytest.approx(float(wanted), rel=1e-3)
    assert 0 < row["macs_kept"] <= 0.4
    assert row["plan"]["peak_mb"] > 100
    assert real.table([{**SETTING, **row, "net": "lenet5", "tag": "now"}]).count("\n") == 3


def test_a_child_at_its_limit(tmp_path: Path) -> None:
    from children import in_child

    script = tmp_path / "spin.py"
    script.write_text("print('{\"plan\": 1}', flush=True)\nwhile True: pass\n")
    assert in_child(str(script), {"net": "a"}, 1) == {"net": "a", "plan": 1, "not_done_s": 1}
    script.write_text("raise ValueError('too bad')")
    with pytest.raises(RuntimeError, match="too bad"):
        in_child(str(script), {}, 10)


def test_settings_say_how_many_inputs_are_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    import real

    monkeypatch.setattr(real, "available", lambda _name, _folder: True)
    monkeypatch.setattr("sys.argv", ["real.py", "--net", "fire", "lite1", "--keep", "0.5"])
    rows = real.settings(real.parsed())
    assert [row["scored"] for row in rows] == [2000, 2000, 250, 250]
    assert [row["calibration"] for row in rows] == [128, 500, 128, 500]
