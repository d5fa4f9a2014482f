"""Accuracy without any fine-tuning: compress, score on the whole test set, write results/onestep.json and the table.

    EDGECOMPRESS_DATA=... python benchmarks/onestep.py [--table]

1,024 unlabelled training images, seed 0; candidates, ranks and every constant were chosen on other training images, the
test set is only reported. MACs are counted by ``edgecompress.cost``. Latency: ONNX Runtime, interleaved with the dense
model, one thread. Each configuration is written as soon as it is finished and skipped when the benchmark is started
again: delete the file to measure anew. ``--table`` only writes the table of README.md. Two cores need 20 minutes.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import torch
from rows import Row, put_in_readme
from torch import nn

from edgecompress.artifacts import versions
from edgecompress.calibrating import calibration_of, recalibrate_if_better
from edgecompress.costs import cost
from edgecompress.decomposing.refitting import refit
from edgecompress.devices import device_named
from edgecompress.exporting import export
from edgecompress.models import Sample
from edgecompress.planning import plan
from edgecompress.plans import CompressionPlan
from edgecompress.profiling import compare
from edgecompress.scoring import score
from edgecompress.selectors import Budget
from edgecompress.sources import resolve

RESULTS = Path(__file__).with_name("results") / "onestep.json"
NETS = ("resnet56", "resnet20")
KEEPS = (0.7, 0.5, 0.3)
MULTIPLES = (8, 1)
IMAGES, SEED = 1024, 0
OTHERS = {
    "spatial SVD, one energy, weights only": (
        "91.62 / 85.43 (88.86) / 28.88 (79.15)",
        "84.15 / 57.60 (82.08) / 14.70 (55.36)",
    ),
    "AIMET 2.42, greedy spatial SVD": ("89.25 / 74.74 / 25.90", "86.86 / 71.70 / 28.05"),
    "BALF, data-aware SVD and knapsack": (
        "90.19 / 77.76 (86.22) / 15.65 (63.82)",
        "86.08 / 68.36 (77.45) / 19.10 (45.41)",
    ),
}
"""Accuracy of others' methods on ``NETS`` at ``KEEPS``, measured once, with batch norms re-estimated in brackets."""


def compressed(sample: Sample, keep: float, multiple: int) -> tuple[nn.Module, CompressionPlan, dict[str, float]]:
    """The model decomposed with calibration, its plan, and the seconds that each step took."""
    dense, start = sample.model(), time.perf_counter()
    calibration = calibration_of(sample, IMAGES, SEED)
    made = plan(dense, sample.inputs, Budget(keep), multiple=multiple, calibration=calibration, name=sample.name)
    planned = time.perf_counter()
    model = refit(dense, made, calibration)
    refitted = time.perf_counter()
    model, changed = recalibrate_if_better(model, dense, calibration)
    end = time.perf_counter()
    seconds = {"plan": planned - start, "refit": refitted - planned, "batch_norms": end - refitted}
    return model, made, {**seconds, "all": end - start, "batch_norms_kept": float(changed)}


def speed_up(sample: Sample, model: nn.Module, made: CompressionPlan) -> dict[str, Any]:
    """Of the exported model against the exported dense one, in ONNX Runtime, interleaved."""
    from dataclasses import replace

    with tempfile.TemporaryDirectory() as folder:
        bare = replace(sample, splits=None)
        dense = export(sample.model(), bare, Path(folder), target="onnx", stem="dense")
        small = export(model, replace(bare, plan=made), Path(folder), target="onnx", stem="small")
        return compare(small.path, dense.path, device_named("local"), threads=1, seconds=2.0).summary()


def measured(name: str, keep: float, multiple: int) -> dict[str, Any]:
    """One configuration."""
    sample = resolve(name)
    model, made, seconds = compressed(sample, keep, multiple)
    dense_cost, small_cost = cost(sample.model(), sample.inputs), cost(model, sample.inputs)
    assert made.compressed is not None
    assert small_cost.macs == made.compressed.macs
    return {
        "net": name,
        "keep": keep,
        "multiple": multiple,
        "accuracy": score(model, sample),
        "macs": small_cost.macs,
        "macs_kept": small_cost.macs / dense_cost.macs,
        "params_kept": small_cost.params / dense_cost.params,
        "methods": dict(Counter(layer.method for layer in made.layers)),
        "dense_layers": len(made.skipped),
        "seconds": seconds,
        "threads": torch.get_num_threads(),
        "comparison": speed_up(sample, model, made),
        "versions": versions(),
    }


def table(rows: list[Row]) -> str:
    """Markdown: others' accuracies, then accuracy and latency for both multiples of ranks."""
    of = {(row["net"], row["keep"], row["multiple"]): row for row in rows}
    titles = [f"ResNet-{net[6:]} (dense {of[net, 1.0, 0]['accuracy']:.2f})" for net in NETS]
    lines = [["top-1 %, no fine-tuning", *titles], ["---"] * 3, *([name, *cells] for name, cells in OTHERS.items())]
    for multiple, title in zip(
        MULTIPLES, ("**edgecompress**, ranks in multiples of 8 (default)", "edgecompress, `--multiple 1`"), strict=True
    ):
        mine = [[of[net, keep, multiple] for keep in KEEPS] for net in NETS]
        lines.append([title, *(" / ".join(f"{row['accuracy']:.2f}" for row in cell) for cell in mine)])
        lines.append(["latency of these against dense", *(" / ".join(map(_latency, cell)) for cell in mine)])
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _latency(row: Row) -> str:
    pair = row["comparison"]
    return f"{pair['speedup']:.2f}x" + (" (*slower*)" if pair["verdict"] == "slower" else "")


def measure(rows: list[Row]) -> None:
    """Add what is not there yet, one by one."""
    done = {(row["net"], row["keep"], row["multiple"]) for row in rows}
    samples = [resolve(net) for net in NETS if (net, 1.0, 0) not in done]
    rows += [{"net": s.name, "keep": 1.0, "multiple": 0, "accuracy": score(s.model(), s)} for s in samples]
    for multiple, net, keep in product(MULTIPLES, NETS, KEEPS):
        if (net, keep, multiple) not in done:
            rows.append(row := measured(net, keep, multiple))
            RESULTS.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
            print(net, keep, multiple, row["accuracy"], row["macs_kept"], row["seconds"], row["comparison"])


def main() -> None:
    """Measure every configuration that is not in the results yet, and write the table."""
    rows = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []
    if "--table" not in sys.argv:
        measure(rows)
    put_in_readme("onestep", table(rows))


if __name__ == "__main__":
    main()
