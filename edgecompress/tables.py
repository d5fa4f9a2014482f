"""Tables of what can be added: their names are known at once, an entry is imported when it is looked at."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
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

    def written(self, attribute: str) -> Any:
        """What the file gives an attribute of the entry as a literal; else None. The file is read, not imported."""
        return next((value for name, value in _literals(self.module, self.name) if name == attribute), None)


@cache
def _literals(module: str, name: str) -> tuple[tuple[str, Any], ...]:
    """Attributes that a class of a module has in its body, or an object of it as keywords where it is made."""
    spec = find_spec(module)
    text = Path(spec.origin).read_text(encoding="utf-8") if spec and spec.origin else ""
    given = [pair for statement in ast.parse(text).body for pair in _given(statement, name)]
    return tuple((attribute, value.value) for attribute, value in given if isinstance(value, ast.Constant))


def _given(statement: ast.stmt, name: str) -> Iterator[tuple[str, ast.expr | None]]:
    """Attributes and their expressions, where a statement makes what is called ``name``."""
    if isinstance(statement, ast.ClassDef) and statement.name == name:
        yield from (pair for line in statement.body for pair in _assigned(line))
    for made, value in _assigned(statement):
        if made == name and isinstance(value, ast.Call):
            yield from ((str(keyword.arg), keyword.value) for keyword in value.keywords)


def _assigned(statement: ast.stmt) -> Iterator[tuple[str, ast.expr | None]]:
    """Names and what they are set to, by ``name = value`` or ``name: type = value``."""
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    for target in targets:
        if isinstance(target, ast.Name):
            yield target.id, getattr(statement, "value", None)


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

    def facts(self, attribute: str) -> dict[str, Any]:
        """One attribute of all entries that have it; where an entry's file has it as a literal, nothing is imported."""
        found = {name: self._fact(name, attribute) for name in self}
        return {name: value for name, value in found.items() if value is not None}

    def _fact(self, name: str, attribute: str) -> Any:
        entry = self._entries[name]
        written = entry.written(attribute) if isinstance(entry, Place) else None
        return getattr(self[name], attribute, None) if written is None else written

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
