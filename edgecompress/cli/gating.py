"""Limits that a result is held against: those of ``check``, for ``run`` too."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecompress.cli.fields import Decorator, option, together
from edgecompress.cli.types import Number

if TYPE_CHECKING:
    from edgecompress.reporting.checking import Check
    from edgecompress.reporting.document import Report

GATES = "Limits: plans are made within them, exit code 1 if one is missed"


def limit_options(group: str = "", *, basic: bool = True) -> Decorator:
    """One option for each limit there is."""
    shown: dict[str, Any] = {"group": group, "basic": basic, "metavar": "NUMBER"}
    budget = {**shown, "basic": True}
    return together(
        option("--max-latency-ms", type=Number(0, min_open=True), help="Median wall time of one run.", **budget),
        option("--max-size-mb", type=Number(0, min_open=True), help="Size of the file, in 10^6 bytes.", **budget),
        option("--max-acc-drop", type=Number(0), help="Points lost against the dense model.", **budget),
        option(
            "--min-speedup",
            type=Number(0, min_open=True),
            help="Over the dense model: the whole 95 % interval.",
            **shown,
        ),
        option(
            "--min-instruction-ratio",
            type=Number(0, min_open=True),
            help="The same, of emulated instructions.",
            **shown,
        ),
    )


gate_options = limit_options(GATES, basic=False)


def held_against(report: Report, output: Path, given: Mapping[str, Any]) -> tuple[list[Check], str]:
    """Each limit that was given, against what came out, and the table that ``check`` prints; empty without limits."""
    from edgecompress.reporting.checking import LIMITS, check_table, checks
    from edgecompress.reporting.figures import figures_of_report

    limits = {name: given[name] for name in LIMITS if given.get(name) is not None}
    if not limits:
        return [], ""
    figures = figures_of_report(output, report)
    rows = checks(figures, limits)
    return rows, check_table(figures, rows)
