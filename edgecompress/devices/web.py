"""A browser of this machine: pages run there instead of commands, in headless Chromium or one of its kin."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from edgecompress.devices.base import NO_OPTIONS, Kind, Provenance
from edgecompress.devices.commands import checked, ended, failed, last_lines, run_command
from edgecompress.errors import DeviceError
from edgecompress.files import Json
from edgecompress.settings import DeviceOptions

if TYPE_CHECKING:
    from edgecompress.devices.page_server import Server

VARIABLE = "EDGECOMPRESS_CHROMIUM"
PROGRAMS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "microsoft-edge",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)
QUIET = ("--headless=new", "--disable-gpu", "--no-first-run", "--disable-sync", "--disable-background-networking",
         "--disable-component-update", "--disable-quic", "--disable-renderer-backgrounding",
         "--disable-background-timer-throttling")  # fmt: skip
"""No window, and nothing that it does on its own."""
POLL_S = 0.05


def program() -> str | None:
    """The browser that :data:`VARIABLE` names, or the first that is found; None: there is none."""
    named = os.environ.get(VARIABLE)
    return shutil.which(named) if named else next(filter(None, map(shutil.which, PROGRAMS)), None)


def sandbox() -> tuple[str, ...]:
    """What root has to say: Chromium's sandbox does not start then."""
    return ("--no-sandbox",) if hasattr(os, "geteuid") and os.geteuid() == 0 else ()


@dataclass(frozen=True, slots=True)
class WebSession:
    """A browser in use; each page has a process and a profile of its own."""

    name: str
    program: str
    version: str
    python: tuple[str, ...] = ()

    def push(self, *files: Path) -> str:
        """Nothing to copy."""
        return str(files[0].resolve())

    def run(self, argv: Sequence[str], *, timeout_s: float) -> str:
        """Refused: a browser runs pages."""
        del timeout_s
        raise failed(self.name, argv, None, "is no page, and a browser runs nothing else")

    def facts(self) -> Json:
        """Architecture of this machine, and the browser with its version."""
        return {"machine": os.uname().machine, "browser": self.version}

    def opened(self, page: Path, *, timeout_s: float) -> Json:
        """Serve the folder of ``page``, in which ``job.json`` gets a ``report``: where to post one JSON object.

        Raises:
            DeviceError: the browser does not start, or the page reports nothing in time.
        """
        from edgecompress.devices.page_server import served

        token = f"/report-{secrets.token_hex(16)}"
        job = page.parent / "job.json"
        job.write_text(json.dumps({**json.loads(job.read_text()), "report": token}))
        with served(page.parent, token) as server, tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
            address = f"http://127.0.0.1:{server.server_port}/{page.name}"
            argv = [self.program, *QUIET, *sandbox(), f"--user-data-dir={profile}", address]
            with tempfile.TemporaryFile() as errors:
                self._wait(argv, server, errors, timeout_s)
        return self._answer(server)

    def _wait(self, argv: Sequence[str], server: Server, errors: IO[bytes], timeout_s: float) -> None:
        try:
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True
            )
        except OSError as error:
            raise failed(self.name, argv, None, f"cannot be started: {error.strerror or error}") from error
        with ended(process):
            waited = 0.0
            while not server.reported.wait(POLL_S) and process.poll() is None and waited < timeout_s:
                waited += POLL_S
            if server.reported.wait(POLL_S):
                return
            code = process.poll()
        errors.seek(0)
        last = last_lines(errors.read().decode(errors="replace"))
        what = f"gave no answer within {timeout_s:g} s" if code is None else f"ended with {code}"
        raise failed(self.name, argv, code, f"{what}; last: {last}")

    def _answer(self, server: Server) -> Json:
        try:
            answer: Any = json.loads(server.report)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise DeviceError.of(self.name, "the page posted no JSON object", command=self.program)
        if "error" in answer:
            raise DeviceError.of(self.name, f"the page: {last_lines(str(answer['error']))}", command=self.program)
        return answer


@dataclass(frozen=True, slots=True)
class Web:
    """Headless Chromium, or one of its kin, on this machine."""

    name: str = "web"
    provenance: Provenance = "measured"
    options: DeviceOptions = NO_OPTIONS

    @contextmanager
    def session(self, modules: Sequence[str]) -> Iterator[WebSession]:  # noqa: ARG002 - pages import no Python
        """Find the browser and ask for its version."""
        found = program()
        if found is None:
            named = os.environ.get(VARIABLE)
            what = f"{VARIABLE} names no program ({named})" if named else "no Chromium or Chrome is here"
            why = f"{what}; install one (apt-get install chromium), or set {VARIABLE} to its path"
            raise DeviceError.of(self.name, why, command=named or PROGRAMS[0])
        argv = [found, "--version"]
        version = checked(self.name, argv, run_command(self.name, argv, timeout_s=60)).strip()
        yield WebSession(self.name, found, version.partition(" built on")[0])


def parse(rest: str, options: DeviceOptions) -> Web:
    """``web``."""
    assert not rest
    options.refuse_other_than("web")
    return Web()


KIND = Kind("", "headless Chromium on this machine, by ONNX Runtime Web or LiteRT.js", parse)
