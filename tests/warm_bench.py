"""The bench script in forks of a process that has imported ONNX Runtime and done nothing else.

A fork has only the thread that forked: locks that others held stay locked, and pools wait for workers that are gone. A
process that has run models, or PyTorch, has such threads; this one never has.
"""

from __future__ import annotations

import faulthandler
import runpy
import sys
import warnings
from functools import cache
from pathlib import Path
from typing import Any

from tests.forks import ask, listen, started

LIBRARIES = ("numpy", "onnxruntime")
LONGEST_S = 240.0
"""A pass of a brief measurement takes seconds; what takes longer hangs, and says where."""


def run_bench(argv: list[str], out: Path, err: Path, timeout_s: float) -> int | None:
    """Run the script ``argv[0]`` with its arguments; its exit code, None where it takes too long."""
    return ask(address(), out, err, timeout_s=min(timeout_s, LONGEST_S), argv=argv)


@cache
def address() -> str:
    """Where the process listens; started by whoever asks first, before it forks."""
    return started(__name__)


def _measure(asked: dict[str, Any]) -> None:
    """In the child: the bench script."""
    faulthandler.dump_traceback_later(asked["timeout_s"] - 5, exit=True)
    warnings.resetwarnings()
    sys.argv = list(asked["argv"])
    script = runpy.run_path(sys.argv[0])
    script["main"].__globals__["BLOCK_MS"] = 5.0
    script["main"]()


if __name__ == "__main__":
    for name in LIBRARIES:
        __import__(name)
    listen(sys.argv[1], _measure, sys.stdin.fileno())
