"""A platform from outside this package: one file, one entry of ``PLATFORMS``, and ``bundle`` makes its bundles."""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import dedent

import pytest

from edgecompress.cli import run_command_line
from edgecompress.files import read_json, sha256
from edgecompress.platforms import PLATFORMS
from tests.toys import imported

PLATFORM = dedent(
    '''
    """A program in C, with the model's inputs in a header."""

    from edgecompress.platforms.base import TemplatePlatform


    class Board(TemplatePlatform):
        name = "board"
        summary = "A board without Python."
        targets = ("onnx",)
        runner = "main.c"

        def fill(self, folder, contents):
            names = ", ".join(f'"{one.name}"' for one in contents.manifest.inputs)
            (folder / "inputs.h").write_text(f"static const char *inputs[] = {{{names}}};\\n")
            (folder / self.runner).write_text('#include "inputs.h"\\n')

        def check(self, folder):
            return f"cc {folder / self.runner}"
    '''
)


@pytest.fixture(autouse=True)
def _board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "board_platform.py").write_text(PLATFORM)
    platform = imported(tmp_path / "board_platform.py").Board()
    monkeypatch.setitem(PLATFORMS, platform.name, platform)


def test_bundle_makes_its_bundles(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["export", "lenet300", "-o", str(tmp_path / "out")]) == 0
    app = tmp_path / "app"
    assert run_command_line(["bundle", str(tmp_path / "out/model.onnx"), "--platform", "board", "-o", str(app)]) == 0
    assert f"cc {app / 'main.c'}" in capfd.readouterr().out.replace("\n", "")
    manifest = read_json(app / "manifest.json")
    assert (manifest["platform"], manifest["runner"]) == ("board", "main.c")
    listed = {entry["path"]: entry["sha256"] for entry in manifest["files"]}
    own = {path for path in listed if not path.startswith("golden/")}
    assert own == {"README.md", "inputs.h", "labels.txt", "main.c", "model.onnx"}
    assert all(sha256(app / name) == digest for name, digest in listed.items())
    assert manifest["inputs"][0]["name"] in (app / "inputs.h").read_text()


def test_a_target_that_it_does_not_run_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["run", "lenet300", "--target", "ort", "--platform", "board", "-o", str(tmp_path / "out")]
    assert run_command_line(arguments) == 2
    assert "the board bundle runs onnx; add --target onnx or --platform pi, or use `compress`" in capfd.readouterr().err


def test_it_is_listed(capfd: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["list", "platforms", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["platforms"]["board"] == {"summary": "A board without Python."}
