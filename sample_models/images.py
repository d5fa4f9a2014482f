"""Small images held in memory as bytes and normalised when a batch is asked for."""

import torch
from torch import Tensor
from torch.utils.data import Dataset


class Images(Dataset[tuple[Tensor, Tensor]]):
    """Images (N, channels, height, width) of bytes with labels (N,), given out as (x / 255 - mean) / std."""

    def __init__(self, pixels: Tensor, labels: Tensor, mean: list[float], std: list[float], origin: str) -> None:
        self.pixels, self.labels, self.origin = pixels, labels.long(), origin
        self.mean, self.std = (torch.tensor(values).view(1, -1, 1, 1) for values in (mean, std))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        inputs, targets = self.batch(torch.tensor([index]))
        return inputs[0], targets[0]

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Whole batch at once."""
        return (self.pixels[indices].float() / 255 - self.mean) / self.std, self.labels[indices]

    def part(self, first: int, last: int) -> "Images":
        """The images ``first`` to ``last`` (exclusive)."""
        mean, std = self.mean.flatten().tolist(), self.std.flatten().tolist()
        return Images(self.pixels[first:last], self.labels[first:last], mean, std, self.origin)
