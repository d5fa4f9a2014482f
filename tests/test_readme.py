"""What the README says is run: its commands, its model file, its Python."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from processes import ROOT, command

from edgecompress.cli import group

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
COMMANDS = [
    line.split("  #")[0].strip()
    for language, text in BLOCKS
    if language == "sh"
    for line in text.splitlines()
    if line.startswith("edgecompress ")
]


def python_blocks(first_line: str) -> str:
    (block,) = [text for language, text in BLOCKS if language == "python" and text.startswith(first_line)]
    return block


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder with the README's own model file."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "my_model.py").write_text(python_blocks("# my_model.py"))
    return folder


def test_every_command_is_shown() -> None:
    assert {shlex.split(line)[1] for line in COMMANDS} == set(group.commands)


def test_the_commands_work_in_order(workplace: Path) -> None:
    small = {"EDGECOMPRESS_DATA": ""}
    for line in COMMANDS:
        if "resnet" in line and any(word in line for word in ("run", "compress ")):
            continue
        quick = ["--epochs", "1", "--round-epochs", "1"] if "--preset" in line else []
        if shlex.split(line)[1] in ("run", "profile"):
            quick = ["--threads", "1", "--seconds", "0.1"]
        if shlex.split(line)[1] == "run":
            quick += ["--epochs", "1", "--calibrate", "256"]
        answer = command(*shlex.split(line)[1:], *quick, cwd=workplace, env=small)
        assert answer.code == 0, (line, answer.err)


def test_the_python_works(workplace: Path) -> None:
    code = python_blocks("import edgecompress as ec")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    env.pop("EDGECOMPRESS_DATA", None)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=workplace, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "lenet5" in done.stdout
