"""What plan and refit take on large networks: processor seconds and peak memory, each row in a process of its own.

    EDGECOMPRESS_DATA=... python benchmarks/scale.py [--net resnet18 ...] [--inputs 64 256] [--limit 400] [--tag NAME]

torchvision's architectures with random weights (``pip install --no-deps torchvision pillow``) on ImageNet pictures at
224 pixels, and a wide Linear; half of the MACs kept, one thread. Accuracy means nothing here (see ``real.py``). What is
over the limit of processor seconds is not done.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, cast

import torch
from children import in_child, measure_missing, read_rows
from real import compressed, usage
from real_nets import Net, Pictures, Unlabelled, package, pixels_of
from rows import Row, put_in_readme
from torch import nn

RESULTS = Path(__file__).with_name("results") / "scale.jsonl"
SIDE, WIDTH, KEEP = 224, 4096, 0.5
MEAN, STD = (123.7, 116.3, 103.5), (58.4, 57.1, 57.4)
PICTURED = ("resnet18", "resnet50", "vgg16")
LINEAR = "linear"


def net_named(name: str, folder: Path) -> Net:
    """An architecture with its inputs.

    Raises:
        Missing: torchvision or the pictures are not there.
    """
    if name == LINEAR:
        correlated = vectors()
        return Net(name, wide, correlated, correlated)
    pictures = Pictures(pixels_of(SIDE, folder), MEAN, STD)
    models = package("torchvision", "torchvision pillow").models
    return Net(name, partial(untrained, getattr(models, name)), pictures, pictures)


def untrained(architecture: Any) -> nn.Module:
    """Random weights, the same each time."""
    torch.manual_seed(0)
    return cast("nn.Module", architecture().eval())


def wide() -> nn.Module:
    """A Linear of 4,096 inputs and outputs, and ten classes behind it."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 10))


def vectors() -> Unlabelled:
    """Inputs (1,024, 4,096) of 256 strong directions and some noise."""
    drawn = torch.Generator().manual_seed(0)
    strong = torch.randn(1024, 256, generator=drawn) @ torch.randn(256, WIDTH, generator=drawn) / 16
    return Unlabelled(strong + 0.3 * torch.randn(1024, WIDTH, generator=drawn))


def table(rows: list[Row]) -> str:
    """Markdown: a line for each row."""
    titles = ["net", "inputs", "state", "process before", "plan", "refit"]
    lines = [titles, ["---"] * len(titles)]
    for row in sorted(rows, key=lambda row: (row["net"], row["calibration"])):
        before = f"{row['loaded_mb'] / 1000:.1f} GB" if "loaded_mb" in row else "-"
        what = [row["net"], str(row["calibration"]), row["tag"], before]
        lines.append([*what, usage(row, "plan"), usage(row, "refit")])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def parsed() -> argparse.Namespace:
    """The command line."""
    names = (LINEAR, *PICTURED)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", nargs="+", choices=names, default=names)
    parser.add_argument("--inputs", nargs="+", type=int, default=[256], help="that calibrate")
    parser.add_argument("--tag", default="this version", help="a name for the state of the code")
    parser.add_argument("--limit", type=int, default=400, help="processor seconds of one row")
    parser.add_argument("--folder", type=Path, default=Path("out/real"), help="of resized pictures")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the file of rows")
    parser.add_argument("--table", action="store_true", help="measure nothing, print the table; README.md for RESULTS")
    parser.add_argument("--row", type=json.loads, help=argparse.SUPPRESS)
    return parser.parse_args()


def settings(options: argparse.Namespace) -> list[Row]:
    """What is to be measured."""
    both = product(options.net, options.inputs)
    return [{"tag": options.tag, "net": net, "keep": KEEP, "calibration": count, "seed": 0} for net, count in both]


def measured(row: Row, options: argparse.Namespace) -> Row:
    """One row, or what is missing for it."""
    return in_child(__file__, row, options.limit, ["--folder", str(options.folder)])


def main() -> None:
    """Measure what is missing, one process each, and write the table."""
    options = parsed()
    if options.row:
        compressed(net_named(options.row["net"], options.folder), options.row)
        return
    if not options.table:
        measure_missing(options.results, settings(options), partial(measured, options=options))
    print(text := table(read_rows(options.results)))
    if options.results == RESULTS:
        put_in_readme("scale", text)


if __name__ == "__main__":
    main()
