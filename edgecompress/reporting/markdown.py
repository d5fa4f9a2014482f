"""GitHub-flavoured Markdown: text of any origin stays text, and tables stay tables."""

from __future__ import annotations

import re
from collections.abc import Sequence

from edgecompress.reporting.table import Row, Table

SPECIAL = re.compile(r"[\\`*_\[\]<>|~&$]|:(?=//)|(?<=www)\.", re.IGNORECASE)
MENTION = re.compile(r"@(?=\w)")


class Markdown(str):
    """Markdown that needs no escaping any more."""

    __slots__ = ()


def escape(value: object) -> Markdown:
    """One line that shows ``value`` as it is: no markup, HTML, table cell, link or mention of anybody."""
    if isinstance(value, Markdown):
        return value
    line = " ".join(str(value).split())
    return Markdown(MENTION.sub("@\N{WORD JOINER}", SPECIAL.sub(lambda found: "\\" + found[0], line)))


def table(made: Table) -> Markdown:
    """A table under its caption in bold."""
    return Markdown(f"**{escape(made.caption)}**\n\n{_grid(made.head, made.rows, made.aligned)}")


def before_after(groups: Sequence[tuple[str, Sequence[Row]]]) -> Markdown:
    """The before/after table; a group's title is a row of its own."""
    rows: list[tuple[str, ...]] = []
    for title, members in groups:
        rows.append((Markdown(f"**{escape(title)}**"), "", "", ""))
        rows += [(row.label, row.dense, row.compressed, row.change) for row in members]
    head = ("Quantity", "Dense", "Compressed", "Change")
    return _grid(head, rows, (False, True, True, True))


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[bool]) -> Markdown:
    rule = ["---:" if right else "---" for right in numbers]
    return Markdown("\n".join(_line(cells) for cells in (head, [Markdown(cell) for cell in rule], *rows)))


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(escape, cells))} |"
