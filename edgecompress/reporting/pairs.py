"""Pair: a value of the dense and the same of the compressed model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from edgecompress.fields import number, optional
from edgecompress.files import Json

T = TypeVar("T")
U = TypeVar("U")

ROLES = ("dense", "compressed")


@dataclass(frozen=True, slots=True)
class Pair(Generic[T]):
    """A value of the dense model and of the compressed one; iterates in the order of ``ROLES``."""

    dense: T
    compressed: T

    def __iter__(self) -> Iterator[T]:
        yield self.dense
        yield self.compressed

    def items(self) -> Iterator[tuple[str, T]]:
        """Each role with its value."""
        return zip(ROLES, self, strict=True)

    def map(self, change: Callable[[T], U]) -> Pair[U]:
        """The pair of what ``change`` makes of each value."""
        return Pair(change(self.dense), change(self.compressed))

    def to_json(self, of: Callable[[T], Any] = lambda value: value) -> Json:
        """A JSON object with a key for each role; ``of`` makes JSON of a value."""
        return {role: of(value) for role, value in self.items()}

    @classmethod
    def from_json(cls, document: Mapping[str, Any], of: Callable[[Any], T]) -> Pair[T]:
        """The inverse of :meth:`to_json`; KeyError where a role is missing."""
        return cls(of(document["dense"]), of(document["compressed"]))


Known = Pair[float | None]
"""Two numbers, or None where one is not known."""


def known(document: Any) -> Known | None:
    """A pair of numbers; None of nothing."""
    return optional(lambda pair: Pair.from_json(pair, lambda value: optional(number, value)), document)
