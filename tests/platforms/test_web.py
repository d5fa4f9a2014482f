"""The bundle for browsers: its core refuses what was tampered with, prepares like Python, and runs in Chromium."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecompress.bundling import bundle
from edgecompress.bundling.checking import check
from edgecompress.bundling.preparing import prepare
from edgecompress.cli import run_command_line
from edgecompress.errors import FileError
from edgecompress.files import read_json, resource
from edgecompress.manifests import Input, Preprocessing
from edgecompress.platforms import npm, web
from edgecompress.platforms.npm import Package, vendor
from edgecompress.settings import BundleOptions
from tests.bundling.small import small_artifact
from tests.bundling.tampering import TAMPERINGS
from tests.bundling.test_bad_manifests import CASES, SET, text_of

TEMPLATE, CORE = resource("deploy") / "web", Path(__file__).with_name("web_core.mjs")
LIBRARY = b"export const env = {};"
FAKE = Package("onnxruntime-web", "1.30.0", {"dist/ort.mjs": ("ort.mjs", hashlib.sha256(LIBRARY).hexdigest())})
"""A library of one file, for tests that run nothing."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a small model that takes images, with a library that runs nothing."""
    folder = tmp_path_factory.mktemp("web")
    (folder / "npm").mkdir()
    (folder / "npm" / "ort.mjs").write_bytes(LIBRARY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(web, "LIBRARIES", {"onnx": (FAKE,)})
        options = BundleOptions(runtime_dir=folder / "npm")
        bundle(small_artifact(folder).path, folder / "app", platform="web", options=options)
        bundle(
            small_artifact(folder).path, folder / "app.html", platform="web", options=replace(options, single_file=True)
        )
    return folder / "app"


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The modules of the page, where Node takes them for modules."""
    folder = tmp_path_factory.mktemp("modules")
    for file in TEMPLATE.glob("*.js"):
        shutil.copyfile(file, folder / file.name)
    (folder / "package.json").write_text('{"type": "module"}')
    return folder


def node(modules: Path, what: str, job: Any) -> Any:
    """A task of ``web_core.mjs``."""
    program = shutil.which("node")
    if program is None:
        pytest.skip("node is not here: install Node.js 20 or newer (apt-get install nodejs)")
    argv = [program, str(CORE), str(modules), what]
    done = subprocess.run(argv, input=json.dumps(job), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# -- the core class, in Node ---------------------------------------------------------------------------------------


def test_each_bad_manifest_is_refused_and_the_good_one_taken(modules: Path) -> None:
    texts = [json.dumps(SET["good"]), *(text_of(case) for case in CASES.values())]
    texts += [text_of({"at": ["files", 0, "path"], "value": path}) for path in SET["paths"]["bad"]]
    paths = [*SET["paths"]["good"], *SET["paths"]["bad"]]
    found = node(modules, "manifests", {"texts": texts, "paths": paths})
    assert found["paths"] == [True] * len(SET["paths"]["good"]) + [False] * len(SET["paths"]["bad"])
    assert found["messages"][0] is None
    assert len(CASES) > 150
    for (name, case), message in zip(CASES.items(), found["messages"][1:], strict=False):
        assert message is not None, name
        assert case["says"] in message, (name, message)
        assert "\n" not in message
    assert all("files" in message for message in found["messages"][1 + len(CASES) :])


STEPS = Preprocessing((5, 8), "RGB", "stretch", "bilinear", 1 / 255, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))


def images() -> Iterator[tuple[np.ndarray[Any, Any], Input]]:
    """Images of several sizes and channels, and inputs that take them."""
    generator = np.random.default_rng(0)
    ways = product(("gray", "RGB", "BGR"), ("stretch", "centre-crop"), ("nearest", "bilinear"), ("NCHW", "NHWC"))
    sizes = [(5, 8, 3), (17, 3, 1), (3, 40, 4), (61, 47, 3), (1, 1, 3), (10, 16, 3)]
    for number, (color, resize, interpolation, layout) in enumerate(ways):
        count = 1 if color == "gray" else 3
        steps = replace(STEPS, color=color, resize=resize, interpolation=interpolation, mean=STEPS.mean[:count],
                        std=STEPS.std[:count])  # fmt: skip
        for size in sizes[number % 2 :: 2]:
            yield generator.integers(0, 256, size, np.uint8), Input("x", "float32", ("batch", 1, 1, 1), layout, steps)


def test_images_are_prepared_as_in_python(modules: Path) -> None:
    cases = list(images())
    job = [
        {
            "image": {
                "data": pixels.ravel().tolist(),
                **dict(zip(("height", "width", "channels"), pixels.shape, strict=True)),
            },
            "spec": asdict(taking),
        }
        for pixels, taking in cases
    ]
    found = node(modules, "prepare", job)
    assert len(found) == len(cases) > 50
    for (pixels, taking), ours in zip(cases, found, strict=True):
        theirs = prepare(pixels, taking).ravel()
        assert np.abs(np.array(ours) - theirs).max() <= 1e-6 * max(1e-6, np.abs(theirs).max()), (pixels.shape, taking)


def test_an_untouched_bundle_passes(modules: Path, made: Path) -> None:
    (found,) = node(modules, "check", {"folders": [str(made)], "untouched": str(made)})
    assert found["message"] is None
    report = found["report"]
    assert report["ok"] is True
    assert report["verdict"].startswith("ok")
    assert report["max_relative_error"] == 0
    assert report["image_error"] <= 1e-6
    assert [one["name"] for one in report["checks"]] == ["manifest", "files", "golden pair", "golden image"]


@pytest.mark.parametrize(
    ("side", "fields"),
    [("inputs", {"shape": ["batch", 3, "height", 7]}), ("inputs", {"name": "other"}), ("outputs", {"name": "other"})],
)
def test_a_signature_that_is_not_the_model_s_is_refused(
    side: str, fields: dict[str, Any], modules: Path, made: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(made, tmp_path / "app")
    manifest = read_json(folder / "manifest.json")
    golden = manifest["golden"]
    manifest[side][0].update(fields)
    for tensor in (golden[side][0], *(golden["image"]["outputs"] if side == "outputs" else ())):
        tensor["name"] = manifest[side][0]["name"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (found,) = node(modules, "check", {"folders": [str(folder)], "untouched": str(made)})
    assert re.search(rf"its {side} \(.*\) are not the {side} of the model \(", found["message"])


def served(folder: Path) -> str:
    """What ``serve.py --check`` says of a folder; empty: nothing."""
    done = subprocess.run(
        [sys.executable, "-I", str(folder / "serve.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == (2 if done.stderr else 0)
    assert done.stderr.count("\n") <= 1
    return done.stderr


def test_tampering_is_refused_by_server_or_core(modules: Path, made: Path, tmp_path: Path) -> None:
    folders = {}
    for number, (name, (spoil, _)) in enumerate(TAMPERINGS.items()):
        folders[name] = shutil.copytree(made, tmp_path / str(number) / "app")
        spoil(folders[name])
    found = node(modules, "check", {"folders": list(map(str, folders.values())), "untouched": str(made)})
    for (name, folder), one in zip(folders.items(), found, strict=True):
        word = TAMPERINGS[name][1]
        said = served(folder) if name == "a link" else one["message"]
        assert said, name
        assert word in said, (name, said)
        if name != "a link":
            assert one["report"]["ok"] is False
            assert one["report"]["verdict"] == f"refused: {one['message']}"
            assert "latency" not in one["report"]
    for name in ("one file more", "a link", "a golden file is missing", "an emptied list of files"):
        assert TAMPERINGS[name][1] in served(folders[name])
    assert served(made) == ""


def test_the_server_gives_out_what_is_listed_with_its_type(made: Path) -> None:
    argv = [sys.executable, "-I", str(made / "serve.py"), "--port", "0"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            for path, kind in {"": "text/html; charset=utf-8", "runtime/ort.mjs": "text/javascript; charset=utf-8",
                               "model.onnx": "application/octet-stream", "sw.js?x": "text/javascript; charset=utf-8",
                               "manifest.json": "application/json"}.items():  # fmt: skip
                with urllib.request.urlopen(address + path) as answer:
                    assert answer.headers["Content-Type"] == kind
                    assert answer.headers["X-Content-Type-Options"] == "nosniff"
                    assert answer.read() == (made / (path.partition("?")[0] or "index.html")).read_bytes()
            for path in ("golden/", "golden", "other", "../out", "%2e%2e/out", ".", "runtime//ort.mjs"):
                with pytest.raises(urllib.error.HTTPError, match="404"):
                    urllib.request.urlopen(address + path)
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("(index + 0.5) * step", "index * step"),
        ("Math.max(step, 1)", "1"),
        ("(value * LUMA[0] + green[i] * LUMA[1]", "(value * LUMA[1] + green[i] * LUMA[0]"),
        ("numbers[i] * steps.scale - steps.mean[channel]", "numbers[i] * steps.scale"),
        ("planes.reverse()", "planes"),
    ],
)
def test_a_wrong_step_of_preparing_is_seen(right: str, wrong: str, modules: Path, tmp_path: Path) -> None:
    """In a page whose own digests are right; of gray and BGR images, by the cases above."""
    shutil.copytree(modules, tmp_path / "modules")
    text = (modules / "preparing.js").read_text()
    assert text.count(right) == 1
    (tmp_path / "modules" / "preparing.js").write_text(text.replace(right, wrong))
    cases = list(images())
    job = [{"image": {"data": pixels.ravel().tolist(), "height": pixels.shape[0], "width": pixels.shape[1],
                      "channels": pixels.shape[2]}, "spec": asdict(taking)} for pixels, taking in cases]  # fmt: skip
    found = node(tmp_path / "modules", "prepare", job)
    off = [np.abs(np.array(ours) - prepare(pixels, taking).ravel()).max()
           for (pixels, taking), ours in zip(cases, found, strict=True)]  # fmt: skip
    assert max(off) > 1e-3


def test_a_wrong_resize_is_refused(modules: Path, made: Path, tmp_path: Path) -> None:
    shutil.copytree(modules, tmp_path / "modules")
    file = tmp_path / "modules" / "preparing.js"
    file.write_text(file.read_text().replace("(index + 0.5) * step", "index * step"))
    (found,) = node(tmp_path / "modules", "check", {"folders": [str(made)], "untouched": str(made)})
    assert re.search(r"the golden image is prepared with an error of", found["message"])


def test_digests_numbers_and_blocks(modules: Path) -> None:
    sizes = [0, 1, 55, 56, 63, 64, 65, 119, 120, 1000]
    digests = node(modules, "digests", sizes)
    right = [hashlib.sha256(bytes((7 * i + size) % 256 for i in range(size))).hexdigest() for size in sizes]
    assert digests == {"fast": right, "own": right}
    pairs = [[[1, 2], [1, 4]], [["NaN"], [1]], [["Infinity", 1], ["Infinity", 2]], [["Infinity"], ["Infinity"]],
             [[1], [1, 2]], [["-Infinity", 1], ["Infinity", 1]], [[0], [0]]]  # fmt: skip
    assert node(modules, "difference", pairs) == ["0.5", "Infinity", "0.5", "Infinity", "Infinity", "Infinity", "0"]
    bits = [0x3C00, 0xC000, 0x0001, 0x7C00, 0x7E00, 0x3555]
    halves = np.array(bits, np.uint16).view(np.float16)
    found = [float(one) for one in node(modules, "halves", bits)]
    np.testing.assert_array_equal(found, halves.astype(np.float64))
    latency = node(modules, "measured", {"costs": [4, 0.5]})
    assert latency["runs_in_block"] * latency["min_ms"] >= 20
    assert 0.5 <= latency["min_ms"] <= latency["median_ms"] <= latency["p90_ms"]


# -- making it -----------------------------------------------------------------------------------------------------


def test_the_bundle_holds_its_library_and_says_what_it_weighs(made: Path) -> None:
    manifest = read_json(made / "manifest.json")
    roles = {entry["path"]: entry["role"] for entry in manifest["files"]}
    assert roles["index.html"] == "code"
    assert roles["runtime/ort.mjs"] == "runtime"
    assert roles["runtime/onnxruntime-web.LICENSE"] == "text"
    assert "runtime/LiteRT.js.LICENSE" not in roles
    assert manifest["runtime"]["library_bytes"] == len(LIBRARY)
    assert manifest["runtime"]["tested"] == "1.30.0"
    assert manifest["licences"]["runtime"] == "MIT"
    assert "@BUNDLE@" not in (made / "sw.js").read_text()
    check(made)


def test_another_model_is_another_service_worker(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "LIBRARIES", {"onnx": (FAKE,)})
    (tmp_path / "labels.txt").write_text("one\ntwo\nthree\n")
    options = BundleOptions(labels=tmp_path / "labels.txt", runtime_dir=made.parent / "npm")
    bundle(small_artifact(tmp_path).path, tmp_path / "other", platform="web", options=options)
    same = replace(options, labels=None)
    bundle(small_artifact(tmp_path).path, tmp_path / "same.zip", platform="web", options=same)
    bundle(small_artifact(tmp_path).path, tmp_path / "again.zip", platform="web", options=same)
    assert (tmp_path / "other/sw.js").read_text() != (made / "sw.js").read_text()
    assert (tmp_path / "same.zip").read_bytes() == (tmp_path / "again.zip").read_bytes()


def test_templates_import_nothing_and_go_nowhere() -> None:
    for file in (*TEMPLATE.glob("*.js"), TEMPLATE / "index.html", TEMPLATE / "serve.py", TEMPLATE / "page.css"):
        text = file.read_text()
        assert "http://" not in text.replace("http://%s:%d/", ""), file
        assert "https://" not in text, file
        assert "import edgecompress" not in text
        assert "from edgecompress" not in text


def test_a_library_from_a_folder_is_proved(tmp_path: Path) -> None:
    (tmp_path / "ort.mjs").write_bytes(b"other")
    (tmp_path / "to").mkdir()
    with pytest.raises(FileError, match=r"dist/ort\.mjs is not that of onnxruntime-web@1\.30\.0.*sha256"):
        vendor([FAKE], tmp_path / "to", tmp_path)
    (tmp_path / "ort.mjs").unlink()
    with pytest.raises(FileError, match=r"holds no dist/ort\.mjs.*npm pack onnxruntime-web@1\.30\.0"):
        vendor([FAKE], tmp_path / "to", tmp_path)
    for place in ("dist/ort.mjs", "node_modules/onnxruntime-web/dist/ort.mjs"):
        file = tmp_path / "local" / place
        file.parent.mkdir(parents=True)
        file.write_bytes(LIBRARY)
        vendor([FAKE], tmp_path / "to", tmp_path / "local")
        assert (tmp_path / "to/ort.mjs").read_bytes() == LIBRARY
        file.unlink()


def test_npm_that_is_missing_or_gives_nothing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileError, match=r"npm is not here.*install Node\.js, or give .* by --runtime-dir"):
        vendor([FAKE], tmp_path)
    npm_program = tmp_path / "npm"
    npm_program.write_text(
        "#!/bin/sh\necho npm error code ENOTFOUND >&2\necho npm error network no route >&2\nexit 1\n"
    )
    npm_program.chmod(0o755)
    with pytest.raises(
        FileError, match=r"npm cannot fetch onnxruntime-web@1\.30\.0 \(network no route\).*--runtime-dir"
    ):
        vendor([FAKE], tmp_path)
    npm_program.write_text("#!/bin/sh\necho no archive > a.tgz\n")
    with pytest.raises(FileError, match=r"a\.tgz: dist/ort\.mjs cannot be read"):
        vendor([FAKE], tmp_path)
    assert "--ignore-scripts" in npm.COMMAND


def test_the_archive_of_npm_is_read_file_by_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tarfile

    (tmp_path / "package/dist").mkdir(parents=True)
    (tmp_path / "package/dist/ort.mjs").write_bytes(LIBRARY)
    with tarfile.open(tmp_path / "made.tgz", "w:gz") as archive:
        archive.add(tmp_path / "package/dist/ort.mjs", "package/dist/ort.mjs")
        archive.add(tmp_path / "package/dist/ort.mjs", "../outside")
    (tmp_path / "npm").write_text(f"#!/bin/sh\ncp {tmp_path}/made.tgz here.tgz\n")
    (tmp_path / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    (tmp_path / "to").mkdir()
    vendor([FAKE], tmp_path / "to")
    assert [file.name for file in (tmp_path / "to").iterdir()] == ["ort.mjs"]


# -- one page ------------------------------------------------------------------------------------------------------


def test_a_page_holds_the_whole_bundle_and_is_verified(made: Path, capfd: pytest.CaptureFixture[str]) -> None:
    page = made.parent / "app.html"
    assert check(page) == check(made)
    assert run_command_line(["verify", str(page)]) == 0
    assert "small" in capfd.readouterr().out
    text = page.read_text()
    assert "connect-src 'none'" in text
    assert 'src="' not in text
    assert not re.search(r"""(?:href|src)=["'](?!data:)""", text)


def test_a_page_that_was_changed_is_refused(made: Path, tmp_path: Path) -> None:
    page = (made.parent / "app.html").read_text()
    spoils = {
        "script": (page.replace("const SECONDS = 2;", "const SECONDS = 3;"), "is not the page that"),
        "markup": (page.replace("<h2", "<img><h2", 1), "is not the page that"),
        "missing": (re.sub(r'<script type="text/plain" data-path="labels.txt">.*\n', "", page), "txt is missing"),
        "twice": (re.sub(r'(<script type="text/plain" data-path="labels.txt">.*\n)', r"\1\1", page), "is there twice"),
        "path": (page.replace('data-path="labels.txt"', 'data-path="../labels.txt"'), "not the path of a file"),
        "data": (re.sub(r'(data-path="labels.txt">)[^<]*', r"\1AAAA", page), r"labels\.txt"),
        "bomb": (re.sub(r'(data-path="labels.txt">)[^<]*', rf"\1{_bomb()}", page), "larger"),
        "none": ("<!-- edgecompress.bundle -->", "holds no bundle"),
    }  # fmt: skip
    for name, (text, says) in spoils.items():
        assert text != page
        (tmp_path / f"{name}.html").write_text(text)
        with pytest.raises(FileError, match=says):
            check(tmp_path / f"{name}.html")


def _bomb() -> str:
    import base64

    return base64.b64encode(gzip.compress(bytes(20_000_000))).decode()
