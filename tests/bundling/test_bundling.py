"""A bundle is whole, checks itself on a machine without edgecompress, and notices damage."""

from __future__ import annotations

import json
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecompress.artifacts import profile_path
from edgecompress.bundling import bundle, bundled_target
from edgecompress.bundling.checking import check
from edgecompress.devices import Local
from edgecompress.errors import FileError, ParityError
from edgecompress.exporting import export
from edgecompress.files import files_in, read_json, sha256
from edgecompress.profiling import profile
from edgecompress.sources import resolve
from tests.bundling.test_schema import SCHEMA, problems


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of LeNet-300 with its profile."""
    folder, sample = tmp_path_factory.mktemp("bundle"), resolve("lenet300")
    artifact = export(sample.model(), sample, folder)
    profile(artifact.path, Local(), runs=5, seconds=0.01).save(profile_path(artifact.path))
    bundle(artifact.path, folder / "app")
    return folder / "app"


@pytest.fixture
def app(made: Path, tmp_path: Path) -> Path:
    """A copy of the bundle that may be spoilt."""
    return shutil.copytree(made, tmp_path / "app")


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(app: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """``python run.py`` of the copy, in this process: exit code, stdout and one line of stderr, never an exception."""

    def answer(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
        monkeypatch.setattr(sys, "path", [str(app), *sys.path])
        capsys.readouterr()
        try:
            runpy.run_path(str(app / "run.py"), run_name="__main__")
            code = 0
        except SystemExit as stop:
            code = -1 if not isinstance(stop.code, int) else stop.code
        out, err = capsys.readouterr()
        assert err.count("\n") == bool(code), err
        return code, out, err

    return answer


def rewrite(app: Path, **fields: Any) -> None:
    """Other fields in the manifest, and right digests of whatever it lists that is there."""
    manifest = {**read_json(app / "manifest.json"), **fields}
    manifest["files"] = [{**entry, "sha256": sha256(app / entry["path"])} for entry in manifest["files"]]
    (app / "manifest.json").write_text(json.dumps(manifest))


def other_golden(app: Path, side: str, change: Callable[[Any], Any]) -> None:
    """Other golden ``inputs`` or ``outputs``, with their digests in the manifest."""
    for tensor in read_json(app / "manifest.json")["golden"][side]:
        file = app / tensor["path"]
        file.write_bytes(change(np.frombuffer(file.read_bytes(), tensor["dtype"])).tobytes())
    rewrite(app)


def run_bundle(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``python run.py`` isolated from this checkout."""
    argv = [sys.executable, "-I", str(folder / "run.py"), *arguments]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def test_the_manifest_names_everything_in_the_folder(made: Path) -> None:
    manifest = read_json(made / "manifest.json")
    listed = {entry["path"]: entry["sha256"] for entry in manifest["files"]}
    assert set(listed) == {file.relative_to(made).as_posix() for file in files_in(made)} - {"manifest.json"}
    assert all(sha256(made / name) == digest for name, digest in listed.items())
    wanted = {"inputs", "outputs", "golden", "runtime", "versions", "plan", "parity", "profile", "cost", "licences"}
    assert wanted <= set(manifest)
    assert manifest["licences"] == {"model": "Apache-2.0", "runtime": None}
    assert manifest["profile"]["latency"]["runs"] >= 5
    assert "wall_ms" not in manifest["profile"]["latency"]


def test_the_manifest_is_as_the_schema_says(made: Path) -> None:
    assert problems(read_json(made / "manifest.json"), SCHEMA) == []


def test_the_bundle_checks_itself(made: Path) -> None:
    done = run_bundle(made)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["golden"] == "ok"


def test_the_bundle_reads_an_image(made: Path, tmp_path: Path) -> None:
    test = resolve("lenet300").data("test")
    np.save(tmp_path / "digit.npy", test.pixels[0, 0].numpy()[:, :, None])  # type: ignore[attr-defined]
    done = run_bundle(made, "--input", str(tmp_path / "digit.npy"))
    assert json.loads(done.stdout)["label"] == [str(int(test.labels[0]))]  # type: ignore[attr-defined]


@pytest.mark.parametrize("victim", ["model.onnx", "golden/image.png", "run.py", "README.md"])
def test_damage_is_noticed(app: Path, run: Run, victim: str) -> None:
    content = bytearray((app / victim).read_bytes())
    content[len(content) // 2] ^= 1
    if victim == "run.py":
        content = bytearray((app / victim).read_bytes() + b"\n")
    (app / victim).write_bytes(bytes(content))
    code, _, said = run()
    assert code == 1
    assert f"{victim} was changed or damaged" in said


def test_a_wrong_answer_fails_the_golden_check(app: Path, run: Run) -> None:
    other_golden(app, "outputs", lambda array: array * np.float32(1.01))
    code, _, said = run()
    assert code == 1
    assert "the golden pair differs" in said


def test_a_missing_file_is_named(app: Path, run: Run) -> None:
    (app / "model.onnx").unlink()
    code, _, said = run()
    assert code == 2
    assert "model.onnx is missing" in said


@pytest.mark.parametrize(
    "extra", ["numpy.py", "notes.txt", "x.npy", "onnxruntime/__init__.py", ".hidden", "model.onnx.data"]
)
def test_a_file_that_is_not_listed_is_refused_and_never_imported(app: Path, run: Run, extra: str) -> None:
    (app / extra).parent.mkdir(exist_ok=True)
    (app / extra).write_text("raise ImportError('this ran')")
    for code, said in ((done.returncode, done.stderr) for done in [run_bundle(app)]):
        assert code == 2
        assert f"{extra.partition('/')[0]} is not listed in the manifest; move it out" in said
    plain = subprocess.run([sys.executable, str(app / "run.py")], capture_output=True, text=True, check=False)
    assert plain.returncode == 2
    assert "this ran" not in plain.stderr


def test_caches_and_the_input_may_lie_in_the_folder(app: Path, run: Run) -> None:
    (app / "__pycache__").mkdir()
    (app / ".DS_Store").touch()
    test = resolve("lenet300").data("test")
    np.save(app / "digit.npy", test.pixels[0, 0].numpy()[:, :, None])  # type: ignore[attr-defined]
    code, out, _ = run("--input", str(app / "digit.npy"))
    assert code == 0
    assert json.loads(out)["label"] == [str(int(test.labels[0]))]  # type: ignore[attr-defined]


WRONG = (None, True, 3, "", "../model.onnx", [], [None], {"a": 1}, "a\x1b[2J\n")
"""Of values, more of which are in ``deploy/common/bad_manifests.json``."""
UNUSED = {"platform", "licences", "parity", "graph", "cost", "plan", "versions", "profile", "target", "precision"}
UNUSED |= {"runtime", "verified", "notes", "size_bytes", "role"}
"""Of the manifest's fields, what run.py does not look at."""
HARMLESS = {("model", str), ("tolerance", float), ("labels", type(None))}
"""Values of another kind of model that say nothing against this one."""


def used(manifest: dict[str, Any]) -> list[tuple[str, ...]]:
    """Where each field is that run.py looks at, with those of the first file, input and output."""
    below = [(key, field) for key in ("files", "inputs", "outputs") for field in manifest[key][0]]
    below.remove(("outputs", "kind"))
    return [place for place in [*((key,) for key in manifest), *below] if place[-1] not in UNUSED]


def test_a_manifest_with_any_field_wrong_or_missing_is_one_line(app: Path, run: Run) -> None:
    text = (app / "manifest.json").read_text()
    for place in used(json.loads(text)):
        for value in (*WRONG, "dropped"):
            document = json.loads(text)
            holder = document if len(place) == 1 else document[place[0]][0]
            holder[place[-1]] = value
            if value == "dropped":
                del holder[place[-1]]
            elif (place[-1], type(value)) in HARMLESS:
                continue
            (app / "manifest.json").write_text(json.dumps(document))
            code, _, said = run()
            assert code in (1, 2), (place, value)
            assert said.startswith("run.py: "), (place, value)
            assert said.strip().isprintable(), (place, value)


def test_fields_that_are_not_looked_at_may_be_missing(app: Path, run: Run) -> None:
    document = read_json(app / "manifest.json")
    (app / "manifest.json").write_text(json.dumps({key: document[key] for key in document if key not in UNUSED}))
    assert run()[0] == 0


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '{"kind": "x"}', "[" * 100_000, "\0", '{"a": NaN}'])
def test_what_is_no_manifest_is_one_line(app: Path, run: Run, text: str) -> None:
    (app / "manifest.json").write_text(text)
    code, _, said = run()
    assert code == 2
    assert "manifest.json" in said


def test_only_what_is_listed_inside_the_folder_is_opened(app: Path, run: Run) -> None:
    files = read_json(app / "manifest.json")["files"]
    shutil.copy(app / "model.onnx", app.parent / "model.onnx")
    for fields in (
        {"files": []},
        {"files": [entry for entry in files if entry["path"] != "model.onnx"]},
        {"files": [entry for entry in files if entry["path"] != "golden/input_0.bin"]},
        {"files": [entry for entry in files if entry["path"] != "run.py"]},
        {"files": [*files, files[0]]},
        {"files": [*files, {**files[0], "path": "../model.onnx"}]},
        {"model_file": "../model.onnx"},
        {"model_file": str(app.parent / "model.onnx")},
        {"model_file": "golden/input_0.bin"},
        {"runner": "requirements.txt"},
    ):
        shutil.copy(app.parent / "model.onnx", app / "model.onnx")
        whole = (app / "manifest.json").read_text()
        (app / "manifest.json").write_text(json.dumps({**json.loads(whole), **fields}))
        code, _, said = run()
        assert code in (1, 2), fields
        assert said
        (app / "manifest.json").write_text(whole)
    (app / "model.onnx").unlink()
    (app / "model.onnx").symlink_to(app.parent / "model.onnx")
    code, _, said = run()
    assert code == 2
    assert "model.onnx is missing, or is a link" in said


def test_inputs_and_outputs_are_those_of_the_model(app: Path, run: Run) -> None:
    whole = read_json(app / "manifest.json")
    spec = whole["outputs"][0]
    for side in ("inputs", "outputs"):
        for specs in (
            [],
            [*whole[side], {**spec, "name": "more"}],
            [{**whole[side][0], "name": "other"}],
            [{**whole[side][0], "dtype": "float64"}],
            [{**whole[side][0], "shape": [1, 2, 3]}],
            [{**whole[side][0], "shape": ["batch", 7]}],
            [whole[side][0], whole[side][0]],
        ):
            rewrite(app, **{side: specs})
            code, _, said = run()
            assert code == 2
            assert "manifest.json is malformed: " in said
            assert side in said
        rewrite(app, **{side: whole[side]})
    assert run()[0] == 0


NO_GOLDEN: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "NaN output": ("outputs", lambda array: array * np.float32("nan")),
    "NaN input": ("inputs", lambda array: array * np.float32("nan")),
    "infinite output": ("outputs", lambda array: array + np.float32("inf")),
    "other type": ("outputs", lambda array: array.astype(np.float64)),
    "fewer numbers": ("inputs", lambda array: array[:-1]),
    "nothing": ("outputs", lambda array: array[:0]),
}


@pytest.mark.parametrize("name", NO_GOLDEN)
def test_a_golden_pair_that_proves_nothing_is_refused(app: Path, run: Run, name: str) -> None:
    other_golden(app, *NO_GOLDEN[name])
    code, _, said = run()
    assert code in (1, 2)
    assert "golden/" in said or "output" in said
    with pytest.raises((FileError, ParityError)):
        check(app)


@pytest.mark.parametrize("side", ["inputs", "outputs"])
@pytest.mark.parametrize("tensors", [[], None, {}, [{}]])
def test_golden_tensors_are_those_of_the_model(app: Path, run: Run, side: str, tensors: Any) -> None:
    golden = read_json(app / "manifest.json")["golden"]
    rewrite(app, golden={**golden, side: tensors})
    code, _, said = run()
    assert code == 2
    assert "manifest.json is malformed" in said
    with pytest.raises(FileError, match=r"manifest\.json"):
        check(app)


INPUTS = {
    "NaN": (np.full((1, 784), np.nan, np.float32), "holds NaN"),
    "text": (np.array(["a"]), "no .npy array of numbers"),
    "other sizes": (np.zeros((1, 3), np.float32), "has shape [1, 3]"),
    "complex": (np.zeros((1, 784), np.complex64), "no .npy array of numbers"),
    "too large to be a number": (np.full((1, 784), 3e38, np.float32), "output"),
}


@pytest.mark.parametrize("name", INPUTS)
def test_no_answer_is_given_that_is_no_number(app: Path, run: Run, name: str) -> None:
    array, says = INPUTS[name]
    shape = [size if isinstance(size, int) else 1 for size in read_json(app / "manifest.json")["inputs"][0]["shape"]]
    np.save(app.parent / "x.npy", array.reshape(shape) if array.size == np.prod(shape) else array)
    code, out, said = run("--input", str(app.parent / "x.npy"))
    assert code in (1, 2), out
    assert says in said
    assert out == ""


@pytest.mark.parametrize("content", [b"", b"text", b"\x93NUMPY\x01\x00", b"PK\x03\x04", None])
def test_an_input_that_cannot_be_read_is_one_line(app: Path, run: Run, content: bytes | None) -> None:
    if content is not None:
        (app.parent / "x.npy").write_bytes(content)
    code, _, said = run("--input", str(app.parent / "x.npy"))
    assert code == 2
    assert "no .npy array of numbers" in said


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
    with pytest.raises(FileError, match=r"no platform 'toaster'; there is .*pi"):
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
