"""Tables of what can be added: their names are known at once, an entry is imported when it is looked at."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

Entry = TypeVar("Entry")


@dataclass(frozen=True, slots=True)
class Place:
    """Where an entry is: an object of a module, or a class to make one of without arguments."""

    module: str
    name: str

    def load(self) -> Any:
        """Import it."""
        found = getattr(importlib.import_module(self.module), self.name)
        return found() if isinstance(found, type) else found


class Table(MutableMapping[str, Entry], Generic[Entry]):
    """Entries by name, in the order they were given: ``Table("package", svd="svd:Svd")`` says where they are.

    Listing names imports nothing; ``table[name]`` imports that entry's module. An entry of elsewhere is added as to any
    dictionary: ``table["mine"] = Mine()``.

    Args:
        package: that the places are in.
        places: for each name ``module:object`` below ``package``.
    """

    def __init__(self, package: str, **places: str) -> None:
        self._entries: dict[str, Place | Entry] = {}
        for name, place in places.items():
            module, _, found = place.partition(":")
            self._entries[name] = Place(f"{package}.{module}", found)

    def __getitem__(self, name: str) -> Entry:
        entry = self._entries[name]
        if isinstance(entry, Place):
            entry = self._entries[name] = cast(Entry, entry.load())
        return entry

    def __setitem__(self, name: str, entry: Entry) -> None:
        self._entries[name] = entry

    def __delitem__(self, name: str) -> None:
        del self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries
