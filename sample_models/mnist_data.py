"""MNIST (Y. LeCun, C. Cortes, C. Burges): the whole set where EDGECOMPRESS_DATA holds it, else a real subset.

The subset beside this file keeps every 15th training and every 10th test image, in the official file format.
The validation split is the last twelfth of the training images; the test split is only ever reported.
"""

import gzip
import os
from functools import cache
from pathlib import Path

import numpy as np
import torch
from images import Images
from torch import Tensor

MEAN, STD = [0.1307], [0.3081]
PREPROCESSING = {
    "layout": "NCHW",
    "size": [28, 28],
    "color": "gray",
    "scale": 1 / 255,
    "mean": MEAN,
    "std": STD,
    "labels": [str(digit) for digit in range(10)],
}
SUBSET = Path(__file__).with_name("mnist")


def read_idx(file: Path) -> Tensor:
    """Read one gzipped idx file of bytes: magic, shape (big-endian int32 each), data."""
    raw = gzip.decompress(file.read_bytes())
    order = raw[3]
    shape = np.frombuffer(raw, ">i4", count=order, offset=4)
    values = np.frombuffer(raw, np.uint8, offset=4 + 4 * order).reshape(shape)
    return torch.from_numpy(values.copy())


def folder() -> Path:
    """The folder the four idx files are read from."""
    root = os.environ.get("EDGECOMPRESS_DATA", "")
    whole = Path(root) / "mnist"
    return whole if root and whole.is_dir() else SUBSET


@cache
def read(where: Path, part: str) -> Images:
    """``part`` is "train" or "t10k"."""
    pixels = read_idx(where / f"{part}-images-idx3-ubyte.gz").unsqueeze(1)
    labels = read_idx(where / f"{part}-labels-idx1-ubyte.gz")
    which = "the subset in the repository" if where == SUBSET else "whole"
    return Images(pixels, labels, MEAN, STD, f"MNIST {'test' if part == 't10k' else 'train'}, {which}")


def split(name: str) -> Images:
    """The "train", "validation" or "test" split."""
    if name == "test":
        return read(folder(), "t10k")
    images = read(folder(), "train")
    border = len(images) * 11 // 12
    return images.part(0, border) if name == "train" else images.part(border, len(images))


def example() -> Tensor:
    """Four training images: real inputs for tracing and timing."""
    return read(SUBSET, "train").batch(torch.arange(4))[0]
