"""Store models as codes in every way README.md shows; write results/storage.json and the tables of README.md.

    EDGECOMPRESS_DATA=... python benchmarks/storage.py [FOLDER]

FOLDER (default out/storage) keeps the runs. A configuration that is in the results is skipped and one that was stopped
goes on from its last finished epoch; delete a row to measure it anew. ``--table`` only writes the tables of README.md
again. Settings were chosen on the validation split (the last 5,000 training images); test sets are whole. Dense
baselines are trained from scratch with the same data and mixup, for as many epochs; so is the wide ResNet, see
``wide_resnet.py``.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import mean

import torch
from rows import Row, Run, measure_missing, put_in_readme, spread
from train_samples import SETTINGS, untrained
from wide_resnet import WEIGHTS

from edgecompress.codecs.ada_tucker import stored_params
from edgecompress.exporting import ExportOptions, export
from edgecompress.files import save_weights
from edgecompress.finetuning import FineTuning, finetune
from edgecompress.plans import Cost
from edgecompress.scoring import score
from edgecompress.settings import Storage
from edgecompress.sources import presets, resolve
from edgecompress.storing.planning import plan_storage

RESULTS = Path(__file__).with_name("results") / "storage.json"
KEPT = RESULTS.with_name("storage")
"""The smallest files themselves; a slow test decodes and scores them again."""
SEEDS = (0, 1, 2)
NETWORKS = ("lenet300", "lenet5")
SMALLEST = "smallest"
PAPER = {"lenet5": "691x, no loss", "lenet300": "233x, no loss"}

SHORT = "--epochs 20 --round-epochs 20"
BASE, OWN_CORES, NATURAL = "shared core 20, order 3, balanced", "own cores 16", "natural sizes, core 14"
MATTERS = {
    BASE: "",
    "order 4, core 11": "--order 4 --rank 11",
    "order 5, core 7": "--order 5 --rank 7",
    "start from HOSVD of the dense weights": "--start dense",
    "no code length in the loss": "--rate 0",
    "3 levels": "--levels 3",
    "7 levels": "--levels 7",
    "31 levels": "--levels 31",
    "biases kept": "--bias-levels 15",
    "no distillation": "--distill 0",
    "temperature 4": "--temperature 4",
    "no mixup": "--mixup 0",
    "no weight decay": "--weight-decay 0",
}
"""Each changes one thing of ``--preset smallest``, on lenet300; other orders and cores at about as many numbers."""
NATURAL_SIZES = {"fc1": (300, 28, 28), "fc2": (100, 300, 1), "fc3": (10, 100, 1)}
"""Outputs by inputs, the image's rows and columns apart."""

RESNET, WIDE = "resnet20", "benchmarks/wide_resnet.py"
DENSE, DENSE32, INT8 = "dense", "fp32", "int8"
ADA = (
    "--method ada_tucker --include layer[23].* --start dense --lr 0.02 --round-lr 0.01 --rate 0.01 --bf16 "
    "--epochs 4 --round-epochs 4"
)
TUCKER2 = "--method tucker2 --method svd --of params --multiple 4 --lr 0.01 --bf16 --epochs 8"
BESIDE = {26: 0.388, 18: 0.286, 12: 0.193}
"""Cores of ADA-Tucker for ResNet-20's large layers, and the share of parameters that Tucker-2 keeps to take as many
bytes at one byte each."""
WIDE_ADA = f"{ADA} --rank 26 --epochs 2 --round-epochs 3"
WIDE_DENSE = FineTuning(epochs=10, lr=0.1, distill=0.0, weight_decay=5e-4, bfloat16=True)


def runs() -> Iterator[Run]:
    """The smallest files and their dense baselines with three seeds, then what mattered, then a larger net."""
    for network in NETWORKS:
        for seed in SEEDS:
            yield Run(network, SMALLEST, seed, f"--method scada_tucker --preset {SMALLEST}")
            yield Run(network, DENSE, seed, "")
    for setting, changed in MATTERS.items():
        yield Run("lenet300", setting, 0, f"--method scada_tucker --preset {SMALLEST} {SHORT} {changed}")
    yield Run("lenet300", OWN_CORES, 0, f"--method ada_tucker {_spelled('lenet300')} --rank 16 {SHORT}")
    yield Run("lenet300", NATURAL, 0, f"--preset {SMALLEST} {SHORT} --plan {_natural_plan()}")
    yield from (Run(RESNET, precision, 0, "") for precision in (DENSE32, INT8))
    for edge, keep in BESIDE.items():
        yield Run(RESNET, f"ada_tucker, core {edge}", 0, f"{ADA} --rank {edge}")
        yield Run(RESNET, f"tucker2, int8, beside core {edge}", 0, f"{TUCKER2} --keep {keep}")
    yield from (Run(WIDE, precision, 0, "") for precision in (DENSE32, INT8))
    yield Run(WIDE, "ada_tucker, core 26", 0, WIDE_ADA)


def _natural_plan() -> Path:
    """A plan for lenet300 that reshapes nothing but the image."""
    sample = resolve("lenet300")
    made = plan_storage(sample.model(), sample.inputs, Storage("scada_tucker", rank=14), name="lenet300")
    layers = tuple(replace(layer, dims=NATURAL_SIZES[layer.name]) for layer in made.layers)
    shared = stored_params(layers, shared=True) - stored_params(made.layers, shared=True)
    path = Path("out") / "natural.plan.json"
    path.parent.mkdir(exist_ok=True)
    assert made.compressed is not None
    replace(made, layers=layers, compressed=made.compressed + Cost(shared, 0)).save(path)
    return path


def _spelled(network: str) -> str:
    """The options of the preset but its codec and rank, for another codec."""
    preset = presets(network)[SMALLEST]
    return " ".join(
        _option(key, value) for key, value in preset.items() if key not in ("method", "rank", "epochs", "round_epochs")
    )


def _option(key: str, value: object) -> str:
    name = f"--{key.replace('_', '-')}"
    return name if value is True else f"{name} {value}"


def measured(run: Run, _rows: list[Row], folder: Path) -> Row:
    """The row of one configuration; errors are in percent of the whole test set."""
    if run.model == WIDE:
        _train_wide(folder)
    start = time.perf_counter()
    facts = _how(run)(run, folder / run.folder)
    known = {"network": run.model, "setting": run.method, "seed": run.seed}
    return {**known, **facts, "seconds": round(time.perf_counter() - start)}


def _how(run: Run) -> Callable[[Run, Path], Row]:
    if run.method == DENSE:
        return _dense
    return _exported if run.method in (DENSE32, INT8) or run.options.startswith(TUCKER2) else _stored


def _train_wide(folder: Path) -> None:
    """Train the wide ResNet where that is not done yet."""
    if WEIGHTS.exists():
        return
    for needed in (folder, WEIGHTS.parent):
        needed.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    sample = resolve(f"{WIDE}:untrained")
    done = finetune(sample.build(), sample, WIDE_DENSE, checkpoint=folder / "wide_resnet.pt")
    save_weights(WEIGHTS, done.model.state_dict())


def _dense(run: Run, _folder: Path) -> Row:
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
    document = _compressed(run, folder)
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


def _exported(run: Run, folder: Path) -> Row:
    """A ResNet itself, or compressed by convolutions, as a plain .onnx; scored through the file."""
    made = {"training": {"epochs": 0}} if not run.options else _compressed(run, folder)
    sample = resolve(str(folder) if run.options else run.model)
    options = ExportOptions("fp32" if run.method == DENSE32 else "int8")
    artifact = export(sample.model(), sample, folder / "exported", target="onnx", stem="model", options=options)
    assert artifact.score is not None
    return {
        "error": 100 - artifact.score.artifact,
        "float_error": 100 - artifact.score.torch,
        "params": sum(parameter.numel() for parameter in sample.model().parameters()),
        "onnx_bytes": artifact.size_bytes,
        "epochs": made["training"]["epochs"],
        "command": " ".join(["edgecompress", *run.arguments]) if run.options else "",
    }


def _compressed(run: Run, folder: Path) -> Row:
    command = [sys.executable, "-m", "edgecompress", *run.arguments, "-o", str(folder), "--json"]
    document: Row = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return document


def tables(rows: list[Row]) -> str:
    """Markdown: the smallest files beside dense nets and the paper, then what mattered."""
    head = (
        "| network | file of codes | of dense fp32 | .onnx | error | dense error, same epochs | paper |\n" + "|---" * 7
    )
    lines = [_smallest(network, rows) for network in NETWORKS]
    changed = [_changed(row) for row in rows if row["setting"] in (*MATTERS, OWN_CORES, NATURAL)]
    columns = (
        "| lenet300, one seed, 20 + 20 epochs, before codes were frozen | numbers | fp32 | 4 bits | file of codes "
        "| error as floats | validation | test |\n" + "|---" * 8
    )
    larger = "| one seed | setting | numbers | bytes of them | .onnx | epochs | test error |\n" + "|---" * 7
    cells = [_larger(row) for row in rows if row["network"] in (RESNET, WIDE)]
    parts = ((head, lines), (columns, changed), (larger, cells))
    return "\n".join(f"{title}|\n{''.join(body)}" for title, body in parts if body)


def _larger(row: Row) -> str:
    """Bytes of the file of codes, or those of all parameters in fp32 or int8."""
    taken = row.get("payload_bytes", row["params"] * (4 if row["setting"] == DENSE32 else 1))
    facts = f"{row['params']:,} | {taken:,} | {row['onnx_bytes']:,} bytes | {row['epochs']} | {row['error']:.2f} %"
    return f"| {Path(row['network']).stem} | {row['setting']} | {facts} |\n"


def _smallest(network: str, rows: list[Row]) -> str:
    own = [row for row in rows if row["network"] == network and row["setting"] == SMALLEST]
    dense = [row["error"] for row in rows if row["network"] == network and row["setting"] == DENSE]
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
    """Ratios of the numbers alone, as fp32 and in 4 bits each, beside the ratio of the file."""
    ratio = row["payload_bytes"] * row["ratio"] / 4 / row["params"]
    size = f"{ratio:.0f}x | {8 * ratio:.0f}x | {row['payload_bytes']:,} bytes, {row['ratio']:.0f}x"
    errors = (row["float_error"], row["validation_error"], row["error"])
    return (
        f"| {row['setting']} | {row['params']:,} | {size} | "
        + " | ".join(f"{error:.2f} %" for error in errors)
        + " |\n"
    )


def main() -> None:
    """Measure every configuration that is not in the results yet, and write the tables."""
    rows = measure_missing(RESULTS, runs(), ("network", "setting", "seed"), measured)
    put_in_readme("storage", tables(rows))


if __name__ == "__main__":
    main()
