"""Small nets that nothing was tuned on, for ``real.py`` and ``beside_int8.py``, each of another kind, at 32 pixels.

    EDGECOMPRESS_DATA=... python benchmarks/small_nets.py [--folder FOLDER] [NET ...]

Trains them on CIFAR-10's train split and writes their weights to FOLDER (``out/real/weights``); one that was stopped
goes on from its last epoch. ``fire`` is SqueezeNet (Iandola et al. 2016, arXiv 1602.07360): its last convolution has
many outputs, a ReLU and the mean over all positions behind, so that most outputs are silent. CIFAR-10 has ten classes
only, so each is divided by brightness and by warmth into ``SHADES``. ``inverted`` is MobileNetV2 (Sandler et al. 2018,
arXiv 1801.04381), ``separable`` MobileNet (Howard et al. 2017, arXiv 1704.04861), ``vgg`` is plain (Simonyan and
Zisserman 2014, arXiv 1409.1556), with batch norms.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import Dataset

from edgecompress.files import make_folder, save_weights
from edgecompress.finetuning import FineTuning, finetune
from edgecompress.models import Sample
from edgecompress.sources import resolve

CLASSES = 10
BRIGHTNESS, WARMTH = (-0.26, 0.08, 0.44), (-0.41, -0.14, 0.17)
"""Quartiles, over the train split, of an image's mean value and of its red minus its blue."""
SHADES = (len(BRIGHTNESS) + 1) * (len(WARMTH) + 1)
USUAL = FineTuning(epochs=4, lr=0.1, distill=0.0, weight_decay=5e-4, batch_size=128)
SETTINGS = {
    "fire": replace(USUAL, epochs=10, lr=0.04),
    "inverted": replace(USUAL, epochs=8),
    "separable": replace(USUAL, bfloat16=True),
    "vgg": replace(USUAL, bfloat16=True),
}


class Fire(nn.Module):
    """A 1x1 convolution to few channels, then 1x1 and 3x3 ones side by side."""

    def __init__(self, channels: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to (N, 2 * expanded, H, W)."""
        x = self.squeeze(x).relu()
        return torch.cat([self.expand1x1(x).relu(), self.expand3x3(x).relu()], 1)


def fire() -> nn.Module:
    """(N, 3, 32, 32) to scores (N, 160) of a class in a shade, none below zero."""
    fires = (Fire(64, 16, 48), Fire(96, 16, 48), nn.MaxPool2d(2), Fire(96, 32, 96), Fire(192, 32, 128))
    last = (nn.Conv2d(256, CLASSES * SHADES, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net = nn.Sequential(nn.Conv2d(3, 64, 3, 2, padding=1), nn.ReLU(), *fires, *last)
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d) and layer.bias is not None:  # there is no batch norm
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    return net


class Inverted(nn.Module):
    """To many channels, a depthwise convolution, and back to few; a shortcut where the shape stays."""

    def __init__(self, channels: int, out: int, stride: int, times: int = 6) -> None:
        super().__init__()
        wide = channels * times
        self.conv = nn.Sequential(
            *(nn.Conv2d(channels, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6()),
            *(nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.ReLU6()),
            *(nn.Conv2d(wide, out, 1, bias=False), nn.BatchNorm2d(out)),
        )
        self.shortcut = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) to (N, out, H / stride, W / stride)."""
        out: Tensor = self.conv(x)
        return out + x if self.shortcut else out


def inverted() -> nn.Module:
    """(N, 3, 32, 32) to class scores (N, 10)."""
    stem = (nn.Conv2d(3, 24, 3, 2, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU6())
    middle = ((24, 24, 1), (24, 32, 2), (32, 32, 1), (32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 64, 1), (64, 96, 1))
    head = (nn.Conv2d(96, 320, 1, bias=False), nn.BatchNorm2d(320), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(*stem, *(Inverted(*sizes) for sizes in middle), *head, nn.Linear(320, CLASSES))


def normed(channels: int, out: int, taps: int = 3, stride: int = 1, groups: int = 1) -> tuple[nn.Module, ...]:
    """A convolution, its batch norm, a ReLU."""
    convolution = nn.Conv2d(channels, out, taps, stride, taps // 2, groups=groups, bias=False)
    return convolution, nn.BatchNorm2d(out), nn.ReLU()


def separable() -> nn.Module:
    """(N, 3, 32, 32) to class scores (N, 10)."""
    sizes = ((24, 64, 2), (64, 128, 1), (128, 128, 1), (128, 256, 2), (256, 256, 1), (256, 256, 1), (256, 512, 2))
    layers = [*normed(3, 24)]
    for channels, out, stride in sizes:
        layers += [*normed(channels, channels, 3, stride, channels), *normed(channels, out, 1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, CLASSES))


def vgg() -> nn.Module:
    """(N, 3, 32, 32) to class scores (N, 10)."""
    layers = [*normed(3, 32), nn.MaxPool2d(2)]
    layers += [*normed(32, 64), *normed(64, 64), nn.MaxPool2d(2)]
    layers += [*normed(64, 128), *normed(128, 128), nn.MaxPool2d(2), *normed(128, 256)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, CLASSES))


NETS: dict[str, Callable[[], nn.Module]] = {"fire": fire, "inverted": inverted, "separable": separable, "vgg": vgg}
WEIGHTS = Path("out/real/weights")


class Batched(Dataset[tuple[Tensor, Tensor]]):
    """A dataset that gives batches."""

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and targets."""
        raise NotImplementedError

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        inputs, targets = self.batch(torch.tensor([index]))
        return inputs[0], targets[0]


class Shaded(Batched):
    """CIFAR-10 with each class divided by shade."""

    def __init__(self, images: Any) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images (n, 3, 32, 32) and classes (n,) below 160."""
        inputs, targets = self.images.batch(indices)
        return inputs, targets * SHADES + shade(inputs)


def shade(inputs: Tensor) -> Tensor:
    """One of the ``SHADES`` for each image of (n, 3, H, W)."""
    means = inputs.mean((2, 3))
    bright = torch.bucketize(means.mean(1), torch.tensor(BRIGHTNESS))
    return bright * (len(WARMTH) + 1) + torch.bucketize(means[:, 0] - means[:, 2], torch.tensor(WARMTH))


def sample_of(name: str, weights: Path | None) -> Sample:
    """One of ``NETS``, with trained weights where a folder with them is given."""
    cifar = resolve("resnet20")
    assert cifar.splits is not None

    def build() -> nn.Module:
        net = NETS[name]()
        if weights is not None:
            net.load_state_dict(load_file(weights / f"{name}.safetensors"))
        return net

    def split(which: str) -> Any:
        images = cifar.data(which)
        return Shaded(images) if name == "fire" else images

    return replace(cifar, name=name, build=build, splits=split, file=None, validation_seen=False)


def train(name: str, folder: Path) -> None:
    """The weights of a net that has none yet; the epoch is chosen on the validation split."""
    torch.manual_seed(SETTINGS[name].seed)
    untrained = sample_of(name, None)
    done = finetune(untrained.build(), untrained, SETTINGS[name], checkpoint=folder / f"{name}.checkpoint")
    print(name, "validation", done.best_score, [round(epoch.score, 2) for epoch in done.history], flush=True)
    save_weights(folder / f"{name}.safetensors", done.model.state_dict())


def main() -> None:
    """Train what has no weights yet."""
    parser = argparse.ArgumentParser(description="Train the small nets.")
    parser.add_argument("net", nargs="*", default=list(NETS))
    parser.add_argument("--folder", type=Path, default=WEIGHTS)
    arguments = parser.parse_args()
    folder = make_folder(arguments.folder)
    for name in arguments.net:
        if not (folder / f"{name}.safetensors").exists():
            train(name, folder)


if __name__ == "__main__":
    main()
