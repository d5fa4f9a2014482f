"""What may be done to a batch on its way into training, whole batches at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from edgecompress.models.datasets import Inputs


def cutout(inputs: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Images (N, C, H, W) with a square of ``side`` pixels, centred anywhere, set to 0: DeVries & Taylor 2017.

    The square may reach over the border; 0 is the mean of normalised images (arXiv 1708.04552).
    """
    count, _, *lengths = inputs.shape
    blanked = torch.ones(count, 1, 1, 1, dtype=torch.bool, device=inputs.device)
    for axis, length in enumerate(lengths):
        first = torch.randint(0, length, (count, 1), generator=generator) - side // 2
        places = torch.arange(length)
        within = ((places >= first) & (places < first + side)).to(inputs.device)
        blanked = blanked & within.view(count, 1, *(length if axis == other else 1 for other in range(len(lengths))))
    return inputs.masked_fill(blanked, 0)


def mixed(inputs: Inputs, alpha: float) -> tuple[Inputs, Tensor, float]:
    """Inputs blended with those of other items, the others' places, and the own share: mixup, Zhang et al. 2018.

    One share for the batch, from Beta(alpha, alpha), drawn like the order from torch's global generator
    (arXiv 1710.09412).
    """
    share = float(torch.distributions.Beta(alpha, alpha).sample())
    others = torch.randperm(len(inputs[0])).to(inputs[0].device)
    return tuple(share * tensor + (1 - share) * tensor[others] for tensor in inputs), others, share
