"""What the long benchmarks share: configurations measured one by one, rows that are kept, tables in README.md."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

Row = dict[str, Any]
README = Path(__file__).with_name("README.md")


@dataclass(frozen=True)
class Run:
    """One configuration: a model, a way to treat it, a seed, and the options of ``edgecompress compress``."""

    model: str
    method: str
    seed: int
    options: str

    @property
    def key(self) -> tuple[str, str, int]:
        """Identifies its row."""
        return self.model, self.method, self.seed

    @property
    def folder(self) -> str:
        """A name for its folder."""
        return "-".join("".join(c if c.isalnum() else " " for c in f"{self.model} {self.method} {self.seed}").split())

    @property
    def arguments(self) -> list[str]:
        """What the command line is given."""
        return ["compress", self.model, *self.options.split(), "--seed", str(self.seed)]


def asked(*arguments: str) -> dict[str, Any]:
    """What a command of the package answers."""
    command = [sys.executable, "-m", "edgecompress", *arguments, "--json"]
    document: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return document


def measure_missing(
    results: Path, runs: Iterable[Run], fields: tuple[str, str, str], measure: Callable[[Run, list[Row], Path], Row]
) -> list[Row]:
    """All rows of ``results``, those of ``runs`` that were missing measured and written one by one.

    ``fields`` of a row are its run's key. The command line is ``[FOLDER] [--table]``: where runs are kept (default
    ``out/`` and the name of the results), and whether to measure nothing.
    """
    rows: list[Row] = json.loads(results.read_text(encoding="utf-8"))["rows"] if results.exists() else []
    arguments = [argument for argument in sys.argv[1:] if argument != "--table"]
    folder = Path(arguments[0]) if arguments else Path("out") / results.stem
    for run in runs if "--table" not in sys.argv else ():
        if run.key not in {tuple(row[field] for field in fields) for row in rows}:
            rows.append(measure(run, rows, folder))
            results.write_text(json.dumps({"rows": rows}, indent=1) + "\n", encoding="utf-8")
            print(run.key, json.dumps(rows[-1])[:200], flush=True)
    return rows


def put_in_readme(name: str, tables: str) -> None:
    """Replace what stands between the marks ``<!-- name: begin -->`` and ``<!-- name: end -->``."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, _, rest = README.read_text(encoding="utf-8").partition(begin)
    _, _, after = rest.partition(end)
    README.write_text(f"{before}{begin}\n{tables}{end}{after}", encoding="utf-8")


def spread(values: list[float]) -> str:
    """The mean, and the standard deviation where there are several values."""
    return f"{mean(values):.2f} ± {stdev(values):.2f}" if len(values) > 1 else f"{values[0]:.2f}"
