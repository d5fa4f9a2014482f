"""Measure two exported files in turns on a device, and print the verdict with its interval."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import edgecompress as ec
from edgecompress.selectors import Budget

DEVICE = "local"
"""Or ``ssh:user@host``, ``adb:SERIAL``, ``emulated:cortex-a76``."""
SECONDS = 1.0
"""Of measuring, for each file."""


def main() -> None:
    """LeNet-5, dense and with a quarter of its MACs, one thread."""
    sample = replace(ec.resolve("lenet5"), splits=None)  # no data: nothing is scored
    dense = sample.model()
    plan = ec.plan(dense, sample.inputs, Budget(keep=0.25, of="macs"), name=sample.name)
    files = [
        ec.export(network, sample, Path("out"), stem=stem).path
        for stem, network in (("dense", dense), ("small", ec.decompose(dense, plan)))
    ]
    comparison = ec.compare(files[1], files[0], ec.device_named(DEVICE), threads=1, seconds=SECONDS)
    if isinstance(comparison, ec.Comparison):
        wall = comparison.wall
        print(f"{comparison.verdict}: {wall.value:.2f}x, 95 % interval {wall.low:.2f} to {wall.high:.2f}")
    else:  # an emulated device counts instructions
        print(comparison.summary())


if __name__ == "__main__":
    main()
