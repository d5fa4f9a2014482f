"""The exceptions a caller can meet; ``cli`` turns each into one message and its exit code.

::

    EdgeCompressError          exit
     ├ ModelError               2    MODEL could not be resolved, built or run
     │  ├ DataError             2    a split of the sample's data is missing or malformed
     │  └ OutOfMemory           2    memory ran out; names the layer or the stage
     ├ PlanError                2    the plan does not fit the model        (also a ValueError)
     ├ FileError                2    a file cannot be read, trusted or written
     ├ BudgetError              1    no plan meets the budget; carries the nearest feasible point
     ├ TrainingError            1    training diverged
     ├ ExportError              1    the exporter refused; ``__cause__`` kept
     │  ├ BatchError            1    the file holds for one batch size only
     │  ├ ParityError           1    exported numbers differ from PyTorch's
     │  └ NotExportable         2    refused before any work (also a ModelError)
     ├ DeviceError              4    unreachable, or a command failed there
     └ MissingExtra             3    an optional dependency is not installed (also an ImportError)
    any other exception        70    a defect of this package

A message names the culprit, the fact and the way out.
"""

from __future__ import annotations

import math
import re
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

PACKAGE = Path(__file__).parent
LIBRARIES = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))


class EdgeCompressError(Exception):
    """Base of every error this package raises on purpose."""

    exit_code = 1


class ModelError(EdgeCompressError):
    """MODEL could not be resolved, built or run."""

    exit_code = 2


class DataError(ModelError):
    """A split of the sample's data is missing or malformed."""


class OutOfMemory(ModelError):  # noqa: N818 - reads better at the raise
    """Memory ran out; the message names the layer or the stage, and the way out."""


class PlanError(EdgeCompressError, ValueError):
    """The plan, or one of its options, does not fit the model."""

    exit_code = 2


class FileError(EdgeCompressError):
    """A file cannot be read, trusted or written."""

    exit_code = 2

    @classmethod
    def not_exported(cls, path: Path) -> FileError:
        """The error where an exported file was expected, and nothing is there."""
        export = f"edgecompress export {printable(path)} -o out"
        return cls(
            f"{path}: no such file" + ("" if path.suffix else f"; taken are exported files: `{export}` writes one")
        )


class BudgetError(EdgeCompressError):
    """No plan meets the budget.

    ``nearest_keep`` is the smallest fraction of the dense cost that can be reached.
    """

    def __init__(self, message: str, *, nearest_keep: float) -> None:
        super().__init__(message)
        self.nearest_keep = nearest_keep

    @classmethod
    def beyond(cls, keep: float, of: str, least: int, total: int, way_out: Callable[[float], str]) -> BudgetError:
        """The fraction ``keep`` of the ``total`` amount ``of`` something is less than ``least``, the smallest there is.

        ``way_out`` says what can be done instead, given the smallest fraction that can be reached.
        """
        nearest = least / total
        while int(nearest * total) < least:
            nearest = math.nextafter(nearest, 2)
        amount = {"macs": "MACs", "params": "parameters"}.get(of, of)
        return cls(f"keep {keep:g} of the {amount} cannot be reached{way_out(nearest)}", nearest_keep=nearest)


class TrainingError(EdgeCompressError):
    """Training diverged: the loss is not a number any more."""


class ExportError(EdgeCompressError):
    """The exporter refused the model; the original exception is ``__cause__``."""


class BatchError(ExportError):
    """The file holds for batches of one size only; ``batch`` is a size that may do, ``fact`` why no other does."""

    def __init__(self, message: str, *, batch: int, fact: str) -> None:
        super().__init__(message)
        self.batch = batch
        self.fact = fact


class LengthError(ExportError):
    """The file holds for sequences of one length only; ``fact`` is why."""

    def __init__(self, message: str, *, fact: str) -> None:
        super().__init__(message)
        self.fact = fact


class NotExportable(ModelError, ExportError):  # noqa: N818 - reads better at the raise
    """The model cannot be exported, which was found before any work; names the line of the user's code."""


class ParityError(ExportError):
    """The exported file computes something else than PyTorch does.

    ``outputs`` are the numbers of those that differ; none: it is not told which.
    """

    def __init__(
        self,
        message: str,
        *,
        target: str,
        max_abs_error: float,
        sqnr_db: float,
        tolerance: float,
        outputs: tuple[int, ...] = (),
    ) -> None:
        super().__init__(message)
        self.outputs = outputs
        self.target = target
        self.max_abs_error = max_abs_error
        self.sqnr_db = sqnr_db
        self.tolerance = tolerance


class DeviceError(EdgeCompressError):
    """A device is unreachable, or a command failed on it."""

    exit_code = 4

    def __init__(self, message: str, *, device: str, command: str, returncode: int | None) -> None:
        super().__init__(message)
        self.device = device
        self.command = command
        self.returncode = returncode

    @classmethod
    def of(cls, device: str, why: str, *, command: str = "", returncode: int | None = None) -> Self:
        """The error of a device by its name.

        Args:
            device: as on the command line; the message begins with it.
            why: what is wrong, and the way out.
            command: the program on it or for it that failed; empty if none was run.
            returncode: how that ended; None if it did not.
        """
        return cls(f"{device}: {why}", device=device, command=command, returncode=returncode)


class MissingExtra(EdgeCompressError, ImportError):  # noqa: N818 - reads better at the raise
    """An optional dependency is not installed; the message holds the pip command."""

    exit_code = 3


CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""What steers a terminal or turns its writing around; names in files may hold it."""
SHOWN = 300


def shown(text: str) -> str:
    """Text of any origin as a terminal may have it: what would steer it is spelled out."""
    return CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


def printable(value: object) -> str:
    """What a file says, for a message: one line of at most 300 characters, nothing that steers a terminal."""
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(value)[: SHOWN + 1])
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def first_line(error: BaseException, otherwise: str = "") -> str:
    """The first line of an error's message; ``otherwise``, or its type's name, where it has none.

    A line that ends with a colon is continued by the next.
    """
    lines = (str(error).strip() or otherwise or type(error).__name__).splitlines()
    return " ".join(line.strip() for line in lines[: 2 if lines[0].endswith(":") else 1])


def raised_at(error: BaseException) -> tuple[Path, int] | None:
    """File and line an error was raised at, or None if it never was."""
    return next(reversed(list(_frames(error))), None)


def user_line(error: BaseException) -> tuple[Path, int] | None:
    """The innermost line of the user's own code that an error came through, or None if it came through none.

    Neither Python's library nor installed packages nor this one are the user's; a file that cannot be parsed is.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return Path(error.filename), error.lineno or 0
    return next((place for place in reversed(list(_frames(error))) if not is_installed(place[0])), None)


QUOTED = re.compile(r'File "([^"]+)", line (\d+)')
"""A line of code in the text of a message, as PyTorch's tracers put it there."""


def culprit(error: BaseException) -> str:
    """The user's line that an error, or one that it came from, was raised at or is about: `` (at net.py:12)``."""
    seen: set[int] = set()
    lines: list[tuple[Path, int]] = []
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        quoted = [(Path(file), int(line)) for file, line in QUOTED.findall(str(current))]
        lines += [place for place in quoted if not is_installed(place[0])][-1:]
        lines += [place] if (place := user_line(current)) else []
        current = current.__cause__ or current.__context__
    return shown_place(lines[-1] if lines else None)


def shown_place(place: tuple[Path, int] | None) -> str:
    """A line of the user's as messages end: `` (at net.py:12)``, or nothing."""
    return f" (at {place[0].name}:{place[1]})" if place else ""


def is_installed(file: Path) -> bool:
    """Is a file part of Python, of an installed package or of this one? The shipped samples are as a user's."""
    ours = file.is_relative_to(PACKAGE) and "sample_models" not in file.parts
    return ours or not file.is_file() or any(file.is_relative_to(folder) for folder in LIBRARIES)


def _frames(error: BaseException) -> Iterator[tuple[Path, int]]:
    """Files and lines, outermost first."""
    trace = error.__traceback__
    while trace is not None:
        yield Path(trace.tb_frame.f_code.co_filename), trace.tb_lineno
        trace = trace.tb_next
