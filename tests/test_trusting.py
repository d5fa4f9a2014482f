"""What came from elsewhere is data: no code runs, and no path leads out, that a file names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from processes import command

from edgecompress.compressed import MODEL_FILE, load_compressed
from edgecompress.errors import EdgeCompressError, ModelError
from edgecompress.files import read_json
from edgecompress.resolving import ModelFile, ModelFolder, ModelModule, ShippedSample, parse, resolve

OLD = Path(__file__).parent / "data" / "compressed_lenet300"
"""A compressed model as release 0.1.0 wrote it."""

HOSTILE = """
import pathlib
pathlib.Path("RAN").touch()
import torch
def model(): return torch.nn.Linear(64, 64)
def example(): return torch.randn(2, 64)
"""


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


def test_code_runs_with_trust(gift: Path) -> None:
    made_from(gift, "gift/payload.py")
    load_compressed(gift, trust=True)
    assert Path("RAN").exists()


def test_a_reference_is_parsed_once_into_what_it_is(gift: Path) -> None:
    assert parse("lenet5") == ShippedSample("lenet5")
    assert parse("./lenet5.py") == ModelFile(Path("lenet5.py"), "model")
    assert parse("gift/payload.py:model") == ModelFolder(Path("gift/payload.py:model"))
    assert parse("gift/payload.py:net") == ModelFile(Path("gift/payload.py"), "net")
    assert parse("a.b:c") == ModelModule("a.b", "c")
    assert parse(str(gift)) == ModelFolder(gift)


def test_no_command_runs_a_received_folders_code(gift: Path) -> None:
    made_from(gift, "gift/payload.py:model")
    answer = command("inspect", gift, cwd=gift.parent)
    assert answer.code == 2
    assert "holds no model.json" in answer.err
    assert not Path("RAN").exists()
