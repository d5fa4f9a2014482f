# my_model.py
import gzip
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from edgecompress.files import resource

MNIST = resource("sample_models") / "mnist"  # 4,000 digits for training and 1,000 for testing, which ship here


def model() -> nn.Module:  # built, with the trained weights loaded
    first, second = nn.Conv2d(1, 16, 3, stride=2), nn.Conv2d(16, 32, 3, stride=2)
    third = nn.Conv2d(32, 64, 3, padding=1)
    head = nn.Sequential(nn.ReLU(), nn.MaxPool2d(6), nn.Flatten(), nn.Linear(64, 10))
    net = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third, head)
    net.load_state_dict(load_file(Path(__file__).with_suffix(".safetensors")))
    return net


def example() -> Tensor:  # one input batch of any size; a tuple for several inputs
    return torch.zeros(2, 1, 28, 28)


def data(split: str) -> TensorDataset:  # "train", "validation" or "test"; without it no training and no score
    part = "t10k" if split == "test" else "train"
    images = read(f"{part}-images-idx3-ubyte.gz", 16).reshape(-1, 1, 28, 28) / 255
    labels, border = read(f"{part}-labels-idx1-ubyte.gz", 8).long(), len(images) * 11 // 12
    kept = {"train": slice(border), "validation": slice(border, None), "test": slice(None)}[split]
    return TensorDataset(images[kept], labels[kept])


def read(name: str, header: int) -> Tensor:
    return torch.tensor(np.frombuffer(gzip.decompress((MNIST / name).read_bytes()), np.uint8, offset=header)).float()
