"""How long work tells what it is doing, without knowing who listens."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int, str], None]
"""Called with the name of the work, units done, units in all, and a short detail such as the current loss."""


def silent(name: str, done: int, total: int, detail: str = "") -> None:
    """Say nothing: the default of every stage."""
