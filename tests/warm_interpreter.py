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
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.forks import forked
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


def run(asked: dict[str, Any]) -> None:
    """In the child: the command line, as ``python -m edgecompress`` starts it."""
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    sys.argv, sys.path[0] = ["edgecompress", *asked["argv"]], asked["cwd"]
    from edgecompress.__main__ import main

    try:
        main()
    finally:
        atexit._run_exitfuncs()


def main() -> None:
    """Answer until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    warm_up()
    for line in sys.stdin:
        asked = json.loads(line)
        code = forked(partial(run, asked), Path(asked["out"]), Path(asked["err"]), asked["timeout_s"])
        answers.write(json.dumps(code) + "\n")
        answers.flush()
    gc.unfreeze()


if __name__ == "__main__":
    main()
