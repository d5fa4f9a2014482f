"""The one set of bad manifests and paths: every reader refuses each of them, naming the culprit, and takes the good."""

from __future__ import annotations

import copy
import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from edgecompress.errors import FileError
from edgecompress.files import resource
from edgecompress.manifests.reading import is_path, manifest_document, manifest_from

SET = json.loads((resource("deploy") / "common" / "bad_manifests.json").read_text(encoding="utf-8"))
CASES = {case["name"]: case for case in SET["cases"]}


def text_of(case: dict[str, Any]) -> str:
    """The bad manifest of a case."""
    if "text" in case:
        return str(case["text"])
    document = copy.deepcopy(SET["good"])
    holder = document
    *parents, last = case["at"]
    for key in parents:
        holder = holder[key]
    if case.get("drop"):
        del holder[last]
    else:
        holder[last] = case["value"]
    return json.dumps(document)


def read(text: str) -> None:
    """As ``verify`` reads it."""
    manifest_from(manifest_document(text.encode()))


@pytest.fixture(scope="module")
def pi(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """``run.py`` in a folder of its own, and its functions."""
    file = tmp_path_factory.mktemp("pi") / "run.py"
    file.write_bytes((resource("deploy") / "pi" / "run.py").read_bytes())
    return file.parent, runpy.run_path(str(file))


def test_the_good_ones_are_taken(pi: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    assert len(CASES) == len(SET["cases"]) > 100
    read(json.dumps(SET["good"]))
    folder, functions = pi
    (folder / "manifest.json").write_text(json.dumps(SET["good"]))
    with pytest.raises(SystemExit):
        functions["read_manifest"](None)
    assert "golden/image.png is missing" in capsys.readouterr().err


@pytest.mark.parametrize("name", CASES)
def test_each_bad_one_is_refused(
    name: str, pi: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    text, says = text_of(CASES[name]), CASES[name]["says"]
    with pytest.raises(FileError, match=says):
        read(text)
    folder, functions = pi
    (folder / "manifest.json").write_text(text)
    with pytest.raises(SystemExit) as stop:
        functions["read_manifest"](None)
    said = capsys.readouterr().err
    assert (stop.value.code, said.count("\n")) == (2, 1)
    assert "manifest.json" in said
    assert says in said


def test_paths(pi: tuple[Path, dict[str, Any]]) -> None:
    for reader in (is_path, pi[1]["is_path"]):
        assert [path for path in SET["paths"]["good"] if not reader(path)] == []
        assert [path for path in SET["paths"]["bad"] if reader(path)] == []


def test_a_bad_path_of_a_listed_file_is_refused(
    pi: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, functions = pi
    for path in SET["paths"]["bad"]:
        text = text_of({"at": ["files", 0, "path"], "value": path})
        with pytest.raises(FileError, match="files"):
            read(text)
        (folder / "manifest.json").write_text(text)
        with pytest.raises(SystemExit):
            functions["read_manifest"](None)
        assert "files" in capsys.readouterr().err
