"""The bundle in C: its reader refuses what all readers refuse, prepares the same pixels, and runs here and on ARM."""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecompress.bundling import bundle
from edgecompress.bundling.checking import check
from edgecompress.bundling.golden_files import pattern
from edgecompress.bundling.preparing import prepare
from edgecompress.devices import device_named
from edgecompress.devices.emulated.spec import SETUP, Emulation, emulation_folder, is_installed
from edgecompress.exporting import export
from edgecompress.files import files_in, read_json, resource
from edgecompress.manifests.reading import manifest_from
from edgecompress.sources import resolve
from tests.bundling.small import LABELS, small_artifact
from tests.bundling.tampering import TAMPERINGS
from tests.bundling.test_bad_manifests import CASES, SET, text_of
from tests.platforms.onnxruntime_c import header_folder, library, library_in
from tests.platforms.preparations import TRICKS, preparations

SOURCES = resource("deploy") / "native"
STRICT = ("-std=c11", "-Wall", "-Wextra", "-Werror", "-O1", "-g")
SANITIZED = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")


def program(name: str, package: str) -> str:
    """Its path, or the test is skipped."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not here: apt-get install {package}")
    return found


# -- the reader, without ONNX Runtime ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of the reader and a program that feeds it, with sanitizers."""
    place = tmp_path_factory.mktemp("reader") / "reader"
    files = [SOURCES / f"edge_{name}.c" for name in ("json", "manifest", "files", "prepare")]
    files.append(Path(__file__).with_name("native_reader.c"))
    argv = [program("gcc", "gcc"), *STRICT, *SANITIZED, f"-I{SOURCES}", *map(str, files), "-o", str(place), "-lm"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return place


def feed(reader: Path, frames: Iterator[bytes] | list[bytes], *arguments: str) -> bytes:
    """What the program prints."""
    text = b"".join(b"%d\n%s" % (len(frame), frame) for frame in frames)
    done = subprocess.run([str(reader), *arguments], input=text, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def test_bad_manifests_are_refused_and_the_good_one_is_taken(reader: Path) -> None:
    texts = [json.dumps(SET["good"]), *map(text_of, CASES.values())]
    good, *answers = feed(reader, [text.encode() for text in texts], "manifests").decode().splitlines()
    assert good == "ok"
    says = {name: answer for (name, case), answer in zip(CASES.items(), answers, strict=True)
            if case["says"] not in answer or "manifest.json" not in answer}  # fmt: skip
    assert says == {}


def test_paths(reader: Path) -> None:
    good, bad = SET["paths"]["good"], SET["paths"]["bad"]
    answers = feed(reader, [path.encode() for path in (*good, *bad)], "paths").decode().split()
    assert answers == ["1"] * len(good) + ["0"] * len(bad)
    texts = [text_of({"at": ["files", 0, "path"], "value": path}).encode() for path in bad]
    assert all("files" in answer for answer in feed(reader, texts, "manifests").decode().splitlines())


def test_what_readers_may_see_otherwise_is_refused(reader: Path) -> None:
    good = json.dumps(SET["good"])
    texts = {name: good.replace(*change, 1) for name, change in TRICKS.items()}
    assert good not in texts.values()
    answers = feed(reader, [text.encode("latin-1") for text in texts.values()], "manifests").decode().splitlines()
    assert [name for name, answer in zip(texts, answers, strict=True) if answer == "ok"] == []
    same = good.replace('"kind"', '"k\\u0069nd"').replace('": ', '"\n:\t ')
    assert feed(reader, [same.encode()], "manifests") == b"ok\n"


def test_hostile_bytes_do_no_harm(reader: Path) -> None:
    taken = int(feed(reader, [json.dumps(SET["good"]).encode()], "fuzz", "2000", "7"))
    assert 0 < taken < 1000


def test_digests(reader: Path) -> None:
    contents = [random.Random(0).randbytes(size) for size in (*range(130), 1 << 16)]
    wanted = [hashlib.sha256(content).hexdigest() for content in contents]
    assert feed(reader, contents, "sha256").decode().split() == wanted


def test_pixels_are_prepared_as_everywhere(reader: Path) -> None:
    frames, wanted = [], []
    for manifest, shape, size in preparations():
        pixels = pattern(*shape)
        frames += [json.dumps(manifest).encode(), " ".join(map(str, (*shape, *size))).encode(), pixels.tobytes()]
        wanted.append(prepare(pixels, manifest_from(manifest).inputs[0], size).ravel())
    assert len(wanted) == 72
    ours, theirs = np.frombuffer(feed(reader, frames, "prepare"), "<f4"), np.concatenate(wanted)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= 1e-6 * np.abs(theirs).max()


def test_telemetry_is_off_before_the_library_loads() -> None:
    text = (SOURCES / "edge_model.c").read_text()
    loads = text.index("static bool load_runtime")
    assert loads < text.index('setenv("ORT_DISABLE_TELEMETRY", "1", 1)') < text.index("base_of(model, file", loads)
    assert not re.search(r"socket|connect\(|http|edgecompress[^.]", "".join(f.read_text() for f in files_in(SOURCES)))


# -- the bundle ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a small model that takes images."""
    folder = tmp_path_factory.mktemp("native")
    bundle(small_artifact(folder).path, folder / "app", platform="native")
    return folder / "app"


def test_the_app_ships_the_model_alone(made: Path) -> None:
    check(made)
    check(made / "model")
    own, whole = read_json(made / "model" / "manifest.json"), read_json(made / "manifest.json")
    assert own["runner"] is None
    assert whole["runner"] == "edge_check.c"
    roles = {file["path"]: file["role"] for file in whole["files"]}
    assert {path for path, role in roles.items() if role == "code"} == {file.name for file in files_in(SOURCES)}
    assert whole["runtime"]["library_bytes"] > 10_000_000


# -- with ONNX Runtime's C interface -------------------------------------------------------------------------------


def built(folder: Path, bundled: Path, *settings: str) -> Path:
    """The command of a bundle, by its own CMake file."""
    cmake = program("cmake", "cmake")
    options = [f"-DONNXRUNTIME_INCLUDE={header_folder()}", "-DEDGE_WERROR=ON", *settings]
    for argv in ([cmake, "-S", str(bundled), "-B", str(folder), *options], [cmake, "--build", str(folder)]):
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder / "edge_check"


@pytest.fixture(scope="module")
def command(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For this machine, with sanitizers."""
    program("gcc", "gcc")
    return built(tmp_path_factory.mktemp("here"), made, "-DEDGE_SANITIZE=ON", "-DCMAKE_C_COMPILER=gcc")


def run(command: Path, folder: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, the one JSON object, the one line."""
    argv = [str(command), "--library", str(library()), *arguments, str(folder)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.stderr.count("\n") == 1, done.stderr
    return done.returncode, json.loads(done.stdout), done.stderr


@pytest.fixture(scope="module", params=["lenet5", "resnet20"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a bundle of a sample ships."""
    folder = tmp_path_factory.mktemp(request.param)
    sample = replace(resolve(request.param), splits=None)
    bundle(export(sample.model(), sample, folder).path, folder / "app", platform="native")
    return folder / "app" / "model"


@pytest.mark.bundles
def test_it_answers_here_as_pytorch_did(command: Path, model: Path) -> None:
    code, said, line = run(command, model, "--seconds", "0")
    assert (code, said["ok"]) == (0, True)
    assert said["golden_error"] < 1e-6
    assert said["image_error"] < 1e-6
    assert said["median_ms"] > 0
    assert line.startswith("edge_check: ok: ")


@pytest.mark.bundles
@pytest.mark.parametrize("name", TAMPERINGS)
def test_the_command_refuses_tampering(name: str, command: Path, made: Path, tmp_path: Path) -> None:
    spoil, says = TAMPERINGS[name]
    spoil(shutil.copytree(made / "model", tmp_path / "app"))
    code, said, line = run(command, tmp_path / "app")
    assert (code, said["ok"]) == (1, False)
    assert says in said["reason"]
    assert line == f"edge_check: refused: {said['reason']}\n"


@pytest.mark.bundles
def test_it_answers_for_an_image_of_any_size(command: Path, made: Path, tmp_path: Path) -> None:
    import onnxruntime

    pixels = pattern(40, 31, 3)
    (tmp_path / "photo.ppm").write_bytes(b"P6\n# a comment\n31 40\n255\n" + pixels.tobytes())
    code, said, _ = run(command, made / "model", "--image", str(tmp_path / "photo.ppm"))
    assert code == 0
    manifest = manifest_from(read_json(made / "model" / "manifest.json"))
    session = onnxruntime.InferenceSession(str(made / "model" / "model.onnx"))
    wanted = session.run(None, {manifest.inputs[0].name: prepare(pixels, manifest.inputs[0])})[0]
    answer = said["outputs"][manifest.outputs[0].name]
    assert np.abs(np.array(answer["numbers"]) - wanted[0]).max() < 1e-6 * np.abs(wanted).max()
    assert answer["label"] == LABELS[int(wanted.argmax())]
    (tmp_path / "photo.ppm").write_bytes(b"P6\n9 9\n255\n")
    assert "photo.ppm" in run(command, made / "model", "--image", str(tmp_path / "photo.ppm"))[1]["reason"]


@pytest.mark.bundles
def test_it_leaves_no_trace_and_needs_no_variable(command: Path, made: Path, tmp_path: Path) -> None:
    places = {name: str(tmp_path) for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME")}
    argv = [str(command), "--library", str(library()), str(made / "model")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=places, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "telemetry" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.bundles
def test_it_can_be_linked(made: Path, tmp_path: Path) -> None:
    program("gcc", "gcc")
    linked = built(tmp_path, made, "-DEDGE_LINK=ON", f"-DONNXRUNTIME_LIBRARY={library()}", "-DCMAKE_C_COMPILER=gcc")
    (library_name,) = re.findall(r"NEEDED.*\[(libonnxruntime[^]]*)\]", _dynamic(linked))
    (tmp_path / library_name).symlink_to(library())
    env = {"LD_LIBRARY_PATH": str(tmp_path)}
    done = subprocess.run([str(linked), str(made / "model")], capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr


def _dynamic(file: Path) -> str:
    argv = [program("readelf", "binutils"), "-d", str(file)]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


@pytest.mark.bundles
def test_it_runs_on_an_emulated_core(made: Path, model: Path, tmp_path: Path) -> None:
    compiler = program("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu")
    if not is_installed():
        pytest.skip(f"the emulated device is not set up: {SETUP}")
    system = ("-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64")
    arm = built(tmp_path / "build", made, f"-DCMAKE_C_COMPILER={compiler}", *system)
    runtime = library_in(Emulation(emulation_folder()).site / "onnxruntime")
    with device_named("emulated:cortex-a72").session(["onnxruntime"]) as session:
        argv = [str(arm), "--library", str(runtime), "--threads", "1"]
        said = json.loads(session.run([*argv, str(model)], timeout_s=300))
        assert said["golden_error"] < 1e-6
        assert said["image_error"] < 1e-6
        broken = shutil.copytree(model, tmp_path / "broken")
        TAMPERINGS["one bit of the model"][0](broken)
        with pytest.raises(Exception, match=r"model\.onnx was changed"):
            session.run([*argv, str(broken)], timeout_s=300)


@pytest.mark.bundles
def test_an_error_in_it_does_not_compile(made: Path, tmp_path: Path) -> None:
    app = shutil.copytree(made, tmp_path / "app")
    file = app / "edge_model.c"
    file.write_text(file.read_text().replace("enum { API = 18 };", 'enum { API = 18 };\nstatic int wrong = "text";'))
    with pytest.raises(AssertionError, match="wrong"):
        built(tmp_path / "build", app)
