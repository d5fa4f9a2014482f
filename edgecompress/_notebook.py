"""HTML fragments for notebooks: what ``_repr_html_`` of a value returns. Colours are the notebook's own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from edgecompress.errors import shown

_CELL = "padding:.15rem .75rem .15rem 0;text-align:{};vertical-align:top;white-space:{}"


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[object]], numbers: Iterable[int] = ()) -> str:
    """A table with its caption in bold; the columns ``numbers`` stand right-aligned and do not wrap."""
    right = set(numbers)
    lines = [f"<b>{_text(caption)}</b><table><thead><tr>"]
    lines += [_cell("th", name, right=index in right) for index, name in enumerate(head)]
    lines.append("</tr></thead><tbody>")
    for row in rows:
        lines.append("<tr>")
        lines += [_cell("td", cell, right=index in right) for index, cell in enumerate(row)]
        lines.append("</tr>")
    return "".join([*lines, "</tbody></table>"])


def paragraph(text: str) -> str:
    """A line of text."""
    return f"<p>{_text(text)}</p>"


def _cell(tag: str, value: object, *, right: bool) -> str:
    style = _CELL.format("right" if right else "left", "nowrap" if right else "normal")
    return f'<{tag} style="{style}">{_text(value)}</{tag}>'


def _text(value: object) -> str:
    if value is None:
        return ""
    return escape(shown(f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)))
