"""Write all tables of README.md from ``results/`` again, measuring nothing: ``python benchmarks/tables.py``.

What stands around the tables is written by hand. A test compares them: a figure is changed by measuring it.
"""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from typing import Any

from children import read_rows
from rows import README, put_in_readme

SCRIPTS = {"transformers": "of_transformers"}
"""Benches whose script has another name."""


def benches() -> list[str]:
    """The names that README.md has places for."""
    return re.findall(r"^<!-- (\w+): begin -->$", README.read_text(encoding="utf-8"), re.MULTILINE)


def table(name: str) -> str:
    """The tables of a bench, from its results."""
    bench = runpy.run_path(str(Path(__file__).with_name(f"{SCRIPTS.get(name, name)}.py")))
    write = bench.get("tables") or bench["table"]
    return str(write(stored(bench["RESULTS"])))


def stored(results: Path) -> Any:
    """What a bench has measured so far."""
    if results.suffix == ".jsonl":
        return read_rows(results)
    document = json.loads(results.read_text(encoding="utf-8"))
    return document["rows"] if isinstance(document, dict) and "rows" in document else document


def main() -> None:
    """Write them all."""
    for name in benches():
        put_in_readme(name, table(name))


if __name__ == "__main__":
    main()
