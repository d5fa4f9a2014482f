"""Fields of a document of unknown origin: each is what it must be, or TypeError, ValueError or KeyError.

And fields of a dataclass that a command line offers: default, name and meaning of the option are said there alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")
Value = TypeVar("Value")


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


@dataclass(frozen=True, slots=True)
class OptionInfo:
    """How a command line offers a field.

    Attributes:
        help: what it does, in one line.
        name: of the option, where it is not the field's.
        usual: the default in words, where it depends on something; ``{}`` stands for the field's.
        low, high: bounds of a number; ``above`` and ``below`` exclude the bound itself.
        odd: only odd numbers.
        basic: shown before one asks for all options.
        chooses: it makes the choice that a plan holds, and does not go with a given plan.
        codecs: it goes with a codec.
        filled_by: the option whose first value fills the field, which then has none of its own.
    """

    help: str
    name: str = ""
    usual: str = ""
    low: float | None = None
    above: float | None = None
    high: float | None = None
    below: float | None = None
    odd: bool = False
    basic: bool = False
    chooses: bool = False
    codecs: bool = True
    filled_by: str = ""


def option(default: Value, help: str, **info: Any) -> Value:  # noqa: A002 - as click calls it
    """A field of a dataclass that a command line offers; ``info`` are the other fields of :class:`OptionInfo`."""
    return field(default=default, metadata={"option": OptionInfo(help, **info)})
