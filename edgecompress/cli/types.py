"""What the values of options are: numbers that are finite, names of a table that is imported late, outputs."""

from __future__ import annotations

import difflib
import importlib
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgecompress.tables import Table

if TYPE_CHECKING:
    Choice = click.Choice[str]
    Text = click.ParamType[str]
else:
    Choice, Text = click.Choice, click.ParamType


class Number(click.FloatRange):
    """A finite number in a range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse nan and inf, which pass every comparison of a range or none; say what percent are as a fraction."""
        if isinstance(value, str) and not _is_number(value):
            part = value.rstrip("% ")
            hint = f"; {part} % is {float(part) / 100:g}" if value.endswith("%") and _is_number(part) else ""
            self.fail(f"{value!r} is no number{hint}.", param, ctx)
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{number} is not a finite number.", param, ctx)
        return number


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


class Odd(click.IntRange):
    """An odd whole number in a range: levels around zero."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse even numbers."""
        number = super().convert(value, param, ctx)
        if number % 2 == 0:
            self.fail(f"{number} is even; levels lie symmetrically around zero, so take {number - 1}.", param, ctx)
        return number


class Multiple(click.IntRange):
    """A whole number in a range, or the word ``auto``."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The word as it is."""
        return value if value == "auto" else super().convert(value, param, ctx)


class OutputPath(click.Path):
    """Where to write: a name, not nothing and not standard output."""

    def __init__(self) -> None:
        super().__init__(path_type=Path, resolve_path=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse an empty name, which would be the current folder, and a dash."""
        if not str(value).strip():
            self.fail("is empty; give a name, or . for the current folder.", param, ctx)
        if str(value) == "-":
            self.fail("- is no name; --json prints to standard output.", param, ctx)
        return super().convert(value, param, ctx)


class TableChoice(Choice):
    """A name of a table, which is imported when a value is converted, completed, or shown in a help.

    Args:
        tables: as ``edgecompress.targets:TARGETS``.
        first: names that stand before those of the tables, and how to say what they mean.
        former: old names, which are still accepted, and what they stand for.
    """

    def __init__(
        self,
        *tables: str,
        first: Mapping[str, Callable[[], str]] | None = None,
        former: Mapping[str, str] | None = None,
    ) -> None:
        self.tables, self.first, self.former = tables, dict(first or {}), dict(former or {})
        self.case_sensitive = True

    @property
    def choices(self) -> tuple[str, ...]:  # type: ignore[override]
        """All names, in the tables' order."""
        return (*self.first, *(name for table in self.tables for name in table_of(table)))

    def summaries(self) -> dict[str, str]:
        """One line for people about each entry; entries without one are left out."""
        own = {name: summary() for name, summary in self.first.items()}
        return own | {name: line for table in self.tables for name, line in table_of(table).facts("summary").items()}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """A name as it is today; of an unknown one the nearest are named."""
        try:
            return super().convert(self.former.get(value, value), param, ctx)
        except click.BadParameter as error:
            near = " or ".join(map(repr, nearest(str(value), self.choices) or self._by_suffix(str(value))))
            if not near:
                raise
            self.fail(f"{error.message.rstrip('.')}. Did you mean {near}?", param, ctx)

    def _by_suffix(self, value: str) -> list[str]:
        """Entries whose files end so: ``tflite`` is said for ``litert``."""
        suffixes = {name: end for table in self.tables for name, end in table_of(table).facts("suffix").items()}
        return [name for name, end in suffixes.items() if value and value in end.split(".")]


class DeviceName(Text):
    """A device, whose kinds are looked up when help is shown."""

    name = "device"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """How each kind is given."""
        del param, ctx
        return f"[{'|'.join(self.summaries())}]"

    def summaries(self) -> dict[str, str]:
        """One line for people about each kind."""
        from edgecompress.devices import forms

        return {form: kind.summary for form, kind in forms().items()}


ALIKE = 0.75
"""Of letters: "tuker2" is near to "tucker2", "batch" is not near to "beta"."""


def nearest(name: str, names: Iterable[str]) -> list[str]:
    """The one or two of ``names`` that were most likely meant; none where nothing is near."""
    return difflib.get_close_matches(name, list(names), n=2, cutoff=ALIKE)


def table_of(place: str) -> Table[Any]:
    """The table at ``module:NAME``."""
    module, _, name = place.partition(":")
    table: Table[Any] = getattr(importlib.import_module(module), name)
    return table
