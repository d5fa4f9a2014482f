"""The Swift package: its core refuses what all readers refuse, prepares the same pixels, and runs on Linux."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from edgecompress.artifacts import Artifact
from edgecompress.bundling import bundle
from edgecompress.bundling.checking import check
from edgecompress.bundling.golden_files import pattern
from edgecompress.bundling.preparing import prepare
from edgecompress.exporting import export
from edgecompress.files import files_in, read_json, resource
from edgecompress.manifests.reading import manifest_from
from edgecompress.platforms import PLATFORMS
from edgecompress.platforms.base import Contents
from edgecompress.settings import BundleOptions
from edgecompress.sources import resolve
from tests.bundling.small import small_artifact
from tests.bundling.tampering import TAMPERINGS
from tests.bundling.test_bad_manifests import CASES, SET, text_of
from tests.platforms import swift
from tests.platforms.preparations import TRICKS, preparations

SOURCES = resource("deploy") / "ios"
OURS = Path(__file__).with_name("ios")
MODEL = "Sources/EdgeRuntime/model"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a small model that takes images."""
    folder = tmp_path_factory.mktemp("ios")
    bundle(small_artifact(folder).path, folder / "app", platform="ios")
    return folder / "app"


def test_it_is_a_package_with_the_model_in_it(made: Path) -> None:
    check(made)
    check(made / MODEL)
    whole, own = read_json(made / "manifest.json"), read_json(made / MODEL / "manifest.json")
    assert (whole["runner"], own["runner"]) == ("Sources/edge-check/main.swift", None)
    roles = {file["path"]: file["role"] for file in whole["files"]}
    assert {roles[name] for name in roles if name.endswith((".swift", ".h", ".c"))} == {"code"}
    assert f'.copy("{Path(MODEL).name}")' in (made / "Package.swift").read_text()
    assert not (made / "Sources" / "EdgeRuntime" / "CoreMLRunner.swift").exists()


def test_the_core_knows_no_runtime_and_no_screen() -> None:
    imports = {line for file in files_in(SOURCES / "shared" / "Sources" / "EdgeCore")
               for line in re.findall(r"^\s*import (\w+)", file.read_text(), re.MULTILINE)}  # fmt: skip
    assert imports == {"Foundation", "CryptoKit"}
    texts = "".join(file.read_text() for file in files_in(SOURCES))
    assert not re.search(r"UIKit|URLSession|http://|edgecompress[^.]", texts)


def test_telemetry_is_off_before_an_environment_is_made() -> None:
    text = (SOURCES / "onnxruntime" / "Sources" / "EdgeRuntime" / "OnnxRuntimeRunner.swift").read_text()
    assert (
        text.index('setenv("ORT_DISABLE_TELEMETRY", "1", 1)') < text.index("OrtGetApiBase()") < text.index("CreateEnv")
    )


def test_a_model_of_core_ml_gets_its_own_runner(made: Path, tmp_path: Path) -> None:
    platform, manifest = PLATFORMS["ios"], manifest_from(read_json(made / MODEL / "manifest.json"))
    artifact = replace(Artifact.load(made.parent / "model.onnx"), target="coreml")
    platform.fill(tmp_path, Contents(artifact, manifest, tmp_path / MODEL, BundleOptions()))
    assert (tmp_path / "Sources" / "EdgeRuntime" / "CoreMLRunner.swift").exists()
    assert not (tmp_path / "Sources" / "COnnxRuntime").exists()
    assert "onnxruntime" not in (tmp_path / "Package.swift").read_text()
    assert platform.runtime("coreml", tmp_path).name == "Core ML"
    assert platform.runtime("ort", tmp_path).name == "onnxruntime"
    assert any("Core ML" in words for words in platform.verified.not_run)


# -- with Swift ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def work(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package, built with our own tests in it, and ONNX Runtime."""
    swift.require()
    folder = tmp_path_factory.mktemp("swift")
    shutil.copytree(made, folder / "app")
    shutil.copyfile(OURS / "ReaderTests.swift", folder / "app" / "Tests" / "EdgeTests" / "ReaderTests.swift")
    (folder / "cases.json").write_text(json.dumps(cases()))
    swift.put_runtime(folder)
    swift.checked(folder, "cd app && swift build --build-tests -Xlinker -L/w/lib 2>&1")
    return folder


def cases() -> dict[str, object]:
    """What every reader is tested on; bytes as base64."""
    good = json.dumps(SET["good"])
    bad = [{"name": name, "text": text_of(case), "says": case["says"]} for name, case in CASES.items()]
    bad += [{"name": path, "text": text_of({"at": ["files", 0, "path"], "value": path}), "says": "files"}
            for path in SET["paths"]["bad"]]  # fmt: skip
    bad += [
        {"name": name, "text": good.replace(*change, 1), "says": "manifest.json"} for name, change in TRICKS.items()
    ]
    contents = [random.Random(0).randbytes(size) for size in (*range(130), 100_000)]
    prepared = [
        {
            "manifest": json.dumps(manifest),
            "shape": shape,
            "size": size,
            "pixels": text(pattern(*shape).tobytes()),
            "prepared": text(prepare(pattern(*shape), manifest_from(manifest).inputs[0], size).tobytes()),
        }
        for manifest, shape, size in preparations()
    ]
    return {
        "good": good,
        "same": good.replace('"kind"', '"k\\u0069nd"').replace('": ', '"\n:\t '),
        "bad": bad,
        "goodPaths": SET["paths"]["good"],
        "badPaths": SET["paths"]["bad"],
        "digests": [{"data": text(one), "hex": hashlib.sha256(one).hexdigest()} for one in contents],
        "preparations": prepared,
    }


def text(content: bytes) -> str:
    """As base64."""
    return base64.b64encode(content).decode()


def verdicts(work: Path, folders: str) -> list[tuple[int, dict[str, object]]]:
    """Exit code and JSON of the command for each folder that matches."""
    script = f'for one in {folders}; do app/.build/debug/edge-check "$one" 2>/dev/null; echo $?; done'
    lines = swift.checked(work, script).splitlines()
    return [(int(code), json.loads(said)) for said, code in zip(lines[::2], lines[1::2], strict=True)]


@pytest.mark.bundles
def test_swift_test_passes(work: Path) -> None:
    said = swift.checked(work, "cd app && swift test --skip-build -Xlinker -L/w/lib 2>&1")
    assert "Executed 10 tests, with 0 failures" in said, said


@pytest.mark.bundles
@pytest.mark.parametrize("name", ["lenet5", "resnet20"])
def test_it_answers_here_as_pytorch_did(name: str, work: Path, tmp_path: Path) -> None:
    sample = replace(resolve(name), splits=None)
    bundle(export(sample.model(), sample, tmp_path).path, tmp_path / "app", platform="ios")
    shutil.copytree(tmp_path / "app" / MODEL, work / name)
    ((code, said),) = verdicts(work, name)
    assert (code, said["ok"]) == (0, True), said
    assert said["golden_error"] < 1e-6
    assert said["image_error"] < 1e-6


@pytest.mark.bundles
def test_the_command_refuses_tampering(made: Path, work: Path) -> None:
    for index, (spoil, _) in enumerate(TAMPERINGS.values()):
        spoil(shutil.copytree(made / MODEL, work / f"tampered-{index:02}"))
    found = verdicts(work, "tampered-??")
    wrong = {name: said for (name, (_, says)), (code, said) in zip(TAMPERINGS.items(), found, strict=True)
             if (code, said["ok"]) != (1, False) or says not in str(said["reason"])}  # fmt: skip
    assert wrong == {}


@pytest.mark.bundles
def test_it_leaves_no_trace(made: Path, work: Path) -> None:
    (work / "home").mkdir()
    run = f"env -i HOME=/w/home TMPDIR=/w/home LD_LIBRARY_PATH=/w/lib app/.build/debug/edge-check app/{MODEL}"
    assert '"ok":true' in swift.checked(work, run)
    assert list((work / "home").iterdir()) == []


@pytest.mark.bundles
def test_it_is_parsed_for_an_iphone_and_an_error_is_noticed(work: Path) -> None:
    for part in ("shared", "onnxruntime", "coreml"):
        shutil.copytree(SOURCES / part, work / "parsed", dirs_exist_ok=True)
    every = "$(find parsed -name '*.swift' ! -name Package.swift)"
    swift.checked(work, f"swiftc -parse -target arm64-apple-ios15 {every} 2>&1")
    core = "parsed/Sources/EdgeCore"
    swift.checked(work, f"swiftc -typecheck {core}/*.swift 2>&1")
    (work / core / "Wrong.swift").write_text('let wrong: Bool = "text"\n')
    done = swift.run(work, f"swiftc -typecheck {core}/*.swift 2>&1")
    assert done.returncode != 0
    assert "cannot convert value of type 'String'" in done.stdout


@pytest.mark.bundles
def test_the_runner_of_core_ml_fits_what_it_calls(work: Path) -> None:
    folder = work / "coreml"
    for part in ("shared", "coreml"):
        shutil.copytree(SOURCES / part, folder, dirs_exist_ok=True)
    shutil.copyfile(OURS / "CoreML.swift", folder / "CoreML.swift")
    (folder / "Accessor.swift").write_text("import Foundation\nextension Bundle { static let module = Bundle.main }\n")
    swift.checked(
        work,
        "cd coreml && swiftc -emit-module -module-name CoreML -parse-as-library CoreML.swift && "
        "swiftc -emit-module -module-name EdgeCore -parse-as-library Sources/EdgeCore/*.swift && "
        "swiftc -typecheck -parse-as-library -I . Accessor.swift Sources/EdgeRuntime/*.swift 2>&1",
    )
