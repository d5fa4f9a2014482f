"""The command line as a function, in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.forks import ROOT, ask
from tests.warm_interpreter import address

TIMEOUT_S = 300


@dataclass(frozen=True)
class Answer:
    """What a command printed and ended with."""

    code: int
    out: str
    err: str


def command(*arguments: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> Answer:
    """``edgecompress ARGUMENTS`` in a process of its own, forked from a warm interpreter; never a traceback."""
    return _forked("", arguments, cwd, env)


def script(file: Path, *arguments: str | Path, cwd: Path, places: list[Path]) -> Answer:
    """A Python file in a process of its own that finds the package, if anywhere new, in ``places``."""
    return _forked(str(file), arguments, cwd, {"PYTHONPATH": os.pathsep.join(map(str, places))})


def interrupted(at: str, how: signal.Signals, *arguments: str | Path) -> Answer:
    """``edgecompress ARGUMENTS`` that gets a signal soon after a line on its stderr starts with ``at``."""

    def interrupt(process: int, err: Path) -> None:
        while not (err.exists() and any(line.startswith(at) for line in err.read_text().splitlines())):
            os.kill(process, 0)
            time.sleep(0.02)
        time.sleep(0.05)
        os.kill(process, how)

    return _forked("", arguments, None, None, interrupt)


def _forked(
    file: str,
    arguments: Sequence[str | Path],
    cwd: Path | None,
    env: dict[str, str] | None,
    meanwhile: Callable[[int, Path], None] = lambda *_: None,
) -> Answer:
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        environment = {**os.environ, **_OURS, **(env or {})}
        asked = {"script": file, "argv": list(map(str, arguments)), "env": environment}
        code = ask(
            address(), out, err, timeout_s=TIMEOUT_S, cwd=cwd, meanwhile=lambda own: meanwhile(own, err), **asked
        )
        assert code is not None, f"took more than {TIMEOUT_S} s: {arguments}, {err.read_text()}"
        answer = Answer(code, out.read_text(), err.read_text())
    assert "Traceback" not in answer.err, answer.err
    return answer


def fresh_command(*arguments: str | Path) -> Answer:
    """The same in an interpreter that has imported nothing yet."""
    argv = [sys.executable, "-m", "edgecompress", *map(str, arguments)]
    env = {**os.environ, **_OURS}
    done = subprocess.run(argv, capture_output=True, text=True, env=env, check=False, timeout=TIMEOUT_S)
    assert "Traceback" not in done.stderr, done.stderr
    return Answer(done.returncode, done.stdout, done.stderr)


_OURS = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
