"""Limits that a result is held against: those of ``check``, for ``run`` too."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecompress.cli.display import say
from edgecompress.cli.fields import Decorator, option, together
from edgecompress.cli.types import Number

if TYPE_CHECKING:
    from edgecompress.reporting.checking import Check
    from edgecompress.reporting.document import Report

GATES = "Limits, exit code 1 if one is missed"


def limit_options(group: str = "", *, basic: bool = True) -> Decorator:
    """One option for each limit there is."""
    shown: dict[str, Any] = {"group": group, "basic": basic}
    return together(
        option("--max-latency-ms", type=Number(0, min_open=True), help="Median wall time of one run.", **shown),
        option("--max-size-mb", type=Number(0, min_open=True), help="Size of the file, in 10^6 bytes.", **shown),
        option("--max-acc-drop", type=Number(0), help="Points lost against the dense model.", **shown),
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


def gates_of(report: Report, output: Path, given: Mapping[str, Any]) -> list[Check]:
    """Each limit that was given, against what came out."""
    from edgecompress.reporting.checking import LIMITS, checks
    from edgecompress.reporting.figures import figures_of_report

    limits = {name: given[name] for name in LIMITS if given.get(name) is not None}
    return checks(figures_of_report(output, report), limits) if limits else []


def print_gates(report: Report, output: Path, rows: list[Check]) -> None:
    """As ``check`` prints them."""
    from edgecompress.reporting.checking import check_table
    from edgecompress.reporting.figures import figures_of_report

    if rows:
        say(check_table(figures_of_report(output, report), rows))
