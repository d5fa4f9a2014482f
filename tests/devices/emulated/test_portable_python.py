"""A whole Python for a phone in a folder: made of the emulated device, run without it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgecompress.devices.emulated.portable_python import write_python_bundle
from edgecompress.devices.emulated.setup import sysfs_files
from edgecompress.devices.emulated.spec import QEMU, emulation_folder, is_installed, recipe
from edgecompress.errors import FileError
from edgecompress.targets.runtimes import bench_script

CORE = "cortex-a76"
needs_device = pytest.mark.skipif(
    not (shutil.which(QEMU) and is_installed()),
    reason="needs the emulated device: edgecompress doctor --setup emulated",
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Written in one place, moved to another whose name has a space."""
    folder = tmp_path_factory.mktemp("bundle")
    written = write_python_bundle(folder / "python")
    return written.rename(folder / "my python")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An emulator that shows of an ARM system only what the kernel tells of its core."""
    root = tmp_path_factory.mktemp("root")
    for name, text in sysfs_files(recipe().cores[CORE]).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return {**os.environ, "AARCH64_EMULATOR": f"{shutil.which(QEMU)} -L {root} -cpu {CORE}", "OMP_NUM_THREADS": "1"}


def run(bundle: Path, environment: dict[str, str], *arguments: str | Path) -> str:
    argv = ["sh", bundle / "run.sh", *arguments]
    done = subprocess.run(argv, capture_output=True, text=True, env=environment, cwd="/", check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_device
def test_it_holds_no_links_and_no_source_that_names_where_it_was_made(bundle: Path) -> None:
    files = list(bundle.rglob("*"))
    assert not [file for file in files if file.is_symlink()]
    texts = [file for file in files if file.suffix in {".py", ".sh", ".pth", ".cfg"}]
    assert len(texts) > 500
    assert not [file for file in texts if str(emulation_folder()).encode() in file.read_bytes()]


@needs_device
def test_all_its_libraries_are_for_that_processor(bundle: Path) -> None:
    heads = {file.name: file.read_bytes()[:20] for file in bundle.rglob("*.so*")}
    assert "libc.so.6" in heads
    assert {head[18:20] for head in heads.values()} == {b"\xb7\x00"}


@needs_device
@pytest.mark.slow
def test_it_runs_wherever_it_lies_with_its_own_libraries_alone(bundle: Path, environment: dict[str, str]) -> None:
    script = "import json, numpy, onnxruntime, sys; print(json.dumps([open('/proc/self/maps').read(), sys.path]))"
    maps, path = json.loads(run(bundle, environment, "-c", script))
    libraries = {line.split(maxsplit=5)[5] for line in maps.splitlines() if ".so" in line}
    assert f"{bundle}/lib/libc.so.6" in libraries
    assert all(library.startswith(str(bundle)) for library in libraries)
    assert all(not entry or entry.startswith(str(bundle)) for entry in path)


@needs_device
@pytest.mark.slow
def test_it_runs_the_runner(bundle: Path, environment: dict[str, str], tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 64]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "small", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    answer = json.loads(run(bundle, environment, bench_script(), tmp_path / "m.onnx", "--pass", "count", "--runs", "2"))
    assert answer["machine"]["machine"] == "aarch64"
    assert answer["intervals"] == ["load", "input", "run", "run"]


@needs_device
@pytest.mark.parametrize("arguments", [["-c", "import sys; sys.exit(7)"], ["-c", "print('a b')"]])
def test_its_exit_code_and_arguments_are_pythons(
    bundle: Path, environment: dict[str, str], arguments: list[str]
) -> None:
    ours, theirs = (
        subprocess.run([*head, *arguments], capture_output=True, env=environment, check=False, timeout=60)
        for head in (["sh", bundle / "run.sh"], [sys.executable])
    )
    assert (ours.returncode, ours.stdout) == (theirs.returncode, theirs.stdout)


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="is there already"):
        write_python_bundle(tmp_path)


def test_a_module_that_is_not_to_be_had_is_named_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"no torch for a phone; there are numpy, onnxruntime"):
        write_python_bundle(tmp_path / "python", ["numpy", "torch"])
