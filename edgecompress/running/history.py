"""Every plan that was tried in one folder: what it kept, scored and measured; ``tried.json`` remembers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgecompress.errors import FileError
from edgecompress.files import check_version, read_json, write_json
from edgecompress.profiling.comparisons import TimedPair
from edgecompress.reporting.document import Report
from edgecompress.reporting.entries import TriedPlan
from edgecompress.reporting.wording import place_of
from edgecompress.running.resuming import key_of
from edgecompress.settings import NO_RECIPE

FILE = "tried.json"
KIND = "edgecompress.tried"
VERSION = 1
REPORTED = ("select", "keep", "cost", "of", "methods", "recipe", "epochs", "quantize", "plan")
"""Options that a plan is named by."""


def tried(folder: Path, model_key: str, report: Report) -> tuple[TriedPlan, ...]:
    """All plans of this model in this folder, that of ``report`` among them and marked as chosen."""
    own = _own(report)
    remembered = _remembered(folder / FILE, model_key)
    others = (replace(plan, chosen=False) for plan in remembered if plan.key != own.key)
    plans = (*others, own)
    if plans != remembered:
        points = [plan.to_json() for plan in plans]
        write_json(folder / FILE, {"kind": KIND, "version": VERSION, "model_key": model_key, "points": points})
    return plans


def _remembered(file: Path, model_key: str) -> tuple[TriedPlan, ...]:
    """What was tried before with the same model; nothing if the file is missing, damaged or of another model."""
    try:
        document = read_json(file)
        check_version(document, KIND, VERSION)
        plans = tuple(map(TriedPlan.from_json, document["points"]))
        return plans if document["model_key"] == model_key and all(plan.key for plan in plans) else ()
    except (AttributeError, FileError, KeyError, TypeError):
        return ()


def _own(report: Report) -> TriedPlan:
    """What this run came to."""
    arguments, file, pair = report.arguments, report.files.compressed, report.comparison
    return TriedPlan(
        key=plan_key(arguments),
        name=", ".join(f"{name} {_text(arguments[name])}" for name in REPORTED if arguments.get(name) is not None),
        accuracy=report.before_and_after[1],
        macs=report.cost.compressed.macs,
        size_bytes=file.size_bytes if file else None,
        wall_ms=pair.candidate_latency.statistics.wall.p50 if isinstance(pair, TimedPair) else None,
        place=place_of(pair) if pair else "",
        chosen=True,
    )


def plan_key(arguments: Mapping[str, Any]) -> str:
    """Identifies a plan by a run's options, in the words of the first version: what was tried then is known again."""
    former = {"portions": "stages"}
    words = {former.get(name, name): value for name, value in arguments.items() if name != "pareto"}
    return key_of({**words, "recipe": "plain"} if words.get("recipe") == NO_RECIPE else words)


def _text(value: object) -> str:
    return " + ".join(map(str, value)) if isinstance(value, list) else str(value)
