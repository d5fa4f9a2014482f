"""Memory: what was freed is given back to the system, and running out of it is one error that says where."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from edgecompress.errors import OutOfMemory, first_line

NO_MEMORY = ("not enough memory", "out of memory", "allocate memory", "unable to allocate", "bad_alloc")
"""What libraries say, in lower case, that have no MemoryError of their own."""

WANTED = re.compile(r"allocate ([\d.]+) ?(bytes|[KMGT]iB)")

SMALLER = "use fewer or smaller inputs (--calibrate, --batch-size), or a machine with more memory"
"""What takes less memory where a model runs."""


def is_shortage(error: BaseException) -> bool:
    """Did memory run out, whatever the type of the error is?"""
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in NO_MEMORY)


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of glibc's ``mallopt``."""

LITTLE, USUAL, MUCH = (1 << 22, 1 << 24), (1 << 25, 1 << 26), (1 << 25, 1 << 28)
"""Bytes of a block and of all that is kept; the second is what glibc comes to by itself."""


@contextmanager
def naming_shortage(what: str, way_out: str) -> Iterator[None]:
    """Raise one clear error where memory runs out.

    Args:
        what: a layer, or a stage.
        way_out: what takes less memory.

    Raises:
        OutOfMemory: memory ran out; an error that says so already goes on as it is.
    """
    try:
        yield
    except OutOfMemory:
        raise
    except (MemoryError, RuntimeError) as error:
        if not is_shortage(error):
            raise
        raise OutOfMemory(f"{what}: out of memory{_wanted(error)}; {way_out}") from error


def without(layer: str) -> str:
    """The way out where a layer takes too much."""
    return f"leave it dense (--exclude {layer}), or use fewer calibration inputs (--calibrate)"


def _wanted(error: BaseException) -> str:
    """How much was asked for, if that is known."""
    found = WANTED.search(first_line(error, "no message"))
    if found is None:
        return ""
    size = f"{float(found[1]) / 1e9:.2g} GB" if found[2] == "bytes" else f"{found[1]} {found[2]}"
    return f" ({size} more were wanted)"


def give_back() -> None:
    """Give what was freed back to the system, where the C library keeps it and can be asked: glibc.

    It keeps what was freed by each thread for that thread, which adds up where many threads take turns.
    """
    trim = _of_libc("malloc_trim")
    if trim is not None:
        trim(0)


@contextmanager
def keeping_little() -> Iterator[None]:
    """While this is open, what is freed goes back to the system, where the C library is glibc and the blocks large.

    By itself it keeps freed blocks of up to 32 MB each, and large networks free hundreds of megabytes of them.
    """
    with _keeping(LITTLE):
        yield


@contextmanager
def keeping_much() -> Iterator[None]:
    """While this is open, up to 256 MiB of what is freed are kept for what comes next, where the C library is glibc.

    Every step of a training frees and takes the same blocks. New pages from the system cost more than the sums that
    fill them: a step of ResNet-20 in bfloat16 takes 222 ms of one core instead of 280.
    """
    with _keeping(MUCH):
        yield
    give_back()


@contextmanager
def _keeping(sizes: tuple[int, int]) -> Iterator[None]:
    _keep(*sizes)
    try:
        yield
    finally:
        _keep(*USUAL)


def _keep(block: int, most: int) -> None:
    """Keep freed blocks of at most so many bytes, and at most so many bytes at the end of all."""
    limit = _of_libc("mallopt")
    if limit is not None:
        limit(M_MMAP_THRESHOLD, block)
        limit(M_TRIM_THRESHOLD, most)


@cache
def _of_libc(name: str) -> Any:
    try:
        return getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError, TypeError):  # another C library, or Windows
        return None
