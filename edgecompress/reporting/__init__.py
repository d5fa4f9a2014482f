"""The report of a run: report.json, report.html as one page that needs no network and no other file, and report.md."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgecompress.errors import FileError, shown
from edgecompress.files import make_folder, read_json, reading_fields, write_json, write_text
from edgecompress.reporting import markdown
from edgecompress.reporting.document import KIND, VERSION, Report
from edgecompress.reporting.numbers import bytes_text, capitalized, change, grouped, milliseconds, significant, typeset
from edgecompress.reporting.view import view_of

__all__ = ["KIND", "VERSION", "Report", "read_report", "render_html", "render_markdown", "write_report"]

JSON_NAME = "report.json"
HTML_NAME = "report.html"
MARKDOWN_NAME = "report.md"
TEMPLATES = {HTML_NAME: "report.html.jinja", MARKDOWN_NAME: "report.md.jinja"}


def write_report(report: Report, folder: str | Path) -> tuple[Path, Path, Path]:
    """Write a run's report as a page, as JSON and as Markdown; what is there of that name is replaced.

    Args:
        report: what :func:`edgecompress.run` returns, or :func:`read_report`.
        folder: where to; made if it is not there.

    Returns:
        The paths of ``report.html``, ``report.json`` and ``report.md``.

    Raises:
        FileError: what was read from a document cannot be shown, or the folder is not writable.
    """
    page, text = render_html(report), render_markdown(report)
    html, data, text_file = (make_folder(Path(folder)) / name for name in (HTML_NAME, JSON_NAME, MARKDOWN_NAME))
    write_json(data, report.to_json())
    write_text(html, page)
    write_text(text_file, text)
    return html, data, text_file


def read_report(folder: str | Path) -> Report:
    """The report that :func:`write_report` left in a folder.

    Args:
        folder: a run's; ``report.json`` alone is read.

    Returns:
        The report, as it was written.

    Raises:
        FileError: there is none, it is of another kind or version, or a field is missing or malformed.
    """
    path = Path(folder) / JSON_NAME
    document = read_json(path)
    try:
        return Report.from_json(document)
    except FileError as error:
        raise FileError(f"{path}: {error}") from None


def render_html(report: Report) -> str:
    """The page as text; everything that came from outside is escaped.

    Raises:
        FileError: a value of the report cannot be shown.
    """
    return _rendered(report, HTML_NAME, autoescape=True)


def render_markdown(report: Report) -> str:
    """The same facts as GitHub-flavoured Markdown; everything that came from outside is escaped.

    Raises:
        FileError: a value of the report cannot be shown.
    """
    return _rendered(report, MARKDOWN_NAME, finalize=markdown.escape)


def _rendered(report: Report, name: str, **settings: Any) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, UndefinedError

    loader = FileSystemLoader(Path(__file__).resolve().parent / "templates")
    environment = Environment(  # noqa: S701 - the page escapes HTML, Markdown escapes by ``finalize``
        loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, **settings
    )
    environment.filters |= FILTERS
    template = environment.get_template(TEMPLATES[name])
    with reading_fields("report", UndefinedError):
        report = _harmless(report)
        tables = {"table": markdown.table, "before_after": markdown.before_after}
        return template.render(vars(view_of(report)), report=report, **tables)


def _harmless(value: Any) -> Any:
    """The same value without what would steer a terminal that shows the report; itself where there is nothing."""
    new = value
    if isinstance(value, str):
        new = shown(value)
    elif isinstance(value, Mapping):
        new = {_harmless(key): _harmless(inner) for key, inner in value.items()}
    elif isinstance(value, list | tuple):
        new = type(value)(map(_harmless, value))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}
        changed = {name: made for name, part in parts.items() if (made := _harmless(part)) is not part}
        new = dataclasses.replace(value, **changed) if changed else value
    return value if new == value else new


FILTERS: dict[str, Callable[..., str]] = {
    "bytes": bytes_text,
    "capitalized": capitalized,
    "change": change,
    "grouped": grouped,
    "ms": milliseconds,
    "significant": significant,
    "typeset": typeset,
}
