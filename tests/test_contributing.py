"""What CONTRIBUTING.md shows how to add is added, as it stands there, to a copy of the package, and used."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from tests.processes import ROOT, script

TEXT = (ROOT / "CONTRIBUTING.md").read_text()
SECTIONS = re.findall(r"^### (An? \w+)\n(.*?)(?=^##|\Z)", TEXT, re.MULTILINE | re.DOTALL)
NAMES = TEXT.partition("## Names")[2].partition("\n## ")[0]
QUICK = ["--seconds", "0.05", "--threads", "1"]
RUN = """
import json, sys
import pytest
from edgecompress.cli import group
from tests.quick import measure_briefly
measure_briefly(pytest.MonkeyPatch())
for arguments in json.loads(sys.argv[1]):
    group.main(arguments, standalone_mode=False)
"""


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package and everything that CONTRIBUTING.md adds to it."""
    folder = tmp_path_factory.mktemp("extended")
    shutil.copytree(ROOT / "edgecompress", folder / "edgecompress", ignore=shutil.ignore_patterns("__pycache__"))
    for needed in ("deploy", "sample_models"):
        (folder / needed).symlink_to(ROOT / needed)
    for _, text in SECTIONS:
        ((path, code),) = re.findall(r"```python\n# (\S+)\n(.*?)```", text, re.DOTALL)
        (folder / path).write_text(code)
        (change,) = re.findall(r"```diff\n(.*?)```", text, re.DOTALL)
        table = (folder / path).with_name("__init__.py")
        table.write_text(changed(table.read_text(), change))
    return folder


def changed(text: str, change: str) -> str:
    """``text`` with a diff: ``+`` lines follow the line before them, the first one the import of every file."""
    anchor, gone = "from __future__ import annotations\n\n", []
    for line in change.splitlines(keepends=True):
        kind, content = line[0], line[1:]
        if kind == "+":
            text = text.replace(anchor, anchor + content, 1)
        else:
            assert text.count(content) == 1, line
            anchor = content
            gone += [content] if kind == "-" else []
    for content in gone:
        text = text.replace(content, "", 1)
    return text


def test_each_is_one_file_and_one_line() -> None:
    assert len(SECTIONS) == 8
    for name, text in SECTIONS:
        (change,) = re.findall(r"```diff\n(.*?)```", text, re.DOTALL)
        added = [line for line in change.splitlines() if line.startswith("+") and not line.startswith("+from ")]
        assert len(added) == 1, name


def test_all_of_it_works_from_the_command_line(extended: Path, tmp_path: Path) -> None:
    lines = [line for _, text in SECTIONS for line in re.findall(r"`edgecompress ([^`]*)`", text)]
    calls = [[*shlex.split(line), *(QUICK if line.startswith("profile") else [])] for line in lines]
    (tmp_path / "all.py").write_text(RUN)
    done = script(tmp_path / "all.py", json.dumps(calls), cwd=tmp_path, places=[extended, ROOT])
    assert done.code == 0, done.out + done.err
    assert "one_cpu:0" in done.out


def test_the_names_are_where_the_table_says() -> None:
    rows = [line.split("|")[1:4] for line in NAMES.splitlines() if line.count("|") == 4 and "`" in line.split("|")[3]]
    files = [file for *_, where in rows for file in re.findall(r"`([\w/.]+)`", where)]
    assert len(files) > 30
    assert [file for file in files if not (ROOT / "edgecompress" / file).exists()] == []
