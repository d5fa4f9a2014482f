"""A board over the system's ssh: ``ssh:user@host[:port]``.

One connection is the *keeper*: it makes a private folder there, holds a lock so that two measurements never share the
board, and waits. When it loses its standard input, because the session ends, this process dies or the line drops, it
kills what still runs in that folder and removes it. All else goes through the same connection.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import IO

from edgecompress.devices.base import Kind, Provenance
from edgecompress.devices.commands import Finished, checked, failed, last_lines, release, run_command
from edgecompress.errors import DeviceError
from edgecompress.files import Json
from edgecompress.settings import DeviceOptions

FORM = "user@host[:port]"

PLACE = re.compile(r"(?:([A-Za-z0-9_][\w.-]*)@)?([A-Za-z0-9][\w.-]*|\[[0-9A-Fa-f:.%\w]+\])(?::(\d{1,5}))?", re.ASCII)
CONNECT_S, GRACE_S = 15.0, 10.0
SLOWEST_BYTES_S = 5e4
UNREACHED = 255
"""What ssh ends with when it is the connection that failed; remote commands of ours never do."""
TIMED_OUT = (124, 137)
SETTINGS = {
    "BatchMode": "yes",
    "StrictHostKeyChecking": "yes",
    "ConnectTimeout": f"{CONNECT_S:g}",
    "ServerAliveInterval": "5",
    "ServerAliveCountMax": "3",
    "ForwardAgent": "no",
    "ForwardX11": "no",
    "ClearAllForwardings": "yes",
}
SHORT = Path("/tmp")  # noqa: S108 - a private folder is made in it
"""A socket's path must not be long."""
PYTHONS = ("python3", "/usr/bin/python3", "/usr/local/bin/python3", "python")

KEEPER = r"""
umask 077
folder=$(mktemp -d "${TMPDIR:-/tmp}/edgecompress.XXXXXX") || exit 1
remove() {
  for pass in 1 2 3 4 5; do rm -rf "$folder" && break; sleep 0.5; done
}
clear() {
  trap '' HUP INT TERM PIPE
  for file in "$folder"/*.pid; do [ -f "$file" ] && kill -TERM "$(cat "$file")" 2>/dev/null; done
  sleep 0.2
  for file in "$folder"/*.pid; do [ -f "$file" ] && kill -KILL -"$(cat "$file")" 2>/dev/null; done
  remove
  exit 0
}
trap clear HUP INT TERM PIPE
if command -v flock >/dev/null 2>&1 && [ -r "$HOME" ]; then
  exec 9<"$HOME"
  waited=0
  until flock -n 9; do
    if [ $waited -ge WAIT ]; then
      remove
      echo "another session has been measuring there for WAIT s" >&2
      exit 75
    fi
    echo busy
    sleep 1
    waited=$((waited + 1))
  done
fi
echo "folder $folder"
cat >/dev/null
clear
"""
"""Says ``folder PATH`` once it may measure, and ``busy`` each second until then: who is gone is noticed by that."""

HINTS = {
    "Host key verification failed": "its key is not the known one; if you trust it, connect once by hand: ssh{port} "
    "{login}, or give --known-hosts",
    "Permission denied": "no key of yours is accepted; give --identity, or add one there with ssh-copy-id",
    "Connection refused": "nothing listens there; is sshd running, and the port right?",
    "timed out": "is it switched on and on this network?",
    "Could not resolve": "no such host; give its address",
}


@dataclass(frozen=True, slots=True)
class SshSession:
    """A board in use: ``folder`` is this session's own there."""

    name: str
    command: tuple[str, ...]
    folder: str
    python: tuple[str, ...] = ()
    numbers: Iterator[int] = field(default_factory=count)

    def push(self, *files: Path) -> str:
        """Copy files into a new folder, each aside and renamed; sizes are compared."""
        folder = f"{self.folder}/{next(self.numbers)}"
        for file in files:
            self._push(file, folder)
        return f"{folder}/{files[0].name}"

    def _push(self, file: Path, folder: str) -> None:
        there, size = f"{folder}/{file.name}", file.stat().st_size
        part = shlex.quote(f"{there}.part")
        aside = f"umask 077; mkdir -p {shlex.quote(folder)} && cat > {part}"
        done = self._ssh(
            f"{aside} && wc -c < {part} && mv {part} {shlex.quote(there)}",
            timeout_s=CONNECT_S + size / SLOWEST_BYTES_S,
            stdin=file,
        )
        if done.returncode or done.stdout.strip() != str(size):
            last = last_lines(done.stderr, done.stdout)
            raise failed(self.name, ["ssh"], done.returncode, f"cannot copy {file.name} there: {last}")

    def run(self, argv: Sequence[str], *, timeout_s: float) -> str:
        """Run a command there under ``timeout``; it ends there too if it takes too long or this session does."""
        script = self._job(argv, timeout_s)
        done = self._ssh(script, timeout_s=timeout_s + GRACE_S)
        if done.returncode in TIMED_OUT:
            last = last_lines(done.stderr, done.stdout)
            what = f"gave no answer within {timeout_s:g} s and was ended there; last: {last}"
            raise failed(self.name, argv, done.returncode, what)
        return checked(self.name, argv, done)

    def _job(self, argv: Sequence[str], timeout_s: float) -> str:
        """``timeout`` leads a process group of its own, whose number lies in the folder while it runs."""
        pid = shlex.quote(f"{self.folder}/{next(self.numbers)}.pid")
        limit = max(1, round(timeout_s))
        job = f"timeout -k 2 {limit} {shlex.join(argv)} </dev/null & echo $! > {pid}; wait $!"
        folder = shlex.quote(self.folder)
        return f"cd {folder} && export TMPDIR={folder} && {{ {job}; code=$?; rm -f {pid}; exit $code; }}"

    def facts(self) -> Json:
        """Architecture and name of the kernel."""
        done = self._ssh("uname -m; uname -srv", timeout_s=CONNECT_S)
        machine, kernel = [*checked(self.name, ["uname"], done).splitlines(), "", ""][:2]
        return {"machine": machine.strip(), "kernel": kernel.strip()}

    def _ssh(self, script: str, *, timeout_s: float, stdin: Path | None = None) -> Finished:
        """A script of the remote shell; a lost connection is an error of its own."""
        done = run_command(self.name, [*self.command, f"sh -c {shlex.quote(script)}"], timeout_s=timeout_s, stdin=stdin)
        if done.returncode == UNREACHED:
            raise failed(self.name, ["ssh"], UNREACHED, f"lost the connection: {last_lines(done.stderr)}")
        return done


@dataclass(frozen=True, slots=True)
class Ssh:
    """A board; ``options`` have the key, the known hosts, and the interpreter there."""

    name: str
    login: str
    port: int | None
    options: DeviceOptions
    provenance: Provenance = "measured"
    wait_s: int = 600

    @contextlib.contextmanager
    def session(self, modules: Sequence[str]) -> Iterator[SshSession]:
        """Connect, get a folder, find the interpreter; leave nothing there in the end."""
        with tempfile.TemporaryDirectory(prefix="ec", dir=SHORT if SHORT.is_dir() else None) as own:
            control = Path(own) / "c"
            with self._kept(control) as folder:
                session = SshSession(self.name, (*self._command(control), self.login), folder)
                yield SshSession(self.name, session.command, folder, (self._python(session, modules),))

    def _command(self, control: Path, *, master: bool = False) -> tuple[str, ...]:
        settings = {**SETTINGS, "ControlMaster": "yes" if master else "no", "ControlPath": str(control)}
        if self.options.known_hosts:
            settings["UserKnownHostsFile"] = str(self.options.known_hosts.resolve())
        argv = ["ssh", "-T", *(part for key, value in settings.items() for part in ("-o", f"{key}={value}"))]
        if self.options.identity:
            argv += ["-o", "IdentitiesOnly=yes", "-i", str(self.options.identity.resolve())]
        return (*argv, *(["-p", str(self.port)] if self.port else []), "--")

    @contextlib.contextmanager
    def _kept(self, control: Path) -> Iterator[str]:
        """The keeper's folder for as long as its standard input is open."""
        script = KEEPER.replace("WAIT", str(self.wait_s))
        argv = [*self._command(control, master=True), self.login, f"sh -c {shlex.quote(script)}"]
        with tempfile.TemporaryFile() as errors:
            try:
                keeper = subprocess.Popen(
                    argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
                )
            except OSError as error:
                raise failed(self.name, argv, None, "is not here; apt-get install openssh-client") from error
            grace_s = 0.0
            try:
                folder = self._folder(keeper, errors)
                grace_s = GRACE_S
                yield folder
            finally:
                release(keeper, grace_s=grace_s)

    def _folder(self, keeper: subprocess.Popen[bytes], errors: IO[bytes]) -> str:
        """The path in the keeper's first line, or why there is none."""
        assert keeper.stdout is not None
        while line := _line(keeper.stdout.fileno(), 2 * CONNECT_S, keeper.poll):
            if line.startswith("folder /"):
                return line.removeprefix("folder ")
        errors.seek(0)
        text = errors.read().decode(errors="replace")
        raise failed(self.name, ["ssh"], keeper.poll(), f"cannot start a session: {last_lines(text)}{self._hint(text)}")

    def _hint(self, text: str) -> str:
        port = f" -p {self.port}" if self.port else ""
        for symptom, hint in HINTS.items():
            if symptom.lower() in text.lower():
                return f" ({hint.format(port=port, login=self.login)})"
        return ""

    def _python(self, session: SshSession, modules: Sequence[str]) -> str:
        """The first interpreter there that can import ``modules``."""
        wanted = [self.options.remote_python] if self.options.remote_python else PYTHONS
        lacking = []
        for name in wanted:
            try:
                found = session.run([name, "-c", PROBE, *modules], timeout_s=120).strip()
            except DeviceError as error:
                if error.returncode == UNREACHED:
                    raise
                lacking.append(f"{name}: {str(error).rpartition(' | ')[2].rpartition(': ')[2]}")
                continue
            return found if not self.options.remote_python else name
        need = " and ".join(modules)
        why = f"no Python there with {need} ({'; '.join(lacking)}); give one by --remote-python /PATH"
        raise DeviceError.of(self.name, why, command="python3")


PROBE = "import sys\nfor name in sys.argv[1:]: __import__(name)\nprint(sys.executable)"


def _line(descriptor: int, timeout_s: float, ended: Callable[[], int | None]) -> str:
    """The next line from a pipe; empty when it closes, the process ends, or nothing comes in time."""
    text, end = b"", time.monotonic() + timeout_s
    while not text.endswith(b"\n") and time.monotonic() < end:
        if select.select([descriptor], [], [], 0.1)[0]:
            if not (byte := os.read(descriptor, 1)):
                break
            text += byte
        elif ended() is not None:
            break
    return text.decode(errors="replace").strip()


def parse(rest: str, options: DeviceOptions) -> Ssh:
    """``ssh:user@host[:port]``.

    Raises:
        DeviceError: that is no such address, or the interpreter is not given by its whole path.
    """
    name = f"ssh:{rest}"
    options.refuse_other_than("ssh", "remote_python", "identity", "known_hosts")
    found = PLACE.fullmatch(rest)
    if found is None or int(found[3] or 1) not in range(1, 65_536):
        raise DeviceError.of(name, f"not an address of the form ssh:{FORM}")
    if options.remote_python is not None and not options.remote_python.startswith("/"):
        why = f"--remote-python {options.remote_python}: give its whole path there, which starts with /"
        raise DeviceError.of(name, why)
    for file in (options.identity, options.known_hosts):
        if file is not None and not file.is_file():
            raise DeviceError.of(name, f"{file}: no such file")
    host = found[2].strip("[]")
    return Ssh(name, f"{found[1]}@{host}" if found[1] else host, int(found[3]) if found[3] else None, options)


KIND = Kind(FORM, "a board over ssh, with a Python that has numpy and the runtime", parse)
