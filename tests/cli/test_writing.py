"""No command replaces what it did not write: a file of another kind, another model's, a folder, a link, a device."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from edgecompress.cli import run_command_line
from edgecompress.files import read_json, write_json

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
