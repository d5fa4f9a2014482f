"""One pair of files on two devices, whose answers need not be the same: here measured, there counted or measured.

python examples/two_devices.py [DEVICE]    # default emulated:cortex-a76; or ssh:user@host, adb:SERIAL
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import edgecompress as ec
from edgecompress.errors import DeviceError, MissingExtra
from edgecompress.selectors import Budget

OTHER = "emulated:cortex-a76"
"""An ARM core: instructions are counted, and no time is claimed."""
SECONDS = 1.0
"""Of measuring, for each file on each device."""


def main(other: str = OTHER) -> None:
    """LeNet-5, dense and with a quarter of its MACs, one thread."""
    small, dense = exported(Path("out/two_devices"))
    for device in ("local", other):
        try:
            print(f"{device}: {answer(small, dense, device)}")
        except (DeviceError, MissingExtra) as error:  # what is missing, and how to get it
            print(f"skipped {error}")


def exported(folder: Path) -> tuple[Path, Path]:
    """The compressed file and the dense one."""
    sample = replace(ec.resolve("lenet5"), splits=None)  # no data: nothing is scored
    model = sample.model()
    plan = ec.plan(model, sample.inputs, Budget(keep=0.25, of="macs"), name=sample.name)
    small = ec.export(ec.decompose(model, plan), sample, folder, stem="small")
    return small.path, ec.export(model, sample, folder, stem="dense").path


def answer(small: Path, dense: Path, device: str) -> str:
    """A verdict with its interval from a device that has a clock, a ratio of instructions from one that has none."""
    pair = ec.compare(small, dense, ec.device_named(device), threads=1, seconds=SECONDS)
    if not isinstance(pair, ec.Comparison):
        return f"{pair.ratio:.2f} times fewer instructions (emulated)"
    return f"{pair.verdict}, {pair.wall.value:.2f}x, 95 % interval {pair.wall.low:.2f} to {pair.wall.high:.2f}"


if __name__ == "__main__":
    main(*sys.argv[1:2])
