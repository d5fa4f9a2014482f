"""The system's adb, talking to one device: its state, its shell, and a folder there for one session."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shlex
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import IO

from edgecompress.devices.adb.scripts import KEEPER, filled
from edgecompress.devices.commands import POLL_S, Finished, failed, last_lines, release, run_command

ANSWER_S, GRACE_S = 30.0, 15.0
"""Seconds that an answer may take, and that a process there may take to end."""
END_OF_OLD = b"\n"
"""Devices of old see no end of input, but an empty line."""

ADVICE = {
    "unauthorized": "it has not allowed this machine to debug it; unlock it and accept the question on its screen",
    "offline": "it does not answer; plug it in again, or run: adb reconnect offline",
    "no permissions": "this user may not open it; apt-get install android-sdk-platform-tools-common, plug it in again",
    "authorizing": "it is being connected; try again in a few seconds",
    "connecting": "it is being connected; try again in a few seconds",
}
"""The way out of each state that ``adb devices`` lists, besides ``device``, which is the good one."""


@dataclass(frozen=True, slots=True)
class Link:
    """The system's adb, talking to one device. ``split``: it separates errors from output and passes exit codes on."""

    name: str
    program: str
    serial: str
    split: bool = True

    def call(self, *arguments: str, timeout_s: float) -> Finished:
        """``adb -s SERIAL ARGUMENTS``."""
        return run_command(self.name, [self.program, "-s", self.serial, *arguments], timeout_s=timeout_s)

    def ready(self) -> Link:
        """The same once the device is known to listen.

        Raises:
            DeviceError: it is not there, or not in a state to be used.
        """
        listed = run_command(self.name, [self.program, "devices"], timeout_s=ANSWER_S)
        states = dict(line.split("\t", 1) for line in listed.stdout.splitlines() if "\t" in line)
        state = states.get(self.serial, "not connected").strip()
        if state != "device":
            raise failed(self.name, [self.program], listed.returncode, self._unready(state, states, listed.stderr))
        features = self.call("features", timeout_s=ANSWER_S).stdout.split()
        return replace(self, split="shell_v2" in features)

    def _unready(self, state: str, states: dict[str, str], stderr: str) -> str:
        way = f"plug it in and allow USB debugging, or run: adb connect {self.serial}"
        advice = next((text for key, text in ADVICE.items() if state.startswith(key)), way)
        known = ", ".join(f"{serial} ({state.strip()})" for serial, state in states.items()) or last_lines(
            stderr, "none"
        )
        return f"says that {self.serial} is {state}: {advice}; adb devices: {known}"

    def shell(self, script: str, *, timeout_s: float, errors: str = "/dev/null") -> Finished:
        """Run a script of the device's shell. Old devices mix both outputs, so errors take the way of a file there.

        Raises:
            DeviceError: the connection was lost, or it takes too long.
        """
        mark = f"edgecompress-{secrets.token_hex(8)}"
        apart = "" if self.split else f" 2>{shlex.quote(errors)}"
        complaints = "" if self.split else f"tail -c 4096 {shlex.quote(errors)}"
        whole = f"{{ {script}\n}}{apart}\ncode=$?; echo; echo {mark} $code\n{complaints}"
        done = self.call("shell", whole, timeout_s=timeout_s)
        stdout = done.stdout if self.split else done.stdout.replace("\r\n", "\n")
        text, marked, ending = stdout.rpartition(f"\n{mark} ")
        if not marked:
            last = last_lines(done.stderr, stdout)
            raise failed(self.name, [self.program], None, f"lost the device while a command ran there: {last}")
        code, _, rest = ending.partition("\n")
        return Finished(text, done.stderr if self.split else rest, int(code))

    @contextlib.contextmanager
    def kept(self, folder_name: str) -> Iterator[str]:
        """A folder of that name there, for as long as this process and the connection live.

        Raises:
            DeviceError: there is no place for one.
        """
        argv = [self.program, "-s", self.serial, "shell", filled(KEEPER, NAME=folder_name)]
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            keeper = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=out, stderr=err, start_new_session=True)
            try:
                yield self._folder(keeper, out, err)
            finally:
                release(keeper, END_OF_OLD, grace_s=GRACE_S)

    def _folder(self, keeper: subprocess.Popen[bytes], out: IO[bytes], err: IO[bytes]) -> str:
        """The path in the keeper's first line. Reading leaves its place in the file alone."""
        end = time.monotonic() + ANSWER_S
        while time.monotonic() < end:
            ended = keeper.poll() is not None
            out_text, err_text = (os.pread(stream.fileno(), 4096, 0).decode(errors="replace") for stream in (out, err))
            if found := re.search(r"^folder (/.*?)\r?$", out_text, re.MULTILINE):
                return found[1]
            if ended:
                raise failed(
                    self.name, argv_of(keeper), keeper.returncode, f"made no folder: {last_lines(err_text, out_text)}"
                )
            time.sleep(POLL_S)
        raise failed(self.name, argv_of(keeper), None, f"gave no answer within {ANSWER_S:g} s; restart it or its adbd")


def argv_of(process: subprocess.Popen[bytes]) -> list[str]:
    """What it was started with."""
    assert isinstance(process.args, list)
    return [str(argument) for argument in process.args]
