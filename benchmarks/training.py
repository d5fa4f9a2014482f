"""Train by every recipe, score on the whole test set once, write results/training.json and the tables of README.md.

    EDGECOMPRESS_DATA=... python benchmarks/training.py [FOLDER]

FOLDER (default out/training) keeps the runs. A configuration that is in the results is skipped and one that was stopped
goes on from its last finished epoch, so the benchmark can be stopped and started at will; delete a row to measure it
anew. Each row is one ``edgecompress compress`` command, which stands in the row. ``--table`` only writes the tables of
README.md again. Two cores need about two hours, and about twelve more for the long rows, which come last.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from rows import Row, Run, asked, measure_missing, put_in_readme, spread

RESULTS = Path(__file__).with_name("results") / "training.json"
SEEDS = (0, 1, 2)
EPOCHS = 2
"""Of all training of a compared recipe, its own included."""

ORTHOGONAL = "--recipe orthogonal --method tucker2 --method svd --keep KEEP --recipe-epochs 1 --epochs 1"
PLAIN = "plain Tucker-2"
COMPARED = {
    PLAIN: f"--method tucker2 --method svd --keep KEEP --epochs {EPOCHS}",
    "orthogonal": ORTHOGONAL,
    "orthogonal, no penalty": f"{ORTHOGONAL} --penalty 0",
    "ordered": "--recipe ordered --keep KEEP ORDERED --recipe-epochs 1 --epochs 1",
    "continuous": f"--recipe continuous --method tucker2 --method svd --epochs {EPOCHS}",
    "plain Tucker-2, at the cost of continuous": f"--method tucker2 --method svd --keep FOUND --epochs {EPOCHS}",
}
"""Each with the same epochs; KEEP is the model's share of MACs, FOUND what the continuous search of the seed kept."""
ORDERED = {"lenet5": "", "resnet20": "--multiple 4 "}
"""SVD chains in multiples of 8, the default, cannot keep less than 0.337 of the MACs of ResNet-20."""

OPTIONS = {
    "no distillation": "--distill 0",
    "feature distillation": "--feature 0.1",
    "averaged weights": "--ema 0.99",
    "label smoothing": "--smoothing 0.1",
    "mixup": "--mixup 0.2",
    "cutout": "--cutout 8",
    "cosine with warm-up": "--schedule cosine --warm-up 0.1",
    "cosines with warm restarts": "--schedule restarts --warm-up 0.05",
    "in 3 portions": "--portions 3",
}
"""Each changes one thing of the fine-tuning of "plain Tucker-2" on ResNet-20, seed 0."""

SIDES = (("lenet5", "0.25", "--lr 0.01"), ("resnet20", "0.3", "--lr 0.01 --bf16"))

BEST = (
    ("resnet20", "plain, best", "--keep 0.3 --epochs 8 --lr 0.01 --bf16"),
    ("resnet20", "plain, -72 %", "--keep 0.28 --epochs 14 --lr 0.02 --bf16"),
    ("resnet56", "plain, best", "--keep 0.3 --epochs 8 --lr 0.005 --bf16"),
    ("resnet20", "plain, -80 %", "--keep 0.2 --epochs 3 --lr 0.01 --bf16"),
)

LONG = (
    ("resnet20", "long, -72 %", "--keep 0.28 --epochs 32 --lr 0.03 --bf16 --teacher resnet56"),
    ("resnet20", "long, -50 %", "--keep 0.5 --epochs 15 --lr 0.02 --bf16 --teacher resnet56"),
    ("resnet56", "long, -70 %", "--keep 0.3 --epochs 12 --lr 0.01 --bf16"),
    ("resnet56", "long, -50 %", "--keep 0.5 --epochs 6 --lr 0.005 --bf16"),
)
"""Seed by seed; the file of each is timed beside the dense one's too."""


def runs() -> Iterator[Run]:
    """The best of each model, the recipes side by side, seed by seed, and the long rows."""
    for model, method, options in BEST:
        yield Run(model, method, 0, options)
    for model, keep, options in SIDES:
        for seed in SEEDS:
            for method, given in COMPARED.items():
                whole = given.replace("KEEP", keep).replace("ORDERED ", ORDERED[model])
                yield Run(model, method, seed, f"{whole} {options}")
    model, keep, options = SIDES[-1]
    for name, option in OPTIONS.items():
        yield Run(model, name, 0, f"{COMPARED[PLAIN].replace('KEEP', keep)} {option} {options}")
    for seed in SEEDS:
        for model, method, options in LONG:
            yield Run(model, method, seed, options)


def with_cost(run: Run, rows: list[Row]) -> Run:
    """The run at the share of MACs that the continuous search of the same model and seed kept."""
    found = [r for r in rows if (r["model"], r["method"], r["seed"]) == (run.model, "continuous", run.seed)]
    return replace(run, options=run.options.replace("FOUND", f"{1 - found[0]['macs_cut']:.4f}")) if found else run


def measured(given: Run, rows: list[Row], folder: Path) -> Row:
    """The row of one configuration: what its command answered, and how long it took."""
    run, where = with_cost(given, rows), folder / given.folder
    start = time.perf_counter()
    document = asked(*run.arguments, "-o", str(where))
    seconds, plan = time.perf_counter() - start, json.loads((where / "plan.json").read_text(encoding="utf-8"))
    timed = speedup(run, where) if run.method.startswith("long") else {}
    return row(run, document, plan, seconds) | timed


def speedup(run: Run, where: Path) -> Row:
    """CPU time of the dense model's ONNX file over the compressed one's, in turns, batch 1, one thread."""
    files = [where.with_name(f"{where.name}-{name}") / "model.onnx" for name in ("small", "dense")]
    for model, file in zip((str(where), run.model), files, strict=True):
        asked("export", model, "--target", "onnx", "-o", str(file.parent), "--score-items", "1000")
    timed = asked("profile", str(files[0]), "--baseline", str(files[1]), "--threads", "1")["comparison"]
    return {"speedup": timed["cpu_speedup"], "ci95": timed["cpu_ci95"]}


def row(run: Run, document: dict[str, Any], plan: dict[str, Any], seconds: float) -> Row:
    """Cuts are fractions, accuracy is in percent on the whole test set."""
    dense, small = document["cost"]["dense"], document["cost"]["compressed"]
    recipe, training = document["recipe"], document["training"]
    return {
        "model": run.model,
        "method": run.method,
        "seed": run.seed,
        "macs_cut": 1 - small["macs"] / dense["macs"],
        "params_cut": 1 - small["params"] / dense["params"],
        "accuracy": document["accuracy"]["finetuned"],
        "before_fine_tuning": document["accuracy"]["decomposed"],
        "dense_accuracy": document["accuracy"]["dense"],
        "epochs": training["epochs"] + recipe.get("epochs", 0),
        "seconds": seconds,
        "curve": [epoch["score"] for epoch in training["history"]],
        "ranks": {layer["name"]: [layer["method"], *layer["ranks"]] for layer in plan["layers"]},
        "command": " ".join(["edgecompress", *run.arguments, "--json"]),
    }


def tables(rows: list[Row]) -> str:
    """Markdown: each model's best, then for each model the recipes side by side."""
    best = [_best(r) for r in rows if r["method"] not in (*COMPARED, *OPTIONS, *(name for _, name, _ in LONG))]
    head = "| model | MACs | parameters | before fine-tuning | accuracy | dense | epochs |\n" + "|---" * 7 + "|\n"
    sides = "".join(_sides(model, rows) for model, *_ in SIDES)
    return head + "".join(best) + _long(rows) + sides + _options(rows)


def _long(rows: list[Row]) -> str:
    """Each long training with its spread over seeds, what it learned from, and what its file takes."""
    lines = []
    for model, method, options in LONG:
        own = [r for r in rows if (r["model"], r["method"]) == (model, method)]
        lines += [_long_row(model, options.split(), own)] if own else []
    cells = ("long", "MACs", "before fine-tuning", "accuracy", "dense", "seeds", "epochs", "teacher", "speed-up")
    head = f"\n| {' | '.join(cells)} |\n" + "|---" * len(cells) + "|\n"
    return head + "".join(lines) if lines else ""


def _long_row(model: str, options: list[str], rows: list[Row]) -> str:
    teacher = options[options.index("--teacher") + 1] if "--teacher" in options else "itself"
    before, after = (spread([r[key] for r in rows]) for key in ("before_fine_tuning", "accuracy"))
    low, high = min(r["ci95"][0] for r in rows), max(r["ci95"][1] for r in rows)
    cells = [
        f"-{100 * mean(r['macs_cut'] for r in rows):.1f} %",
        before,
        f"**{after}**",
        f"{rows[0]['dense_accuracy']:.2f}",
    ]
    cells += [str(len(rows)), str(rows[0]["epochs"]), teacher]
    cells += [f"{mean(r['speedup'] for r in rows):.2f}x ({low:.2f} to {high:.2f})"]
    return f"| {model} | {' | '.join(cells)} |\n"


def _options(rows: list[Row]) -> str:
    """Fine-tuning options one by one, beside what the same run gave without them."""
    model = SIDES[-1][0]
    plain = next((r for r in rows if (r["model"], r["method"], r["seed"]) == (model, PLAIN, 0)), None)
    tried = [r for r in rows if r["method"] in OPTIONS]
    if plain is None or not tried:
        return ""
    lines = [f"| {PLAIN}, seed 0 | | {plain['accuracy']:.2f} | | {plain['seconds']:.0f} |\n"]
    for r in tried:
        change = r["accuracy"] - plain["accuracy"]
        told = (OPTIONS[r["method"]], f"{r['accuracy']:.2f}", f"{change:+.2f}", f"{r['seconds']:.0f}")
        lines.append(f"| {r['method']} | `{told[0]}` | " + " | ".join(told[1:]) + " |\n")
    return f"\n| {model} | option | accuracy | change | seconds |\n" + "|---" * 5 + "|\n" + "".join(lines)


def _best(r: dict[str, Any]) -> str:
    cells = [f"-{100 * r[key]:.1f} %" for key in ("macs_cut", "params_cut")]
    scores = [f"{r['before_fine_tuning']:.2f}", f"**{r['accuracy']:.2f}**", f"{r['dense_accuracy']:.2f}"]
    return f"| {r['model']} | " + " | ".join([*cells, *scores, str(r["epochs"])]) + " |\n"


def _sides(model: str, rows: list[Row]) -> str:
    lines = []
    for method in COMPARED:
        own = [r for r in rows if (r["model"], r["method"]) == (model, method)]
        lines += [_side(method, own)] if own else []
    head = f"\n| {model} | seeds | MACs | parameters | before fine-tuning | accuracy | seconds |\n" + "|---" * 7 + "|\n"
    return head + "".join(lines) if lines else ""


def _side(method: str, rows: list[Row]) -> str:
    cuts = [f"-{100 * mean(r[key] for r in rows):.1f} %" for key in ("macs_cut", "params_cut")]
    scores = [spread([r[key] for r in rows]) for key in ("before_fine_tuning", "accuracy")]
    seconds = f"{mean(r['seconds'] for r in rows):.0f}"
    return f"| {method} | {len(rows)} | " + " | ".join([*cuts, *scores, seconds]) + " |\n"


def by_method(rows: list[Row]) -> str:
    """Markdown: for each model and recipe one table of its runs and one of the ranks it chose for every layer."""
    text = "# Recipes, run by run\n\nWritten by `benchmarks/training.py`; see ../README.md for the summary.\n"
    for model, *_ in SIDES:
        for method in COMPARED:
            own = [r for r in rows if (r["model"], r["method"]) == (model, method)]
            text += _method(model, method, own) if own else ""
    return text


def _method(model: str, method: str, rows: list[Row]) -> str:
    seeds = "| seed | " + " | ".join(str(r["seed"]) for r in rows) + " |\n" + "|---" * (len(rows) + 1) + "|\n"
    figures = ("macs_cut", "params_cut", "before_fine_tuning", "accuracy", "dense_accuracy", "epochs", "seconds")
    lines = [f"| {name} | " + " | ".join(f"{r[name]:.4g}" for r in rows) + " |\n" for name in figures]
    layers = sorted({name for r in rows for name in r["ranks"]})
    chosen = [[" ".join(map(str, r["ranks"].get(name, ["dense"]))) for r in rows] for name in layers]
    ranks = [f"| {name} | " + " | ".join(cells) + " |\n" for name, cells in zip(layers, chosen, strict=True)]
    command = f"`{rows[0]['command']}`"
    return f"\n## {model}: {method}\n\n{command}\n\n{seeds}{''.join(lines)}{''.join(ranks)}"


def main() -> None:
    """Measure every configuration that is not in the results yet, and write the tables."""
    rows = measure_missing(RESULTS, runs(), ("model", "method", "seed"), measured)
    RESULTS.with_suffix(".md").write_text(by_method(rows), encoding="utf-8")
    put_in_readme("training", tables(rows))


if __name__ == "__main__":
    main()
