"""Running the user's code: errors name the function, the file and the line; what it sets is undone."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from edgecompress.errors import EdgeCompressError, ModelError, first_line, is_installed, shown_place, user_line
from edgecompress.memory import SMALLER, naming_shortage


def call(name: str, what: str, function: Callable[[], Any], error: type[ModelError] = ModelError) -> Any:
    """What ``function``, which is or runs the user's code, gives; ``name`` and ``what`` are for messages.

    Raises:
        ModelError: or the given ``error``, with the first line of the original one and where it was raised.
        OutOfMemory: memory ran out.
    """
    try:
        with _settings_kept(), naming_shortage(f"{name}: {what}", SMALLER):
            return function()
    except (EdgeCompressError, KeyboardInterrupt):
        raise
    except SystemExit as raised:
        raise error(f"{name}: {what} called sys.exit({raised.code!r})") from raised
    except BaseException as raised:  # user code may raise anything, and some of it is no Exception
        raise error(f"{name}: {what} failed: {in_one_line(raised)}") from raised


def in_one_line(error: BaseException) -> str:
    """An error in one line: its type, the first line of its message, and the user's line it was raised at."""
    return f"{type(error).__name__}: {first_line(error, 'no message')}{shown_place(user_line(error))}"


def defined(function: object) -> str:
    """Where a function of the user's is written, for messages about what it gave; empty for any other."""
    code = getattr(inspect.unwrap(function) if callable(function) else function, "__code__", None)
    place = (Path(code.co_filename), code.co_firstlineno) if code else None
    return "" if place is None or is_installed(place[0]) else f" (defined at {place[0].name}:{place[1]})"


@contextmanager
def _settings_kept() -> Iterator[None]:
    """Settings of this process as they were: user code may change them for all that comes after.

    They are PyTorch's default dtype, whether gradients are kept, and that warnings are errors.
    """
    dtype, gradients, filters = torch.get_default_dtype(), torch.is_grad_enabled(), list(warnings.filters)
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(gradients)
        if warnings.filters != filters:
            _forget_errors(filters)


def _forget_errors(before: Sequence[Any]) -> None:
    """Take back the filters that make errors of warnings and were not there ``before``."""
    left = [known for known in warnings.filters if known[0] != "error" or known in before]
    with warnings.catch_warnings():  # its end makes Python notice that the filters have changed
        warnings.filters[:] = left  # type: ignore[index]
    warnings.filters[:] = left  # type: ignore[index]
