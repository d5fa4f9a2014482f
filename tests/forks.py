"""Programs as forks of a process that has imported what they need, which takes seconds."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path


def forked(program: Callable[[], None], out: Path, err: Path, timeout_s: float) -> int | None:
    """Run it in a child; its exit code, negative for a signal; None, and the end of it, where it takes too long."""
    process = os.fork()
    if process == 0:
        _become(program, out, err)
    until, pause = time.monotonic() + timeout_s, 0.001
    while time.monotonic() < until:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(pause)
        pause = min(0.02, 1.5 * pause)
    os.killpg(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return None


def _become(program: Callable[[], None], out: Path, err: Path) -> None:
    """In the child: never returns, and nothing of the parent's is cleared away."""
    os.setpgid(0, 0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
    code = _code_of(program)
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
