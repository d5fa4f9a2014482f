"""The bench script in forks of a process that has imported ONNX Runtime and done nothing else.

A fork has only the thread that forked: locks that others held stay locked, and pools wait for workers that are gone. A
process that has run models, or PyTorch, has such threads; this one never has. It listens on a socket, so that tests
and the commands they start, forks themselves, share it.
"""

from __future__ import annotations

import atexit
import faulthandler
import functools
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import warnings
from functools import cache
from pathlib import Path
from typing import Any

from tests.forks import forked

LIBRARIES = ("numpy", "onnxruntime")
LONGEST_S = 240.0
"""A pass of a brief measurement takes seconds; what takes longer hangs, and says where."""


def run_bench(argv: list[str], out: Path, err: Path, timeout_s: float) -> int | None:
    """Run the script with its arguments; as :func:`tests.forks.forked`."""
    asked = {"argv": argv, "cwd": str(Path.cwd()), "out": str(out), "err": str(err), "timeout_s": timeout_s}
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address())
        connection.sendall(json.dumps(asked).encode() + b"\n")
        with connection.makefile() as answers:
            code: int | None = json.loads(answers.readline())
    return code


@cache
def address() -> str:
    """Where the process listens; started by whoever asks first, before it forks."""
    folder = tempfile.mkdtemp()
    argv = [sys.executable, "-m", "tests.warm_bench", f"{folder}/bench"]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1])
    assert process.stdout is not None
    assert process.stdout.readline() == b"listening\n"
    atexit.register(_end, process, folder, os.getpid())
    return argv[-1]


def _end(process: subprocess.Popen[bytes], folder: str, owner: int) -> None:
    if os.getpid() == owner:  # and not in a fork, whose exit functions are run too
        process.terminate()
        process.communicate()
        shutil.rmtree(folder)


def _measure(asked: dict[str, Any]) -> None:
    """In the child: the bench script."""
    os.chdir(asked["cwd"])
    faulthandler.dump_traceback_later(asked["timeout_s"] - 5, exit=True)
    warnings.resetwarnings()
    sys.argv = list(asked["argv"])
    script = runpy.run_path(sys.argv[0])
    script["main"].__globals__["BLOCK_MS"] = 5.0
    script["main"]()


def _answer(connection: socket.socket) -> None:
    """In a child for each request, so that several can be under way."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with connection.makefile() as requests:
        asked = json.loads(requests.readline())
    asked["timeout_s"] = min(asked["timeout_s"], LONGEST_S)
    code = forked(functools.partial(_measure, asked), Path(asked["out"]), Path(asked["err"]), asked["timeout_s"])
    connection.sendall(json.dumps(code).encode() + b"\n")


def main() -> None:
    """Listen until the process that started this one ends."""
    for name in LIBRARIES:
        __import__(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(sys.argv[1])
        listening.listen()
        sys.stdout.write("listening\n")
        sys.stdout.flush()
        while listening in select.select([listening, sys.stdin], [], [])[0]:
            connection, _ = listening.accept()
            with connection:
                if os.fork() == 0:
                    _answer(connection)
                    os._exit(0)


if __name__ == "__main__":
    main()
