"""Reports and results as a notebook shows them: the answer, the tiles, cost before and after."""

from __future__ import annotations

from edgecompress._notebook import paragraph, table
from edgecompress.reporting.document import Compression, Report
from edgecompress.reporting.first_screen import first_screen
from edgecompress.reporting.numbers import change, typeset
from edgecompress.reporting.wording import agreement_text, score_verdict, sqnr_text


def compression_html(made: Compression) -> str:
    """Cost, score and nearness, before and after."""
    dense, small = made.cost
    rows: list[tuple[object, ...]] = []
    before, after = made.before_and_after
    if made.score_difference is not None:
        rows.append((made.metric.name, before, after, score_verdict(made.score_difference, made.metric.unit)))
    if made.outputs is not None:
        same = f"{agreement_text(made.outputs)} of answers the same" if made.outputs.agreement is not None else ""
        rows.append(("outputs, SQNR", "", sqnr_text(made.outputs.sqnr_db), same))
    amounts = (("parameters", dense.params, small.params), ("MACs", dense.macs, small.macs),
               ("weight bytes", dense.weight_bytes, small.weight_bytes))  # fmt: skip
    rows += [(name, was, now, change(was, now)) for name, was, now in amounts]
    return table(f"{made.model}, compressed", ("", "dense", "compressed", ""), rows, (1, 2))


def report_html(report: Report) -> str:
    """The report's first screen, as far as a notebook can show it."""
    screen = first_screen(report)
    rows = [(tile.name, tile.before, tile.value, tile.changed, tile.note) for tile in screen.tiles]
    lines = [f"Warning: {link.text}" for link in screen.warnings]
    lines += [f"{advice.text} {advice.command}".strip() for advice in screen.advice]
    answer = screen.recommendation
    parts = [
        table(f"{report.model}: {answer.answer}", ("", "dense", "compressed", "", ""), rows, (1, 2)),
        paragraph(typeset(f"{answer.reason}.")),
        *(paragraph(line) for line in lines),
    ]
    return "".join(parts)
