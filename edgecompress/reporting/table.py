"""Tables as text, the same for the page and for Markdown."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from edgecompress.reporting.numbers import Unit, as_text, change
from edgecompress.reporting.pairs import Pair


@dataclass(frozen=True, slots=True)
class Table:
    """A caption, column heads and rows of text; the columns in ``numbers`` stand right-aligned."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: range = range(0)
    kind: str = ""

    @property
    def aligned(self) -> tuple[bool, ...]:
        """Of each column, whether it holds numbers."""
        return tuple(column in self.numbers for column in range(len(self.head)))


def pairs(caption: str, rows: Iterable[tuple[str, object]], head: tuple[str, str] = ("Fact", "Value")) -> Table:
    """Names and values."""
    return Table(caption, head, tuple((name, as_text(value)) for name, value in rows), kind="pairs")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the before/after table: texts, and the exact values behind them or empty strings."""

    label: str
    dense: str
    compressed: str
    change: str
    dense_exact: str = ""
    compressed_exact: str = ""

    @classmethod
    def of(cls, label: str, values: Pair[float | None], unit: Unit, changed: str | None = None) -> Row:
        """From the dense and the compressed model's value; ``changed`` is for what wavers from run to run."""
        shown, exact = values.map(unit.text), values.map(unit.in_full)
        words = change(*values) if changed is None else changed
        return cls(label, shown.dense, shown.compressed, words, exact.dense, exact.compressed)
