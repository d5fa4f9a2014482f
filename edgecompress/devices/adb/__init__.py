"""A phone (or a Linux board with adbd) over the system's adb: ``adb:SERIAL``.

One ``adb shell`` is the *keeper*: it makes a private folder there and waits. When it loses its standard input, because
the session ends, this process dies or the cable comes off, it kills what the session started there and removes the
folder. What runs there is known by the session's name in its environment.

A phone has no Python of its own. Either a self-contained one is pushed (``bundle``), or the device has one
(``remote_python``), or there is none and a vendor's runner measures by itself (``runner``).
"""

from __future__ import annotations

import contextlib
import math
import re
import secrets
import shlex
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

from edgecompress.devices.adb import link as adb_link
from edgecompress.devices.adb.scripts import FACTS, JOB, SWEEP, facts_of, filled
from edgecompress.devices.base import Kind, Provenance
from edgecompress.devices.commands import Finished, checked, failed, last_lines
from edgecompress.errors import DeviceError
from edgecompress.files import Json, files_in, sha256, size_of
from edgecompress.settings import DeviceOptions

SERIAL = re.compile(r"[A-Za-z0-9._:][A-Za-z0-9._:-]*", re.ASCII)
IMPORT_S = 180.0
SLOWEST_BYTES_S = 5e5
KILLED = 128 + signal.SIGKILL
PROBE = "import sys\nfor name in sys.argv[1:]: __import__(name)"


@dataclass(frozen=True, slots=True)
class AdbSession:
    """A device in use: ``folder`` is this session's own there; ``digests``: it has a program for those of files."""

    name: str
    link: adb_link.Link
    folder: str
    digests: bool = False
    interpreter: tuple[str, ...] = ()
    numbers: Iterator[int] = field(default_factory=count)

    @property
    def python(self) -> tuple[str, ...]:
        """What starts the interpreter there.

        Raises:
            DeviceError: the device is used with a vendor's runner, without any Python.
        """
        if not self.interpreter:
            why = "with --runner there is no Python on the device; give --python-bundle or --remote-python"
            raise DeviceError.of(self.name, why, command="python")
        return self.interpreter

    def push(self, *files: Path) -> str:
        """Copy files or folders into a new folder there; what arrived is compared by digest, else by size."""
        folder = f"{self.folder}/{next(self.numbers)}"
        checked(self.name, ["mkdir"], self._shell(f"mkdir {shlex.quote(folder)}"))
        for file in files:
            self._push(file, folder)
        return f"{folder}/{files[0].name}"

    def _push(self, file: Path, folder: str) -> None:
        limit_s = adb_link.ANSWER_S + size_of(file) / SLOWEST_BYTES_S
        source, target = str(file.resolve()), f"{folder}/{file.name}"
        done = self.link.call("push", source, target, timeout_s=limit_s)
        if done.returncode:
            last = last_lines(done.stderr.replace(f"failed to copy '{source}' to '{target}': ", ""), done.stdout)
            raise failed(self.name, ["adb"], done.returncode, f"cannot copy {file.name} there: {last}")
        sent, arrived = self._sums_here(file), self._sums_there(file.name, folder, limit_s)
        if wrong := [name for name, value in sent.items() if arrived.get(name) != value]:
            what = f"copied {file.name}, but {len(wrong)} of {len(sent)} files did not arrive whole, as {wrong[0]}"
            raise failed(self.name, ["adb"], None, what)

    def _sums_here(self, file: Path) -> dict[str, str]:
        whole = [inner for inner in files_in(file) if not inner.is_symlink() or inner == file]
        value = sha256 if self.digests else size_of
        return {f"./{inner.relative_to(file.parent).as_posix()}": str(value(inner)) for inner in whole}

    def _sums_there(self, name: str, folder: str, limit_s: float) -> dict[str, str]:
        command = "sha256sum" if self.digests else "wc -c"
        script = f"cd {shlex.quote(folder)} && find {shlex.quote('./' + name)} -type f -exec {command} {{}} \\;"
        lines = checked(self.name, [command], self._shell(script, limit_s)).splitlines()
        pairs = (line.split(maxsplit=1) for line in lines)
        return {pair[1]: pair[0] for pair in pairs if len(pair) == 2}

    def run(self, argv: Sequence[str], *, timeout_s: float) -> str:
        """Run a command in the session's folder; if it takes too long, it is killed there with all it started."""
        began = time.monotonic()
        try:
            done = self._shell(self._job(argv, math.ceil(timeout_s)), timeout_s + adb_link.GRACE_S)
        except DeviceError:
            self._stop()
            raise
        if done.returncode == KILLED and time.monotonic() - began >= timeout_s:
            self._stop()
            last = last_lines(f"{done.stdout}\n{done.stderr}")
            what = f"gave no answer within {timeout_s:g} s and was ended there; last: {last}"
            raise failed(self.name, argv, done.returncode, what)
        return checked(self.name, argv, done)

    def _job(self, argv: Sequence[str], seconds: int) -> str:
        folder, own = shlex.quote(self.folder), self.folder.rpartition("/")[2]
        return filled(JOB, FOLDER=folder, SECONDS=str(seconds), COMMAND=shlex.join(argv), NAME=own)

    def facts(self) -> Json:
        """The kernel's architecture, the phone's model, Android and chip, clocks in MHz, temperatures in degrees C.

        What the device does not report is left out. ``virtual`` is there, and true, on a virtual phone.
        """
        return facts_of(self._shell(FACTS).stdout)

    def _stop(self) -> None:
        """Kill what this session started, if the device can still be reached."""
        with contextlib.suppress(DeviceError):
            self._shell(filled(SWEEP, NAME=self.folder.rpartition("/")[2]))

    def _shell(self, script: str, timeout_s: float | None = None) -> Finished:
        return self.link.shell(script, timeout_s=timeout_s or adb_link.ANSWER_S, errors=f"{self.folder}/errors")


@dataclass(frozen=True, slots=True)
class Adb:
    """A phone; ``options`` say what measures on it: a bundle, an interpreter it has, or a vendor's runner."""

    name: str
    serial: str
    options: DeviceOptions
    provenance: Provenance = "measured"

    @contextlib.contextmanager
    def session(self, modules: Sequence[str]) -> Iterator[AdbSession]:
        """Get a folder there, and the interpreter; leave nothing there in the end."""
        program = shutil.which("adb")
        if program is None:
            why = "the program adb is not on this machine; apt-get install adb"
            raise DeviceError.of(self.name, why, command="adb")
        listening = adb_link.Link(self.name, program, self.serial).ready()
        with listening.kept(f"edgecompress-{secrets.token_hex(8)}") as folder:
            digests = listening.shell("sha256sum </dev/null >/dev/null", timeout_s=adb_link.ANSWER_S).returncode == 0
            session = AdbSession(self.name, listening, folder, digests)
            yield replace(session, interpreter=self._interpreter(session, modules))

    def _interpreter(self, session: AdbSession, modules: Sequence[str]) -> tuple[str, ...]:
        """What starts a Python there that can import ``modules``; nothing where a vendor's runner takes its place."""
        if self.options.runner:
            return ()
        python: tuple[str, ...] = (self.options.remote_python or "",)
        if self.options.python_bundle:
            python = ("sh", session.push(self.options.python_bundle) + "/run.sh")
        session.run([*python, "-c", PROBE, *modules], timeout_s=IMPORT_S)
        return python


def parse(rest: str, options: DeviceOptions) -> Adb:
    """``adb:SERIAL``, with just one of a bundle, an interpreter's path there, and a vendor's runner.

    Raises:
        DeviceError: that is no serial number, or the options lack what is to measure there.
    """
    name = f"adb:{rest}"
    options.refuse_other_than("adb", "remote_python", "python_bundle", "runner")
    if problem := _problem(rest, options):
        raise DeviceError.of(name, problem)
    return Adb(name, rest, options)


KIND = Kind("SERIAL", "a phone over adb; it needs --python-bundle, --remote-python or --runner", parse)


def _problem(serial: str, options: DeviceOptions) -> str:
    """Why it cannot be such a device; empty if it can."""
    given = [value for value in (options.python_bundle, options.remote_python, options.runner) if value is not None]
    if not SERIAL.fullmatch(serial):
        return "not a serial number as `adb devices` shows them"
    if len(given) != 1:
        return (
            "Android has no Python, so say what is to measure there, by one of --python-bundle FOLDER (a whole Python "
            "with its run.sh), --remote-python /PATH (one that is there) and --runner PROGRAM (one that measures by "
            "itself, as benchmark_model)"
        )
    if options.remote_python is not None and not options.remote_python.startswith("/"):
        return f"--remote-python {options.remote_python}: give its whole path there, which starts with /"
    if options.python_bundle is not None and not (options.python_bundle / "run.sh").is_file():
        return f"--python-bundle {options.python_bundle}: no folder with a run.sh"
    if options.runner is not None and not options.runner.is_file():
        return f"--runner {options.runner}: no such file"
    return ""
