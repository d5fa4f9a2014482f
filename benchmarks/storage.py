"""Store models as codes in every way the README tells of; write results/storage.json and the README's tables.

    EDGECOMPRESS_DATA=... python benchmarks/storage.py [FOLDER]

FOLDER (default out/storage) keeps the runs. A configuration that is in the results is skipped and one that was stopped
goes on from its last finished epoch; delete a row to measure it anew. ``--table`` only writes the README's tables
again. Settings were chosen on the validation split (the last 5,000 training images); test sets are whole. Dense
baselines are trained from scratch with the same data and mixup, for as many epochs.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import mean

import torch
from rows import Row, Run, measure_missing, put_in_readme, spread
from train_samples import SETTINGS, untrained

from edgecompress.finetuning import finetune
from edgecompress.resolving import presets
from edgecompress.scoring import score

RESULTS = Path(__file__).with_name("results") / "storage.json"
KEPT = RESULTS.with_name("storage")
"""The smallest files themselves; a slow test decodes and scores them again."""
SEEDS = (0, 1, 2)
NETWORKS = ("lenet300", "lenet5")
SMALLEST = "smallest"
PAPER = {"lenet5": "691x, no loss", "lenet300": "233x, no loss"}

OWN_CORES = "own cores"
MATTERS = {
    "order 4": "--order 4 --rank 9",
    "order 5": "--order 5 --rank 6",
    "start from HOSVD of the dense weights": "--start dense",
    "no code length in the loss": "--rate 0",
    "7 levels": "--levels 7",
    "31 levels": "--levels 31",
    "biases kept, 15 levels": "--bias-levels 15",
    "no distillation": "--distill 0",
}
"""Each changes one thing of ``--preset smallest``, on lenet300; order and core at about as many numbers."""


def runs() -> Iterator[Run]:
    """The smallest files and their dense baselines with three seeds, then what mattered."""
    for network in NETWORKS:
        for seed in SEEDS:
            yield Run(network, SMALLEST, seed, f"--method scada_tucker --preset {SMALLEST}")
            yield Run(network, "dense", seed, "")
    for setting, changed in MATTERS.items():
        yield Run("lenet300", setting, 0, f"--method scada_tucker --preset {SMALLEST} {changed}")
    yield Run("lenet300", OWN_CORES, 0, f"--method ada_tucker {_spelled('lenet300')} --rank 16")


def _spelled(network: str) -> str:
    """The options of the preset but its codec and rank, for another codec."""
    preset = presets(network)[SMALLEST]
    return " ".join(_option(key, value) for key, value in preset.items() if key not in ("methods", "rank"))


def _option(key: str, value: object) -> str:
    name = f"--{key.replace('_', '-')}"
    return name if value is True else f"{name} {value}"


def measured(run: Run, _rows: list[Row], folder: Path) -> Row:
    """The row of one configuration; errors are in percent of the whole test set."""
    start = time.perf_counter()
    facts = _dense(run) if run.method == "dense" else _stored(run, folder / run.folder)
    known = {"network": run.model, "setting": run.method, "seed": run.seed}
    return {**known, **facts, "seconds": round(time.perf_counter() - start)}


def _dense(run: Run) -> Row:
    torch.manual_seed(run.seed)
    sample, preset, epochs = untrained(run.model), presets(run.model)[SMALLEST], _epochs(run.model)
    same = {"mixup": preset.get("mixup", 0.0), "bfloat16": preset.get("bf16", False)}
    settings = replace(SETTINGS[run.model], epochs=epochs, seed=run.seed, **same)
    done = finetune(sample.build(), sample, settings)
    params = sum(parameter.numel() for parameter in done.model.parameters())
    error = 100 - score(done.model, sample)
    return {"error": error, "validation_error": 100 - done.best_score, "payload_bytes": 4 * params, "epochs": epochs}


def _epochs(network: str) -> int:
    preset = presets(network)[SMALLEST]
    return int(preset["epochs"]) + int(preset["round_epochs"])


def _stored(run: Run, folder: Path) -> Row:
    command = [sys.executable, "-m", "edgecompress", *run.arguments, "-o", str(folder), "--json"]
    document = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    if run.method == SMALLEST:
        KEPT.mkdir(exist_ok=True)
        shutil.copyfile(folder / "model.ectk", KEPT / f"{run.model}-{run.seed}.ectk")
    rounding = json.loads((folder / "stages" / "store.json").read_text(encoding="utf-8"))["result"]["history"]
    return {
        "error": 100 - document["accuracy"]["finetuned"],
        "validation_error": 100 - rounding[-1]["score"],
        "float_error": 100 - document["accuracy"]["factors"],
        "params": document["cost"]["compressed"]["params"],
        **document["storage"],
        "epochs": document["training"]["epochs"] + len(rounding),
        "command": " ".join(["edgecompress", *run.arguments]),
    }


def tables(rows: list[Row]) -> str:
    """Markdown: the smallest files beside dense nets and the paper, then what mattered."""
    head = (
        "| network | file of codes | of dense fp32 | .onnx | error | dense error, same epochs | paper |\n" + "|---" * 7
    )
    lines = [_smallest(network, rows) for network in NETWORKS]
    changed = [_changed(row) for row in rows if row["setting"] in (*MATTERS, OWN_CORES)]
    first = [row for row in rows if row["network"] == "lenet300" and row["setting"] == SMALLEST and row["seed"] == 0]
    columns = "| lenet300, one seed | numbers | file of codes | error as floats | validation | test |\n" + "|---" * 6
    return f"{head}|\n{''.join(lines)}\n{columns}|\n{''.join([*map(_changed, first), *changed])}"


def _smallest(network: str, rows: list[Row]) -> str:
    own = [row for row in rows if row["network"] == network and row["setting"] == SMALLEST]
    dense = [row["error"] for row in rows if row["network"] == network and row["setting"] == "dense"]
    if not own or not dense:
        return ""
    cells = [
        f"{mean(row['payload_bytes'] for row in own):,.0f} bytes",
        f"**{mean(row['ratio'] for row in own):.0f}x**",
        f"{mean(row['onnx_bytes'] for row in own):,.0f} bytes",
        _spread([row["error"] for row in own]),
        _spread(dense),
        PAPER[network],
    ]
    return f"| {network} | " + " | ".join(cells) + " |\n"


def _spread(values: list[float]) -> str:
    return f"{spread(values)} % ({', '.join(f'{value:.2f}' for value in values)})"


def _changed(row: Row) -> str:
    size = f"{row['payload_bytes']:,} bytes, {row['ratio']:.0f}x"
    errors = (row["float_error"], row["validation_error"], row["error"])
    name = "`--preset smallest`" if row["setting"] == SMALLEST else row["setting"]
    return f"| {name} | {row['params']:,} | {size} | " + " | ".join(f"{error:.2f} %" for error in errors) + " |\n"


def main() -> None:
    """Measure every configuration that is not in the results yet, and write the tables."""
    rows = measure_missing(RESULTS, runs(), ("network", "setting", "seed"), measured)
    put_in_readme("storage", tables(rows))


if __name__ == "__main__":
    main()
