"""An interpreter that has imported everything and then only forks: each request is a command line of its own."""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import pkgutil
import runpy
import sys
import threading
import warnings
from typing import Any

import pytest

from tests import warm_bench
from tests.forks import listen, split_off, started
from tests.quick import collect_garbage_rarely, measure_briefly, patch_exporter

LATE = ("constriction", "jinja2", "numpy.ma", "onnxruntime.quantization", "onnxsim", "rich.table", "torch.profiler")
"""What commands import inside functions."""
_ADDRESS: list[str] = []


def address() -> str:
    """Where this process's interpreter listens."""
    if not _ADDRESS:
        _ADDRESS.append(started(__name__))
    return _ADDRESS[0]


def split_off_from_here() -> None:
    """Make it of a process that has imported everything and run nothing: seconds less than starting another."""
    warm_exporter()
    warm_bench.address()
    _ADDRESS.append(split_off(run, _forget_pytest))


def _forget_pytest() -> None:
    sys.unraisablehook, threading.excepthook = sys.__unraisablehook__, threading.__excepthook__
    warnings.resetwarnings()
    for kind in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
        warnings.simplefilter("ignore", kind)
    warm_up()


def warm_up() -> None:
    """All that commands import, and what PyTorch's exporter reads once a process."""
    import torch

    import edgecompress

    own = [module.name for module in pkgutil.walk_packages(edgecompress.__path__, "edgecompress.")]
    for name in (*own, *LATE):
        if not name.endswith("__main__"):
            importlib.import_module(name)
    torch.set_num_threads(1)
    measure_briefly(pytest.MonkeyPatch())


def warm_exporter() -> None:
    """What PyTorch's exporter imports and reads once a process."""
    import torch

    patch_exporter(pytest.MonkeyPatch())
    with warnings.catch_warnings(), open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):  # noqa: PTH123
        warnings.simplefilter("ignore")
        torch.onnx.export(torch.nn.Linear(2, 2).eval(), (torch.zeros(2, 2),), dynamo=True, verbose=False)


def run(asked: dict[str, Any]) -> None:
    """In the child: the command line, as ``python -m edgecompress`` starts it, or a script with the package anew."""
    import torch

    torch.set_num_threads(1)  # makes the thread pool that is lost by a fork, before autograd's threads do so at once
    os.environ.clear()
    os.environ.update(asked["env"])
    sys.argv = [asked["script"] or "edgecompress", *asked["argv"]]
    places, own = (sys.prefix, sys.base_prefix), asked["env"]["PYTHONPATH"].split(os.pathsep)
    sys.path[:] = [asked["cwd"], *own, *(path for path in sys.path if path.startswith(places))]
    try:
        if asked["script"]:
            for name in [name for name in sys.modules if name.partition(".")[0] == "edgecompress"]:
                del sys.modules[name]
            runpy.run_path(asked["script"], run_name="__main__")
        else:
            importlib.import_module("edgecompress.__main__").main()
    finally:
        atexit._run_exitfuncs()


if __name__ == "__main__":
    warm_up()
    warm_exporter()
    collect_garbage_rarely()
    listen(sys.argv[1], run, sys.stdin.fileno())
