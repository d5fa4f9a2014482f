"""Every runtime and precision, dense against compressed: write results/runtimes.json and the table of README.md.

    EDGECOMPRESS_DATA=... python benchmarks/runtimes.py [FOLDER]

Needs all extras (`make bench NAME=runtimes` installs them). FOLDER (default out/runtimes) keeps the files. ResNet-20
and its shipped compressed form; scores are through the file, on the whole CIFAR-10 test set; int8 is calibrated on 512
training images. Latency: batch 1, one thread, both files interleaved in one process, wall time and process CPU time.
A row that is in the results is skipped; delete it to measure it anew. ``--table`` only writes the table again.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rows import Row, Run, measure_missing, put_in_readme

from edgecompress.artifacts import Artifact
from edgecompress.devices.local import Local
from edgecompress.exporting import ExportOptions, export
from edgecompress.profiling import compare
from edgecompress.profiling.comparisons import Comparison
from edgecompress.profiling.ratios import Ratio
from edgecompress.settings import Precision
from edgecompress.sources import resolve
from edgecompress.targets import PRECISIONS, TARGETS

RESULTS = Path(__file__).with_name("results") / "runtimes.json"
MODELS = {"dense": "resnet20", "compressed": "resnet20-small"}
PLAIN_INT8 = "int8, not equalized"
SECONDS = 3.0


def runs() -> Iterator[Run]:
    """Every target in every precision it has, and int8 once more without equalized ranges."""
    for name, target in TARGETS.items():
        for precision in PRECISIONS:
            if precision in target.precisions and target.runs_here:
                yield Run(name, precision, 0, "")
        if "int8" in target.precisions:
            yield Run(name, PLAIN_INT8, 0, "")


def measured(run: Run, _rows: list[Row], folder: Path) -> Row:
    """Both models exported and scored through their files, then compared."""
    precision: Precision = "int8" if run.method == PLAIN_INT8 else run.method  # type: ignore[assignment]
    options = ExportOptions(precision, equalize=run.method != PLAIN_INT8)
    roles = ["compressed"] if run.method == PLAIN_INT8 else list(MODELS)
    files = {role: _exported(run.model, role, options, folder / run.folder) for role in roles}
    row: Row = {"target": run.model, "precision": run.method, "seed": 0}
    row |= {role: _facts(artifact) for role, artifact in files.items()}
    if "dense" in files:
        pair = compare(files["compressed"].path, files["dense"].path, Local(), seconds=SECONDS)
        assert isinstance(pair, Comparison)
        assert pair.cpu is not None
        row |= {"runtime": dict(pair.runtime), "processor": pair.device.processor, "threads": pair.threads}
        row |= {"wall": _ratio(pair.wall), "cpu": _ratio(pair.cpu), "verdict": pair.verdict}
        row["dense"] |= pair.baseline_latency.summary()
        row["compressed"] |= pair.candidate_latency.summary()
    return row


def _exported(target: str, role: str, options: ExportOptions, folder: Path) -> Artifact:
    sample = resolve(MODELS[role])
    return export(sample.model(), sample, folder, target=target, stem=role, options=options)


def _facts(artifact: Artifact) -> Row:
    assert artifact.score is not None
    return {
        "size_bytes": artifact.size_bytes,
        "score": artifact.score.artifact,
        "torch_score": artifact.score.torch,
        "sqnr_db": artifact.sqnr_db,
        "max_abs_error": artifact.max_abs_error,
    }


def _ratio(ratio: Ratio) -> Row:
    return {"value": ratio.value, "low": ratio.low, "high": ratio.high}


def table(rows: list[Row]) -> str:
    """Markdown, in the order of the targets."""
    unequalized = {row["target"]: row for row in rows if row["precision"] == PLAIN_INT8}
    head = "| runtime | precision | file | accuracy | wall, median | speed-up, wall | speed-up, CPU |\n" + "|---" * 7
    known = [row for row in rows if row["precision"] != PLAIN_INT8]
    return f"{head}|\n" + "".join(_line(row, unequalized.get(row["target"])) for row in known)


def _line(row: Row, unequalized: Row | None) -> str:
    dense, small = row["dense"], row["compressed"]
    score = f"{dense['score']:.2f} → {small['score']:.2f} %"
    if row["precision"] == "int8" and unequalized is not None:
        score += f" ({unequalized['compressed']['score']:.2f} not equalized)"
    cells = [
        row["target"],
        row["precision"],
        f"{dense['size_bytes'] / 1000:.0f} → {small['size_bytes'] / 1000:.0f} kB",
        score,
        f"{dense['wall']['p50']:.2f} → {small['wall']['p50']:.2f} ms",
        *(f"{row[kind]['value']:.2f} ({row[kind]['low']:.2f}-{row[kind]['high']:.2f})" for kind in ("wall", "cpu")),
    ]
    return "| " + " | ".join(cells) + " |\n"


def main() -> None:
    """Measure what is not in the results yet, and write the table."""
    rows = measure_missing(RESULTS, runs(), ("target", "precision", "seed"), measured)
    put_in_readme("runtimes", table(rows))


if __name__ == "__main__":
    main()
