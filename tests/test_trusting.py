"""What came from elsewhere is data: no code runs, and no path leads out, that a file names."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import islice, product
from pathlib import Path
from typing import Any

import pytest
import torch
from onnx import TensorProto, helper

from edgecompress.artifacts import Artifact, facts_path
from edgecompress.cli import run_command_line
from edgecompress.errors import EdgeCompressError, FileError, ModelError, shown
from edgecompress.exporting import export
from edgecompress.exporting.verifying import check_facts
from edgecompress.files import Json, read_json, sha256, write_json, write_text
from edgecompress.models import Sample
from edgecompress.reporting.checking import LIMITS, check_table, checks
from edgecompress.reporting.comparing import figures_of, side_by_side
from edgecompress.reporting.entries import TriedPlan
from edgecompress.running.history import tried
from edgecompress.running.resuming import Stages, key_of
from edgecompress.sources import resolve, source_of
from edgecompress.sources.compressed_folder import MODEL_FILE, load_compressed
from edgecompress.targets import TARGETS
from tests import reports
from tests.processes import ROOT

OLD = Path(__file__).parent / "data" / "compressed_lenet300"
"""A compressed model as release 0.1.0 wrote it."""

HOSTILE = """
import pathlib
pathlib.Path("RAN").touch()
import torch
def model(): return torch.nn.Linear(64, 64)
def example(): return torch.randn(2, 64)
"""


def refusal(work: Callable[[], object]) -> str:
    """What an error of ours says, empty without one; any other exception passes on."""
    try:
        work()
    except EdgeCompressError as error:
        return str(error)
    return ""


@pytest.fixture
def gift(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A received folder with code in it, below the folder that the process works in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path / "gift"))  # modules there can be imported
    shutil.copytree(OLD, tmp_path / "gift")
    for name in ("payload.py", "lenet5.py", "payload2.py", "\N{GREEK SMALL LETTER ALPHA}.py", "a:b.py", "lenet5 .py"):
        (tmp_path / "gift" / name).write_text(HOSTILE)
    for name in ("payload.py:model", "d.py", "payload2:model", "onnx.py:x.py", "lenet5"):
        (tmp_path / "gift" / name).mkdir()
    (tmp_path / "gift" / "link.py").symlink_to("payload.py")
    (tmp_path / "gift" / "link_to_folder.py").symlink_to("payload.py:model")
    return tmp_path / "gift"


def made_from(folder: Path, source: object) -> None:
    """Let a folder say that it was made from ``source``."""
    (folder / MODEL_FILE).write_text(json.dumps({**read_json(OLD / MODEL_FILE), "source": source}))


CODE = {
    "file": "{gift}/payload.py",
    "file and name": "{gift}/payload.py:model",
    "relative": "gift/payload.py",
    "relative, and a folder of that very name": "gift/payload.py:model",
    "with dots": "gift/../gift/./payload.py:model",
    "named as a sample": "gift/lenet5.py",
    "named almost as a sample": "gift/lenet5 .py",
    "symlink": "{gift}/link.py",
    "symlink to a folder": "gift/link_to_folder.py:model",
    "folder named as a file": "gift/d.py",
    "a name in a folder named as a file": "gift/d.py:model",
    "other letters": "gift/\N{GREEK SMALL LETTER ALPHA}.py",
    "colon in the name": "gift/a:b.py",
    "module": "payload:model",
    "module, and a folder of that very name": "payload2:model",
    "module without a name": "payload:",
    "module of the standard library": "os:getcwd",
    "trailing slash": "gift/payload.py/",
    "trailing slash on a name": "gift/payload.py:model/",
    "tilde": "~/payload.py",
    "nothing": "",
    "space": " ",
    "dot": ".",
    "long": "x" * 5000,
    "long path": "/".join(["x" * 200] * 100) + ".py",
    "null character": "gift/payload.py\0",
    "new line": "gift/payload.py\n",
    "steers a terminal": "\x1b]0;x\x07gift/payload.py",
    "an exported file": "gift/model.onnx",
    "number": 3,
    "none": None,
    "list": ["gift/payload.py"],
    "object": {"gift/payload.py": "model"},
    "true": True,
}


@pytest.mark.parametrize("name", CODE)
def test_a_received_folder_runs_no_code_of_its_own(name: str, gift: Path) -> None:
    source = CODE[name]
    made_from(gift, source.replace("{gift}", str(gift)) if isinstance(source, str) else source)
    with pytest.raises(EdgeCompressError) as caught:
        resolve(str(gift)).model()
    assert caught.value.exit_code == 2
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000
    assert not Path("RAN").exists()


@pytest.mark.parametrize("links", ["folders", "symlinks"])
def test_a_chain_of_folders_ends_in_no_code_either(links: str, gift: Path, tmp_path: Path) -> None:
    made_from(gift, "gift/payload.py")
    before = gift
    for number in range(3):
        folder = tmp_path / f"{number}.py:model"
        if links == "symlinks":
            folder.symlink_to(before)
        else:
            shutil.copytree(OLD, folder)
            made_from(folder, str(before))
        before = folder
    with pytest.raises(ModelError, match=r"was made from gift/payload\.py, whose code must run"):
        load_compressed(before)
    assert not Path("RAN").exists()


def test_a_circle_of_folders_is_told(tmp_path: Path) -> None:
    for name, source in (("a", "b"), ("b", "a")):
        shutil.copytree(OLD, tmp_path / name)
        made_from(tmp_path / name, str(tmp_path / source))
    with pytest.raises(ModelError, match="was made, in a circle, from itself"):
        load_compressed(tmp_path / "a")


def test_a_folder_made_from_a_sample_needs_no_trust_where_files_have_its_name(gift: Path) -> None:
    made_from(gift, "lenet300")
    (gift.parent / "lenet300").mkdir()
    (gift.parent / "lenet300.py").write_text(HOSTILE)
    assert resolve(str(gift)).name == "lenet300"
    assert not Path("RAN").exists()


def test_nothing_in_the_folder_one_works_in_is_imported_in_place_of_a_library(gift: Path) -> None:
    for name in ("click", "rich", "signal"):
        (gift / f"{name}.py").write_text(HOSTILE)
    argv = [sys.executable, "-m", "edgecompress", "--help"]
    done = subprocess.run(argv, cwd=gift, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert not (gift / "RAN").exists()


def test_a_module_in_the_folder_one_works_in_is_a_model(
    gift: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_net_here.py").write_text(HOSTILE)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    assert resolve("my_net_here:model").name == "my_net_here:model"


def test_code_runs_with_trust(gift: Path) -> None:
    made_from(gift, "gift/payload.py")
    load_compressed(gift, trust=True)
    assert Path("RAN").exists()


def test_a_model_is_of_one_kind(gift: Path) -> None:
    kinds = {
        "lenet5": "sample",
        "./lenet5.py": "file",
        "gift/payload.py:model": "folder",
        "gift/payload.py:net": "file",
        "a.b:c": "module",
        str(gift): "folder",
    }
    assert {text: source_of(text).name for text in kinds} == kinds


def test_no_command_runs_a_received_folders_code(gift: Path, capfd: pytest.CaptureFixture[str]) -> None:
    made_from(gift, "gift/payload.py:model")
    out = str(gift.parent / "out")
    for arguments in (["inspect"], ["plan"], ["compress", "-o", out], ["run", "-o", out], ["export", "-o", out]):
        assert run_command_line([*arguments, str(gift)]) == 2
        assert "holds no model.json" in capfd.readouterr().err
    assert run_command_line(["compress", "lenet300", "--teacher", str(gift), "-o", out]) == 2
    assert not Path("RAN").exists()


# -- exported files ----------------------------------------------------------------------------------------------------


def weights_elsewhere(path: Path, location: str) -> None:
    """An .onnx that keeps its one weight in another file."""
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4, 4], data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value=location)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in "xy")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize("location", ["weights.bin", "../secret.bin", "/etc/passwd", "link.bin", "\x1b[2J"])
def test_an_onnx_file_with_weights_elsewhere_is_refused(location: str, tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(64))
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "weights.bin").write_bytes(bytes(64))
    (tmp_path / "m" / "link.bin").symlink_to("../secret.bin")
    weights_elsewhere(tmp_path / "m" / "model.onnx", location)
    with pytest.raises(FileError, match=r"keeps w in another file .*; make it one file") as caught:
        TARGETS["onnx"].signature(tmp_path / "m" / "model.onnx")
    assert str(caught.value).isprintable()


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported file, whose facts may be rewritten."""
    folder = tmp_path_factory.mktemp("facts")
    torch.manual_seed(0)
    model = torch.nn.Linear(8, 4).eval()
    sample = Sample("tiny", "lenet300", lambda: model, (torch.randn(2, 8),))
    return facts_path(export(model, sample, folder).path)


WRONG = (None, True, -1, 0.5, "", "x", [], {}, [None], {"a": 1}, "../x", "\x1b[2J", "dropped")
FREE = {"graph", "cost", "versions", "preprocessing", "parity", "approximation", "notices", "model", "source", "score"}
"""Of the facts, what may be anything of its type."""


def test_facts_with_any_field_wrong_or_missing_are_one_line(facts: Path) -> None:
    text, path = facts.read_text(), facts.with_suffix("")
    passed = set()
    for key in json.loads(text):
        for value in WRONG:
            document = json.loads(text) | {key: value}
            if value == "dropped":
                del document[key]
            facts.write_text(json.dumps(document))
            said = refusal(lambda: check_facts(Artifact.load(path)))
            assert said.isprintable(), (key, value)
            if not said:
                passed.add(key)
    facts.write_text(text)
    check_facts(Artifact.load(path))
    assert passed <= FREE | {"plan", "size_bytes", "file", "parts"}, passed


@pytest.mark.parametrize("parts", [{}, {"../model.bin": ""}, {"model.bin": "0"}, {"/etc/passwd": "0"}, {"a/b": "0"}])
def test_the_parts_of_a_file_are_those_beside_it_with_their_digests(
    parts: dict[str, str], tmp_path: Path, facts: Path
) -> None:
    model = tmp_path / "model.xml"
    model.write_text("<net/>")
    (tmp_path / "model.bin").write_bytes(b"weights")
    document = json.loads(facts.read_text()) | {"target": "openvino", "sha256": sha256(model), "parts": parts}
    facts_path(model).write_text(json.dumps(document))
    with pytest.raises(
        FileError, match=r"parts are not those of openvino|no file beside this one|changed or truncated"
    ):
        check_facts(Artifact.load(model))


def test_a_link_inside_a_package_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.mlpackage").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "model.mlpackage" / "Data").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileError, match="Data: is a symbolic link"):
        sha256(tmp_path / "model.mlpackage")


# -- documents ---------------------------------------------------------------------------------------------------------

NOT_NUMBERS = (None, "", "x", [], {}, "\x1b[2J", "dropped")


def holders(document: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where every value is, of lists the first one."""
    items = (
        document.items()
        if isinstance(document, dict)
        else enumerate(document[:1])
        if isinstance(document, list)
        else ()
    )
    for key, value in items:
        yield (*place, key)
        yield from holders(value, (*place, key))


def spoilt(document: Any, values: tuple[Any, ...], every: int) -> Iterator[Any]:
    """The document with each value replaced by each of ``values``, or missing; every so many of these."""
    for place, value in islice(product(holders(document), values), 0, None, every):
        changed = copy.deepcopy(document)
        holder = changed
        for key in place[:-1]:
            holder = holder[key]
        holder[place[-1]] = value
        if value == "dropped":
            del holder[place[-1]]
        yield changed


@pytest.mark.parametrize("name", ["report", "profile"])
def test_a_received_document_is_read_whole_or_refused_in_one_line(name: str, tmp_path: Path) -> None:
    document = reports.document() if name == "report" else reports.profile("model.onnx", 100, 1.0).to_json()
    file = tmp_path / f"{name}.json"

    def told() -> None:
        figures = figures_of(file)
        side_by_side(figures, figures)
        check_table(figures, checks(figures, dict.fromkeys(LIMITS, 1.0)))

    for changed in spoilt(document, NOT_NUMBERS, 29 if name == "report" else 11):
        file.write_text(json.dumps(changed))
        assert refusal(told).isprintable()


def test_names_in_a_gates_table_are_no_markup(tmp_path: Path) -> None:
    document = reports.document()
    document["profiles"]["compressed"]["file"] = "<img src=x onerror=alert(1)> | **met** | @everyone [x](http://x)"
    (tmp_path / "report.json").write_text(json.dumps(document))
    figures = figures_of(tmp_path)
    table = check_table(figures, checks(figures, {"max_size_mb": 1.0}))
    assert "<img" not in table.replace(r"\<img", "")
    assert "@everyone" not in table
    assert "[x](http" not in table


def test_names_in_files_do_not_steer_a_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert shown("a\x1b]0;title\x07b\x9bc\r\u202ed") == "a\\x1b]0;title\\x07b\\x9bc\\r\\u202ed"
    assert shown("äöü 漢字\n\t→ 5\N{NO-BREAK SPACE}%") == "äöü 漢字\n\t→ 5\N{NO-BREAK SPACE}%"
    write_json(tmp_path / "model.json", {"kind": "edgecompress.model", "version": 1, "source": "\x1b[2J\nerror: x"})
    assert run_command_line(["inspect", str(tmp_path)]) == 2
    said = capfd.readouterr().err
    assert "\x1b" not in said
    assert len(said.splitlines()) == 1


def test_names_in_a_report_are_text(tmp_path: Path) -> None:
    document = reports.document()
    hostile = "\x1b[2J<script>alert(1)</script>\n| x"
    document["model"] = document["layers"][0]["name"] = document["versions"]["torch"] = hostile
    document["arguments"][hostile] = hostile
    for text in (reports.html(document), reports.markdown(document)):
        assert "alert(1)" in text
        assert "<script>" not in text.replace(r"\<script\>", "")
        assert "\x1b" not in text


# -- a run's folder ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["../outside.txt", "/outside.txt", ".", "below/../../outside.txt"])
def test_a_stage_remembers_nothing_outside_its_folder(path: str, tmp_path: Path) -> None:
    folder, outside = tmp_path / "run", tmp_path / "outside.txt"
    outside.write_text("mine")
    path = path.replace("/outside.txt", str(outside)) if path.startswith("/") else path
    stages, times = Stages(folder), []

    def work() -> Json:
        times.append(1)
        return {}

    stages.do("s", [1], work)
    file = folder / "stages" / "s.json"
    document = read_json(file)
    digest = sha256(outside)
    document |= {"outputs": {path: digest}, "sha256": key_of(document["key"], {path: digest}, {})}
    write_json(file, document)
    stages.do("s", [1], work)
    assert len(times) == 2
    write_json(file, document)
    stages.forget()
    assert outside.read_text() == "mine"


@pytest.mark.parametrize(
    "points", [None, 3, [3], [{"key": "k"}], [{"key": [], "name": 1, "place": {}, "chosen": True}]]
)
def test_what_was_tried_is_forgotten_where_it_is_malformed(points: object, tmp_path: Path) -> None:
    document = reports.document()
    (own,) = tried(tmp_path, "key", reports.report(document))
    told = read_json(tmp_path / "tried.json")
    assert tried(tmp_path, "key", reports.report(document)) == (own,)
    other = {**own.to_json(), "key": "other"}
    write_json(tmp_path / "tried.json", {**told, "points": [other]})
    assert tried(tmp_path, "key", reports.report(document)) == (TriedPlan.from_json({**other, "chosen": False}), own)
    write_json(tmp_path / "tried.json", {**told, "points": points})
    assert tried(tmp_path, "key", reports.report(document)) == (own,)


def test_a_stages_result_that_was_changed_is_made_again(tmp_path: Path) -> None:
    stages, results = Stages(tmp_path), iter([{"accuracy": 98.1}, {"accuracy": 98.2}])
    stages.do("s", [1], lambda: next(results))
    file = tmp_path / "stages" / "s.json"
    write_text(file, file.read_text().replace("98.1", "18.1"))
    assert stages.do("s", [1], lambda: next(results)).result == {"accuracy": 98.2}
    document = read_json(file)
    del document["sha256"]  # as it was before results had digests
    write_json(file, document)
    assert stages.do("s", [1], dict).result == {"accuracy": 98.2}
