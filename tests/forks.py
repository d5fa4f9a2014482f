"""Programs as forks of a process that has imported what they need, which takes seconds.

Such a process listens on a socket, so that tests and the commands they start, forks themselves, can share it. A
request is a line of JSON: ``cwd``, the files ``out`` and ``err``, ``timeout_s``, and what its program wants; the answer
is the number of its process, then the exit code. A child shares nothing with the next one, as any process; only the
imports were done before.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
POLL_S = 0.004
Program = Callable[[dict[str, Any]], None]


def ask(
    address: str,
    out: Path,
    err: Path,
    *,
    timeout_s: float,
    cwd: Path | None = None,
    meanwhile: Callable[[int], None] = lambda _: None,
    **more: Any,
) -> int | None:
    """Let the process that listens there run its program; its exit code, negative for a signal, None if too long.

    ``meanwhile`` is called with the number of the process that runs it.
    """
    asked = {"cwd": str(cwd or Path.cwd()), "out": str(out), "err": str(err), "timeout_s": timeout_s, **more}
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        connection.sendall(json.dumps(asked).encode() + b"\n")
        with connection.makefile() as answers:
            meanwhile(json.loads(answers.readline()))
            code: int | None = json.loads(answers.readline())
    return code


def started(module: str) -> str:
    """Start ``python -m MODULE ADDRESS``, which listens until this process ends; its address, once it is ready."""
    folder = _folder()
    argv = [sys.executable, "-m", module, f"{folder}/socket"]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, cwd=ROOT)
    atexit.register(_end, process, os.getpid())
    return _ready(argv[-1], process.pid)


def split_off(program: Program, prepare: Callable[[], None]) -> str:
    """The same as a fork of this process as it is now, after ``prepare`` in the fork."""
    address, (until, kept) = f"{_folder()}/socket", os.pipe()
    process = os.fork()
    if process == 0:
        os.close(kept)
        atexit._clear()
        os._exit(_code_of(lambda: (prepare(), listen(address, program, until))))
    os.close(until)  # and the other end stays open until this process ends
    return _ready(address, process)


def _folder() -> str:
    folder, owner = tempfile.mkdtemp(), os.getpid()
    atexit.register(lambda: os.getpid() == owner and shutil.rmtree(folder))
    return folder


def _ready(address: str, process: int) -> str:
    while not Path(address).exists():
        os.kill(process, 0)
        time.sleep(0.01)
    return address


def _end(process: subprocess.Popen[bytes], owner: int) -> None:
    if os.getpid() == owner:  # and not in a fork, whose exit functions are run too
        process.terminate()
        process.communicate()


def listen(address: str, program: Program, until: int) -> None:
    """Answer requests, each in a child, until the other end of the pipe ``until`` is closed."""
    running: list[_Child] = []
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"{address}.new")
        listening.listen()
        Path(f"{address}.new").rename(address)
        while True:
            ready = select.select([listening, until], [], [], POLL_S if running else None)[0]
            if until in ready:
                return
            if listening in ready:
                running.append(_begun(listening.accept()[0], program))
            running = [child for child in running if not _ended(child)]


class _Child(NamedTuple):
    """A program that runs, until when it may, and who waits for its exit code."""

    process: int
    deadline: float
    connection: socket.socket


def _begun(connection: socket.socket, program: Program) -> _Child:
    with connection.makefile() as requests:
        asked = json.loads(requests.readline())
    process = os.fork()
    if process == 0:
        _become(program, asked)
    _say(connection, process)
    return _Child(process, time.monotonic() + asked["timeout_s"], connection)


def _ended(child: _Child) -> bool:
    """Whether it has ended, or had to; its exit code, or None, was sent then."""
    done, status = os.waitpid(child.process, os.WNOHANG)
    late = not done and time.monotonic() > child.deadline
    if late:
        os.killpg(child.process, signal.SIGKILL)
        os.waitpid(child.process, 0)
    if done or late:
        with child.connection:
            _say(child.connection, None if late else os.waitstatus_to_exitcode(status))
    return bool(done) or late


def _say(connection: socket.socket, number: int | None) -> None:
    with contextlib.suppress(OSError):  # who asked may have been killed
        connection.sendall(json.dumps(number).encode() + b"\n")


def _become(program: Program, asked: dict[str, Any]) -> None:
    """In the child: never returns, and nothing of the parent's is cleared away."""
    os.setpgid(0, 0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, path in ((1, asked["out"]), (2, asked["err"])):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
    os.chdir(asked["cwd"])
    code = _code_of(lambda: program(asked))
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def _code_of(program: Callable[[], None]) -> int:
    try:
        program()
    except SystemExit as end:
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0
