"""Run the README's two examples from scratch and write what came out to results/whole_line.json.

    EDGECOMPRESS_DATA=... python benchmarks/whole_line.py [FOLDER]

FOLDER (default out/bench) keeps the runs, so that an interrupted benchmark goes on. Two cores need 6 minutes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results") / "whole_line.json"
RUNS = {
    "lenet5": "--keep 0.25 --of macs --target onnx --epochs 3",
    "resnet20": "--keep 0.5 --of macs --target onnx --epochs 2",
}


def run(name: str, options: str, folder: Path) -> dict[str, Any]:
    """One run: its command, the figures that the README quotes, and how long it took."""
    arguments = ["run", name, *options.split()]
    start = time.perf_counter()
    command = [sys.executable, "-m", "edgecompress", *arguments, "-o", str(folder / name), "--json"]
    document = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    scores = ("accuracy", "accuracy_difference", "data")
    kept = (*scores, "calibration", "training", "cost", "artifacts", "comparison", "versions")
    command_line = " ".join(["edgecompress", *arguments, "--json"])
    return {"command": command_line, "seconds": time.perf_counter() - start, **{key: document[key] for key in kept}}


def main() -> None:
    """Run both and write the results."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "out/bench")
    rows = {name: run(name, options, folder) for name, options in RUNS.items()}
    RESULTS.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
