"""The command line as a function, in a process of its own."""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT_S = 300


@dataclass(frozen=True)
class Answer:
    """What a command printed and ended with."""

    code: int
    out: str
    err: str


def command(*arguments: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> Answer:
    """``edgecompress ARGUMENTS`` in a process of its own, forked from a warm interpreter; never a traceback."""
    warm = _warm_interpreter()
    assert warm.stdin is not None
    assert warm.stdout is not None
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        asked = {
            "argv": list(map(str, arguments)),
            "cwd": str(cwd or Path.cwd()),
            "env": {**os.environ, **_OURS, **(env or {})},
            "out": str(out),
            "err": str(err),
            "timeout_s": TIMEOUT_S,
        }
        warm.stdin.write(json.dumps(asked) + "\n")
        warm.stdin.flush()
        code = json.loads(warm.stdout.readline())
        answer = Answer(code, out.read_text(), err.read_text())
    assert code is not None, f"took more than {TIMEOUT_S} s: {arguments}, {answer.err}"
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


@cache
def _warm_interpreter() -> subprocess.Popen[str]:
    """One for each process of the tests; it ends with its stdin."""
    argv = [sys.executable, "-m", "tests.warm_interpreter"]
    env = {**os.environ, **_OURS}
    warm = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
    atexit.register(warm.communicate)
    return warm
