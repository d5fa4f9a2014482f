"""Memory: what was freed is given back to the system."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any


def give_back() -> None:
    """Give what was freed back to the system, where the C library keeps it and can be asked: glibc.

    It keeps what was freed by each thread for that thread, which adds up where many threads take turns.
    """
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Any:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):  # another C library, or Windows
        return None
