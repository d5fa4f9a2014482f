"""How long work tells what it is doing, without knowing who listens."""

from __future__ import annotations

import sys
from collections.abc import Callable

from edgecompress.processes import is_first

Progress = Callable[[str, int, int, str], None]
"""Called with the name of the work, units done, units in all, and a short detail such as the current loss."""


def silent(name: str, done: int, total: int, detail: str = "") -> None:
    """Say nothing: the default of every stage."""


_TOLD: set[str] = set()


def notice(text: str) -> None:
    """One line on stderr about what was done differently than one might think; each once a process."""
    if text not in _TOLD and is_first():
        _TOLD.add(text)
        sys.stderr.write(f"note: {text}\n")
