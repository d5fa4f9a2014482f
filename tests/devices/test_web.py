"""A browser as a device: found or named as missing, its page served and heard, ended whatever happens."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from textwrap import dedent

import pytest

from edgecompress.devices import device_named, is_page
from edgecompress.devices.web import VARIABLE
from edgecompress.errors import DeviceError, FileError
from edgecompress.profiling import profile
from edgecompress.settings import DeviceOptions
from tests.bundling.small import small_artifact

BROWSER = """
    import json, os, sys, time, urllib.request

    if "--version" in sys.argv:
        print("Browser 1.2.3 built on a Tuesday")
        sys.exit()
    address = sys.argv[-1].rpartition("/")[0]
    get = lambda path, body=None: urllib.request.urlopen(address + path, body)
    page = get("/page.html")
    assert page.headers["Cross-Origin-Opener-Policy"] == "same-origin"
    job = json.load(get("/job.json"))
    with open(job["pid"], "w") as file:
        print(os.getpid(), file=file)
    if job["does"] == "crash":
        sys.exit("no display")
    if job["does"] == "sleep":
        time.sleep(60)
    try:
        get("/other", b"{}")
    except urllib.error.HTTPError as error:
        assert error.code == 404
    get(job["report"], job["does"].encode())
    time.sleep(60)
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a page, and a program in place of a browser."""
    program = tmp_path / "browser"
    program.write_text(f"#!{sys.executable}\n{dedent(BROWSER)}")
    program.chmod(0o755)
    monkeypatch.setenv(VARIABLE, str(program))
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "page.html").write_text("a page")
    return tmp_path / "site"


def opened(site: Path, does: str, timeout_s: float = 30) -> dict:
    """What the page posts that does this; no process is left."""
    pid = site.parent / "pid"
    (site / "job.json").write_text(json.dumps({"does": does, "pid": str(pid)}))
    try:
        with device_named("web").session(()) as session:
            assert is_page(session)
            assert session.facts()["browser"] == "Browser 1.2.3"
            return session.opened(site / "page.html", timeout_s=timeout_s)
    finally:
        _is_gone(int(pid.read_text()))


def _is_gone(process: int) -> None:
    end = time.monotonic() + 10
    while Path(f"/proc/{process}").exists() and time.monotonic() < end:
        time.sleep(0.01)
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_a_page_is_served_and_heard(site: Path) -> None:
    assert opened(site, '{"runs": 3}') == {"runs": 3}
    with device_named("web").session(()) as session, pytest.raises(DeviceError, match="a browser runs nothing else"):
        session.run(["ls"], timeout_s=1)


@pytest.mark.parametrize(
    ("does", "says"),
    [
        ('{"error": "no WebAssembly\\nhere"}', r"web: the page: no WebAssembly \| here"),
        ("[]", "posted no JSON object"),
        ("{", "posted no JSON object"),
        ("crash", "browser ended with 1; last: no display"),
    ],
)
def test_what_a_page_or_browser_fails_at_is_said(does: str, says: str, site: Path) -> None:
    with pytest.raises(DeviceError, match=says):
        opened(site, does)


def test_a_page_that_never_answers_is_ended(site: Path) -> None:
    with pytest.raises(DeviceError, match=r"gave no answer within 1 s"):
        opened(site, "sleep", timeout_s=1)


def test_a_missing_browser_is_named_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "none"))
    with pytest.raises(DeviceError, match=rf"{VARIABLE} names no program .*set {VARIABLE} to its path"):
        device_named("web").session(()).__enter__()
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("edgecompress.devices.web.PROGRAMS", ("chromium",))
    with pytest.raises(DeviceError, match=r"no Chromium or Chrome is here; install one \(apt-get install chromium\)"):
        device_named("web").session(()).__enter__()
    with pytest.raises(DeviceError, match="no device 'web:chrome'"):
        device_named("web:chrome")
    with pytest.raises(DeviceError, match="--remote-python is of no use"):
        device_named("web", DeviceOptions(remote_python="/usr/bin/python3"))


def test_what_no_page_can_do_is_refused(site: Path, tmp_path: Path) -> None:
    path = small_artifact(tmp_path).path
    for effort in ({"threads": 2}, {"minutes": 1.0}):
        with pytest.raises(DeviceError, match="with one thread and without --sustained"):
            profile(path, device_named("web"), **effort)
    (tmp_path / "model.xml").write_text("<net/>")
    with pytest.raises(FileError):
        profile(tmp_path / "model.xml", device_named("web"))
