"""Whether a verdict can be trusted on a busy machine; write results/trust.json and the table of README.md.

    python benchmarks/trust.py [--table]

A/A: a file against itself, 30 times: "no claim" is right. A/B: a net of 20 equal convolutions against one of 23, which
takes 1.15 times as long: "faster" is right. Both beside one busy process, and beside as many as there are processors.
Trials that are in the results are not done again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import fmean

import torch
from rows import Row, put_in_readme
from torch import nn

from edgecompress.devices import Local
from edgecompress.exporting import export
from edgecompress.models import Sample
from edgecompress.profiling import compare
from edgecompress.profiling.comparisons import Comparison

RESULTS = Path(__file__).with_name("results") / "trust.json"
TRIALS = 30
SECONDS = 2.0
LAYERS = {"shorter": 20, "longer": 23}
PAIRS = {"A/A": ("longer", "longer"), "A/B": ("shorter", "longer")}
RIGHT = {"A/A": "no claim", "A/B": "faster"}
SPIN = "while True: pass"


def net(layers: int) -> nn.Sequential:
    """Equal convolutions of 32 channels on 16 x 16 positions."""
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Conv2d(32, 32, 3, padding=1) for _ in range(layers)))


def files(folder: Path) -> dict[str, Path]:
    """The two nets as .onnx."""
    made = {}
    for name, layers in LAYERS.items():
        sample = Sample(name, name, partial(net, layers), (torch.zeros(1, 32, 16, 16),))
        made[name] = export(sample.model(), sample, folder, stem=name).path
    return made


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Beside so many processes that do nothing but compute."""
    started = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def trial(kind: str, beside: int, number: int, made: dict[str, Path]) -> Row:
    """One comparison."""
    candidate, baseline = (made[name] for name in PAIRS[kind])
    with busy(beside):
        pair = compare(candidate, baseline, Local(), seconds=SECONDS)
    assert isinstance(pair, Comparison)
    assert pair.cpu is not None
    return {
        "kind": kind,
        "busy": beside,
        "trial": number,
        "verdict": pair.verdict,
        "wall": [pair.wall.value, pair.wall.low, pair.wall.high],
        "cpu": [pair.cpu.value, pair.cpu.low, pair.cpu.high],
        "unstable": list(pair.unstable),
        "processor": pair.device.processor,
        "cores": pair.device.cores,
    }


def table(rows: list[Row]) -> str:
    """Markdown: how often each verdict was right."""
    lines = [
        "| against | busy processes beside it | right verdict | was given | speed-up, wall | unstable |",
        "|---" * 6 + "|",
    ]
    for kind, beside in dict.fromkeys((row["kind"], row["busy"]) for row in rows):
        mine = [row for row in rows if (row["kind"], row["busy"]) == (kind, beside)]
        right = sum(row["verdict"] == RIGHT[kind] for row in mine)
        values = [row["wall"][0] for row in mine]
        what = "itself" if kind == "A/A" else "1.15 times the work"
        spread = f"{fmean(values):.3f} ({min(values):.3f} to {max(values):.3f})"
        warned = sum(bool(row["unstable"]) for row in mine)
        counts = f"{beside} of {mine[0]['cores']}", RIGHT[kind], f"{right} of {len(mine)}"
        cells = (what, *counts, spread, f"{warned} times")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Do the trials that are missing, and write the table."""
    rows: list[Row] = json.loads(RESULTS.read_text(encoding="utf-8"))["rows"] if RESULTS.exists() else []
    done = {(row["kind"], row["busy"], row["trial"]) for row in rows}
    wanted = [(kind, busy, n) for busy in (1, os.cpu_count() or 1) for n in range(TRIALS) for kind in PAIRS]
    with tempfile.TemporaryDirectory() as folder:
        made = {} if "--table" in sys.argv else files(Path(folder))
        for one in wanted if made else ():
            if one not in done:
                rows.append(trial(*one, made))
                RESULTS.write_text(json.dumps({"rows": rows}, indent=1) + "\n", encoding="utf-8")
                print(one, rows[-1]["verdict"], rows[-1]["wall"], flush=True)
    put_in_readme("trust", table(rows))


if __name__ == "__main__":
    main()
