"""One wrapper around every converter and runtime: whatever they raise is an ExportError that names the target."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from edgecompress.errors import BatchError, EdgeCompressError, ExportError, FileError, LengthError, first_line
from edgecompress.memory import is_shortage


@contextmanager
def refusing(target: str, what: str) -> Iterator[None]:
    """Turn whatever is raised in ``what``, in words, into an ExportError; files there are are temporary ones.

    Raises:
        ExportError: in place of a FileError and of every exception that is not ours; an OSError stays, which is the
            disk's.
    """
    try:
        yield
    except FileError as error:
        cause = error.__cause__ or error
        raise ExportError(f"{target}: {what} {first_line(cause)[:300]}; {WAY_OUT}") from error
    except (EdgeCompressError, OSError):
        raise
    except Exception as error:  # converters and runtimes may raise anything
        raise ExportError(f"{target}: {what} {_reason(error)}") from error


WAY_OUT = "try another target"
BY_VALUES = "data-dependent"
"""In messages of PyTorch's tracer about code that chooses by values, which no batch size helps."""


@contextmanager
def naming(target: str) -> Iterator[None]:
    """Put a target's name before the errors of what it is made by or from."""
    try:
        yield
    except BatchError as error:
        raise BatchError(f"{target}: {error}", batch=error.batch, fact=error.fact) from error
    except LengthError as error:
        raise LengthError(f"{target}: {error}", fact=error.fact) from error
    except ExportError as error:
        raise ExportError(f"{target}: {error}") from error


def _reason(error: Exception) -> str:
    text = f"{type(error).__name__}: {first_line(error)[:300]}"
    if is_shortage(error):
        return f"ran out of memory ({text}); export a smaller model or batch, or on a larger machine"
    return f"failed: {text}; {WAY_OUT}"
