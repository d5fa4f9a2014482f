"""A platform from outside this package: one file, one entry of ``PLATFORMS``, and ``bundle`` makes its bundles."""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import dedent

import pytest

from edgecompress.bundling.checking import check
from edgecompress.cli import run_command_line
from edgecompress.files import read_json, sha256
from edgecompress.platforms import PLATFORMS
from tests.processes import ROOT
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
    said = capfd.readouterr().err
    assert "the board bundle runs onnx; add --target onnx or --platform " in said
    assert "or --platform pi" in said


@pytest.mark.slow
def test_one_run_makes_bundles_for_several_platforms(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    net = ROOT / "tests" / "data" / "version_0_1" / "net.py"
    small = ["--keep", "0.6", "--multiple", "1", "--epochs", "0", "--calibrate", "0", "--seconds", "0.001"]
    platforms = ["--platform", "pi", "--platform", "board", "--platform", "pi"]
    arguments = ["run", str(net), *small, "--threads", "1", *platforms, "-o", str(tmp_path / "out")]
    assert run_command_line(arguments) == 0
    assert "board: the model takes" in capfd.readouterr().out
    report = read_json(tmp_path / "out" / "report.json")
    assert report["arguments"]["platform"] == "pi, board"
    assert [one["manifest"] for one in report["bundles"]] == ["bundle_pi/manifest.json", "bundle_board/manifest.json"]
    assert report["bundle"] == "bundle_pi/manifest.json"
    for one in report["bundles"]:
        found = check((tmp_path / "out" / one["manifest"]).parent)
        assert found.golden_error is not None
        assert found.golden_error < 1e-5
    assert run_command_line(arguments) == 0
    (tmp_path / "out" / "bundle_board" / "mine.txt").write_text("mine")
    assert run_command_line([*arguments, "--select", "energy"]) == 2


def test_it_is_listed(capfd: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["list", "platforms", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["platforms"]["board"] == {"summary": "A board without Python."}
