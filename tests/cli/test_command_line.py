"""Every command: its answer, its JSON, and what it says to wrong input, with the right exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import click
import pytest
import torch

from edgecompress.cli import group
from edgecompress.cli.commands import ALL
from edgecompress.cli.fields import offered, options_of
from edgecompress.codecs import CODECS
from edgecompress.decompositions import DECOMPOSITIONS
from edgecompress.files import read_json, write_json
from edgecompress.recipes import RECIPES
from edgecompress.selectors import SELECTORS, Budget, Continuous, Energy
from edgecompress.settings import Effort, ExportOptions, FineTuning, Scope, Storage
from edgecompress.targets import TARGETS
from tests import reports
from tests.covering import slow
from tests.processes import command, fresh_command

COMMANDS = sorted(group.commands)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LeNet-5, dense and exported."""
    folder = tmp_path_factory.mktemp("exported")
    answer = command("export", "lenet5", "--target", "onnx", "-o", folder)
    assert answer.code == 0, answer.err
    assert "model.onnx" in answer.out
    return folder


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name: str) -> None:
    found = group.commands[name]
    assert found.help
    assert found.epilog is not None
    assert found.epilog.startswith("Example: edgecompress")
    text = found.get_help(click.Context(found, info_name=name))
    without = {"inspect", "verify", "compare", "check", "report", "list", "timings", "doctor", "init"}
    assert "-o" in text or name in without


def test_help_is_quick_and_does_not_import_torch() -> None:
    """By CPU time: other work on the machine does not count."""
    times = []
    for _ in range(3):
        start = os.times()
        answer = fresh_command("--help")
        end = os.times()
        times.append(end.children_user + end.children_system - start.children_user - start.children_system)
    assert answer.code == 0
    assert all(name in answer.out for name in COMMANDS)
    assert min(times) < 0.4


NAMING_IMPORTS_NOTHING_HEAVY = """
import sys
from click import Context
from click.shell_completion import ShellComplete
from edgecompress.cli import group, run_command_line
for name, command in group.commands.items():
    assert run_command_line([name, "--help"]) == 0
    if "--help-all" in command.get_help(Context(command)):
        assert run_command_line([name, "--help-all"]) == 0
complete = ShellComplete(group, {}, "edgecompress", "_EDGECOMPRESS_COMPLETE")
known = {"compress": ([], "comp"), "--penalty": (["run"], "--pen"), "ort": (["run", "--target"], "o")}
for found, (words, start) in known.items():
    assert found in [item.value for item in complete.get_completions(words, start)]
assert "torch" not in sys.modules
"""


def test_neither_help_nor_completion_imports_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", NAMING_IMPORTS_NOTHING_HEAVY], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_old_spellings_are_accepted_and_not_shown() -> None:
    found = group.commands["run"]
    old = ["--stages", "2", "--calibration", "5", "--batch", "7", "--recipe", "plain"]
    given = found.make_context("run", ["lenet5", "-o", "x", *old]).params
    assert (given["portions"], given["calibrate"], given["batch_size"], given["recipe"]) == (2, 5, 7, "none")
    with click.Context(found, info_name="run") as context:
        context.meta[ALL] = True
        text = found.get_help(context)
    assert not any(
        spelling in text.replace("--batch-size", "") for spelling in ("--stages", "--calibration", "--batch")
    )
    assert all(option in text for option in ("--portions", "--calibrate", "--batch-size", "--lasso"))


@pytest.mark.parametrize("cls", [Scope, FineTuning, Storage, ExportOptions, Effort, Budget, Energy, Continuous])
def test_a_default_is_a_value_that_its_option_takes(cls: type) -> None:
    made = {own.name: own for own in options_of(cls)(lambda: None).__click_params__}
    for field, info in offered(cls):
        if info.filled_by or (info.usual and not field.default) or field.default in ((), None):
            continue
        own = made[info.name or field.name]
        assert own.type(str(field.default)) == field.default, field.name
        assert own.help.startswith(info.help)


def test_each_entry_of_a_table_has_its_name_and_one_line_for_people() -> None:
    for table in (DECOMPOSITIONS, CODECS, SELECTORS, RECIPES, TARGETS):
        assert {name: entry.name for name, entry in table.items()} == {name: name for name in table}
        assert all(entry.summary for entry in table.values())


@pytest.mark.usefixtures("brief_measuring")
def test_inspect_says_who_can_decompose_what_and_measures_int8() -> None:
    document = json.loads(command("inspect", "lenet5", "--json").out)
    assert document["reach"]["reachable_layers"] == 4
    assert document["int8"]["comparison"]["provenance"] == "measured"
    assert document["int8"]["size_bytes_int8"] < 0.3 * document["int8"]["size_bytes_fp32"]
    assert document["cost"] == {"params": 431_080, "macs": 2_293_000, "flops": 4_586_000, "weight_bytes": 1_724_320}
    methods = {layer["name"]: layer["methods"] for layer in document["layers"]}
    everything = ["svd", "spatial_svd", "tucker2", "hierarchical_tucker2", "cp3", "cp4"]
    matrix = ["svd", "tensor_train"]
    assert methods == {"conv1": everything, "conv2": everything, "fc1": matrix, "fc2": matrix}


def test_plan_is_printed_and_written(tmp_path: Path) -> None:
    arguments = ("plan", "resnet20", "--keep", "0.9", "--calibrate", "0", "--include", "layer2.*")
    answer = command(*arguments, "--why", "-o", tmp_path / "plan.json")
    assert answer.code == 0
    assert "layer1.0.conv1" in answer.out
    assert "the budget is met at less loss" in answer.out
    assert "Not chosen, each at its MACs nearest to the planned ones" in answer.out
    assert "of the planned" in answer.out
    plan = read_json(tmp_path / "plan.json")
    assert plan["planned"]["macs"] <= 0.9 * plan["dense"]["macs"]
    again = command(*arguments, "--json")
    assert json.loads(again.out) == plan


def test_plan_by_energy() -> None:
    plan = json.loads(command("plan", "lenet300", "--select", "energy", "--energy", "0.8", "--json").out)
    assert plan["layers"]
    assert all(layer["error"] <= 0.2 for layer in plan["layers"])


def test_compress_makes_a_folder_that_is_a_model(tiny_file: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    answer = command("compress", tiny_file, "--keep", "0.5", "--epochs", "1", "-o", small, "--json")
    document = json.loads(answer.out)
    assert document["cost"]["compressed"]["macs"] <= 0.5 * document["cost"]["dense"]["macs"]
    stranger = {"XDG_STATE_HOME": str(tmp_path / "stranger")}
    assert command("inspect", small, env=stranger).code == 2
    for trust, env in (([], {}), (["--trust"], stranger)):
        inspected = command("inspect", small, *trust, "--json", env=env)
        assert json.loads(inspected.out)["cost"]["macs"] == document["cost"]["compressed"]["macs"]
    exported = command("export", small, "-o", tmp_path / "out")
    assert exported.code == 0, exported.err
    assert "add --trust" in command("verify", tmp_path / "out").err  # an exported file bears no seal
    verified = command("verify", tmp_path / "out", "--model", tiny_file, "--trust", "--json")
    score = json.loads(verified.out)["verified"][0]["score"]
    assert score["artifact"] == pytest.approx(document["accuracy"]["finetuned"], abs=0.05)
    assert command("export", small, "--trust", "--merge", "*", "-o", tmp_path / "merged").code == 0
    macs = read_json(tmp_path / "merged" / "model.onnx.json")["cost"]["macs"]
    assert macs == document["cost"]["dense"]["macs"]
    assert command("export", small, "--trust", "--merge", "typo", "-o", tmp_path / "merged").code == 2
    assert command("export", "lenet5", "--merge", "*", "-o", tmp_path / "merged").code == 2


def test_verify_profile_and_bundle_take_what_export_wrote(exported: Path, tmp_path: Path) -> None:
    verified = json.loads(command("verify", exported, "--model", "lenet5", "--json").out)["verified"]
    assert verified[0]["score"]["artifact"] > 98
    few = json.loads(command("verify", exported, "--score-items", 30, "--json").out)["verified"]
    assert few[0]["score"]["items"] == 30 < verified[0]["score"]["items"]
    model = exported / "model.onnx"
    measured = command(
        "profile", model, "--baseline", model, "--seconds", "0.1", "--threads", "1", "-o", tmp_path / "p.json", "--json"
    )
    document = json.loads(measured.out)
    assert document["comparison"]["verdict"] in {"no claim", "faster", "slower"}
    assert read_json(tmp_path / "p.json") == document
    beside = command("compare", tmp_path / "p.json", tmp_path / "p.json")
    assert beside.code == 0
    assert "measured one after the other" in beside.out
    bundled = command("bundle", model, "--platform", "pi", "-o", tmp_path / "app")
    assert bundled.code == 0
    assert (tmp_path / "app" / "run.py").is_file()


def test_what_a_model_file_prints_is_not_in_the_document(tmp_path: Path) -> None:
    (tmp_path / "talks.py").write_text(
        "import torch\nprint('hello')\nmodel, example = torch.nn.Linear(3, 2), torch.zeros(1, 3)\n"
    )
    answer = command("inspect", tmp_path / "talks.py", "--json")
    assert json.loads(answer.out)["cost"]["params"] == 8
    assert "hello" in answer.err


def test_verify_runs_no_code_that_a_file_names(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "evil.py").write_text("raise SystemExit('the code ran')")
    for file in exported.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    facts = tmp_path / "model.onnx.json"
    facts.write_text(facts.read_text().replace('"source": "lenet5"', f'"source": "{tmp_path / "evil.py"}"'))
    answer = command("verify", tmp_path)
    assert answer.code == 2
    assert "whose code must run to rebuild it; add --trust" in answer.err
    assert "the code ran" not in answer.err


def test_compare_refuses_different_circumstances_unless_told_to(tmp_path: Path) -> None:
    made = reports.profile("model.onnx", 100_000, 1.0)
    for threads in (1, 2):
        replace(made, threads=threads).save(tmp_path / f"{threads}.json")
    answer = command("compare", tmp_path / "1.json", tmp_path / "2.json")
    assert answer.code == 2
    assert "threads is 1 in one and 2 in the other; --anyway" in answer.err
    told = command("compare", tmp_path / "1.json", tmp_path / "2.json", "--anyway")
    assert told.code == 0
    assert "different threads: 1 and 2" in told.out


def test_check_is_a_gate(tmp_path: Path) -> None:
    write_json(tmp_path / "report.json", reports.document())
    missed = command("check", tmp_path / "report.json", "--min-speedup", "5", "--max-size-mb", "1")
    assert missed.code == 1
    assert "| speed-up | at least 5x | 1.25x (95 % interval 1.23 to 1.27) | **missed** by 3.75x |" in missed.out
    assert "| file size | at most 1.000 MB | 617.7 kB | met |" in missed.out
    met = command("check", tmp_path, "--max-acc-drop", "2", "--json")
    assert met.code == 0
    assert json.loads(met.out)["met"] is True
    assert command("check", tmp_path).code == 2
    assert command("check", tmp_path / "none.json", "--min-speedup", "2").code == 2


@pytest.mark.parametrize("what", ["methods", "selectors", "targets", "devices", "sources", "platforms", "samples"])
def test_list(what: str) -> None:
    entries = json.loads(command("list", what, "--json").out)[what]
    assert entries
    shown = command("list", what).out
    assert all(name in shown for name in entries)


def test_doctor_finds_everything_here() -> None:
    answer = command("doctor", "--json")
    assert answer.code == 0
    document = json.loads(answer.out)
    assert document["ok"]
    assert {"torch", "onnxruntime", "sample resnet56"} <= {check["name"] for check in document["checks"]}


def test_output_is_plain_text_where_it_is_no_terminal() -> None:
    answer = command("list", "samples")
    assert "\x1b" not in answer.out + answer.err


def bad_files(folder: Path, exported: Path) -> None:
    """One file of each kind of wrong input."""
    (folder / "empty.py").write_text("x = 1\n")
    (folder / "wrong.py").write_text(
        "import torch\nfrom torch import nn\nmodel = nn.Linear(3, 2)\nexample = torch.zeros(1, 5)\n"
    )
    (folder / "cut.onnx").write_bytes((exported / "model.onnx").read_bytes()[:9000])
    pickled = folder / "pickled"
    pickled.mkdir()
    (pickled / "model.json").write_text(
        '{"kind": "edgecompress.model", "version": 1, "name": "lenet300", "source": "lenet300"}'
    )
    plan = command("plan", "lenet300", "--keep", "0.5", "--json").out
    (pickled / "plan.json").write_text(plan)
    (folder / "plan300.json").write_text(plan)
    torch.save({"a": torch.ones(1)}, pickled / "model.safetensors")
    (folder / "file").write_text("in the way")


WRONG = {
    "unknown sample": (["run", "lenet6", "-o", "x"], 2, "no model 'lenet6'; did you mean 'lenet5'?"),
    "file without a model": (["export", "empty.py", "-o", "x"], 2, "empty.py: defines no 'model'"),
    "missing file": (["export", "none.py", "-o", "x"], 2, "none.py: no such file"),
    "model that does not run": (["run", "wrong.py", "-o", "x"], 2, "does not run on its example of shape (1, 5)"),
    "keep 0": (["run", "lenet5", "--keep", "0", "-o", "x"], 2, "0.0 is not in the range 0<x<=1"),
    "keep 2": (["run", "lenet5", "--keep", "2", "-o", "x"], 2, "2.0 is not in the range 0<x<=1"),
    "budget out of reach": (
        ["plan", "lenet5", "--keep", "0.001"],
        1,
        "cannot be reached: the smallest candidates keep",
    ),
    "energy with budget": (["plan", "lenet5", "--energy", "0.5"], 2, "--energy belongs to --select energy"),
    "plan for another model": (
        ["compress", "lenet5", "--plan", "plan300.json", "-o", "x"],
        2,
        "the plan is for another model (lenet300)",
    ),
    "plan and keep": (
        ["compress", "lenet5", "--plan", "plan300.json", "--keep", "0.5", "-o", "x"],
        2,
        "--plan already",
    ),
    "nan": (["run", "lenet5", "--lr", "nan", "-o", "x"], 2, "nan is not a finite number"),
    "a colon": (["inspect", ":"], 2, "cannot import ''"),
    "plan and method": (["run", "lenet5", "--plan", "plan300.json", "--method", "svd", "-o", "x"], 2, "drop --method"),
    "truncated onnx": (["profile", "cut.onnx"], 2, "cut.onnx: not a whole ONNX model"),
    "bundle of a stray file": (["bundle", "cut.onnx", "-o", "x"], 2, "cut.onnx.json is not beside it"),
    "verify of nothing": (["verify", "pickled"], 2, "holds no exported file"),
    "pickle for safetensors": (["export", "pickled", "-o", "x"], 2, "a pickle, which can run code when opened"),
    "output is a file": (["export", "lenet5", "-o", "file/below"], 2, "cannot write to file/below"),
    "report of nothing": (["report", "pickled"], 2, "report.json: no such file"),
    "unknown device": (["profile", "cut.onnx", "--device", "moon"], 4, "no device 'moon'; there are local"),
    "unknown target": (["export", "lenet5", "--target", "tflite", "-o", "x"], 2, "'tflite' is not one of 'onnx'"),
    "unknown command": (["comprss", "lenet5"], 2, "No such command 'comprss'"),
}


@pytest.fixture(scope="module")
def wrong_inputs(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wrong")
    bad_files(folder, exported)
    return folder


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_one_clear_message_and_the_right_code(name: str, wrong_inputs: Path) -> None:
    arguments, code, says = WRONG[name]
    before = sorted(path.name for path in wrong_inputs.rglob("*"))
    answer = command(*arguments, cwd=wrong_inputs)
    assert says in answer.err
    assert answer.code == code
    assert answer.out == ""
    made = {path.name for path in wrong_inputs.rglob("*")} - set(before)
    assert not any(name.endswith((".onnx", ".safetensors", ".partial")) for name in made), made


@pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full, the device that is always full")
@pytest.mark.slow
def test_a_full_disk_is_said() -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123 - the device, not a path of ours
        done = subprocess.run(
            [sys.executable, "-m", "edgecompress", "list", "samples", "--json"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert "no space left on device" in done.stderr
    assert "Traceback" not in done.stderr


def test_missing_data_says_what_to_put_where(tmp_path: Path) -> None:
    answer = command("run", "resnet20", "-o", tmp_path / "x", env={"EDGECOMPRESS_DATA": str(tmp_path)})
    assert answer.code == 2
    assert "cifar-10-batches-bin" in answer.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--recipe", "continuous", "--keep", "0.3"], "finds the ranks itself: drop --keep"),
        (["--recipe", "ordered", "--select", "vbmf"], "use --keep, not --select"),
        (["--recipe", "ordered", "--method", "tucker2"], "trains svd chains only"),
        (["--recipe", "orthogonal", "--lasso", "1"], "--lasso belongs to --recipe ordered"),
        (["--penalty", "1"], "--penalty belongs to --recipe orthogonal"),
        (["--beta", "2"], "--beta belongs to --select continuous"),
        (["--recipe", "orthogonall"], "orthogonal"),
        (["--ema", "1"], "--ema"),
        (["--recipe", "orthogonal", "--method", "cp3"], "no orthogonal form 'cp3'"),
    ],
)
def test_options_of_another_recipe_are_refused(
    tiny_file: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    answer = command("compress", tiny_file, *options, "-o", tmp_path / "out")
    assert answer.code == 2
    assert message in answer.err


@pytest.mark.parametrize("recipe", ["ordered", *slow(["orthogonal", "continuous"])])
def test_a_recipe_makes_a_folder_that_is_a_model(tiny_file: Path, tmp_path: Path, recipe: str) -> None:
    options = ["--recipe", recipe, "--epochs", "2", "--lr", "0.05", "--distill", "0", "--json"]
    answer = command("compress", tiny_file, *options, "-o", tmp_path / "out")
    assert answer.code == 0, answer.err
    document = json.loads(answer.out)
    assert document["recipe"]["name"] == recipe
    assert document["cost"]["compressed"]["macs"] < document["cost"]["dense"]["macs"]
    assert document["accuracy"]["finetuned"] > 50
    assert command("inspect", tmp_path / "out", "--trust").code == 0
    again = command("compress", tiny_file, *options, "-o", tmp_path / "out")
    assert json.loads(again.out) == document
    assert "epoch" not in again.err
