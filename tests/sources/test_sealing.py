"""Folders that this user compressed here need no trust; all others need it as before."""

from __future__ import annotations

import json
import os
import py_compile
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from torch import Tensor, nn

from edgecompress.artifacts import Artifact
from edgecompress.cli.exporting import _sample_of
from edgecompress.decomposing import decompose
from edgecompress.errors import EdgeCompressError, ModelError
from edgecompress.planning import plan
from edgecompress.plans import CompressionPlan
from edgecompress.selectors import Budget
from edgecompress.sources import own_key, proving, resolve
from edgecompress.sources.compressed_folder import MODEL_FILE, load_compressed, save_compressed
from edgecompress.sources.sealing import runs_more
from tests.processes import command

MAIN = """
import torch
from layers import width
def model():
    import lazily
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(64, width), torch.nn.ReLU(), torch.nn.Linear(width, lazily.outputs))
def example(): return torch.ones(2, 64)
"""
HOSTILE = "import pathlib\npathlib.Path('RAN').touch()\nwidth = outputs = 8\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a model file and its neighbours, one of which is imported when the model is built."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "net.py").write_text(MAIN)
    (tmp_path / "project" / "layers.py").write_text("width = 32\n")
    (tmp_path / "project" / "lazily.py").write_text("outputs = 16\n")
    yield tmp_path / "project"
    forget_all(tmp_path)


def forget_all(tmp_path: Path) -> None:
    """As in a new process: no model file is loaded."""
    (tmp_path / "other").mkdir(exist_ok=True)
    (tmp_path / "other" / "other.py").write_text(
        "import torch\nmodel, example = torch.nn.Linear(2, 2), torch.ones(1, 2)"
    )
    resolve(str(tmp_path / "other" / "other.py"))


PLANS: dict[tuple[str, ...], CompressionPlan] = {}


def planned(layers: tuple[str, ...], model: nn.Module, inputs: Tensor) -> CompressionPlan:
    """A plan for a model of these layers."""
    if layers not in PLANS:
        PLANS[layers] = plan(model, (inputs,), Budget(0.8), name="net")
    return PLANS[layers]


def compressed(model: str | Path, folder: Path, *, trust: bool = False) -> Path:
    """What `compress` writes."""
    sample = resolve(model, trust=trust)
    model = sample.model()
    made = planned(tuple(map(str, model)), model, sample.inputs[0])
    save_compressed(folder, decompose(model, made), made, sample)
    forget_all(folder.parent)
    return folder


def refused(folder: Path, because: str = "") -> None:
    """The refusal of a received folder, and nothing has run."""
    with pytest.raises(ModelError, match=rf"whose code must run to rebuild it.*{because}.*add --trust"):
        load_compressed(folder)
    assert not Path("RAN").exists()


def test_a_folder_compressed_here_is_a_model_like_any_other(project: Path, tmp_path: Path) -> None:
    small = compressed(project / "net.py", tmp_path / "small")
    wanted = load_compressed(small, trust=True).model().state_dict()
    forget_all(tmp_path)
    found = resolve(small).model().state_dict()
    assert {name: found[name].equal(tensor) for name, tensor in wanted.items()} == dict.fromkeys(wanted, True)
    again = compressed(small, tmp_path / "smaller")
    assert resolve(again).model() is not None


def changed_main(project: Path, _small: Path) -> None:
    (project / "net.py").write_text(HOSTILE + MAIN)


def changed_neighbour(project: Path, _small: Path) -> None:
    (project / "layers.py").write_text(HOSTILE)


def changed_what_is_imported_late(project: Path, _small: Path) -> None:
    (project / "lazily.py").write_text(HOSTILE)


def removed(project: Path, _small: Path) -> None:
    (project / "layers.py").unlink()


def replaced_by_a_package(project: Path, _small: Path) -> None:
    (project / "layers.py").unlink()
    (project / "layers").mkdir()
    (project / "layers" / "__init__.py").write_text(HOSTILE)


def linked_elsewhere(project: Path, _small: Path) -> None:
    (project.parent / "hostile.py").write_text(HOSTILE)
    (project / "layers.py").unlink()
    (project / "layers.py").symlink_to("../hostile.py")


@pytest.mark.parametrize(
    "change",
    [
        changed_main, changed_neighbour, changed_what_is_imported_late, removed, replaced_by_a_package,
        linked_elsewhere,
    ],
)  # fmt: skip
def test_changed_code_needs_trust(change: Callable[[Path, Path], None], project: Path, tmp_path: Path) -> None:
    small = compressed(project / "net.py", tmp_path / "small")
    change(project, small)
    refused(small, r"has changed since you compressed it here")


def test_a_seal_holds_for_one_folder_at_one_place(project: Path, tmp_path: Path) -> None:
    small = compressed(project / "net.py", tmp_path / "small")
    (tmp_path / "hostile.py").write_text(HOSTILE + MAIN)
    refused(shutil.copytree(small, tmp_path / "copy"))
    before = (small / MODEL_FILE).read_text()
    for key, value in {"source": str(tmp_path / "hostile.py"), "name": "other", "sha256": {}}.items():
        (small / MODEL_FILE).write_text(json.dumps(json.loads(before) | {key: value}))
        with pytest.raises(EdgeCompressError):
            load_compressed(small)
    (small / MODEL_FILE).write_text(before.replace("net.py", "hostile.py"))
    refused(small)
    (small / MODEL_FILE).write_text(before)
    moved = small.rename(tmp_path / "moved")
    refused(moved)
    small.symlink_to(moved)
    refused(small)


def test_a_received_folder_borrows_no_seal(project: Path, tmp_path: Path) -> None:
    small = compressed(project / "net.py", tmp_path / "small")
    received = shutil.copytree(small, tmp_path / "received")
    document = json.loads((small / MODEL_FILE).read_text())
    for seal in (document["seal"], None):
        changed = document | {"source": str(small), "seal": seal}
        (received / MODEL_FILE).write_text(json.dumps(changed))
        refused(received)


def test_files_exported_into_a_folder_compressed_here_are_verified_without_trust(project: Path, tmp_path: Path) -> None:
    """As `run` writes them: one was made from the folder, the other from what the folder names. No other file is."""
    small = compressed(project / "net.py", tmp_path / "small")
    (tmp_path / "hostile.py").write_text(HOSTILE + MAIN)

    def sample_of(file: Path, source: Path) -> Any:
        forget_all(tmp_path)
        return _sample_of(
            cast("Artifact", SimpleNamespace(path=file, source=str(source), plan=None)), None, trust=False
        )

    assert sample_of(small / "model.onnx", small).plan is not None
    assert sample_of(small / "dense.onnx", project / "net.py").plan is None
    for file, source in (
        (small / "model.onnx", tmp_path / "hostile.py"),
        (tmp_path / "received.onnx", small),
        (tmp_path / "received.onnx", project / "net.py"),
    ):
        with pytest.raises(ModelError, match=r"whose code must run to rebuild it.*add --trust.*or say where"):
            sample_of(file, source)
    changed_main(project, small)
    for name, source in (("model.onnx", small), ("dense.onnx", project / "net.py")):
        with pytest.raises(ModelError, match=r"has changed since you compressed it here"):
            sample_of(small / name, source)
    assert not Path("RAN").exists()


@pytest.mark.parametrize(
    "seal", [None, "", [], {}, {"modules": {}}, {"modules": {}, "mac": ""}, {"modules": [1], "mac": "é"}]
)
def test_a_malformed_seal_is_none(seal: object, project: Path, tmp_path: Path) -> None:
    small = compressed(project / "net.py", tmp_path / "small")
    document = json.loads((small / MODEL_FILE).read_text())
    (small / MODEL_FILE).write_text(json.dumps(document | {"seal": seal}))
    refused(small)


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o604])
def test_a_key_that_others_can_read_is_not_used(mode: int, project: Path, tmp_path: Path) -> None:
    small = compressed(project / "net.py", tmp_path / "small")
    key = own_key.key_file()
    assert key.stat().st_mode & 0o777 == 0o600
    assert key.parent.stat().st_mode & 0o777 == 0o700
    key.chmod(mode)
    try:
        refused(small)
        assert "seal" not in json.loads((compressed(project / "net.py", tmp_path / "next") / MODEL_FILE).read_text())
    finally:
        key.chmod(0o600)
    load_compressed(small)


def test_another_key_breaks_the_seal(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = compressed(project / "net.py", tmp_path / "small")
    theirs = own_key.key_file()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    refused(small)
    assert own_key.made_key() not in (None, theirs.read_bytes())
    refused(small)
    own_key.key_file().unlink()
    own_key.key_file().symlink_to(theirs)  # not followed: where it leads is not this user's choice alone
    refused(small)


def test_without_a_place_for_a_key_all_is_as_before(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    refused(compressed(project / "net.py", tmp_path / "small"))


def test_files_that_came_beside_the_code_are_not_found(project: Path, tmp_path: Path) -> None:
    small = compressed(project / "net.py", tmp_path / "small")
    for name in ("torch", "onnx", "onnxscript", "sitecustomize", "safetensors"):
        (project / f"{name}.py").write_text(HOSTILE)
        (project / name).mkdir()
        (project / name / "__init__.py").write_text(HOSTILE)
    exported = command("export", small, "-o", tmp_path / "out", cwd=tmp_path)
    assert exported.code == 0, exported.err
    assert not Path("RAN").exists()


def test_compiled_files_beside_the_code_are_not_used(project: Path, tmp_path: Path) -> None:
    small = compressed(project / "net.py", tmp_path / "small")
    (tmp_path / "hostile.py").write_text(HOSTILE)
    for name in ("net", "layers", "lazily"):
        place = project / "__pycache__" / f"{name}.cpython-{''.join(map(str, sys.version_info[:2]))}.pyc"
        py_compile.compile(
            str(tmp_path / "hostile.py"), str(place), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
        )
    assert load_compressed(small).model() is not None
    assert not Path("RAN").exists()


def test_what_was_not_imported_when_it_was_compressed_is_not_now(project: Path, tmp_path: Path) -> None:
    (project / "net.py").write_text("try:\n    import extra\nexcept ImportError:\n    pass\n" + MAIN)
    small = compressed(project / "net.py", tmp_path / "small")
    (project / "extra.py").write_text(HOSTILE)
    assert load_compressed(small).model() is not None
    assert not Path("RAN").exists()


def test_packages_of_the_project_are_found(project: Path, tmp_path: Path) -> None:
    (project / "parts").mkdir()
    (project / "parts" / "sizes.py").write_text("from .more import size\n")
    (project / "parts" / "more.py").write_text("size = 24\n")
    (project / "whole").mkdir()
    (project / "whole" / "__init__.py").write_text("from whole.inner import outputs\n")
    (project / "whole" / "inner.py").write_text("outputs = 16\n")
    (project / "net.py").write_text(
        "from parts.sizes import size\nimport whole\n" + MAIN.replace("import width", "import width as w\nwidth = size")
    )
    small = compressed(project / "net.py", tmp_path / "small")
    assert load_compressed(small).model() is not None
    forget_all(tmp_path)
    (project / "whole" / "inner.py").write_text(HOSTILE)
    refused(small, "inner.py")


def test_a_file_of_a_package_and_a_module_are_sealed_too(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.path", list(sys.path))
    (project / "__init__.py").touch()
    (project / "net.py").write_text(MAIN.replace("from l", "from .l").replace("import lazily", "from . import lazily"))
    for number, model in enumerate((str(project / "net.py"), "project.net:model")):
        small = compressed(model, tmp_path / f"small{number}")
        assert load_compressed(small).model() is not None
        for name in [name for name in sys.modules if name.split(".")[0] == "project"]:
            del sys.modules[name]
    forget_all(tmp_path)
    (project / "layers.py").write_text(HOSTILE)
    refused(tmp_path / "small0")
    refused(tmp_path / "small1")


MORE = [
    "import pickle", "import sys\nsys.path.insert(0, '..')", "from sys import path", "import sys as s",
    "torch.load('w.pth', weights_only=False)", "import torch.hub", "torch.hub.load", "from os import system",
    "exec('')", "eval('1')", "import runpy", "from importlib.util import spec_from_file_location",
    "import subprocess", "torch.export.load('x.pt2')",
    "import numpy\nnumpy.load('x', allow_pickle=True)", "import importlib.machinery as m\nm.SourceFileLoader",
    "dict(trust_remote_code=True)", "torch.ops.load_library", "from torch.utils import cpp_extension",
]  # fmt: skip


def test_code_that_runs_more_than_it_imports_is_not_sealed(project: Path, tmp_path: Path) -> None:
    for line in ("", "model.eval()", "torch.compile", "os.path", "import sys", "torch.load('w', weights_only=True)"):
        (project / "layers.py").write_text(line)
        assert not runs_more(project / "layers.py"), line
    for line in MORE:
        (project / "layers.py").write_text(line)
        assert runs_more(project / "layers.py"), line
    (project / "layers.py").write_text("width = 32\ndef never(): import pickle\n")
    assert "seal" not in json.loads((compressed(project / "net.py", tmp_path / "small") / MODEL_FILE).read_text())
    refused(tmp_path / "small")


def test_code_that_changed_after_it_was_loaded_is_not_sealed(project: Path, tmp_path: Path) -> None:
    sample = resolve(project / "net.py")
    made = planned(tuple(map(str, sample.model())), sample.model(), sample.inputs[0])
    kept = (project / "layers.py").stat()
    (project / "layers.py").write_text(HOSTILE)
    os.utime(project / "layers.py", ns=(kept.st_atime_ns, kept.st_mtime_ns))
    save_compressed(tmp_path / "small", decompose(sample.model(), made), made, sample)
    refused(tmp_path / "small")


def test_a_file_that_changes_between_proof_and_use_is_refused(project: Path, tmp_path: Path) -> None:
    small = compressed(project / "net.py", tmp_path / "small")
    sample = load_compressed(small)
    (project / "lazily.py").write_text(HOSTILE)
    with pytest.raises(ModelError, match=r"lazily\.py: has changed"):
        sample.model()
    assert not Path("RAN").exists()


def test_other_models_are_loaded_as_ever_afterwards(project: Path, tmp_path: Path) -> None:
    load_compressed(compressed(project / "net.py", tmp_path / "small"))
    (project / "layers.py").write_text("width = 48\n")
    forget_all(tmp_path)
    assert resolve(project / "net.py").model()[0].out_features == 48
    assert proving.loading() is None
