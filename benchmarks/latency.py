"""Plans for a latency beside plans by MACs: accuracy without fine-tuning, and times of the exported files in turns.

    EDGECOMPRESS_DATA=... python benchmarks/latency.py [FOLDER] [--times] [--table]

Candidates of each net are weighed once by 1,024 unlabelled training images; from them come the plans by MACs as
``plan --keep F`` makes them, and for each fraction of the latency the winner among the rivals that ``plan --keep F --of
latency`` measures. Each is refitted, scored on the whole test set, and exported; plans by MACs without the rewrites for
the runtime too, as files were before there were any. Rows are written one by one and skipped when the benchmark is
started again. Then all files of a net take turns, with the dense file before and after its rewrites: CPU time of this
process, one thread, batch 1 (``--times`` does only this, which is better done on a quiet machine; ``--table`` neither).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rows import Row, put_in_readme
from torch import nn

from edgecompress.artifacts import Arrays, versions
from edgecompress.calibrating import calibration_of, recalibrate_if_better
from edgecompress.decomposing.choosing import refit_nearest
from edgecompress.devices import device_named
from edgecompress.exporting import ExportOptions, export
from edgecompress.models import Sample
from edgecompress.planning import assembled, survey, weighed_choices
from edgecompress.plans import CompressionPlan
from edgecompress.profiling.turns import in_turns, ratio_of
from edgecompress.scoring import score
from edgecompress.selectors import Budget
from edgecompress.selectors.ceilings import Ceilings
from edgecompress.settings import Scope
from edgecompress.sources import resolve
from edgecompress.targets import target_named
from edgecompress.timing import bench_of, timings
from edgecompress.timing.closing import closed
from edgecompress.timing.measured import Measured
from edgecompress.timing.planning import scored_chains
from edgecompress.timing.plateaus import known_multiple
from edgecompress.timing.rivals import Rivals
from edgecompress.timing.stopwatches import identity_here, load_here

RESULTS = Path(__file__).with_name("results") / "latency.json"
NETS = ("resnet56", "resnet20")
IMAGES, SEED, TARGET, WEIGHED_AT = 1024, 0, "onnx", 0.45
RULES = (
    ("latency", 0.54),
    ("latency", 0.37),
    ("latency", 0.415),
    ("MACs", 0.3),
    ("latency", 0.6),
    ("latency", 0.57),
    ("latency", 0.64),
    ("MACs", 0.5),
    ("MACs", 0.7),
)
"""In the order in which they are measured."""
TURNS, SECONDS = 60, 120.0


@dataclass(frozen=True)
class Work:
    """A net and where its files go."""

    sample: Sample
    folder: Path
    rows: list[Row]

    def missing(self) -> list[tuple[str, float]]:
        """Rules that have no row yet."""
        known = {(row["net"], row["rule"], row["keep"]) for row in self.rows}
        return [(rule, keep) for rule, keep in RULES if (self.sample.name, rule, keep) not in known]


def main() -> None:
    """Rows that are missing, times, the table."""
    known: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"plans": [], "times": {}}
    arguments = [argument for argument in sys.argv[1:] if not argument.startswith("--")]
    folder = Path(arguments[0] if arguments else "out/latency")
    for net in NETS if "--table" not in sys.argv else ():
        work = Work(resolve(net), folder / net, known["plans"])
        for row in () if "--times" in sys.argv or not work.missing() else measured(work):
            known["plans"].append(row)
            _keep(known)
            print(net, row["rule"], row["keep"], row["accuracy"], flush=True)
        if files := sorted(work.folder.glob("*.onnx")):
            known["times"][net] = times(files)
            _keep(known)
    put_in_readme("latency", table(known))


def _keep(known: dict[str, Any]) -> None:
    RESULTS.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


def measured(work: Work) -> Iterator[Row]:
    """A row for each rule that is missing."""
    sample, scope, target = work.sample, Scope(), target_named(TARGET)
    dense = sample.model()
    calibration = calibration_of(sample, IMAGES, SEED)
    seen = survey(dense, sample.inputs, scope)
    for stem, rewrite in (("dense", "on"), ("dense-unrewritten", "off")):
        written(dense, sample, work.folder, stem, rewrite)
    with bench_of(sample, seen, target, device_named("local")) as bench:
        found = timings(bench, seen, scope)
        total = found.prices.total(seen.total)
        first = Ceilings(keep=WEIGHED_AT, of="latency", time=round(WEIGHED_AT * total.time))
        priced = replace(seen, total=total)
        layers, _ = weighed_choices(priced, first, scope, calibration=calibration, prices=found.prices)
        found = timings(bench, seen, scope, more=scored_chains(layers))
        multiple = found.multiple or known_multiple(TARGET, "local")
        for rule, keep in work.missing():
            by = Ceilings(keep=keep, of="latency") if rule == "latency" else Budget(keep)
            facts: Row = {}
            if isinstance(by, Ceilings):
                best, rivals = closed(bench, Rivals(layers, found.prices, total, multiple, by), keep)
                choices, facts = dict(best.choices), _facts(best, rivals)
            else:
                choices = by.select(layers, seen.total)
            made = assembled(seen, by, layers, choices, sample.name)
            yield {"net": sample.name, "rule": rule, "keep": keep, "multiple": multiple, **facts,
                   **_reached(work, dense, made, f"{rule}-{keep:g}", plain=rule == "MACs"),
                   "machine": identity_here(), "load": load_here(), "versions": versions()}  # fmt: skip


def _facts(best: Measured, rivals: Sequence[Measured]) -> Row:
    return {
        "winner": best.to_json(),
        "rivals": [{**one.to_json(), "chains": len(one.to_json()["chains"])} for one in rivals],
    }


def _reached(work: Work, dense: nn.Module, made: CompressionPlan, stem: str, *, plain: bool) -> Row:
    """Refitted, scored, written."""
    sample = work.sample
    calibration = calibration_of(sample, IMAGES, SEED)
    model, asymmetric = refit_nearest(dense, made, calibration)
    model, changed = recalibrate_if_better(model, dense, calibration)
    accuracy = score(model, sample)
    for rewrite, ending in (("on", ""), ("off", "-unrewritten"))[: 1 + plain]:
        written(model, replace(sample, plan=made), work.folder, f"{stem}{ending}", rewrite)
    made.save(work.folder / f"{stem}.plan.json")
    assert made.dense is not None
    assert made.compressed is not None
    loss = sum(one.loss or 0.0 for one in made.layers)
    return {"accuracy": accuracy, "macs_kept": made.compressed.macs / made.dense.macs, "loss": loss, "stem": stem,
            "asymmetric": asymmetric, "recalibrated": changed}  # fmt: skip


def written(model: nn.Module, sample: Sample, folder: Path, stem: str, rewrite: Any) -> None:
    """An exported file, unless it is there."""
    if not (folder / f"{stem}.onnx").is_file():
        export(model, replace(sample, splits=None), folder, stem=stem, options=ExportOptions(rewrite=rewrite))


def times(files: Sequence[Path]) -> dict[str, Any]:
    """All files in turns: how many times as fast as the dense one, rewritten and as it was."""
    target = target_named(TARGET)
    sizes = {one.name: (1, *(int(size) for size in one.shape[1:])) for one in target.signature(files[0])[0]}
    feed: Arrays = {name: np.zeros(size, np.float32) for name, size in sizes.items()}
    runs = [partial(target.load(file, threads=1), feed) for file in files]
    load = load_here()
    series = dict(zip([file.stem for file in files], in_turns(runs, turns=TURNS, seconds=SECONDS), strict=True))
    bases = ("dense", "dense-unrewritten")
    return {
        "machine": identity_here(),
        "processors": os.cpu_count(),
        "load": [load, load_here()],
        "turns": TURNS,
        "versions": versions(),
        "dense_ms": float(np.median(series["dense"])) / 1e6,
        "speedup": {
            stem: {base: ratio_of(series[base], own).to_json() for base in bases} for stem, own in series.items()
        },
    }


def table(known: dict[str, Any]) -> str:
    """Markdown, a table for each net, by speed."""
    return "\n".join(f"{_of_net(net, known)}\n" for net in NETS if net in known["times"])


def _of_net(net: str, known: dict[str, Any]) -> str:
    times_of = known["times"][net]
    speed = times_of["speedup"]
    rows = sorted(
        (row for row in known["plans"] if row["net"] == net and row["stem"] in speed), key=lambda row: row["macs_kept"]
    )
    load = " to ".join(f"{one:.1f}" for one in times_of["load"])
    runtime = f"ONNX Runtime {times_of['versions'].get('onnxruntime', '?')}"
    head = f"{net}: {times_of['machine']}, {runtime}, dense rewritten {times_of['dense_ms']:.2f} ms"
    titles = ("plan", "MACs kept", "accuracy", "against the rewritten dense file", "against today's", "as predicted")
    former = [f"{row['stem']}-unrewritten" for row in rows]
    lines = [
        f"{head}; {load} processes wanted a processor.",
        "",
        f"| {' | '.join(titles)} |",
        f"|{' --- |' * len(titles)}",
        *(_line(row, speed, row["stem"]) for row in rows),
        *(_line(row, speed, stem) for row, stem in zip(rows, former, strict=True) if stem in speed),
    ]
    return "\n".join(lines)


def _line(row: Row, speed: dict[str, Any], stem: str) -> str:
    name = (
        f"latency {row['keep']:g} (by {row['winner']['rule']})" if row["rule"] == "latency" else f"MACs {row['keep']:g}"
    )
    name += ", file not rewritten" if stem.endswith("unrewritten") else ""
    both = (speed[stem][base] for base in ("dense", "dense-unrewritten"))
    cells = [f"{one['value']:.2f}x ({one['ci95'][0]:.2f} to {one['ci95'][1]:.2f})" for one in both]
    predicted = f"{row['winner']['predicted']:.2f}x" if "winner" in row else ""
    return f"| {name} | {100 * row['macs_kept']:.0f} % | {row['accuracy']:.2f} % | {' | '.join(cells)} | {predicted} |"


if __name__ == "__main__":
    main()
