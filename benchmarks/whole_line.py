"""Run two examples from scratch, write what came out to results/whole_line.json and the table of README.md.

    EDGECOMPRESS_DATA=... python benchmarks/whole_line.py [FOLDER] [--table]

FOLDER (default out/bench) keeps the runs, so that an interrupted benchmark goes on. ``--table`` only writes the table
again. Two cores need 6 minutes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from rows import Row, put_in_readme

RESULTS = Path(__file__).with_name("results") / "whole_line.json"
RUNS = {
    "lenet5": "--keep 0.25 --of macs --target onnx --epochs 3",
    "resnet20": "--keep 0.5 --of macs --target onnx --epochs 2",
}


TITLES = {"lenet5": "LeNet-5, 3 epochs, whole MNIST", "resnet20": "ResNet-20, 2 epochs"}


def run(name: str, options: str, folder: Path) -> Row:
    """One run: its command, the figures that the table quotes, and how long it took."""
    arguments = ["run", name, *options.split()]
    start = time.perf_counter()
    command = [sys.executable, "-m", "edgecompress", *arguments, "-o", str(folder / name), "--json"]
    document = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    scores = ("accuracy", "accuracy_difference", "data")
    kept = (*scores, "calibration", "training", "cost", "artifacts", "comparison", "versions")
    command_line = " ".join(["edgecompress", *arguments, "--json"])
    return {"command": command_line, "seconds": time.perf_counter() - start, **{key: document[key] for key in kept}}


def table(rows: dict[str, Row]) -> str:
    """Markdown: one line for each model."""
    head = (
        "| model | MACs kept | accuracy dense -> compressed | before fine-tuning | file | latency |\n"
        + "|---" * 6
        + "|\n"
    )
    return head + "".join(f"| {TITLES[name]} | {' | '.join(_cells(row))} |\n" for name, row in rows.items())


def _cells(row: Row) -> list[str]:
    accuracy, cost, pair = row["accuracy"], row["cost"], row["comparison"]
    dense, small = (artifact["size_bytes"] / 1e6 for artifact in row["artifacts"])
    low, high = pair["ci95"]
    return [
        f"{100 * cost['compressed']['macs'] / cost['dense']['macs']:.1f} %",
        f"{accuracy['dense']:.2f} -> {accuracy['artifact']:.2f} %",
        f"{accuracy['decomposed']:.2f} %",
        f"{dense:.2f} -> {small:.2f} MB",
        f"{pair['verdict']}, {pair['speedup']:.2f}x (95 % interval {low:.2f} to {high:.2f})",
    ]


def main() -> None:
    """Run both, and write the results and the table."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--table"]
    folder = Path(arguments[0] if arguments else "out/bench")
    if "--table" not in sys.argv:
        rows = {name: run(name, options, folder) for name, options in RUNS.items()}
        RESULTS.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    put_in_readme("whole_line", table(json.loads(RESULTS.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
