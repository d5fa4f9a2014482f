"""What people and machines see: tables and JSON on stdout, progress on stderr."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from edgecompress.cli.progressing import EVERY_S, VERBOSE_S, Lines
from edgecompress.errors import shown
from edgecompress.processes import is_first
from edgecompress.progress import silent

if TYPE_CHECKING:
    from pathlib import Path

    from rich.progress import Progress as Bars
    from rich.progress import TaskID
    from rich.table import Table

    from edgecompress.progress import Progress
    from edgecompress.reporting.document import Compression

Row = Sequence[object]


def say(text: str) -> None:
    """A line on the real stdout: while a command runs, what a model file prints goes to stderr."""
    if is_first():
        click.echo("\n".join(map(_fitted, shown(text).split("\n"))), file=sys.__stdout__)


def _fitted(line: str) -> str:
    """A sentence broken between words where a terminal would break it anywhere; a command can be copied as it is."""
    if not _is_terminal() or COMMAND.search(line):
        return line
    whole, width = UNIT.sub("\N{NO-BREAK SPACE}", line), shutil.get_terminal_size().columns
    lines = textwrap.wrap(whole, width, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines).replace("\N{NO-BREAK SPACE}", " ")


def _is_terminal() -> bool:
    return sys.__stdout__ is not None and sys.__stdout__.isatty()


def complain(text: str) -> None:
    """One line on stderr."""
    click.echo(shown(" ".join(text.splitlines())), err=True)


def print_json(document: Mapping[str, Any]) -> None:
    """Exactly one JSON document on stdout."""
    from edgecompress.files import dump_json

    if is_first():
        click.echo(shown(dump_json(document)), file=sys.__stdout__)


PIPED_WIDTH, GAP = 200, 2
"""Characters of a line that is no terminal's, and between columns."""
LONGEST_PROSE, LEAST_PROSE, LONGEST_NAME = 26, 10, 22
"""What stands in the last column of a narrow table, which has to have room; a name that stays in one line."""
ELSEWHERE = "see below"
FIGURE = re.compile(r"[-+\u2212]?\d[\d.,e+-]*( (kB|MB|GB|B|dB|ms|%|points))?")
"""A number as text, with its unit."""
UNIT = re.compile(r"(?<=\d) (?=(kB|MB|GB|B|dB|ms|s|%|points|bytes)\b|%)")
"""The space between a number and its unit."""
COMMAND = re.compile(r"\b(edgecompress|pip install|python|cd) |^\w+: +\S+$")
"""In a line: what is typed or copied, such as a command or a path."""


def print_table(title: str, header: Sequence[str], rows: Sequence[Row]) -> None:
    """A table on stdout: columns of numbers to the right and never wrapped, no colour where it is not a terminal.

    Where a narrow terminal has no room for sentences of the last column, they follow the table, by the first column.
    """
    from rich.console import Console

    if not is_first():
        return
    console = Console(width=None if _is_terminal() else PIPED_WIDTH, file=sys.__stdout__, highlight=False)
    texts = [[_text(cell) for cell in row] for row in rows]
    narrow = sum(_widths(header, texts)) + GAP * len(header) > console.width
    below = _below(header, texts, console.width) if narrow else {}
    last = [row for row in texts if row[-1] not in ("", "-", *below)]
    if below and not last:
        header, rows = header[:-1], [row[:-1] for row in rows]
    elif below:
        rows = [(*row[:-1], ELSEWHERE if text[-1] in below else row[-1]) for row, text in zip(rows, texts, strict=True)]
    if len(header) > 1 or not below:
        console.print(_table(title, header, rows, console.width if narrow else PIPED_WIDTH))
    for words, names in below.items():
        say(f"{', '.join(names)}: {words}")


def _table(title: str, header: Sequence[str], rows: Sequence[Row], width: int) -> Table:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    looks = {"title_justify": "left", "title_style": "bold", "header_style": "bold", "padding": (0, 1, 0, 0)}
    table = Table(title=escape(shown(title)), box=box.SIMPLE_HEAD, pad_edge=False, **looks)  # type: ignore[arg-type]
    columns = [[row[index] for row in rows] for index in range(len(header))]
    numeric = [any(map(_is_number, cells)) or _are_figures(cells) for cells in columns]
    heads = [name.replace(" ", "\n") if right and width < PIPED_WIDTH else name
             for name, right in zip(header, numeric, strict=True)]  # fmt: skip
    widths = _widths(heads, [[_text(cell) for cell in row] for row in rows])
    fixed = [right or _are_names(cells) for right, cells in zip(numeric, columns, strict=True)]
    loose = sum(_least(cells) for one, cells in zip(fixed, columns, strict=True) if not one)
    fits = sum(one for one, kept in zip(widths, fixed, strict=True) if kept) + loose + GAP * len(header) <= width
    for head, right, kept in zip(heads, numeric, fixed, strict=True):
        table.add_column(
            escape(shown(head)), justify="right" if right else "left", overflow="fold", no_wrap=right or (kept and fits)
        )
    for row in rows:
        table.add_row(*(escape(_text(cell)) for cell in row))
    return table


def _widths(header: Sequence[str], texts: Sequence[Sequence[str]]) -> list[int]:
    """Characters of each column."""
    columns = ([*name.split("\n"), *(row[index] for row in texts)] for index, name in enumerate(header))
    return [max(map(len, column)) for column in columns]


def _below(header: Sequence[str], texts: Sequence[Sequence[str]], width: int) -> dict[str, list[str]]:
    """Of the last column what has no room beside the others: sentences, and the names of the rows that have them."""
    room = width - sum(_widths(header, texts)[:-1]) - GAP * len(header)
    longest = LONGEST_PROSE if room >= LEAST_PROSE else 0
    names: dict[str, list[str]] = {}
    for row in texts:
        if row[-1] not in ("", "-") and len(row[-1]) > longest and not FIGURE.fullmatch(row[-1]):
            names.setdefault(row[-1], []).append(row[0].strip())
    return {words: list(dict.fromkeys(those)) for words, those in names.items()}


def _least(cells: Sequence[object]) -> int:
    """Characters that a column of sentences has to have: for the longest word, within reason."""
    return min(LEAST_PROSE, max((len(word) for cell in cells for word in _text(cell).split()), default=0))


def _are_names(cells: Sequence[object]) -> bool:
    """Whether all are single words, which would be broken anywhere."""
    return all(len(text) <= LONGEST_NAME and " " not in text for text in map(_text, cells))


def _are_figures(cells: Sequence[object]) -> bool:
    """Whether all that is there are numbers as text."""
    texts = [cell for cell in cells if cell not in (None, "", "-")]
    return bool(texts) and all(isinstance(cell, str) and FIGURE.fullmatch(cell) for cell in texts)


def _is_number(cell: object) -> bool:
    return isinstance(cell, int | float)


def _text(cell: object) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, int):
        return f"{cell:,}"
    return f"{cell:.4g}" if isinstance(cell, float) else shown(str(cell))


@contextlib.contextmanager
def showing_progress(*, quiet: bool = False, verbose: bool = False) -> Iterator[Progress]:
    """A listener for long work: bars with ETA on a terminal, else a line every few seconds.

    Of both flags ``quiet`` goes first; ``verbose`` are lines, one a second. They go to stderr as it is now, also while
    an exporter's own words are kept off it.
    """
    if not is_first() or quiet:
        yield silent
        return
    stream = sys.stderr
    if verbose or not stream.isatty() or os.environ.get("TERM") == "dumb":
        with Lines(lambda line: click.echo(line, file=stream), VERBOSE_S if verbose else EVERY_S) as lines:
            yield lines
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[detail]}"),
    )
    with Progress(*columns, console=Console(file=stream)) as bars:
        yield _Bars(bars)


class _Bars:
    """One bar for each piece of work; a new piece finishes the one before."""

    def __init__(self, bars: Bars) -> None:
        self.bars, self.name = bars, ""
        self.task: TaskID | None = None

    def __call__(self, name: str, done: int, total: int, detail: str) -> None:
        from rich.markup import escape

        if self.task is None or name != self.name:
            self.name, self.task = name, self.bars.add_task(escape(name), total=total, detail="")
        self.bars.update(self.task, completed=done, total=total, detail=detail)


def print_before_after(made: Compression) -> None:
    """Accuracy and cost before and after, as a table."""
    from edgecompress.reporting.numbers import percent

    dense, small = made.cost
    rows: list[tuple[object, ...]] = [
        (name, before, after, f"{percent(after, before)} kept")
        for name, before, after in (
            ("parameters", dense.params, small.params),
            ("MACs", dense.macs, small.macs),
            ("weight bytes", dense.weight_bytes, small.weight_bytes),
        )
    ]
    rows[:0] = [*_score_rows(made), *_output_rows(made)]
    if made.storage:
        rows += _storage_rows(made.storage)
    print_table(made.model, ("", "dense", "compressed", ""), rows)
    if made.storage:
        say("stored as codes: it takes fewer bytes at rest; MACs and latency are those of the dense model")


def suggested(made: Compression, folder: Path) -> str:
    """The lowest budget that is expected to hold the outputs, where the plan in ``folder`` did not; else nothing."""
    from edgecompress.plans import CompressionPlan
    from edgecompress.reporting.suggesting import suggestion
    from edgecompress.sources.compressed_folder import PLAN_FILE

    return suggestion(made, CompressionPlan.load(folder / PLAN_FILE).outlook)


def _storage_rows(storage: Mapping[str, Any]) -> list[tuple[object, ...]]:
    dense_bytes = round(storage["ratio"] * storage["payload_bytes"])
    ratio = f"{storage['ratio']:.0f}x fewer, {storage['bits_per_weight']:.3f} bits a weight"
    return [
        ("file of codes, bytes", dense_bytes, storage["payload_bytes"], ratio),
        (
            ".onnx, bytes",
            "",
            storage["onnx_bytes"],
            f"{dense_bytes / storage['onnx_bytes']:.0f}x fewer than the weights",
        ),
    ]


def _score_rows(made: Compression) -> list[tuple[object, ...]]:
    from edgecompress.reporting.numbers import score_text
    from edgecompress.reporting.wording import score_verdict

    scores, test, metric, difference = made.scores, made.test, made.metric, made.score_difference
    if scores is None or test is None or difference is None:
        return []
    verdict = score_verdict(difference, metric.unit)
    shown = {
        metric.name: (scores.dense, scores.before_and_after[1], f"{verdict} on {test.items:,} test items"),
        "  before fine-tuning": (None, scores.decomposed, ""),
        "  before rounding": (None, scores.finetuned if scores.stored is not None else None, ""),
    }
    return [
        (name, *("" if one is None else score_text(one, metric.unit) for one in (before, after)), words)
        for name, (before, after, words) in shown.items()
        if after is not None
    ]


def _output_rows(made: Compression) -> list[tuple[object, ...]]:
    """How near the outputs are to the dense model's, with or without labels."""
    from edgecompress.reporting.wording import SEEN, agreement_text, sqnr_text

    near = made.outputs
    if near is None:
        return []
    on = f"on {near.inputs:,} {SEEN[near.seen]}"
    rows: list[tuple[object, ...]] = [("outputs, SQNR", "", sqnr_text(near.sqnr_db), on)]
    return rows if near.agreement is None else [*rows, ("answers that stay the same", "", agreement_text(near), on)]
