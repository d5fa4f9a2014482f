"""Headless Chromium by its own devtools protocol, over two pipes: no driver and no other package."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from edgecompress.devices.web import program, sandbox

LAUNCHER = """
import fcntl, os, sys
commands, answers = (fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3])
os.dup2(commands, 3)
os.dup2(answers, 4)
os.execvp(sys.argv[3], sys.argv[3:])
"""
"""Chromium reads commands from descriptor 3 and writes answers to 4."""
OPTIONS = ("--headless=new", "--remote-debugging-pipe", "--disable-gpu", "--no-first-run", "--disable-sync",
           "--disable-background-networking", "--disable-component-update", "--disable-quic")  # fmt: skip
WAIT_S = 90.0


class Browser:
    """A running browser, and what its pages were sent for."""

    def __init__(self, commands: int, answers: int) -> None:
        self.commands, self.answers, self.number, self.events = commands, answers, 0, []
        self.buffer = b""

    def call(self, method: str, session: str | None = None, **parameters: Any) -> Any:
        """The result of a command; events that come meanwhile are kept."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        message |= {"sessionId": session} if session else {}
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self.number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self.events.append(answer)

    def _next(self) -> Any:
        while b"\0" not in self.buffer:
            got = os.read(self.answers, 1 << 16)
            assert got, "the browser ended"
            self.buffer += got
        message, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(message)

    def page(self, width: int = 1000, height: int = 900, *, dark: bool = False) -> Page:
        """An empty page of a profile of its own."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session)
        for method in ("Page.enable", "Network.enable", "Runtime.enable", "Log.enable"):
            page.call(method)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        page.call("Emulation.setEmulatedMedia", features=scheme)
        page.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        return page


class Page:
    """One page."""

    def __init__(self, browser: Browser, session: str) -> None:
        self.browser, self.session = browser, session

    def call(self, method: str, **parameters: Any) -> Any:
        """A command to this page."""
        return self.browser.call(method, self.session, **parameters)

    def open(self, address: str) -> None:
        """Go there."""
        self.call("Page.navigate", url=address)

    def value(self, expression: str) -> Any:
        """Of JavaScript, awaited."""
        found = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, expression: str) -> Any:
        """The value of JavaScript once it is true."""
        end = time.monotonic() + WAIT_S
        while not (found := self.value(expression)):
            assert time.monotonic() < end, (expression, self.problems(), self.value("document.body.innerText"))
            time.sleep(0.05)
        return found

    def report(self) -> Any:
        """What the page says of its bundle."""
        return self.wait("document.documentElement?.dataset.state && window.edgeReport")

    def _events(self, method: str) -> list[Any]:
        return [one["params"] for one in self.browser.events
                if one.get("method") == method and one.get("sessionId") == self.session]  # fmt: skip

    def addresses(self) -> list[str]:
        """Of everything it sent for, or tried to."""
        self.value("0")
        return [one["request"]["url"] for one in self._events("Network.requestWillBeSent")]

    def problems(self) -> list[str]:
        """What the browser complained of."""
        thrown = [json.dumps(one["exceptionDetails"]) for one in self._events("Runtime.exceptionThrown")]
        logged = [one["entry"]["text"] for one in self._events("Log.entryAdded") if one["entry"]["level"] == "error"]
        return thrown + logged

    def screenshot(self, to: Path) -> None:
        """All of it, as a PNG."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        to.write_bytes(base64.b64decode(shot["data"]))


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A browser, ended with everything that it started; ``profile`` is a folder for it."""
    name = program()
    assert name is not None
    command_out, command_in = os.pipe()
    answer_out, answer_in = os.pipe()
    argv = [sys.executable, "-c", LAUNCHER, str(command_out), str(answer_in)]
    argv += [name, *sandbox(), *OPTIONS, f"--user-data-dir={profile}", "about:blank"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(argv, pass_fds=(command_out, answer_in), start_new_session=True, **quiet)
    os.close(command_out)
    os.close(answer_in)
    try:
        yield Browser(command_in, answer_out)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(command_in)
        os.close(answer_out)
