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


def duration(seconds: float) -> str:
    """Whole seconds, minutes or hours, in two parts at most."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
