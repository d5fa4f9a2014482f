"""The bundle for boards with Python: its runner refuses what was tampered with, and runs under emulated ARM cores."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgecompress.bundling import bundle
from edgecompress.bundling.checking import check
from edgecompress.devices import device_named
from edgecompress.devices.emulated.spec import SETUP, is_installed
from edgecompress.exporting import export
from edgecompress.files import files_in, read_json, resource
from edgecompress.sources import resolve
from tests.bundling.small import LABELS, small_artifact
from tests.bundling.tampering import TAMPERINGS


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a small model that takes images."""
    folder = tmp_path_factory.mktemp("pi")
    bundle(small_artifact(folder).path, folder / "app")
    return folder / "app"


def run(folder: Path, script: str = "run.py", *arguments: str) -> subprocess.CompletedProcess[str]:
    """A script of the bundle, isolated from this checkout."""
    argv = [sys.executable, "-I", str(folder / script), *arguments]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def test_it_checks_itself_and_answers_for_an_image_of_any_size(made: Path, tmp_path: Path) -> None:
    import numpy as np

    np.save(tmp_path / "photo.npy", np.full((40, 30, 3), 200, np.uint8))
    done = run(made, "run.py", "--input", str(tmp_path / "photo.npy"))
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["max_relative_error"] < 1e-6
    assert said["image_error"] == 0
    assert said["label"][0] in LABELS


@pytest.mark.parametrize("name", TAMPERINGS)
def test_the_runner_refuses_tampering(name: str, made: Path, tmp_path: Path) -> None:
    spoil, says = TAMPERINGS[name]
    spoil(shutil.copytree(made, tmp_path / "app"))
    done = run(tmp_path / "app")
    assert done.returncode in (1, 2)
    assert done.stderr.startswith("run.py: ")
    assert done.stderr.count("\n") == 1
    assert says in done.stderr
    assert done.stdout == ""


def test_bench_measures_what_was_checked(made: Path, tmp_path: Path) -> None:
    app = shutil.copytree(made, tmp_path / "app")
    done = run(app, "bench.py", "--seconds", "0")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["golden"] == "ok"
    assert 0 < said["latency"]["min_ms"] <= said["latency"]["median_ms"] <= said["latency"]["p90_ms"]
    assert said["latency"]["runs_in_block"] * said["latency"]["median_ms"] > 10
    check(app)
    (app / "model.onnx").write_bytes(b"")
    assert "model.onnx was changed" in run(app, "bench.py").stderr


def test_every_library_is_pinned_with_hashes() -> None:
    text = (resource("deploy") / "pi" / "requirements.txt").read_text()
    pinned = dict(re.findall(r"^([a-z]+)==(\S+) \\$", text, re.MULTILINE))
    assert {"numpy", "onnxruntime", "flatbuffers", "protobuf", "packaging"} == set(pinned)
    wanted = re.findall(r"^([a-z]+)==(\S+)$", (resource("deploy").parent / "constraints.txt").read_text(), re.MULTILINE)
    assert {name: dict(wanted)[name] for name in ("numpy", "onnxruntime")} == {
        name: pinned[name] for name in ("numpy", "onnxruntime")
    }
    assert len(re.findall(r"--hash=sha256:[0-9a-f]{64}\b", text)) > 50


def test_whoever_opens_a_session_sent_telemetry_home_never() -> None:
    for file in files_in(resource("deploy") / "pi"):
        text = file.read_text()
        assert "import onnxruntime" not in text or text.index("ORT_DISABLE_TELEMETRY") < text.index(
            "import onnxruntime"
        )
        assert "edgecompress." not in re.sub(r"edgecompress\.bundle", "", text)


# -- with more than Python here ------------------------------------------------------------------------------------


@pytest.mark.bundles
@pytest.mark.parametrize("name", ["lenet5", "resnet20"])
def test_it_runs_on_an_emulated_core(name: str, tmp_path: Path) -> None:
    if not is_installed():
        pytest.skip(f"the emulated device is not set up: {SETUP}")
    sample = resolve(name)
    sample = sample if name == "lenet5" else _without_data(name)
    bundle(export(sample.model(), sample, tmp_path).path, tmp_path / "app")
    with device_named("emulated:cortex-a72").session(["onnxruntime"]) as session:
        said = json.loads(session.run([*session.python, str(tmp_path / "app" / "run.py")], timeout_s=300))
        assert said["max_relative_error"] < 1e-6
        assert said["image_error"] < 1e-6
        other = bytearray((tmp_path / "app" / "model.onnx").read_bytes())
        other[len(other) // 2] ^= 1
        (tmp_path / "app" / "model.onnx").write_bytes(bytes(other))
        with pytest.raises(Exception, match=r"model\.onnx was changed"):
            session.run([*session.python, str(tmp_path / "app" / "run.py")], timeout_s=300)


def _without_data(name: str):
    from dataclasses import replace

    return replace(resolve(name), splits=None)


@pytest.mark.bundles
@pytest.mark.parametrize("platform", [(), ("--platform", "manylinux_2_28_aarch64", "--python-version", "3.11")])
def test_pip_accepts_the_hashes(platform: tuple[str, ...], tmp_path: Path) -> None:
    file = resource("deploy") / "pi" / "requirements.txt"
    options = ["--require-hashes", "--only-binary=:all:", "--no-deps", *platform, "--dest", str(tmp_path)]
    argv = [sys.executable, "-m", "pip", "download", "--quiet", *options, "-r", str(file)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if "Could not find a version" in done.stderr or "Failed to establish" in done.stderr:
        pytest.skip(f"the package index is not reachable: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.iterdir())) == 5


@pytest.mark.bundles
def test_systemd_understands_the_unit() -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not here: apt-get install systemd")
    unit = resource("deploy") / "pi" / "edge-model.service"
    done = subprocess.run([program, "verify", str(unit)], capture_output=True, text=True, check=False)
    assert "edge-model.service:" not in done.stderr, done.stderr


def test_the_manifest_says_what_the_runtime_takes(made: Path) -> None:
    runtime = read_json(made / "manifest.json")["runtime"]
    assert runtime["library_bytes"] > runtime["library_bytes_compressed"] > 10_000_000
    assert "PyPI" in runtime["source"]
    assert "55.92 MB" in (made / "README.md").read_text()
