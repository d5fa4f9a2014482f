"""An interpreter that has imported everything and then only forks: each request on stdin is a command of its own.

A request is one line of JSON: ``argv``, ``cwd``, ``env``, the files ``out`` and ``err``, and ``timeout_s``. The answer
is a line with the exit code. A child shares nothing with the next one, as any process; only the imports, which take
seconds, were done before.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import pkgutil
import signal
import sys
import time
import traceback
import warnings
from typing import Any

import pytest

from tests.quick import collect_garbage_rarely, measure_briefly, patch_exporter

LATE = ("constriction", "jinja2", "numpy.ma", "onnxruntime.quantization", "onnxsim", "rich.table", "torch.profiler")
"""What commands import inside functions."""


def warm_up() -> None:
    """All that commands import, and what PyTorch's exporter reads once a process."""
    import torch

    import edgecompress

    own = [module.name for module in pkgutil.walk_packages(edgecompress.__path__, "edgecompress.")]
    for name in (*own, *LATE):
        if not name.endswith("__main__"):
            importlib.import_module(name)
    torch.set_num_threads(1)
    measure_briefly(patch := pytest.MonkeyPatch())
    patch_exporter(patch)
    with warnings.catch_warnings(), open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):  # noqa: PTH123
        warnings.simplefilter("ignore")
        torch.onnx.export(torch.nn.Linear(2, 2).eval(), (torch.zeros(2, 2),), dynamo=True, verbose=False)
    collect_garbage_rarely()


def run(asked: dict[str, Any]) -> int:
    """In the child: the command line, as ``python -m edgecompress`` starts it; its exit code."""
    for number, path in ((1, asked["out"]), (2, asked["err"])):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.setpgid(0, 0)
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    sys.argv, sys.path[0] = ["edgecompress", *asked["argv"]], asked["cwd"]
    from edgecompress.__main__ import main

    try:
        main()
    except SystemExit as end:
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def child(asked: dict[str, Any]) -> None:
    """Never returns."""
    code = run(asked)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def waited(process: int, timeout_s: float) -> int | None:
    """The exit code, negative for a signal; None, and the end of it, where it takes too long."""
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


def main() -> None:
    """Answer until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    warm_up()
    for line in sys.stdin:
        asked = json.loads(line)
        process = os.fork()
        if process == 0:
            child(asked)
        answers.write(json.dumps(waited(process, asked["timeout_s"])) + "\n")
        answers.flush()
    gc.unfreeze()


if __name__ == "__main__":
    main()
