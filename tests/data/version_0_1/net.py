"""Two classes of 8 x 8 images: a bright half at the top or at the left, in noise."""

import torch
from torch import nn
from torch.utils.data import TensorDataset


def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(96, 2),
    )


def example():
    return torch.zeros(2, 1, 8, 8)


def data(split):
    count, seed = {"train": (64, 1), "validation": (16, 2), "test": (24, 3)}[split]
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (count,), generator=generator)
    images = 0.5 * torch.randn(count, 1, 8, 8, generator=generator)
    images[labels == 0, :, :4] += 1
    images[labels == 1, :, :, :4] += 1
    return TensorDataset(images, labels)
