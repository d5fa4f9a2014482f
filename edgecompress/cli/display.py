"""What people and machines see: tables and JSON on stdout, progress on stderr."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from edgecompress.cli.progressing import Lines
from edgecompress.errors import shown
from edgecompress.processes import is_first
from edgecompress.progress import silent

if TYPE_CHECKING:
    from pathlib import Path

    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from edgecompress.progress import Progress
    from edgecompress.reporting.document import Compression

Row = Sequence[object]


def say(text: str) -> None:
    """A line on the real stdout: while a command runs, what a model file prints goes to stderr."""
    if is_first():
        click.echo(shown(text), file=sys.__stdout__)


def complain(text: str) -> None:
    """One line on stderr."""
    click.echo(shown(" ".join(text.splitlines())), err=True)


def print_json(document: Mapping[str, Any]) -> None:
    """Exactly one JSON document on stdout."""
    from edgecompress.files import dump_json

    say(dump_json(document))


def print_table(title: str, header: Sequence[str], rows: Sequence[Row]) -> None:
    """A table on stdout: columns of numbers to the right, no colour where it is not a terminal."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(shown(title)), title_justify="left", header_style="bold")
    for index, name in enumerate(header):
        numeric = any(_is_number(row[index]) for row in rows)
        table.add_column(escape(shown(name)), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(_text(cell)) for cell in row))
    if not is_first():
        return
    stdout = sys.__stdout__
    width = None if stdout is not None and stdout.isatty() else 200
    Console(width=width, file=stdout).print(table)


def _is_number(cell: object) -> bool:
    return isinstance(cell, int | float)


def _text(cell: object) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, int):
        return f"{cell:,}"
    return f"{cell:.4g}" if isinstance(cell, float) else shown(str(cell))


def percent(part: float, whole: float) -> str:
    """``part`` of ``whole`` in percent."""
    return f"{100 * part / whole:.1f} %" if whole else "-"


@contextlib.contextmanager
def showing_progress() -> Iterator[Progress]:
    """A listener for long work: bars with ETA on a terminal, else a line every few seconds."""
    if not is_first():
        yield silent
        return
    if not sys.stderr.isatty():
        with Lines(lambda line: click.echo(line, err=True)) as lines:
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
    with Progress(*columns, console=Console(stderr=True)) as bars:
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
