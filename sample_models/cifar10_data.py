"""CIFAR-10 (A. Krizhevsky), read from EDGECOMPRESS_DATA in its official binary layout.

The validation split is the last 5,000 training images; the test split is only ever reported.
"""

import os
from functools import cache
from pathlib import Path

import numpy as np
import torch
from images import Images
from torch import Tensor, nn

from edgecompress.errors import DataError

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
PREPROCESSING = {
    "layout": "NCHW",
    "size": [32, 32],
    "color": "RGB",
    "scale": 1 / 255,
    "mean": MEAN,
    "std": STD,
    "labels": ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"],
}
TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
IMAGE_BYTES = 1 + 3 * 32 * 32
BLACK = -torch.tensor(MEAN).view(1, 3, 1, 1) / torch.tensor(STD).view(1, 3, 1, 1)


def folder() -> Path:
    """The folder of the official binary version.

    Raises:
        DataError: the variable is not set or the folder is not there.
    """
    root = os.environ.get("EDGECOMPRESS_DATA", "")
    where = Path(root) / "cifar-10-batches-bin"
    if not root or not where.is_dir():
        found = f"{where} is not there" if root else "EDGECOMPRESS_DATA is not set"
        raise DataError(
            f"CIFAR-10: {found}. Unpack the official binary version (cifar-10-binary.tar.gz) and set "
            "EDGECOMPRESS_DATA to the folder that holds cifar-10-batches-bin/data_batch_1.bin ... test_batch.bin"
        )
    return where


def read_batch(file: Path) -> np.ndarray:
    """The rows of one file: a label byte and 3,072 pixel bytes (channel, row, column) an image."""
    if not file.is_file() or file.stat().st_size % IMAGE_BYTES:
        raise DataError(f"CIFAR-10: {file} is missing or not a whole number of {IMAGE_BYTES}-byte images")
    return np.fromfile(file, np.uint8).reshape(-1, IMAGE_BYTES)


@cache
def read(where: Path, files: tuple[str, ...], origin: str) -> Images:
    """The images of several files."""
    rows = torch.from_numpy(np.concatenate([read_batch(where / file) for file in files]))
    return Images(rows[:, 1:].reshape(-1, 3, 32, 32), rows[:, 0], MEAN, STD, origin)


def split(name: str) -> Images:
    """The "train", "validation" or "test" split."""
    if name == "test":
        return read(folder(), ("test_batch.bin",), "CIFAR-10 test, whole")
    images = read(folder(), TRAIN, "CIFAR-10 train")
    border = len(images) - 5_000
    return images.part(0, border) if name == "train" else images.part(border, len(images))


def example() -> Tensor:
    """Four inputs of the right shape and spread (noise: the data may not be there)."""
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def augment(inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Random crop of 32x32 after 4 black pixels of padding, and random mirroring."""
    count = len(inputs)
    padded = nn.functional.pad(inputs - BLACK, (4, 4, 4, 4)) + BLACK
    windows = padded.unfold(2, 32, 1).unfold(3, 32, 1)
    down, right = torch.randint(0, 9, (2, count), generator=generator)
    crops = windows[torch.arange(count), :, down, right]
    mirrored = torch.rand(count, 1, 1, 1, generator=generator) < 0.5
    return torch.where(mirrored, crops.flip(3), crops)
