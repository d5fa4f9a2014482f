"""Fields of a document of unknown origin: each is what it must be, or TypeError, ValueError or KeyError."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def text(value: Any) -> str:
    """The value, which must be text."""
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def whole(value: Any) -> int:
    """The value, which must be a whole number."""
    if type(value) is not int:
        raise TypeError(f"{value!r} is no whole number")
    return value


def number(value: Any) -> float:
    """The value, which must be a number."""
    if type(value) not in (int, float):
        raise TypeError(f"{value!r} is no number")
    result: float = value
    return result


def flag(value: Any) -> bool:
    """The value, which must be true or false."""
    if not isinstance(value, bool):
        raise TypeError(f"{value!r} is neither true nor false")
    return value


def optional(of: Callable[[Any], T], value: Any) -> T | None:
    """None of None, else what ``of`` makes of the value."""
    return None if value is None else of(value)
