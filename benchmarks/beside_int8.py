"""Low rank, int8 and both, of a net of depthwise-separable layers and of a plain one: score, bytes and time of files.

    EDGECOMPRESS_DATA=... python benchmarks/small_nets.py separable vgg
    EDGECOMPRESS_DATA=... python benchmarks/beside_int8.py [FOLDER] [--files] [--table]

FOLDER (default out/beside_int8) keeps the files. ``--files`` makes them and measures no times, which the same command
without it takes then, on a machine that is quiet. Each file is scored on the whole CIFAR-10 test set once, and takes
turns with the dense one in float32 (CPU time, one thread, batch 1). Nothing was tuned: ``OPTIONS`` are the defaults of
the command line but for fewer epochs. One core needs a quarter of an hour, and as long for the weights.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from rows import Row, Run, asked, measure_missing, put_in_readme

RESULTS = Path(__file__).with_name("results") / "beside_int8.json"
NETS = ("separable", "vgg")
DENSE, SMALL = "dense", "low rank"
WAYS = {DENSE: "fp32", "int8": "int8", SMALL: "fp32", "low rank, int8": "int8"}
"""The precision of each file."""
OPTIONS = "--keep 0.5 --epochs 1 --bf16"


def source(net: str) -> str:
    """What the command line calls it."""
    return f"benchmarks/trained_nets.py:{net}"


def measured(run: Run, _rows: list[Row], folder: Path) -> Row:
    """The row of one file: what it is, and how long it takes beside the dense one."""
    small, (made, file) = compressed(run.model, folder), exported(run.model, run.method, folder)
    timed = {} if run.method == DENSE else speedup(file, exported(run.model, DENSE, folder)[1])
    costs, scored = small["cost"], made["score"]
    return {
        "net": run.model,
        "way": run.method,
        "seed": run.seed,
        "options": run.options,
        "accuracy": scored["artifact"],
        "items": scored["items"],
        "before_fine_tuning": small["accuracy"]["decomposed"] if is_small(run.method) else None,
        "size_bytes": made["size_bytes"],
        "macs": costs["compressed" if is_small(run.method) else "dense"]["macs"],
        **timed,
    }


def speedup(file: Path, baseline: Path) -> Row:
    """CPU time of the baseline over that of a file, in turns, batch 1, one thread, and where."""
    pair = asked("profile", str(file), "--baseline", str(baseline), "--threads", "1")["comparison"]
    return {
        **{key: pair[key] for key in ("cpu_speedup", "cpu_ci95", "runtime", "threads", "blocks", "loads")},
        "processor": pair["device"]["processor"],
        "load_average": pair["conditions"]["before"]["load_average"],
    }


def is_small(way: str) -> bool:
    """Whether a file is of the compressed net."""
    return way.startswith(SMALL)


def compressed(net: str, folder: Path) -> dict[str, Any]:
    """What compressing and fine-tuning answered."""
    where = folder / f"{net}-small"
    return once(where.with_suffix(".json"), "compress", source(net), *OPTIONS.split(), "-o", str(where))


def exported(net: str, way: str, folder: Path) -> tuple[dict[str, Any], Path]:
    """The facts of one file, and the file; it is written and scored where it is not there."""
    model = source(net)
    if is_small(way):
        compressed(net, folder)
        model = str(folder / f"{net}-small")
    where = folder / f"{net}-{way.replace(', ', '-').replace(' ', '-')}"
    made = once(where.with_suffix(".json"), "export", model, "--quantize", WAYS[way], "-o", str(where), "--trust")
    (facts,) = made["artifacts"]
    return facts, Path(facts["path"])


def once(answer: Path, *arguments: str) -> dict[str, Any]:
    """What a command answered, now or before."""
    if not answer.exists():
        answer.parent.mkdir(parents=True, exist_ok=True)
        answer.write_text(json.dumps(asked(*arguments)), encoding="utf-8")
    document: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
    return document


def table(rows: list[Row]) -> str:
    """Markdown: a line a file, each beside the dense one of its net."""
    cells = ("net", "file", "accuracy", "against dense", "kB", "MACs", "speed-up (95 % interval)")
    dense = {row["net"]: row for row in rows if row["way"] == DENSE}
    lines = [f"| {' | '.join(_cells(row, dense[row['net']]))} |\n" for row in rows]
    return f"| {' | '.join(cells)} |\n" + "|---" * len(cells) + "|\n" + "".join(lines)


def _cells(row: Row, dense: Row) -> list[str]:
    against, times = "", ""
    if row is not dense:
        against = f"{row['accuracy'] - dense['accuracy']:+.2f}"
        times = "{:.2f}x ({:.2f} to {:.2f})".format(row["cpu_speedup"], *row["cpu_ci95"])
    return [
        row["net"],
        row["way"],
        f"{row['accuracy']:.2f}",
        against,
        f"{row['size_bytes'] / 1e3:,.0f}",
        f"{row['macs'] / 1e6:.1f} M",
        times,
    ]


def make_files(runs: list[Run]) -> None:
    """All that :func:`measured` needs, without a time."""
    given = [argument for argument in sys.argv[1:] if argument != "--files"]
    folder = Path(given[0]) if given else Path("out") / RESULTS.stem
    for run in runs:
        print(run.model, run.method, exported(run.model, run.method, folder)[1], flush=True)


def main() -> None:
    """Make the files that are missing, measure the rows that are, and write the table."""
    runs = [Run(net, way, 0, OPTIONS) for net in NETS for way in WAYS]
    if "--files" in sys.argv:
        make_files(runs)
    else:
        put_in_readme(RESULTS.stem, table(measure_missing(RESULTS, runs, ("net", "way", "seed"), measured)))


if __name__ == "__main__":
    main()
