"""A bundle is whole, checks itself on a machine without edgecompress, and notices damage."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgecompress.artifacts import profile_path
from edgecompress.bundling import bundle, bundled_target
from edgecompress.devices import Local
from edgecompress.errors import FileError
from edgecompress.exporting import export
from edgecompress.files import read_json, sha256
from edgecompress.profiling import profile
from edgecompress.resolving import resolve


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of LeNet-300 with its profile."""
    folder, sample = tmp_path_factory.mktemp("bundle"), resolve("lenet300")
    artifact = export(sample.model(), sample, folder)
    profile(artifact.path, Local(), runs=5, seconds=0.01).save(profile_path(artifact.path))
    bundle(artifact.path, folder / "app")
    return folder / "app"


def run_bundle(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``python run.py`` isolated from this checkout."""
    argv = [sys.executable, "-I", str(folder / "run.py"), *arguments]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def test_the_manifest_names_everything_in_the_folder(made: Path) -> None:
    manifest = read_json(made / "manifest.json")
    listed = {entry["path"]: entry["sha256"] for entry in manifest["files"]}
    assert set(listed) == {file.name for file in made.iterdir()} - {"manifest.json"}
    assert all(sha256(made / name) == digest for name, digest in listed.items())
    wanted = {"inputs", "outputs", "preprocessing", "versions", "plan", "parity", "profile", "cost", "licence"}
    assert wanted <= set(manifest)
    assert manifest["licence"] == "Apache-2.0"
    assert manifest["profile"]["latency"]["runs"] >= 5
    assert "wall_ms" not in manifest["profile"]["latency"]


def test_the_bundle_checks_itself(made: Path) -> None:
    done = run_bundle(made)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["golden"] == "ok"


def test_the_bundle_reads_an_image(made: Path, tmp_path: Path) -> None:
    test = resolve("lenet300").data("test")
    np.save(tmp_path / "digit.npy", test.pixels[0, 0].numpy()[:, :, None])  # type: ignore[attr-defined]
    done = run_bundle(made, "--input", str(tmp_path / "digit.npy"))
    assert json.loads(done.stdout)["label"] == [str(int(test.labels[0]))]  # type: ignore[attr-defined]


@pytest.mark.parametrize("victim", ["model.onnx", "golden.npz", "run.py"])
def test_damage_is_noticed(made: Path, tmp_path: Path, victim: str) -> None:
    copy = tmp_path / "app"
    shutil.copytree(made, copy)
    content = bytearray((copy / victim).read_bytes())
    content[-1] ^= 1
    (copy / victim).write_bytes(bytes(content) + (b"\n" if victim == "run.py" else b""))
    done = (
        run_bundle(copy)
        if victim != "run.py"
        else subprocess.run(
            [sys.executable, "-I", "-c", f"import runpy; runpy.run_path({str(made / 'run.py')!r}, run_name='x')"],
            check=False,
        )
    )
    assert victim == "run.py" or (done.returncode == 1 and "was changed or damaged" in str(done.stderr))


def test_a_wrong_answer_fails_the_golden_check(made: Path, tmp_path: Path) -> None:
    copy = tmp_path / "app"
    shutil.copytree(made, copy)
    with np.load(copy / "golden.npz") as golden:
        arrays = {key: golden[key] * (1.01 if key.startswith("output") else 1) for key in golden.files}
    np.savez(copy / "golden.npz", **arrays)
    manifest = read_json(copy / "manifest.json")
    for entry in manifest["files"]:
        entry["sha256"] = sha256(copy / entry["path"])
    (copy / "manifest.json").write_text(json.dumps(manifest))
    done = run_bundle(copy)
    assert done.returncode == 1
    assert "the golden pair differs" in done.stderr


def test_a_missing_file_is_named(made: Path, tmp_path: Path) -> None:
    copy = tmp_path / "app"
    shutil.copytree(made, copy)
    (copy / "model.onnx").unlink()
    done = run_bundle(copy)
    assert done.returncode == 2
    assert "model.onnx is missing" in done.stderr


def test_only_an_older_bundle_is_replaced(made: Path, tmp_path: Path) -> None:
    artifact = made.parent / "model.onnx"
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("x")
    with pytest.raises(FileError, match="which no bundle put there"):
        bundle(artifact, tmp_path / "photos")
    assert (tmp_path / "photos" / "cat.jpg").exists()
    for _ in range(2):
        bundle(artifact, tmp_path / "app")
    (tmp_path / "app" / "my_app.py").write_text("mine")
    with pytest.raises(FileError, match=r"holds 'my_app\.py'"):
        bundle(artifact, tmp_path / "app")
    (tmp_path / "app" / "my_app.py").unlink()
    assert run_bundle(tmp_path / "app").returncode == 0
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["app", "photos"]


def test_an_unknown_platform_is_refused(made: Path, tmp_path: Path) -> None:
    with pytest.raises(FileError, match="no platform 'toaster'; there is pi"):
        bundle(made.parent / "model.onnx", tmp_path / "x", platform="toaster")


def test_a_golden_pair_that_is_not_its_own_is_not_shipped(tmp_path: Path) -> None:
    sample = resolve("lenet300")
    artifact = export(sample.model(), sample, tmp_path)
    golden = tmp_path / "model.onnx.golden.npz"
    with np.load(golden) as pair:
        np.savez(golden, **{key: np.zeros_like(pair[key]) for key in pair.files})
    with pytest.raises(FileError, match="changed after the export"):
        bundle(artifact.path, tmp_path / "app")
    assert not (tmp_path / "app").exists()


def test_a_run_bundles_the_first_target_the_platform_runs() -> None:
    assert bundled_target(["litert", "ort", "onnx"], "pi") == "ort"
    with pytest.raises(FileError, match="the pi bundle runs onnx or ort; add --target onnx"):
        bundled_target(["litert"], "pi")
