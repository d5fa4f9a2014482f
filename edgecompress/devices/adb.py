"""A phone (or a Linux board with adbd) over the system's adb: ``adb:SERIAL``.

One ``adb shell`` is the *keeper*: it makes a private folder there and waits. When it loses its standard input, because
the session ends, this process dies or the cable comes off, it kills what the session started there and removes the
folder. What runs there is known by the session's name in its environment.

A phone has no Python of its own. Either a self-contained one is pushed (``bundle``), or the device has one
(``remote_python``), or there is none and a program of the user's does the measuring (``runner``).
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import IO

from edgecompress.devices.base import DeviceOptions, Provenance
from edgecompress.devices.commands import POLL_S, Finished, checked, failed, last_lines, release, run_command
from edgecompress.errors import DeviceError
from edgecompress.files import Json, files_in, sha256, size_of

FORM = "SERIAL"
SUMMARY = "a phone over adb; it needs --python-bundle, --remote-python or --runner"

SERIAL = re.compile(r"[A-Za-z0-9._:][A-Za-z0-9._:-]*", re.ASCII)
ANSWER_S, GRACE_S = 30.0, 15.0
END_OF_OLD = b"\n"
"""Devices of old see no end of input, but an empty line."""
IMPORT_S = 180.0
SLOWEST_BYTES_S = 5e5
KILLED = 128 + signal.SIGKILL
PROBE = "import sys\nfor name in sys.argv[1:]: __import__(name)"

ADVICE = {
    "unauthorized": "it has not allowed this machine to debug it; unlock it and accept the question on its screen",
    "offline": "it does not answer; plug it in again, or run: adb reconnect offline",
    "no permissions": "this user may not open it; apt-get install android-sdk-platform-tools-common, plug it in again",
    "authorizing": "it is being connected; try again in a few seconds",
    "connecting": "it is being connected; try again in a few seconds",
}
"""The way out of each state that ``adb devices`` tells, besides ``device``, which is the good one."""

SWEEP = r"""
for pass in 1 2 3 4 5 6 7 8 9; do
  running=$(grep -l -F EDGECOMPRESS_SESSION=NAME /proc/[0-9]*/environ 2>/dev/null)
  [ "$running" ] || break
  for file in $running; do process=${file#/proc/}; kill -9 "${process%/environ}" 2>/dev/null; done
  sleep 0.1 2>/dev/null || sleep 1
done
"""
"""Kill all processes of the session NAME by their environment, and those they start meanwhile."""

KEEPER = (
    r"""
umask 077
for base in /data/local/tmp "${TMPDIR:-/tmp}" /tmp; do
  folder=$base/NAME
  mkdir "$folder" 2>/dev/null && break
  folder=
done
[ "$folder" ] || { echo "neither /data/local/tmp nor /tmp can be written to" >&2; exit 1; }
trap '' HUP INT TERM PIPE
echo "folder $folder"
read -r line
"""
    + SWEEP
    + r"""
rm -rf "$folder"
"""
)

JOB = (
    r"""
cd FOLDER && umask 077 && {
nap=$( (
  env EDGECOMPRESS_SESSION=NAME sleep SECONDS >/dev/null & echo $!
  exec >/dev/null
  wait $! && {
"""
    + SWEEP
    + r"""
  }
) 2>/dev/null </dev/null & )
env EDGECOMPRESS_SESSION=NAME TMPDIR=FOLDER PYTHONDONTWRITEBYTECODE=1 COMMAND </dev/null
ended=$?
kill "$nap" 2>/dev/null
(exit $ended)
}
"""
)
"""Run COMMAND with a watchdog, which sweeps if it can sleep for SECONDS without being killed.

Not under ``timeout``: that of toybox, which Android has, ends with 127 now and then when a command ends at once.
"""

PROPERTIES = {
    "model": "ro.product.model",
    "android": "ro.build.version.release",
    "abi": "ro.product.cpu.abi",
    "chip": "ro.soc.model",
    "board": "ro.board.platform",
}
CPU = "/sys/devices/system/cpu/cpu[0-9]*/cpufreq"
FACTS = f"""
echo machine=$(uname -m)
echo system=$(uname -sr)
echo cores=$(nproc || grep -c ^processor /proc/cpuinfo)
echo processor=$(grep -i -m 1 -e '^hardware' -e '^model name' /proc/cpuinfo | cut -d: -f2)
echo governors=$(cat {CPU}/scaling_governor | sort -u)
echo clocks=$(cat {CPU}/scaling_cur_freq)
echo highest=$(cat {CPU}/cpuinfo_max_freq)
echo temperatures=$(cat /sys/class/thermal/thermal_zone*/temp)
echo memory=$(grep ^MemTotal: /proc/meminfo)
echo battery=$(dumpsys battery | grep -e powered: -e level: -e temperature:)
echo virtual=$(getprop ro.kernel.qemu)$(getprop ro.boot.qemu)
""" + "".join(f"echo {key}=$(getprop {name})\n" for key, name in PROPERTIES.items())


@dataclass(frozen=True, slots=True)
class Link:
    """The system's adb, talking to one device. ``split``: it tells errors from output and passes exit codes on."""

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
        told = "" if self.split else f"tail -c 4096 {shlex.quote(errors)}"
        whole = f"{{ {script}\n}}{apart}\ncode=$?; echo; echo {mark} $code\n{told}"
        done = self.call("shell", whole, timeout_s=timeout_s)
        stdout = done.stdout if self.split else done.stdout.replace("\r\n", "\n")
        text, marked, ending = stdout.rpartition(f"\n{mark} ")
        if not marked:
            said = last_lines(done.stderr, stdout)
            raise failed(self.name, [self.program], None, f"lost the device while a command ran there: {said}")
        code, _, rest = ending.partition("\n")
        return Finished(text, done.stderr if self.split else rest, int(code))

    @contextlib.contextmanager
    def kept(self, folder_name: str) -> Iterator[str]:
        """A folder of that name there, for as long as this process and the connection live.

        Raises:
            DeviceError: there is no place for one.
        """
        argv = [self.program, "-s", self.serial, "shell", KEEPER.replace("NAME", folder_name)]
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            keeper = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=out, stderr=err, start_new_session=True)
            try:
                yield self._folder(keeper, out, err)
            finally:
                release(keeper, END_OF_OLD, grace_s=GRACE_S)

    def _folder(self, keeper: subprocess.Popen[bytes], out: IO[bytes], err: IO[bytes]) -> str:
        """What the keeper says first. Reading leaves its place in the file alone."""
        end = time.monotonic() + ANSWER_S
        while time.monotonic() < end:
            ended = keeper.poll() is not None
            said, wrong = (os.pread(stream.fileno(), 4096, 0).decode(errors="replace") for stream in (out, err))
            if found := re.search(r"^folder (/.*?)\r?$", said, re.MULTILINE):
                return found[1]
            if ended:
                raise failed(
                    self.name, argv_of(keeper), keeper.returncode, f"made no folder: {last_lines(wrong, said)}"
                )
            time.sleep(POLL_S)
        raise failed(self.name, argv_of(keeper), None, f"gave no answer within {ANSWER_S:g} s; restart it or its adbd")


def argv_of(process: subprocess.Popen[bytes]) -> list[str]:
    """What it was started with."""
    assert isinstance(process.args, list)
    return [str(argument) for argument in process.args]


@dataclass(frozen=True, slots=True)
class AdbSession:
    """A device in use: ``folder`` is this session's own there; ``digests``: it can tell those of files."""

    name: str
    link: Link
    folder: str
    digests: bool = False
    interpreter: tuple[str, ...] = ()
    numbers: Iterator[int] = field(default_factory=count)

    @property
    def python(self) -> tuple[str, ...]:
        """What starts the interpreter there.

        Raises:
            DeviceError: the device is used with a runner of the user's, without any Python.
        """
        if not self.interpreter:
            message = (
                f"{self.name}: with --runner there is no Python on the device; give --python-bundle or --remote-python"
            )
            raise DeviceError(message, device=self.name, command="python", returncode=None)
        return self.interpreter

    def push(self, *files: Path) -> str:
        """Copy files or folders into a new folder there; what arrived is compared by digest, else by size."""
        folder = f"{self.folder}/{next(self.numbers)}"
        checked(self.name, ["mkdir"], self._shell(f"mkdir {shlex.quote(folder)}"))
        for file in files:
            self._push(file, folder)
        return f"{folder}/{files[0].name}"

    def _push(self, file: Path, folder: str) -> None:
        limit_s = ANSWER_S + size_of(file) / SLOWEST_BYTES_S
        source, target = str(file.resolve()), f"{folder}/{file.name}"
        done = self.link.call("push", source, target, timeout_s=limit_s)
        if done.returncode:
            said = last_lines(done.stderr.replace(f"failed to copy '{source}' to '{target}': ", ""), done.stdout)
            raise failed(self.name, ["adb"], done.returncode, f"cannot copy {file.name} there: {said}")
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
            done = self._shell(self._job(argv, math.ceil(timeout_s)), timeout_s + GRACE_S)
        except DeviceError:
            self._stop()
            raise
        if done.returncode == KILLED and time.monotonic() - began >= timeout_s:
            self._stop()
            said = last_lines(f"{done.stdout}\n{done.stderr}")
            what = f"gave no answer within {timeout_s:g} s and was ended there; last: {said}"
            raise failed(self.name, argv, done.returncode, what)
        return checked(self.name, argv, done)

    def _job(self, argv: Sequence[str], seconds: int) -> str:
        values = {"FOLDER": shlex.quote(self.folder), "SECONDS": str(seconds), "COMMAND": shlex.join(argv)}
        values["NAME"] = self.folder.rpartition("/")[2]
        return re.sub("|".join(values), lambda match: values[match[0]], JOB)

    def facts(self) -> Json:
        """The kernel's architecture, the phone's model, Android and chip, clocks in MHz, temperatures in degrees C.

        What the device does not tell is left out. ``virtual`` is there, and true, on a virtual phone.
        """
        lines = self._shell(FACTS).stdout.splitlines()
        told = {key: value.strip() for key, _, value in (line.partition("=") for line in lines)}
        return {key: value for key, value in _facts(told).items() if value not in (None, "", [], {})}

    def _stop(self) -> None:
        """Kill what this session started, if the device can still be reached."""
        with contextlib.suppress(DeviceError):
            self._shell(SWEEP.replace("NAME", self.folder.rpartition("/")[2]))

    def _shell(self, script: str, timeout_s: float | None = None) -> Finished:
        return self.link.shell(script, timeout_s=timeout_s or ANSWER_S, errors=f"{self.folder}/errors")


def _facts(told: dict[str, str]) -> Json:
    """The lines of ``FACTS`` as values."""
    clocks, highest, temperatures, memory = (
        [int(number) for number in re.findall(r"-?\d+", told.get(key, ""))]
        for key in ("clocks", "highest", "temperatures", "memory")
    )
    return {
        **{key: told.get(key) for key in ("machine", "system", "processor", *PROPERTIES)},
        "cores": int(told["cores"]) if told.get("cores", "").isdigit() else None,
        "governors": told.get("governors", "").split(),
        "clock_mhz": min(clocks) / 1e3 if clocks else None,
        "highest_clock_mhz": max(highest) / 1e3 if highest else None,
        "temperature_c": max(temperatures) / 1e3 if temperatures else None,
        "memory_bytes": memory[0] * 1024 if memory else None,
        "battery": _battery(told.get("battery", "")),
        "virtual": "1" in told.get("virtual", "") or None,
    }


def _battery(text: str) -> Json:
    """Level in percent, temperature in degrees C, what it is fed from, as ``dumpsys battery`` tells."""
    level, warm = (re.search(rf"\b{key}: (-?\d+)", text) for key in ("level", "temperature"))
    told = {
        "level": int(level[1]) if level else None,
        "temperature_c": int(warm[1]) / 10 if warm else None,
        "power": re.findall(r"(\w+) powered: true", text),
    }
    return {key: value for key, value in told.items() if value is not None} if level else {}


@dataclass(frozen=True, slots=True)
class Adb:
    """A phone; ``options`` say what measures on it: a bundle, an interpreter it has, or a runner."""

    name: str
    serial: str
    options: DeviceOptions
    provenance: Provenance = "measured"

    @contextlib.contextmanager
    def session(self, modules: Sequence[str]) -> Iterator[AdbSession]:
        """Get a folder there, and the interpreter; leave nothing there in the end."""
        program = shutil.which("adb")
        if program is None:
            message = f"{self.name}: the program adb is not on this machine; apt-get install adb"
            raise DeviceError(message, device=self.name, command="adb", returncode=None)
        link = Link(self.name, program, self.serial).ready()
        with link.kept(f"edgecompress-{secrets.token_hex(8)}") as folder:
            digests = link.shell("sha256sum </dev/null >/dev/null", timeout_s=ANSWER_S).returncode == 0
            session = AdbSession(self.name, link, folder, digests)
            yield replace(session, interpreter=self._interpreter(session, modules))

    def _interpreter(self, session: AdbSession, modules: Sequence[str]) -> tuple[str, ...]:
        """What starts a Python there that can import ``modules``; nothing where a runner takes its place."""
        if self.options.runner:
            return ()
        python: tuple[str, ...] = (self.options.remote_python or "",)
        if self.options.python_bundle:
            python = ("sh", session.push(self.options.python_bundle) + "/run.sh")
        session.run([*python, "-c", PROBE, *modules], timeout_s=IMPORT_S)
        return python


def named(rest: str, options: DeviceOptions) -> Adb:
    """``adb:SERIAL``, with just one of a bundle, an interpreter's path there, and a runner.

    Raises:
        DeviceError: that is no serial number, or the options do not say what is to measure there.
    """
    name = f"adb:{rest}"
    options.refuse_other_than("adb", "remote_python", "python_bundle", "runner")
    if problem := _problem(rest, options):
        raise DeviceError(f"{name}: {problem}", device=name, command="", returncode=None)
    return Adb(name, rest, options)


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
