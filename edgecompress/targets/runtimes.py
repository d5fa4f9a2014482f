"""Running exported files here, by the same code that runs them on a device: ``deploy/runners/``."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from edgecompress.artifacts import TensorSpec
from edgecompress.errors import ExportError, FileError, MissingExtra, first_line
from edgecompress.files import resource
from edgecompress.targets.base import Run

RUNNERS = "runners"
RUN_TIMEOUT_S = 900.0

EXACT_PRODUCTS = {"LP_TRANSFORMS_MODE": "NO"}
"""OpenVINO's setting against products of int8 that overflow where an x86 processor has no VNNI: they are in float32."""


def bench_script() -> Path:
    """The bench script, which stands alone and measures a file of any target."""
    return resource("deploy") / RUNNERS / "bench.py"


def bench_files() -> tuple[Path, ...]:
    """The bench script and what it imports, which must lie beside it."""
    script = bench_script()
    return script, script.with_name("runtimes.py"), script.with_name("machine.py")


@cache
def _adapters() -> ModuleType:
    """The runtimes behind one interface."""
    spec = importlib.util.spec_from_file_location("edgecompress_runtimes", bench_script().with_name("runtimes.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.OpenVINO.settings = module.OpenVINO.settings | EXACT_PRODUCTS  # here files are run, never timed
    return module


def opened(path: Path, threads: int = 0) -> Any:
    """A file loaded by its runtime, which has ``inputs``, ``outputs`` and ``run``.

    Raises:
        FileError: it cannot be read.
        MissingExtra: its runtime is not installed; the message holds the pip command.
    """
    try:
        with hushed():
            return _adapters().opened(str(path), threads)
    except ImportError as error:
        raise MissingExtra(f"{path}: its runtime is not installed; pip install '{_package_of(path)}'") from error
    except Exception as error:  # a runtime may raise anything for a file it cannot read
        raise FileError(
            f"{path}: not a whole {path.suffix} model, or not one its runtime can run ({first_line(error)[:200]})"
        ) from error


def _package_of(path: Path) -> str:
    """What brings the runtime of a file like ``path``, as pip takes it."""
    from edgecompress.targets import target_of

    extra = target_of(path).extra
    return f"edgecompress[{extra}]" if extra else "edgecompress"


def module_of(path: Path) -> tuple[str, ...]:
    """What an interpreter must be able to import to run a file like ``path``, where that is one and the same."""
    modules: tuple[str, ...] = _adapters().runtime_of(str(path)).modules
    return modules


def signature(path: Path) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs as the runtime reports them.

    Raises:
        FileError: it cannot be read.
    """
    model = opened(path, 1)
    inputs, outputs = ([TensorSpec(s.name, s.dtype, s.shape) for s in specs] for specs in (model.inputs, model.outputs))
    return tuple(inputs), tuple(outputs)


def load(path: Path, threads: int = 0) -> Run:
    """A file as a function.

    Raises:
        FileError: it cannot be read.
    """
    run: Run = opened(path, threads).run
    return run


def refuse_crashing(target: str, path: Path, batch: int) -> None:
    """Load and run a new file in a process of its own, where a runtime may crash without taking this one along.

    Only crashes are reported: whatever else is wrong shows here too.

    Raises:
        ExportError: the runtime crashed or hung.
    """
    argv = [sys.executable, str(bench_script()), str(path), "--pass", "start", "--threads", "1", "--batch", str(batch)]
    nowhere = subprocess.DEVNULL
    try:
        code = subprocess.run(
            argv, stdin=nowhere, stdout=nowhere, stderr=nowhere, timeout=RUN_TIMEOUT_S, check=False
        ).returncode
    except subprocess.TimeoutExpired:
        raise ExportError(f"{target}: its runtime hangs on the file; try another target") from None
    if code < 0:
        raise ExportError(f"{target}: its runtime {crashed(code)} on the file; try another target")


def crashed(code: int) -> str:
    """What the signal -``code`` that ended a process was."""
    name = signal.Signals(-code).name
    return f"crashed ({name}{', as where memory runs out' if name == 'SIGKILL' else ''})"


@contextmanager
def hushed() -> Iterator[None]:
    """Keep what native code writes to stdout and stderr off the user's terminal."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(number) for number in (1, 2)]
    with tempfile.TemporaryFile() as nowhere:
        try:
            for number in (1, 2):
                os.dup2(nowhere.fileno(), number)
            yield
        finally:
            for number, own in zip((1, 2), kept, strict=True):
                os.dup2(own, number)
                os.close(own)
