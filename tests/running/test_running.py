"""The whole pipeline on a small model: what it says and writes, what it redoes, and how it survives being stopped."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from edgecompress.devices.emulated.spec import is_installed
from edgecompress.errors import ExportError
from edgecompress.files import load_weights, read_json
from edgecompress.running import delivery
from edgecompress.running.claiming import bundle_name
from edgecompress.sources import resolve
from tests.processes import ROOT, Answer, command, interrupted, script

WANTED = {"accuracy", "cost", "artifacts", "comparison"}


TRAINING = ("--keep", "0.5", "--epochs", "2", "--lr", "0.05", "--distill", "0")
OPTIONS = (*TRAINING, "--seconds", "0.05", "--threads", "1", "--json")


def run_tiny(tiny_file: Path, folder: Path, *more: str) -> Answer:
    return command("run", tiny_file, *OPTIONS, "-o", folder, *more)


@pytest.fixture(scope="module")
def finished(tiny_file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    folder = tmp_path_factory.mktemp("run") / "out"
    answer = run_tiny(tiny_file, folder)
    assert answer.code == 0, answer.err
    return folder, json.loads(answer.out)


def test_the_document_holds_what_machines_want(finished: tuple[Path, dict[str, object]]) -> None:
    folder, document = finished
    assert set(document) >= WANTED
    accuracy, cost = document["accuracy"], document["cost"]
    assert set(accuracy) == {"dense", "decomposed", "finetuned", "artifact"}
    assert accuracy["artifact"] == pytest.approx(accuracy["finetuned"], abs=0.05)
    assert accuracy["finetuned"] > 80
    assert cost["compressed"]["macs"] <= 0.5 * cost["dense"]["macs"]
    assert [item["role"] for item in document["artifacts"]] == ["dense", "compressed"]
    for item in document["artifacts"]:
        assert {"target", "path", "size_bytes", "sha256", "max_abs_error", "sqnr_db"} <= set(item)
        assert (folder / item["path"]).stat().st_size == item["size_bytes"]
    assert {"speedup", "ci95", "verdict", "provenance"} <= set(document["comparison"])
    assert document["comparison"]["provenance"] == "measured"


def test_the_score_has_an_interval_and_the_layers_add_up_to_the_latency(
    finished: tuple[Path, dict[str, object]],
) -> None:
    folder, document = finished
    apart, accuracy = document["accuracy_difference"], document["accuracy"]
    assert apart["items"] == 200
    assert apart["difference"] == pytest.approx(accuracy["artifact"] - accuracy["dense"])
    assert apart["ci95"][0] <= apart["difference"] <= apart["ci95"][1]
    near = read_json(folder / "model.onnx.json")["approximation"]
    assert (near["dense_score"], near["score"]) == (accuracy["dense"], pytest.approx(accuracy["artifact"]))
    lost, won = apart["flips"]
    assert (won - lost) / 2 == pytest.approx(apart["difference"])
    assert len(read_json(folder / "report.json")["scored"]["compressed"]["right"]) < 50
    assert document["scored"] is None
    times = document["file_times"]
    for role, measured in (("dense", "baseline_latency"), ("compressed", "candidate_latency")):
        parts = [*(layer[role]["wall_ms"] for layer in document["layers"]), document["outside_layers"][role]]
        whole = document["comparison"][measured]["wall"]["p50"]
        assert sum(part or 0 for part in parts) + times["outside_operators"][role] == pytest.approx(whole, rel=0.02)
        assert all(layer[role]["bytes"] == 4 * layer[role]["params"] for layer in document["layers"])


def test_every_stage_is_on_disk(finished: tuple[Path, dict[str, object]]) -> None:
    folder, _ = finished
    names = {entry.name for entry in folder.iterdir()}
    assert {"plan.json", "decomposed", "model.json", "model.safetensors", "dense.onnx", "model.onnx"} <= names
    assert {"comparison.json", "report.json", "report.html", "bundle", "stages"} <= names
    assert not any(name.endswith((".partial", ".pt")) for name in names)
    assert read_json(folder / "report.json")["kind"] == "edgecompress.report"
    done = subprocess.run([sys.executable, "-I", str(folder / "bundle" / "run.py")], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def stamps(folder: Path) -> dict[str, int]:
    files = [file for file in folder.rglob("*") if file.is_file() and file.name != ".lock"]
    return {str(file.relative_to(folder)): file.stat().st_mtime_ns for file in files}


def test_a_second_run_redoes_nothing(tiny_file: Path, finished: tuple[Path, dict[str, object]]) -> None:
    folder, document = finished
    before = stamps(folder)
    again = run_tiny(tiny_file, folder)
    assert stamps(folder) == before
    assert json.loads(again.out) == document
    assert again.err == f"nothing was left to do: {folder} holds all of it, made with the same options\n"


def test_a_changed_option_redoes_only_what_depends_on_it(
    tiny_file: Path, tmp_path: Path, finished: tuple[Path, dict[str, object]]
) -> None:
    folder = shutil.copytree(finished[0], tmp_path / "out")
    before = stamps(folder)
    assert before == stamps(finished[0])
    assert run_tiny(tiny_file, folder, "--seconds", "0.06").code == 0
    changed = {name for name, stamp in stamps(folder).items() if before.get(name) != stamp}
    assert "comparison.json" in changed
    assert not {"plan.json", "model.safetensors", "model.onnx", "dense.onnx", "stages/decompose.json"} & changed


@pytest.mark.parametrize(
    ("name", "options", "at", "how", "code"),
    [
        ("run", OPTIONS, "fine-tune, epoch 2", signal.SIGINT, 130),
        pytest.param("compress", TRAINING, "fine-tune, epoch 1", signal.SIGKILL, -9, marks=pytest.mark.slow),
    ],
)
def test_a_stopped_training_goes_on_to_the_same_weights(
    tiny_file: Path,
    tmp_path: Path,
    finished: tuple[Path, dict[str, object]],
    name: str,
    options: tuple[str, ...],
    at: str,
    how: signal.Signals,
    code: int,
) -> None:
    stopped = interrupted(at, how, name, tiny_file, *options, "-o", tmp_path)
    assert stopped.code == code
    if how is signal.SIGINT:
        assert "interrupted; run and compress go on from where they were" in stopped.err
    answer = command("compress", tiny_file, *TRAINING, "-o", tmp_path)
    assert answer.code == 0, answer.err
    assert "score the dense" not in answer.err
    whole, resumed = (load_weights(folder / "model.safetensors") for folder in (finished[0], tmp_path))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_is_killed_or_loses_its_terminal_cleans_up(
    tiny_file: Path, tmp_path: Path, how: signal.Signals
) -> None:
    """What ends by an exception removes its half-written files and temporary folders, and ends its children."""
    stopped = interrupted("score the dense", how, "compress", tiny_file, *TRAINING, "-o", tmp_path)
    assert stopped.code == 128 + how, stopped.err
    assert "Traceback" not in stopped.err


@pytest.mark.slow
def test_a_run_stopped_while_measuring_goes_on_to_the_same_files(
    tiny_file: Path, tmp_path: Path, finished: tuple[Path, dict[str, object]]
) -> None:
    folder = shutil.copytree(finished[0], tmp_path / "out")
    for made in ("bundle", "profile", "report"):
        (folder / "stages" / f"{made}.json").unlink(missing_ok=True)
    for made in ("comparison.json", "report.json", "report.html", "report.md", "tried.json"):
        (folder / made).unlink()
    before = stamps(folder)
    stopped = interrupted("profile", signal.SIGKILL, "run", tiny_file, *OPTIONS, "-o", folder)
    assert stopped.code == -signal.SIGKILL
    assert not (folder / "report.json").exists()
    answer = run_tiny(tiny_file, folder)
    assert answer.code == 0, answer.err
    assert "score the dense" not in answer.err
    assert json.loads(answer.out)["comparison"]["verdict"]
    for name in ("model.safetensors", "dense.onnx", "model.onnx"):
        assert stamps(folder)[name] == before[name]
    assert (folder / "report.html").is_file()


def test_a_given_plan_is_used_and_no_data_means_no_training(tmp_path: Path) -> None:
    file = tmp_path / "dataless.py"
    file.write_text(
        "import torch\nfrom torch import nn\ntorch.manual_seed(0)\n"
        "model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32))\nexample = torch.randn(4, 64)\n"
    )
    made = command("plan", file, "--keep", "0.6", "-o", tmp_path / "plan.json", "--json")
    assert made.code == 0, made.err
    answer = command(
        "run",
        file,
        "--plan",
        tmp_path / "plan.json",
        "--seconds",
        "0.05",
        "--threads",
        "1",
        "-o",
        tmp_path / "out",
        "--json",
    )
    assert answer.code == 0, answer.err
    document = json.loads(answer.out)
    assert document["accuracy"] is None
    assert document["training"] is None
    assert read_json(tmp_path / "out" / "plan.json") == json.loads(made.out)


RELABELLED = """
import torch, pathlib
from torch.utils.data import TensorDataset
from words import SIGN
here = pathlib.Path(__file__).with_name("label.txt")
model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 2))
torch.manual_seed(0)
for parameter in model.parameters(): torch.nn.init.normal_(parameter, std=0.1)
example = torch.zeros(2, 64)
def data(split):
    inputs = torch.randn(64, 64, generator=torch.Generator().manual_seed(1))
    return TensorDataset(inputs, torch.full((64,), int(here.read_text())))
def score(outputs, targets):
    return SIGN * float((outputs.argmax(1) == targets).float().mean())
"""


def test_changed_labels_or_a_changed_neighbour_give_a_new_score(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(RELABELLED)
    seen = []
    for label, sign in (("0", "1"), ("1", "1"), ("1", "-1")):
        (tmp_path / "label.txt").write_text(label)
        (tmp_path / "words.py").write_text(f"SIGN = {sign}")
        answer = command("compress", tmp_path / "net.py", "--epochs", "0", "--json", "-o", tmp_path / "out")
        assert answer.code == 0, answer.err
        seen.append(json.loads(answer.out)["accuracy"]["dense"])
    assert seen[0] + seen[1] == pytest.approx(1)
    assert seen[2] == -seen[1]


CONSTANT_TEACHER = """
import torch
from constants import LOGITS
def model():
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(144, len(LOGITS)))
    torch.nn.init.zeros_(net[1].weight)
    net[1].bias.data = torch.tensor(LOGITS)
    return net
example = torch.zeros(1, 1, 12, 12)
"""


@pytest.fixture
def constant_teacher(tmp_path: Path) -> Path:
    """A model file with a neighbour: every image is of the class that ``constants.py`` says."""
    file = tmp_path / "teacher" / "teacher.py"
    file.parent.mkdir()
    file.write_text(CONSTANT_TEACHER)
    return file


@pytest.mark.slow
def test_fine_tuning_learns_from_another_teacher(tiny_file: Path, tmp_path: Path, constant_teacher: Path) -> None:
    model = tmp_path / "model" / "tiny.py"
    model.parent.mkdir()
    (model.parent / "classes.py").write_text("COUNT = 4")
    model.write_text(tiny_file.read_text().replace("count, seed =", "from classes import COUNT; count, seed ="))
    options = ["--epochs", "3", "--lr", "0.05", "--distill", "1", "--pick", "last", "--json", "-o", tmp_path / "out"]
    for favourite in range(2):
        (constant_teacher.parent / "constants.py").write_text(f"LOGITS = {[20.0 * (c == favourite) for c in range(4)]}")
        answer = command("compress", model, "--teacher", constant_teacher, *options)
        assert answer.code == 0, answer.err
        share = (resolve(str(model)).data("test")[:][1] == favourite).double().mean()
        assert json.loads(answer.out)["accuracy"]["finetuned"] == pytest.approx(100 * float(share))
    again = command("compress", model, "--teacher", constant_teacher, *options)
    assert "epoch" not in again.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--feature", "0.1"], "--feature compares layers with the dense model's"),
        (["--stages", "2"], "--portions compares layers"),
        (["--recipe", "orthogonal"], "recipe orthogonal learns from the dense model"),
        (["--distill", "0"], "--distill 0 learns from no teacher"),
        (["--epochs", "0"], "--epochs 0 trains nothing"),
    ],
)
def test_a_teacher_goes_without_what_needs_the_dense_model(
    tiny_file: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    answer = command("compress", tiny_file, "--teacher", tiny_file, *options, "-o", tmp_path / "out")
    assert answer.code == 2
    assert message in answer.err


def test_a_teacher_that_cannot_teach_is_refused(tiny_file: Path, tmp_path: Path, constant_teacher: Path) -> None:
    (constant_teacher.parent / "constants.py").write_text("LOGITS = [0.0] * 5")
    for teacher, message in (
        (constant_teacher, f"the teacher {constant_teacher} gives (2, 5) where tiny gives (2, 4)"),
        ("lenet5", "the teacher lenet5: does not run on its example of shape (2, 1, 12, 12)"),
        ("lenet6", "no model 'lenet6'; did you mean 'lenet5'?"),
    ):
        both = ("--teacher", tiny_file, "--teacher", teacher)
        answer = command("compress", tiny_file, *both, "-o", tmp_path / "out")
        assert answer.code == 2
        assert message in answer.err


def test_what_cannot_work_is_refused_before_any_work(tiny_file: Path, tmp_path: Path) -> None:
    answer = run_tiny(tiny_file, tmp_path / "out", "--device", "moon")
    assert answer.code == 4
    assert "fine-tune" not in answer.err
    small = tmp_path / "small"
    assert command("compress", tiny_file, "--epochs", "0", "-o", small).code == 0
    before = stamps(small)
    again = command("compress", small, "--trust", "--epochs", "0", "-o", small)
    assert again.code == 2
    assert "is the model itself" in again.err
    assert stamps(small) == before


@pytest.mark.slow
def test_a_full_disk_while_training_is_said(tiny_file: Path, tmp_path: Path) -> None:
    (tmp_path / "limited.py").write_text(
        "import resource, runpy, signal\nresource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nrunpy.run_module('edgecompress', run_name='__main__')\n"
    )
    arguments = ("run", tiny_file, *OPTIONS, "-o", tmp_path / "out")
    done = script(tmp_path / "limited.py", *arguments, cwd=tmp_path, places=[ROOT])
    assert done.code == 2, done.err
    assert "file too large; free some space" in done.err


@pytest.mark.slow
@pytest.mark.cifar10
def test_resnet20_at_half_the_macs_is_within_two_points(tmp_path: Path) -> None:
    answer = command("run", "resnet20", "--keep", "0.5", "--epochs", "2", "-o", tmp_path, "--json")
    accuracy = json.loads(answer.out)["accuracy"]
    assert accuracy["finetuned"] >= accuracy["dense"] - 2


@pytest.mark.skipif(not is_installed(), reason="needs the emulated device: edgecompress doctor --setup emulated")
@pytest.mark.slow
def test_a_run_on_an_emulated_core_tells_instructions_and_claims_no_time(
    tiny_file: Path, tmp_path: Path, finished: tuple[Path, dict[str, object]]
) -> None:
    folder = shutil.copytree(finished[0], tmp_path / "out")
    (folder / "tried.json").unlink()
    assert run_tiny(tiny_file, folder, "--device", "emulated:cortex-a76").code == 0
    document = read_json(folder / "report.json")
    assert document["comparison"]["instruction_ratio"] > 1
    assert document["comparison"]["verdict"] == "no claim"
    assert document["tried"][0]["wall_ms"] is None
    assert "verified on ARM" not in (folder / "report.html").read_text()
    gate = command("check", folder, "--min-speedup", "1.1", "--min-instruction-ratio", "1.0")
    assert gate.code == 1
    assert "instructions are no time" in gate.out


def test_the_only_bundle_has_no_name_of_its_own() -> None:
    assert bundle_name(("pi",), "pi") == "bundle"
    assert [bundle_name(("web", "pi"), name) for name in ("web", "pi")] == ["bundle_web", "bundle_pi"]


@pytest.mark.parametrize(("bad", "reason"), [("ncnn", None), ("onnx", "onnx: no"), ("both", "onnx: no")])
def test_of_several_targets_those_that_work_are_written_and_the_measured_one_must(
    bad: str, reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def exported(_pipeline: object, _role: str, target: str, _known: object) -> dict[str, str]:
        tried.append(target)
        if bad in (target, "both"):
            raise ExportError(f"{target}: no")
        return {"file": f"dense.{target}"}

    monkeypatch.setattr(delivery, "_exported", exported)
    options = SimpleNamespace(platforms=("pi",), targets=("onnx", "ncnn", "ort"))
    pipeline: Any = SimpleNamespace(options=options)
    if reason is None:
        made = delivery._all_exported(pipeline, "dense", None)
        assert made == {"onnx": {"file": "dense.onnx"}, "ncnn": {"failed": "ncnn: no"}, "ort": {"file": "dense.ort"}}
    else:
        with pytest.raises(ExportError, match=reason):
            delivery._all_exported(pipeline, "dense", None)
    assert tried == ["onnx", "ncnn", "ort"]
