"""The bundle for browsers, opened by headless Chromium: served, without a server, from file://, and tampered with."""

from __future__ import annotations

import functools
import http.server
import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from edgecompress.artifacts import Artifact
from edgecompress.bundling import bundle
from edgecompress.bundling.checking import check
from edgecompress.devices import device_named
from edgecompress.devices.web import program
from edgecompress.errors import FileError
from edgecompress.exporting import export
from edgecompress.files import read_json
from edgecompress.profiling import measure
from edgecompress.profiling.comparisons import Comparison
from edgecompress.profiling.profiles import Profile
from edgecompress.settings import BundleOptions, Effort
from edgecompress.sources import resolve
from edgecompress.targets import target_named
from edgecompress.targets.child_converter import missing
from tests.bundling.small import small_artifact
from tests.bundling.tampering import TAMPERINGS, rewrite
from tests.platforms.chromium import Browser, Page, browser

pytestmark = pytest.mark.bundles


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser for all tests; each page has a profile of its own."""
    if program() is None:
        pytest.skip("Chromium is not here: apt-get install chromium, or set EDGECOMPRESS_CHROMIUM to its path")
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


def web(artifact: Artifact, place: Path) -> Path:
    """Its bundle for browsers, a folder or one page."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not here: install Node.js (apt-get install npm)")
    try:
        bundle(artifact.path, place, platform="web", options=BundleOptions(single_file=place.suffix == ".html"))
    except FileError as error:
        if "npm cannot fetch" not in str(error):
            raise
        pytest.skip(f"the registry of npm gives nothing: {error}")
    return place


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a small model that takes images."""
    folder = tmp_path_factory.mktemp("small")
    return web(small_artifact(folder), folder / "app")


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a bundle's own server."""
    argv = [sys.executable, "-I", str(folder / "serve.py"), "--port", "0"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


class Silent(http.server.SimpleHTTPRequestHandler):
    """A server that knows nothing of bundles."""

    def log_message(self, *args: object) -> None:
        """Nothing."""


@contextmanager
def hosted(folder: Path) -> Iterator[str]:
    """The address of a folder on some web server."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Silent, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def exported(name: str, folder: Path, target: str = "onnx") -> Artifact:
    """A sample; without its data, which does not ship with all."""
    if lacking := missing(target_named(target)):
        pytest.skip(f"{', '.join(lacking)} is not installed: pip install 'edgecompress[{target}]'")
    sample = replace(resolve(name), splits=None)
    return export(sample.model(), sample, folder, target=target)


def passed(page: Page) -> dict:
    """The report of a page, which is good."""
    report = page.report()
    assert report["ok"], report
    assert report["max_relative_error"] < 1e-6
    assert report["image_error"] < 1e-6
    assert report["png_error"] == 0
    assert report["latency"]["unit"] == "ms"
    assert report["latency"]["runs_in_block"] * report["latency"]["min_ms"] > 19
    assert json.loads(page.value("document.getElementById('report').textContent")) == report
    assert page.problems() == []
    return report


@pytest.mark.parametrize("name", ["lenet5", "resnet20"])
def test_a_model_runs_served_offline_and_as_one_file(name: str, chromium: Browser, tmp_path: Path) -> None:
    artifact = exported(name, tmp_path / "out")
    app, one = web(artifact, tmp_path / "app"), web(artifact, tmp_path / "page.html")
    page = chromium.page()
    with served(app) as address:
        page.open(address)
        report = passed(page)
        assert report["runtime"] == {"name": "onnxruntime-web", "version": "1.30.0"}
        assert page.wait("document.documentElement.dataset.offline") == "ready"
        assert {start(one) for one in page.addresses()} == {address, f"blob:{address}"}
    page.value("document.documentElement.dataset.state = ''")
    page.open(f"{address}?again")
    page.wait("location.search === '?again'")
    assert passed(page)["where"]["protocol"] == "http:"
    page = chromium.page()
    page.open(one.as_uri())
    assert passed(page)["where"]["protocol"] == "file:"
    assert {address.partition(":")[0] for address in page.addresses()} == {"file", "blob"}
    assert [address for address in page.addresses() if address.startswith("file:")] == [one.as_uri()]
    assert check(one) == check(app)


def start(address: str) -> str:
    """Scheme and host."""
    return address[: address.index("/", address.index("//") + 2) + 1]


@pytest.mark.parametrize("target", ["ort", "litert"])
def test_other_formats_run(target: str, chromium: Browser, tmp_path: Path) -> None:
    artifact = exported("lenet5", tmp_path / "out", target)
    app, one = web(artifact, tmp_path / "app"), web(artifact, tmp_path / "page.html")
    page = chromium.page()
    with served(app) as address:
        page.open(address)
        runtime = passed(page)["runtime"]["name"]
    assert runtime == {"ort": "onnxruntime-web", "litert": "LiteRT.js"}[target]
    page = chromium.page()
    page.open(one.as_uri())
    assert passed(page)["target"] == target
    assert {address.partition(":")[0] for address in page.addresses()} == {"file", "blob"}


def test_images_are_answered_however_they_come(chromium: Browser, small: Path) -> None:
    image = small / "golden/image.png"
    page = chromium.page()
    with served(small) as address:
        page.open(address)
        passed(page)
        page.value("document.getElementById('example').click()")
        answer = page.wait("edgeReport.answer")
        assert 0.99 < sum(one["share"] for one in answer) <= 1.0001
        expected = page.value("document.getElementById('labels').innerText")
        assert expected.startswith(answer[0]["label"])
        for give in (_drop, _paste, _choose):
            page.value("document.getElementById('labels').replaceChildren()")
            give(page, image)
            page.wait("document.getElementById('labels').innerText")
            assert page.value("document.getElementById('labels').innerText") == expected, give
        page.value("document.getElementById('labels').replaceChildren()")
        _choose(page, small / "labels.txt")
        assert "is no image" in page.wait("document.getElementById('labels').innerText")
    shape = page.value("edgeModel.ask({data: new Uint8Array(4), height: 1, width: 1, channels: 4})"
                       ".then(found => found.tensor.shape)")  # fmt: skip
    assert shape == [1, 3, 6, 7]


def _file(image: Path) -> str:
    return f"new File([Uint8Array.from({list(image.read_bytes())})], 'image.png', {{type: 'image/png'}})"


def _drop(page: Page, image: Path) -> None:
    page.value(f"(() => {{ const data = new DataTransfer(); data.items.add({_file(image)});"
               "document.getElementById('drop').dispatchEvent(new DragEvent('drop',"
               "{dataTransfer: data, bubbles: true, cancelable: true})); })()")  # fmt: skip


def _paste(page: Page, image: Path) -> None:
    page.value(f"(() => {{ const data = new DataTransfer(); data.items.add({_file(image)});"
               "document.dispatchEvent(new ClipboardEvent('paste', {clipboardData: data})); })()")  # fmt: skip


def _choose(page: Page, image: Path) -> None:
    node = page.call("Runtime.evaluate", expression="document.getElementById('file')")["result"]["objectId"]
    page.call("DOM.setFileInputFiles", files=[str(image)], objectId=node)


UNSEEN = ("one file more", "one file more in a folder that is there", "one file more in a new folder", "a link")
"""What no page can see; ``serve.py`` does, in the tests that need no browser."""


def test_a_page_refuses_tampering_on_any_server(chromium: Browser, small: Path, tmp_path: Path) -> None:
    cases = {name: case for name, case in TAMPERINGS.items() if name not in UNSEEN}
    assert len(cases) == len(TAMPERINGS) - len(UNSEEN)
    for number, (name, (spoil, word)) in enumerate(cases.items()):
        folder = shutil.copytree(small, tmp_path / str(number) / "app")
        spoil(folder)
        _refused(chromium, folder, word, name)
        shutil.rmtree(tmp_path / str(number))


def _refused(chromium: Browser, folder: Path, word: str, name: str) -> None:
    page = chromium.page()
    with hosted(folder) as address:
        page.open(address)
        report = page.report()
    assert report["ok"] is False, name
    assert word in report["verdict"], (name, report["verdict"])
    assert "latency" not in report
    assert page.value("typeof edgeModel") == "undefined"
    assert page.value("document.getElementById('verdict').textContent") == report["verdict"]
    assert page.value("document.getElementById('asking').hidden && document.getElementById('speed').hidden")


@pytest.mark.parametrize(
    ("file", "right", "wrong", "says"),
    [
        ("preparing.js", "(index + 0.5) * step", "index * step", "the golden image is prepared with an error"),
        ("page.js", "context.drawImage(bitmap", "context.filter = 'contrast(1.1)';\n  context.drawImage(bitmap",
         "is decoded here with bytes off by"),
        ("runtimes.js", "return [name, { dtype: type,", "data.fill(NaN); return [name, { dtype: type,", "NaN"),
    ],
)  # fmt: skip
def test_faults_of_an_app_are_seen(
    file: str, right: str, wrong: str, says: str, chromium: Browser, small: Path, tmp_path: Path
) -> None:
    """Whoever changes the code of a bundle makes right digests with it; golden files still tell."""
    folder = shutil.copytree(small, tmp_path / "app")
    text = (folder / file).read_text()
    assert text.count(right) == 1
    (folder / file).write_text(text.replace(right, wrong))
    rewrite(folder)
    _refused(chromium, folder, says, file)


def test_a_page_that_cannot_start_says_so_in_words(chromium: Browser, small: Path, tmp_path: Path) -> None:
    page = chromium.page()
    page.open((small / "index.html").as_uri())
    assert 'Start "python serve.py"' in page.report()["verdict"]
    for missing_file in ("page.js", "edge_model.js"):
        folder = shutil.copytree(small, tmp_path / missing_file)
        (folder / missing_file).unlink()
        page = chromium.page()
        with hosted(folder) as address:
            page.open(address)
            assert "cannot be loaded" in page.report()["verdict"]
    page = chromium.page()
    page.call("Page.addScriptToEvaluateOnNewDocument", source="delete globalThis.WebAssembly")
    with hosted(small) as address:
        page.open(address)
        assert "WebAssembly is switched off" in page.report()["verdict"]


def test_files_are_whole_without_web_crypto_too(chromium: Browser, small: Path) -> None:
    page = chromium.page()
    page.call("Page.addScriptToEvaluateOnNewDocument", source="delete Crypto.prototype.subtle")
    with hosted(small) as address:
        page.open(address)
        passed(page)
        assert page.value("typeof crypto.subtle") == "undefined"


def test_everything_is_reached_by_keyboard_and_named(chromium: Browser, small: Path) -> None:
    page = chromium.page()
    with served(small) as address:
        page.open(address)
        passed(page)
        reached = []
        for _ in range(8):
            for kind in ("keyDown", "keyUp"):
                page.call("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
            reached.append(page.value("document.activeElement.id || document.activeElement.tagName"))
        assert {"file", "example", "again", "copy", "save", "SUMMARY"} <= set(reached)
        nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    named = {"button", "checkbox", "link", "heading", "textbox", "table", "image", "img"}
    without = [
        node["role"]["value"]
        for node in nodes
        if not node.get("ignored") and node["role"]["value"] in named and not node.get("name", {}).get("value")
    ]
    assert [role for role in without if role != "table"] == []
    assert read_json(small / "manifest.json")["model"] in page.value("document.title")


def test_two_files_are_measured_in_turns(chromium: Browser, small: Path, tmp_path: Path) -> None:
    """By a browser of its own; ``small`` shows that the library can be had."""
    artifact = small_artifact(tmp_path)
    found = measure(artifact.path, artifact.path, device_named("web"), Effort(seconds=0.2, runs=50))
    profile, pair = found.profile, found.comparison
    assert isinstance(profile, Profile)
    assert isinstance(pair, Comparison)
    more = pair.device.more
    assert re.fullmatch(r"(Chromium|Google Chrome) \d+(\.\d+)+", more["browser"])
    assert pair.device.provenance == "measured"
    assert pair.runtime["name"] == "onnxruntime-web"
    assert pair.runtime["version"] == f"1.30.0, {more['browser']}"
    assert more["figures"] == "means of blocks"
    latencies = (pair.candidate_latency, pair.baseline_latency)
    for latency, runs in zip(latencies, more["runs_in_block"], strict=True):
        assert len(set(latency.loads)) == 8
        assert len(latency.wall_ms) >= 50
        assert runs * max(latency.all_wall_ms()) >= more["block_ms"] == 20
    assert latencies[0].loads == latencies[1].loads
    assert pair.wall.low <= 1.2
    assert pair.wall.high >= 0.8
    assert profile.load_ms > 0
    assert found.more == ()
    assert Profile.from_json(profile.to_json()) == profile
