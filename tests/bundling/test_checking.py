"""``verify`` of a bundle, as folder and as archive: what is right passes, whatever else is refused with its reason."""

from __future__ import annotations

import io
import json
import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgecompress.bundling import archives, bundle
from edgecompress.bundling.archives import write_zip
from edgecompress.bundling.checking import check
from edgecompress.cli import run_command_line
from edgecompress.errors import EdgeCompressError, FileError
from edgecompress.files import read_json
from edgecompress.settings import BundleOptions
from tests.bundling.small import LABELS, small_artifact
from tests.bundling.tampering import TAMPERINGS, rewrite
from tests.processes import ROOT


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle, its artifact beside it."""
    folder = tmp_path_factory.mktemp("checking")
    bundle(small_artifact(folder).path, folder / "app")
    return folder / "app"


@pytest.fixture
def app(made: Path, tmp_path: Path) -> Path:
    """A copy that may be spoilt."""
    return shutil.copytree(made, tmp_path / "app")


def test_what_is_whole_passes(made: Path, app: Path) -> None:
    found = check(app)
    assert (found.model, found.platform, found.version) == ("small", "pi", 2)
    assert found.golden_error is not None
    assert found.golden_error < 1e-6
    assert found.image_error == 0
    (app / "__pycache__").mkdir()
    (app / "__pycache__" / "run.pyc").touch()
    (app / ".DS_Store").touch()
    assert check(app) == found
    write_zip(made, app.parent / "app.zip")
    assert check(app.parent / "app.zip") == found


@pytest.mark.parametrize("name", TAMPERINGS)
def test_tampering_is_refused(name: str, app: Path) -> None:
    spoil, says = TAMPERINGS[name]
    spoil(app)
    with pytest.raises(EdgeCompressError) as found:
        check(app)
    assert says in str(found.value)
    assert found.value.exit_code in (1, 2)
    if name == "a link":
        return
    write_zip(app, app.parent / "app.zip")
    with pytest.raises(EdgeCompressError, match=r"manifest|app\.zip|golden|image"):
        check(app.parent / "app.zip")


def test_an_artifact_of_another_machine_is_whole_and_not_run(app: Path) -> None:
    rewrite(app, target="coreml")
    assert check(app).not_run == "its runtime is not for this machine"
    rewrite(app, target="later")
    assert check(app).not_run == "no target 'later' is known here"


def test_the_same_artifact_gives_the_same_archive(made: Path, tmp_path: Path) -> None:
    model = made.parent / "model.onnx"
    contents = [bundle(model, tmp_path / f"{name}.zip").read_bytes() for name in ("a", "b")]
    assert contents[0] == contents[1]
    with zipfile.ZipFile(io.BytesIO(contents[0])) as archive:
        names = archive.namelist()
        assert names == sorted(names)
        assert {entry.date_time for entry in archive.infolist()} == {archives.LONG_AGO}
        assert {entry.external_attr >> 16 for entry in archive.infolist()} == {stat.S_IFREG | 0o644}
    files = {file.relative_to(made).as_posix() for file in made.rglob("*") if file.is_file()}
    assert set(names) == files


Crafted = Callable[[zipfile.ZipFile], None]


def entry(name: str, content: bytes = b"x", mode: int = stat.S_IFREG | 0o644) -> Crafted:
    """One more entry."""

    def add(archive: zipfile.ZipFile) -> None:
        info = zipfile.ZipInfo(name)
        info.filename, info.external_attr, info.compress_type = name, mode << 16, zipfile.ZIP_DEFLATED
        archive.writestr(info, content)

    return add


def twice(archive: zipfile.ZipFile) -> None:
    """The same name again."""
    with pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("model.onnx", b"other")


def many(archive: zipfile.ZipFile) -> None:
    """More entries than any bundle has."""
    for number in range(2 * archives.MOST_FILES):
        archive.writestr(f"more/{number}", b"")


CRAFTED: dict[str, tuple[Crafted, str]] = {
    "a name that leads out": (entry("../evil.txt"), "is not the path of a file"),
    "a name that leads out of a folder": (entry("golden/../../evil.txt"), "is not the path of a file"),
    "a name from the root": (entry("/tmp/evil.txt"), "is not the path of a file"),
    "a name of a drive": (entry("C:\\evil.txt"), "is not the path of a file"),
    "a hidden name": (entry(".bashrc"), "is not the path of a file"),
    "a link": (entry("link", b"/etc/passwd", stat.S_IFLNK | 0o777), "is a link"),
    "a device": (entry("device", b"", stat.S_IFCHR | 0o666), "is a link or no regular file"),
    "a name twice": (twice, "is there twice"),
    "a name twice but for case": (entry("MODEL.onnx"), "is there twice"),
    "one file more": (entry("more.txt"), "more.txt is not listed"),
    "a bomb": (entry("bomb.bin", b"\0" * (archives.RATIO_FROM_BYTES + 1)), "as in a zip bomb"),
    "many entries": (many, "entries, a bundle has at most"),
}


@pytest.mark.parametrize("name", CRAFTED)
def test_an_archive_that_means_harm_is_refused(name: str, made: Path, tmp_path: Path) -> None:
    craft, says = CRAFTED[name]
    write_zip(made, tmp_path / "app.zip")
    with zipfile.ZipFile(tmp_path / "app.zip", "a") as archive:
        craft(archive)
    with pytest.raises(FileError, match=says):
        check(tmp_path / "app.zip")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["app.zip"]


def header(archive: bytearray, field: int, value: bytes) -> None:
    """Another value at an offset of the model's entry in the archive's directory (APPNOTE 4.3.12)."""
    start = archive.rindex(b"model.onnx") - 46
    assert archive[start : start + 4] == b"PK\x01\x02"
    archive[start + field : start + field + len(value)] = value


SIZE, PACKED, FLAGS, METHOD, OFFSET = 24, 20, 8, 10, 42
HEADERS = {
    "a size that is too small": (SIZE, b"\x10\0\0\0"),
    "a size beyond all bounds": (SIZE, b"\xf0\xff\xff\xff"),
    "more packed bytes than there are": (PACKED, b"\xf0\xff\xff\x0f"),
    "encrypted": (FLAGS, b"\x01\0"),
    "an unknown packing": (METHOD, b"\x63\0"),
    "a place outside": (OFFSET, b"\xff\xff\xff\x0f"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers_that_lie_are_refused(name: str, made: Path, tmp_path: Path) -> None:
    write_zip(made, tmp_path / "app.zip")
    archive = bytearray((tmp_path / "app.zip").read_bytes())
    header(archive, *HEADERS[name])
    (tmp_path / "app.zip").write_bytes(bytes(archive))
    with pytest.raises(FileError, match=r"app\.zip"):
        check(tmp_path / "app.zip")


@pytest.mark.parametrize("content", [b"", b"PK", b"PK\x05\x06" + bytes(18), b"text", None])
def test_what_is_no_archive_is_refused(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "app.zip").write_bytes(content)
    with pytest.raises(FileError, match=r"app\.zip"):
        check(tmp_path / "app.zip")


def test_a_bundle_of_the_first_version_is_still_proved(tmp_path: Path) -> None:
    old = shutil.copytree(ROOT / "tests" / "data" / "version_0_1" / "bundle", tmp_path / "old")
    found = check(old)
    assert (found.version, found.files) == (1, 4)
    assert found.golden_error is not None
    assert found.golden_error < 1e-6
    (old / "more.txt").touch()
    with pytest.raises(FileError, match=r"more\.txt is not listed"):
        check(old)
    (old / "more.txt").unlink()
    (old / "run.py").write_text("")
    with pytest.raises(FileError, match=r"run\.py was changed"):
        check(old)


def test_verify_says_it(app: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["verify", str(app), "--json"]) == 0
    said = json.loads(capfd.readouterr().out)
    assert (said["status"], said["files"]) == ("verified", len(read_json(app / "manifest.json")["files"]))
    (app / "labels.txt").write_text("other\n")
    assert run_command_line(["verify", str(app)]) == 2
    assert "labels.txt was changed or damaged" in capfd.readouterr().err


# -- making one ------------------------------------------------------------------------------------------------------


def test_an_archive_of_ours_is_replaced_and_no_other(made: Path, tmp_path: Path) -> None:
    model, place = made.parent / "model.onnx", tmp_path / "app.zip"
    bundle(model, place)
    bundle(model, place)
    with zipfile.ZipFile(place, "w") as archive:
        archive.writestr("mine.txt", "mine")
    with pytest.raises(FileError, match="is no bundle that edgecompress wrote"):
        bundle(model, place)
    bundle(model, place, force=True)
    assert check(place).files


def test_labels_of_a_file(made: Path, tmp_path: Path) -> None:
    model, labels = made.parent / "model.onnx", tmp_path / "labels.txt"
    labels.write_bytes(b"a cat\r\na dog\r\nneither\r\n")
    bundle(model, tmp_path / "app", options=BundleOptions(labels=labels))
    assert (tmp_path / "app" / "labels.txt").read_bytes() == b"a cat\na dog\nneither\n"
    assert (made / "labels.txt").read_text().splitlines() == LABELS
    for content, says in (("a\nb\n", "has 2 labels"), ("\n" * 3, "line 1 is empty"), (b"\xff", "no readable")):
        labels.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(FileError, match=says):
            bundle(model, tmp_path / "other", options=BundleOptions(labels=labels))
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"single_file": True}, "--single-file: the pi bundle has no use for it"),
        ({"runtime_dir": Path()}, "--runtime-dir: the pi bundle has no use for it"),
    ],
)
def test_options_of_other_platforms_are_refused(options: dict[str, Any], says: str, made: Path, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=says):
        bundle(made.parent / "model.onnx", tmp_path / "app", options=BundleOptions(**options))
