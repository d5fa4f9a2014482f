"""What version 0.1.0 wrote before its modules were regrouped is read today, with the same numbers.

``data/version_0_1`` holds a model file and what was made from it there (timings and stages thinned out afterwards)::

    edgecompress run net.py --keep 0.6 --multiple 1 --epochs 2 --calibrate 32 --seconds 0.001 --threads 1 -o run
    edgecompress compress net.py --method ada_tucker --rank 3 --epochs 1 --round-epochs 1 -o codes

and ``emulated``, a report of instructions, and ``bundle`` of ``run/model.onnx``, its ``run.py`` shortened
(``tests/bundling/test_checking.py``).
"""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import edgecompress as ec
from edgecompress.cli import run_command_line
from edgecompress.files import dump_json, read_json
from edgecompress.profiling.instruction_counts import InstructionComparison, InstructionProfile
from edgecompress.reporting import Report
from edgecompress.running.claiming import Owner, check_claim
from edgecompress.running.history import tried
from edgecompress.running.resuming import Stages

WRITTEN = Path(__file__).parent / "data" / "version_0_1"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy, and the place that the files name one another from."""
    copy = shutil.copytree(WRITTEN, tmp_path / "copy")
    monkeypatch.chdir(copy)
    return copy


@pytest.fixture
def stdout(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What commands print."""
    monkeypatch.setattr(sys, "__stdout__", text := io.StringIO())
    return text


def test_a_compressed_model_computes_what_it_did(folder: Path) -> None:
    sample = ec.resolve(str(folder / "run"), trust=True)
    golden = np.load(folder / "run/model.onnx.golden.npz")
    outputs = sample.model()(torch.from_numpy(golden["input:input"])).detach()
    torch.testing.assert_close(outputs, torch.from_numpy(golden["output:output"]))
    assert ec.cost(sample.model(), sample.inputs) == ec.Cost(params=223, macs=3538, weight_bytes=948)
    assert ec.score(sample.model(), sample) == pytest.approx(100 * 11 / 24)


def test_a_model_stored_as_codes_scores_what_it_did(folder: Path) -> None:
    sample = ec.resolve(str(folder / "codes"), trust=True)
    assert ec.score(sample.model(), sample) == pytest.approx(100 * 14 / 24)
    assert sample.plan is not None
    assert {layer.method for layer in sample.plan.layers} == {"ada_tucker"}


@pytest.mark.parametrize("file", ["run/plan.json", "codes/plan.json"])
def test_a_plan_is_read_and_written_again_byte_for_byte(folder: Path, file: str) -> None:
    plan = ec.CompressionPlan.load(folder / file)
    plan.save(folder / "again.json")
    assert (folder / "again.json").read_bytes() == (folder / file).read_bytes()


def test_a_plan_still_fits_its_model(folder: Path) -> None:
    plan, sample = ec.CompressionPlan.load(folder / "run/plan.json"), ec.resolve(str(folder / "net.py"))
    assert [(layer.name, layer.method, layer.ranks) for layer in plan.layers] == [
        ("3", "hierarchical_tucker2", (3, 3, 2)),
        ("7", "svd", (1,)),
    ]
    assert ec.cost(ec.decompose(sample.model(), plan), sample.inputs).macs == 3538


def test_an_exported_file_is_proved_again(folder: Path, stdout: io.StringIO) -> None:
    artifact = ec.Artifact.load(folder / "run/model.onnx")
    assert (artifact.target, artifact.precision, artifact.cost.macs) == ("onnx", "fp32", 3538)
    assert artifact.score is not None
    assert artifact.score.artifact == pytest.approx(100 * 11 / 24)
    assert run_command_line(["verify", str(folder / "run/model.onnx"), "--trust", "--json"]) == 0
    assert json.loads(stdout.getvalue())["verified"][0]["score"]["artifact"] == pytest.approx(100 * 11 / 24)


def test_measurements_give_the_same_statistics(folder: Path, stdout: io.StringIO) -> None:
    profile, file = ec.Profile.load(folder / "run/model.onnx.profile.json"), folder / "run/comparison.json"
    assert profile.latency.summary()["wall"]["p50"] == 0.023298
    assert profile.load_ms == pytest.approx(11.83561799916788)
    pair = ec.Comparison.from_json(read_json(file))
    assert (pair.verdict, pair.wall.value) == ("slower", 0.7978629146661858)
    assert pair.to_json() == read_json(file)
    files = [str(folder / f"run/{name}.onnx.profile.json") for name in ("dense", "model")]
    assert run_command_line(["compare", *files, "--json"]) == 0
    assert json.loads(stdout.getvalue())["figures"]["wall_p50_ms"] == [0.0185, 0.023298]


def test_counts_of_instructions_are_read(folder: Path) -> None:
    profile = InstructionProfile.from_json(read_json(folder / "emulated/model.onnx.profile.json"))
    assert profile.counts.least == 20_460_000
    pair = InstructionComparison.from_json(read_json(folder / "emulated/report.json")["comparison"])
    assert pair.ratio == pytest.approx(39_496_000 / 20_460_000)


@pytest.mark.parametrize(
    ("run", "sentence"),
    [
        ("run", "net: 40.6 % fewer MACs, 51.7 % fewer parameters"),
        ("emulated", "example: 50.0 % fewer MACs, 44.3 % fewer parameters"),
    ],
)
def test_a_report_is_rendered_again(folder: Path, stdout: io.StringIO, run: str, sentence: str) -> None:
    assert run_command_line(["report", str(folder / run)]) == 0
    assert sentence in stdout.getvalue()
    assert all((folder / run / name).stat().st_size > 1000 for name in ("report.html", "report.md"))


def test_a_report_is_the_same_document_again(folder: Path) -> None:
    file = folder / "run/report.json"
    assert dump_json(Report.from_json(read_json(file)).to_json()) + "\n" == file.read_text(encoding="utf-8")


def test_what_was_tried_is_remembered(folder: Path) -> None:
    file, document = folder / "run/tried.json", read_json(folder / "run/report.json")
    key = read_json(file)["model_key"]
    point = {**read_json(file)["points"][0], "key": "another"}
    file.write_text(json.dumps({**read_json(file), "points": [point]}))
    plans = tried(folder / "run", key, Report.from_json(document))
    assert [(one.macs, one.chosen) for one in plans] == [(3538, False), (3538, True)]


def test_finished_stages_are_remembered(folder: Path) -> None:
    recorded = read_json(folder / "run/stages/made_from.json")
    assert check_claim(folder / "run", Owner("net", recorded["source"], recorded["key"]))
    for file in sorted((folder / "run/stages").glob("*.json")):
        if file.name != "made_from.json":
            assert Stages(folder / "run")._document(file) == read_json(file)
