"""The bundle for Android: what its files say of one another, and its core class on a JVM."""

from __future__ import annotations

import json
import re
import shutil
import struct
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from edgecompress.bundling import bundle
from edgecompress.bundling.checking import check
from edgecompress.bundling.preparing import prepare
from edgecompress.exporting import export
from edgecompress.files import files_in, read_json
from edgecompress.manifests.reading import manifest_from
from edgecompress.platforms.android import LIBRARIES, ONNX_RUNTIME, OPERATORS, PAGE, Android
from tests.bundling.tampering import TAMPERINGS
from tests.bundling.test_bad_manifests import CASES, SET, text_of
from tests.platforms.android.toolchain import (
    KOTLIN,
    KOTLIN_FILES,
    MODULE,
    ON_ANDROID,
    aar,
    compile_kotlin,
    libraries,
    run_kotlin,
)
from tests.platforms.test_pi import _without_data

NAMESPACE = "{http://schemas.android.com/apk/res/android}"
TOOLS = "{http://schemas.android.com/tools}"


def test_an_app_ships_model_golden_files_and_a_manifest_of_these_alone(made: Path, payload: Path) -> None:
    inner, outer = read_json(payload / "manifest.json"), read_json(made / "manifest.json")
    assert inner["runner"] is None
    assert outer["runner"] == Android.runner
    own = {file.relative_to(payload).as_posix() for file in files_in(payload)} - {"manifest.json"}
    assert {entry["path"] for entry in inner["files"]} == own
    assert all(entry["role"] in ("model", "golden", "labels") for entry in inner["files"])
    for folder in (made, payload):
        found = check(folder)
        assert found.golden_error is not None
        assert found.golden_error < 1e-6


def test_the_core_class_has_nothing_of_android() -> None:
    for file in (MODULE / KOTLIN_FILES).glob("*.kt"):
        assert ("import android." in file.read_text()) is (file.name in ON_ANDROID), file.name
        assert "System.load" not in file.read_text()


def test_telemetry_is_off_before_the_library_loads() -> None:
    glue = (MODULE / KOTLIN_FILES / "OnAndroid.kt").read_text()
    opening = glue[: glue.index("EdgeModel.open(")].rsplit("fun ", 1)[1]
    assert "silence(context)" in opening
    assert "Os.setenv(EdgeModel.QUIET" in glue.split("private fun silence", 1)[1]
    core = (MODULE / KOTLIN_FILES / "EdgeModel.kt").read_text()
    assert core.index("if (variable(QUIET)") < core.index("Session(manifest")
    for file in (MODULE / KOTLIN_FILES).glob("*.kt"):
        assert ("OrtEnvironment.getEnvironment" in file.read_text()) is (file.name == "Session.kt")


def test_the_manifest_takes_the_network_and_the_telemetry_away() -> None:
    root = ElementTree.parse(MODULE / "src/main/AndroidManifest.xml").getroot()
    removed = {one.get(f"{NAMESPACE}name") for one in root.iter() if one.get(f"{TOOLS}node") == "remove"}
    assert removed >= {"android.permission.INTERNET", "ai.onnxruntime.TelemetryInitializer"}
    asked = [one for one in root.iter("uses-permission") if one.get(f"{TOOLS}node") != "remove"]
    assert asked == []


def test_names_and_versions_are_the_same_everywhere() -> None:
    module, sample = ((MODULE / path).read_text() for path in ("build.gradle.kts", "sample/build.gradle.kts"))
    assert f'api("com.microsoft.onnxruntime:onnxruntime-android:{ONNX_RUNTIME}")' in module
    assert f'testImplementation("com.microsoft.onnxruntime:onnxruntime:{ONNX_RUNTIME}")' in module
    assert f'id("org.jetbrains.kotlin.android") version "{KOTLIN}"' in (MODULE / "settings.gradle.kts").read_text()
    for key in ("compileSdk", "minSdk"):
        assert re.search(rf"{key} = (\d+)", module)[1] == re.search(rf"{key} = (\d+)", sample)[1]  # type: ignore[index]
    assert 'namespace = "edge.model"' in module
    activities = {
        one.get(f"{NAMESPACE}name")
        for path in ("src/main/AndroidManifest.xml", "sample/src/main/AndroidManifest.xml")
        for one in ElementTree.parse(MODULE / path).getroot().iter("activity")
    }
    assert activities == {"edge.model.CheckActivity"}
    assert 'ASSETS = "edge_model"' in (MODULE / KOTLIN_FILES / "OnAndroid.kt").read_text()
    assert Android.payload.endswith("/assets/edge_model")
    assert (MODULE / Android.runner).is_file()


def test_the_bundle_states_what_the_library_takes(made: Path) -> None:
    runtime = read_json(made / "manifest.json")["runtime"]
    assert (runtime["library_bytes"], runtime["library_bytes_compressed"]) == LIBRARIES["arm64-v8a"]
    assert all(f"{size:,}" in runtime["source"] for abi, (size, _) in LIBRARIES.items() if abi != "arm64-v8a")
    assert "32.23 MB" in (made / "README.md").read_text()


# -- with Kotlin's compiler, Android's classes and ONNX Runtime ----------------------------------------------------


@pytest.mark.bundles
@pytest.mark.parametrize(
    ("file", "right", "wrong", "says"),
    [
        ("OnAndroid.kt", "inScaled = false", 'inScaled = "no"', "type mismatch"),
        ("OnAndroid.kt", "assets.open(", "assets.openNow(", "unresolved reference"),
    ],
)
def test_a_planted_error_does_not_compile(
    file: str, right: str, wrong: str, says: str, classes: Path, tmp_path: Path
) -> None:
    text = (MODULE / KOTLIN_FILES / file).read_text()
    assert text.count(right) == 1
    (tmp_path / file).write_text(text.replace(right, wrong))
    spoiled = shutil.copytree(classes, tmp_path / "classes")
    done = compile_kotlin([tmp_path / file], [spoiled, *libraries()], spoiled)
    assert done.returncode != 0
    assert says in done.stderr.lower()
    (tmp_path / file).write_text(text)
    assert compile_kotlin([tmp_path / file], [spoiled, *libraries()], spoiled).returncode == 0


@pytest.mark.bundles
def test_every_bad_manifest_is_refused(classes: Path, tmp_path: Path) -> None:
    texts = [json.dumps(SET["good"]), *map(text_of, CASES.values())]
    said = run_kotlin(classes, "manifests", *_written(texts, tmp_path)).stdout.splitlines()
    assert said[0] == "taken"
    assert len(said) == len(CASES) + 1 > 150
    for (name, case), line in zip(CASES.items(), said[1:], strict=True):
        assert line.startswith("refused: manifest.json "), name
        assert case["says"] in line, name


@pytest.mark.bundles
def test_paths(classes: Path, tmp_path: Path) -> None:
    good, bad = SET["paths"]["good"], SET["paths"]["bad"]
    said = run_kotlin(classes, "paths", *_written([*good, *bad], tmp_path)).stdout.split()
    assert said == ["true"] * len(good) + ["false"] * len(bad)


def _written(texts: list[str], folder: Path) -> list[Path]:
    files = [folder / str(index) for index in range(len(texts))]
    for file, text in zip(files, texts, strict=True):
        file.write_text(text)
    return files


@pytest.mark.bundles
def test_every_tampering_is_refused(classes: Path, payload: Path, tmp_path: Path) -> None:
    folders = [Path(shutil.copytree(payload, tmp_path / str(index))) for index in range(len(TAMPERINGS))]
    for (spoil, _), folder in zip(TAMPERINGS.values(), folders, strict=True):
        spoil(folder)
    done = run_kotlin(classes, "check", payload, *folders)
    whole, *said = map(json.loads, done.stdout.splitlines())
    assert whole["ok"], whole
    for (name, (_, says)), one in zip(TAMPERINGS.items(), said, strict=True):
        assert not one["ok"], name
        assert says in one["reason"], name


@pytest.mark.bundles
@pytest.mark.parametrize(("name", "target"), [("lenet5", "onnx"), ("resnet20", "onnx"), ("lenet5", "ort")])
def test_the_core_class_answers_as_pytorch(name: str, target: str, classes: Path, tmp_path: Path) -> None:
    sample = _without_data(name)
    bundle(export(sample.model(), sample, tmp_path, target=target).path, tmp_path / "app", platform="android")
    operators = tmp_path / "app" / OPERATORS
    assert operators.is_file() is (target == "ort")
    assert target != "ort" or operators.read_text().startswith("ai.onnx;")
    done = run_kotlin(classes, "check", tmp_path / "app" / Android.payload)
    said = json.loads(done.stdout)
    assert said["ok"], said
    assert said["max_relative_error"] < 1e-6
    assert said["image_error"] < 1e-6
    assert said["png_error"] == 0
    assert said["runtime"] == f"onnxruntime {ONNX_RUNTIME}"
    assert done.stderr == ""
    tests = run_kotlin(classes, "edge.model.CoreTest", main="org.junit.runner.JUnitCore", cwd=tmp_path / "app")
    assert "OK (2 tests)" in tests.stdout


@pytest.mark.bundles
def test_images_are_prepared_as_in_python(classes: Path, tmp_path: Path) -> None:
    cases = [
        (color, resize, interpolation, layout, size)
        for color in ("gray", "RGB", "BGR")
        for resize in ("stretch", "centre-crop")
        for interpolation in ("nearest", "bilinear")
        for layout, size in (("NCHW", (20, 31, 3)), ("NHWC", (5, 4, 4)), ("NCHW", (64, 9, 1)))
    ]
    arguments: list[str | Path] = []
    wanted = []
    for index, (color, resize, interpolation, layout, shape) in enumerate(cases):
        document = json.loads(json.dumps(SET["good"]))
        channels = 1 if color == "gray" else 3
        steps = {"color": color, "resize": resize, "interpolation": interpolation, "size": [7, 11]}
        steps |= {"mean": [0.4, 0.5, 0.6][:channels], "std": [0.2, 0.3, 0.25][:channels]}
        laid = [channels, 7, 11] if layout == "NCHW" else [7, 11, channels]
        document["inputs"][0] |= {"layout": layout, "shape": ["batch", *laid]}
        document["inputs"][0]["preprocessing"] |= steps
        document["golden"] |= {"image": None}
        document["golden"]["inputs"][0]["shape"] = [1, *laid]
        for entry in document["files"]:
            entry["size_bytes"] = 308 * channels if entry["path"] == "golden/input_0.bin" else entry["size_bytes"]
        pixels = np.random.default_rng(index).integers(0, 256, shape, np.uint8)
        files = {kind: tmp_path / f"{index}.{kind}" for kind in ("json", "bin", "out")}
        files["json"].write_text(json.dumps(document))
        files["bin"].write_bytes(pixels.tobytes())
        arguments += [files["json"], *map(str, shape), files["bin"], files["out"]]
        wanted.append(prepare(pixels, manifest_from(document).inputs[0]))
    assert run_kotlin(classes, "prepare", *arguments).stdout.split() == ["taken"] * len(cases)
    for index, theirs in enumerate(wanted):
        ours = np.fromfile(tmp_path / f"{index}.out", "<f4").reshape(theirs.shape)
        assert np.abs(ours - theirs).max() <= 1e-6 * np.abs(theirs).max(), cases[index]


@pytest.mark.bundles
def test_what_is_said_of_the_libraries_is_so_of_the_aar() -> None:
    found: dict[str, list[int]] = {}
    with zipfile.ZipFile(aar()) as opened:
        for entry in opened.infolist():
            if entry.filename.endswith(".so"):
                sizes = found.setdefault(entry.filename.split("/")[1], [0, 0])
                sizes[0] += entry.file_size
                sizes[1] += entry.compress_size
                assert {one % PAGE for one in alignments(opened.read(entry))} == {0}, entry.filename
    assert {abi: tuple(sizes) for abi, sizes in found.items()} == LIBRARIES


def alignments(library: bytes) -> set[int]:
    """``p_align`` of the segments of an ELF file that are loaded."""
    wide = library[4] == 2
    table, size, count = (
        struct.unpack_from("<Q", library, 0x20) + struct.unpack_from("<HH", library, 0x36)
        if wide
        else struct.unpack_from("<I", library, 0x1C) + struct.unpack_from("<HH", library, 0x2A)
    )
    loaded = [at for at in range(table, table + size * count, size) if struct.unpack_from("<I", library, at)[0] == 1]
    assert loaded
    return {struct.unpack_from("<Q" if wide else "<I", library, at + (0x30 if wide else 0x1C))[0] for at in loaded}
