"""No command replaces what it did not write: a file of another kind, another model's, a folder, a link, a device."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from edgecompress.cli import run_command_line
from edgecompress.errors import FileError
from edgecompress.files import read_json, write_json
from edgecompress.running.locking import locked
from tests import reports

PLAN = ("plan", "lenet300", "--keep", "0.5", "--calibrate", "0")
OF_A_KIND = {
    "model.py": "def model(): ...",
    "weights.safetensors": "weights",
    "empty": "",
    "notes.json": '{"kind": "notes"}',
    "list.json": "[1]",
    "report.json": '{"kind": "edgecompress.report", "version": 2}',
    "model.json": '{"kind": "edgecompress.model", "version": 1}',
    "broken.json": '{"kind": "edgecompress.plan"',
    "profile.json": '{"kind": "edgecompress.profile", "version": 2}',
}


@pytest.fixture
def says(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """A command as a function: exit code, and what it said to stderr in one line."""

    def run(*arguments: str | Path) -> tuple[int, str]:
        capfd.readouterr()
        code = run_command_line([str(argument) for argument in arguments])
        said = capfd.readouterr().err
        if code:
            assert said.strip().splitlines()[-1].startswith(("error: ", "Error: ")), said
            assert "unexpected" not in said
        return code, said

    return run


Says = Callable[..., tuple[int, str]]


@pytest.mark.parametrize("name", OF_A_KIND)
@pytest.mark.parametrize("command", ["plan", "profile"])
def test_a_file_of_another_kind_is_left_alone(command: str, name: str, tmp_path: Path, says: Says) -> None:
    file = tmp_path / name
    file.write_text(OF_A_KIND[name])
    arguments = PLAN if command == "plan" else ("profile", tmp_path / "none.onnx")
    code, said = says(*arguments, "-o", file)
    assert code == 2
    assert f"{file}: is there and is no {command} that edgecompress wrote" in said
    assert "--force" in said
    assert file.read_text() == OF_A_KIND[name]


def test_a_plan_replaces_a_plan_and_anything_by_force(tmp_path: Path, says: Says) -> None:
    code, said = says(*PLAN, "-o", tmp_path / "new" / "plan.json")
    assert code == 0
    assert f"new folder: {tmp_path / 'new'}" in said
    code, said = says(*PLAN[:3], "0.4", *PLAN[4:], "-o", tmp_path / "new" / "plan.json")
    assert code == 0
    assert "new folder" not in said
    kept = read_json(tmp_path / "new" / "plan.json")["planned"]["macs"]
    assert kept <= 0.4 * 266_200
    (tmp_path / "notes").write_text("mine")
    assert says(*PLAN, "-o", tmp_path / "notes", "--force")[0] == 0
    assert read_json(tmp_path / "notes")["kind"] == "edgecompress.plan"


def test_what_a_command_reads_is_not_written_even_by_force(tiny_file: Path, tmp_path: Path, says: Says) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(tiny_file.read_text())
    (tmp_path / "link.py").symlink_to(mine)
    os.link(mine, tmp_path / "hard.py")
    for output in (mine, tmp_path / "link.py", tmp_path / "hard.py", tmp_path / "." / "mine.py"):
        code, said = says("plan", f"{mine}:model", "--calibrate", "0", "-o", output, "--force")
        assert code == 2
        assert "is what the command reads" in said
    assert mine.read_text() == tiny_file.read_text()
    for output in ("a.onnx", "a.onnx.json", "b.onnx.golden.npz"):
        (tmp_path / output).write_text("mine")
        arguments = ("profile", tmp_path / "a.onnx", "--baseline", tmp_path / "b.onnx")
        code, said = says(*arguments, "-o", tmp_path / output, "--force")
        assert code == 2
        assert "is what the command reads" in said


def test_the_plan_of_a_compressed_folder_is_left_alone(tmp_path: Path, says: Says) -> None:
    write_json(tmp_path / "model.json", {"kind": "edgecompress.model"})
    write_json(tmp_path / "plan.json", {"kind": "edgecompress.plan"})
    code, said = says(*PLAN, "-o", tmp_path / "plan.json")
    assert code == 2
    assert "belongs to the compressed model there" in said


def no_files(folder: Path) -> dict[str, Path]:
    """What is there but no file that may be written."""
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")
    (folder / "plan.json").write_text('{"kind": "edgecompress.plan"}')
    (folder / "link").symlink_to(folder / "plan.json")
    (folder / "dangling").symlink_to(folder / "none")
    (folder / "loop").symlink_to(folder / "loop")
    places = {name: folder / name for name in ("folder", "pipe", "link", "dangling", "loop")}
    return places | {
        "below a file": folder / "plan.json" / "x",
        "device": Path("/dev/null"),
        "no place": Path("/proc/x/y"),
    }


@pytest.mark.parametrize("force", [(), ("--force",)])
@pytest.mark.parametrize("command", [PLAN, ("profile", "none.onnx")])
def test_only_regular_files_are_written(
    command: tuple[str, ...], force: tuple[str], tmp_path: Path, says: Says
) -> None:
    for name, place in no_files(tmp_path).items():
        if force and place.is_symlink():
            continue
        code, said = says(*command, "-o", place, *force)
        assert code == 2, name
        assert str(place.parent if name in ("below a file", "no place") else place) in said, name
    assert Path("/dev/null").is_char_device()
    assert (tmp_path / "plan.json").read_text() == '{"kind": "edgecompress.plan"}'
    for name in ("", " ", "-"):
        code, said = says(*command, "-o", name, *force)
        assert code == 2
        assert "Invalid value for '-o'" in said


def test_a_link_is_replaced_by_force_and_what_it_leads_to_is_not(tmp_path: Path, says: Says) -> None:
    (tmp_path / "target").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    assert says(*PLAN, "-o", tmp_path / "link", "--force")[0] == 0
    assert (tmp_path / "target").read_text() == "mine"
    assert not (tmp_path / "link").is_symlink()


# -- folders -----------------------------------------------------------------------------------------------------------

NET = """
import torch
def model():
    torch.manual_seed({seed})
    return torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, {outputs}))
def example(): return torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
"""
BRIEFLY = ("--epochs", "0", "--multiple", "1", "--of", "params", "--keep")


@pytest.fixture
def net(tmp_path: Path) -> Path:
    """A small model file without data."""
    file = tmp_path / "net.py"
    file.write_text(NET.format(seed=0, outputs=8))
    return file


REFUSED = {
    "run": ("lenet300", "--target", "litert"),
    "compress": ("lenet300", "--method", "svd", "--keep", "0.001"),
    "export": ("lenet300", "--target", "litert"),
    "bundle": ("none.onnx",),
}


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("command", REFUSED)
def test_a_refused_command_leaves_no_folder_that_was_not_there(
    command: str, there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: Says
) -> None:
    monkeypatch.setattr("edgecompress.targets.child_converter.installed", lambda name: "" if "litert" in name else "1")
    out = tmp_path / "new" / "out"
    if there:
        out.mkdir(parents=True)
    code, said = says(command, *REFUSED[command], "-o", out)
    assert code
    assert "new folder" not in said
    assert out.is_dir() == (tmp_path / "new").is_dir() == there


@pytest.mark.parametrize("error", [KeyboardInterrupt, FileError])
def test_what_ends_before_anything_is_written_leaves_no_new_folder(error: type[BaseException], tmp_path: Path) -> None:
    with pytest.raises(error), locked(tmp_path / "a" / "b"):
        raise error("ended")
    assert list(tmp_path.iterdir()) == []
    with locked(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "result").touch()
    assert sorted(file.name for file in (tmp_path / "a" / "b").iterdir()) == [".lock", "result"]


def test_a_plan_that_fails_leaves_no_new_folder(tmp_path: Path, says: Says) -> None:
    code, said = says("plan", "lenet300", "--method", "svd", "--keep", "0.001", "-o", tmp_path / "a" / "b" / "p.json")
    assert code
    assert "new folder" not in said
    assert list(tmp_path.iterdir()) == []


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    found = (file for file in sorted(folder.rglob("*")) if file.is_file() and file.name != ".lock")
    return {str(file.relative_to(folder)): file.read_bytes() for file in found}


def test_another_models_result_is_replaced_only_by_force(net: Path, tmp_path: Path, says: Says) -> None:
    out, other = tmp_path / "out", tmp_path / "others" / "other.py"
    other.parent.mkdir()
    other.write_text(NET.format(seed=1, outputs=9))
    code, said = says("compress", net, *BRIEFLY, "0.5", "-o", out)
    assert code == 0, said
    assert f"new folder: {out}" in said
    before = contents(out)
    code, said = says("compress", other, *BRIEFLY, "0.5", "-o", out)
    assert code == 2
    assert f"{out}: holds net ({net}), compressed; this is other ({other}): choose another folder" in said
    assert contents(out) == before
    code, said = says("compress", net, *BRIEFLY, "0.5", "-o", out)  # the same command redoes nothing
    assert code == 0, said
    assert contents(out) == before
    assert says("compress", net, *BRIEFLY, "0.6", "-o", out)[0] == 0  # another plan of the same model
    (out / "notes.txt").write_text("mine")
    (out / "decomposed" / "notes.txt").write_text("mine")
    code, said = says("compress", other, *BRIEFLY, "0.5", "-o", out, "--force")
    assert code == 0, said
    assert read_json(out / "model.json")["source"] == str(other)
    assert [(out / place / "notes.txt").read_text() for place in (".", "decomposed")] == ["mine", "mine"]


def test_a_folder_with_what_is_read_is_not_written_to(net: Path, tmp_path: Path, says: Says) -> None:
    out = tmp_path / "out"
    assert says("compress", net, *BRIEFLY, "0.5", "-o", out)[0] == 0
    again = tmp_path / "again"
    assert says("compress", out / "decomposed", "--trust", *BRIEFLY, "0.9", "-o", again)[0] == 0
    before = contents(out)
    for model in (out / "decomposed", again):
        code, said = says("compress", model, "--trust", *BRIEFLY, "0.9", "-o", out, "--force")
        assert code == 2
        assert f"{out}: holds the model {out / 'decomposed'} itself" in said
    assert contents(out) == before


def test_a_model_that_was_moved_or_trained_on_keeps_its_folder(net: Path, tmp_path: Path, says: Says) -> None:
    out = tmp_path / "out"
    assert says("compress", net, *BRIEFLY, "0.5", "-o", out)[0] == 0
    net.write_text(NET.format(seed=2, outputs=8))
    assert says("compress", net, *BRIEFLY, "0.5", "-o", out)[0] == 0
    (tmp_path / "moved").mkdir()
    moved = net.rename(tmp_path / "moved" / "net.py")
    assert says("compress", moved, *BRIEFLY, "0.5", "-o", out)[0] == 0
    moved.write_text(NET.format(seed=3, outputs=8))
    there = moved.rename(net)
    assert says("compress", there, *BRIEFLY, "0.5", "-o", out)[0] == 2


def test_a_folder_of_an_older_release_is_known_by_its_model_file(net: Path, tmp_path: Path, says: Says) -> None:
    out = tmp_path / "out"
    assert says("compress", net, *BRIEFLY, "0.5", "-o", out)[0] == 0
    (out / "stages" / "made_from.json").unlink()
    assert says("compress", net, *BRIEFLY, "0.5", "-o", out)[0] == 0
    (out / "stages" / "made_from.json").unlink()
    code, said = says("compress", "lenet300", *BRIEFLY, "0.5", "--calibrate", "0", "-o", out)
    assert code == 2
    assert "holds net" in said


FOREIGN = {
    "model.safetensors": "my trained weights",
    "model.ectk": "mine",
    "checkpoint.pt": "my training",
    "recipe.pt": "mine",
    "portion-1.pt": "mine",
    "plan.json": '{"kind": "mine"}',
    "model.json": '{"layers": 3}',
    "comparison.json": "{}",
    "report.json": "[]",
    "report.html": "<html>mine</html>",
    "report.md": "# mine",
    "tried.json": "{}",
    "stages/plan.json": '{"stages": 3}',
    "decomposed/weights.bin": "mine",
    "trained/best.pt": "mine",
}


@pytest.mark.parametrize("name", FOREIGN)
def test_files_in_a_folder_that_no_run_made_are_left_alone(name: str, net: Path, tmp_path: Path, says: Says) -> None:
    out = tmp_path / "mine"
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text(FOREIGN[name])
    code, said = says("compress", net, *BRIEFLY, "0.5", "-o", out)
    assert code == 2
    assert f"{out / name.partition('/')[0]}" in said
    assert "is there and is no" in said
    assert contents(out) == {name: FOREIGN[name].encode()}


RUN = {
    "dense.onnx": "mine",
    "dense.onnx.json": "{}",
    "model.onnx": "mine",
    "model.onnx.golden.npz": "mine",
    "model.onnx.profile.json": '{"kind": "mine"}',
    "bundle/app.py": "mine",
}


@pytest.mark.parametrize("name", RUN)
def test_run_looks_for_what_is_in_the_way_before_any_work(name: str, net: Path, tmp_path: Path, says: Says) -> None:
    out = tmp_path / "mine"
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text(RUN[name])
    code, said = says("run", net, *BRIEFLY, "0.5", "-o", out)
    assert code == 2
    assert str(out / name) in said or f"{out / 'bundle'}: holds 'app.py', which no bundle put there" in said
    assert contents(out) == {name: RUN[name].encode()}


def test_links_out_of_a_folder_are_not_followed(net: Path, tmp_path: Path, says: Says) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "model.safetensors").write_text("mine")
    for name in ("stages", "decomposed", "trained", "bundle"):
        out = tmp_path / f"with_{name}"
        out.mkdir()
        (out / name).symlink_to(tmp_path / "elsewhere")
        code, said = says("compress", net, *BRIEFLY, "0.5", "-o", out, "--force")
        assert code == 2
        assert f"{out / name}: is a symbolic link, which is not followed" in said
    assert contents(tmp_path / "elsewhere") == {"model.safetensors": b"mine"}


def test_a_folder_that_is_none_is_said(net: Path, tmp_path: Path, says: Says) -> None:
    (tmp_path / "dangling").symlink_to(tmp_path / "none")
    for output in (net, tmp_path / "dangling", "/proc/none", "/dev/null", ""):
        for command in (("compress", net, *BRIEFLY, "0.5"), ("export", net)):
            code, said = says(*command, "-o", output)
            assert code == 2
            assert str(output) in said
    assert net.read_text() == NET.format(seed=0, outputs=8)


# -- exported files, bundles and reports -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with net.py, and what it was exported to in ``out``."""
    folder = tmp_path_factory.mktemp("exported")
    (folder / "net.py").write_text(NET.format(seed=0, outputs=8))
    assert run_command_line(["export", str(folder / "net.py"), "-o", str(folder / "out")]) == 0
    return folder


@pytest.fixture
def out(exported: Path, tmp_path: Path) -> Path:
    """A copy of the exported files."""
    return shutil.copytree(exported / "out", tmp_path / "out")


BESIDE = {
    "model.onnx": (),
    "model.onnx.json": (),
    "model.onnx.golden.npz": (),
    "model.onnx.profile.json": (),
    "model.int8.onnx": ("--quantize", "int8"),
    "model.xml": ("--target", "openvino"),
    "model.bin": ("--target", "openvino"),
    "model.ncnn.bin": ("--target", "onnx", "--target", "ncnn"),
    "model.ort": ("--target", "ort"),
    "model.required_operators_and_types.config": ("--target", "ort"),
    "model.with_runtime_opt.ort": ("--target", "ort"),
}


@pytest.mark.parametrize("name", BESIDE)
def test_export_leaves_files_alone_that_it_did_not_write(name: str, net: Path, tmp_path: Path, says: Says) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).write_text("mine")
    code, said = says("export", net, *BESIDE[name], "-o", tmp_path / "mine")
    assert code == 2
    assert f"{tmp_path / 'mine' / name}: is there and is no file that edgecompress wrote" in said
    assert contents(tmp_path / "mine") == {name: b"mine"}


def test_export_replaces_its_own_file_unchanged_of_the_same_model(
    exported: Path, out: Path, net: Path, says: Says
) -> None:
    before = contents(out)
    code, said = says("export", net, "-o", out)
    assert code == 2
    assert f"was exported from {exported / 'net.py'}, this is {net}" in said
    (out / "model.onnx").write_bytes(before["model.onnx"] + b"\0")
    code, said = says("export", exported / "net.py", "-o", out)
    assert code == 2
    assert "model.onnx: is there and is no file that edgecompress wrote" in said
    (out / "model.onnx").unlink()
    (out / "model.onnx").mkdir()
    code, said = says("export", exported / "net.py", "-o", out, "--force")
    assert code == 2
    assert "model.onnx: is a folder" in said
    (out / "model.onnx").rmdir()
    code, said = says("export", exported / "net.py", "-o", out)
    assert code == 0, said
    assert contents(out)["model.onnx"] == before["model.onnx"]
    assert says("export", net, "-o", out, "--force")[0] == 0
    assert read_json(out / "model.onnx.json")["source"] == str(net)


CRAFTED = {
    "above": "../keep.txt",
    "absolute": "/keep.txt",
    "below": "below/keep.txt",
    "a folder": "below",
    "a link": "link",
    "changed": "model.onnx",
    "itself": ".",
    "number": 3,
    "nothing": None,
}


@pytest.mark.parametrize("force", [(), ("--force",)])
@pytest.mark.parametrize("name", CRAFTED)
def test_a_bundle_removes_no_more_than_an_old_bundle(
    name: str, force: tuple[str, ...], exported: Path, tmp_path: Path, says: Says
) -> None:
    app, listed = tmp_path / "app", CRAFTED[name]
    for file in (tmp_path / "keep.txt", app / "below" / "keep.txt"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("mine")
    (app / "link").symlink_to(tmp_path / "keep.txt")
    (app / "model.onnx").write_text("mine")
    if name == "changed":
        shutil.rmtree(app / "below")
        (app / "link").unlink()
    files = [
        {"path": listed, "sha256": "0"},
        *({"path": own, "sha256": "0"} for own in ("below", "link", "model.onnx")),
    ]
    write_json(app / "manifest.json", {"kind": "edgecompress.bundle", "version": 1, "files": files})
    before = contents(tmp_path)
    code, said = says("bundle", exported / "out" / "model.onnx", "-o", app, *force)
    if force and name == "changed":
        assert code == 0, said
        return
    assert code == 2
    assert "which no bundle put there" in said or "was changed since the bundle was made" in said
    assert contents(tmp_path) == before


@pytest.mark.parametrize("text", ["[]", "{", '{"kind": "edgecompress.bundle", "files": 3}', '{"files": [{}]}'])
def test_a_bundle_goes_nowhere_where_the_manifest_is_none(
    text: str, exported: Path, tmp_path: Path, says: Says
) -> None:
    (tmp_path / "manifest.json").write_text(text)
    for place in (tmp_path, tmp_path / "manifest.json"):
        code, _ = says("bundle", exported / "out" / "model.onnx", "-o", place)
        assert code == 2
    assert contents(tmp_path) == {"manifest.json": text.encode()}


def test_an_older_bundle_is_replaced_through_a_link_to_its_folder(exported: Path, tmp_path: Path, says: Says) -> None:
    model = exported / "out" / "model.onnx"
    assert f"new folder: {tmp_path / 'app'}" in says("bundle", model, "-o", tmp_path / "app")[1]
    (tmp_path / "link").symlink_to(tmp_path / "app")
    before = contents(tmp_path / "app")
    assert says("bundle", model, "-o", tmp_path / "link")[0] == 0
    assert contents(tmp_path / "app") == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["app", "link"]


@pytest.mark.parametrize("name", ["report.html", "report.md"])
def test_report_replaces_reports_only(name: str, tmp_path: Path, says: Says) -> None:
    write_json(tmp_path / "report.json", reports.document())
    assert says("report", tmp_path)[0] == 0
    assert says("report", tmp_path)[0] == 0
    (tmp_path / name).write_text("mine")
    code, said = says("report", tmp_path)
    assert code == 2
    assert f"{name}: is there and is no report that edgecompress wrote" in said
    assert (tmp_path / name).read_text() == "mine"
    assert says("report", tmp_path, "--force")[0] == 0
    assert "compression report" in (tmp_path / name).read_text()
