"""Rounding factors to few levels while they are trained, and what their codes cost.

The step is learned as in LSQ (Esser et al., arXiv 1902.08153): rounding passes the gradient straight through, so that
the step's gradient follows by itself. The cost is the entropy of a histogram in which every number counts for the two
levels it lies between, so that it has a gradient: moving a number towards the more frequent level lowers it. Training
for loss + rate is the idea of entropy-penalized weights (Oktay et al., arXiv 1906.06624). Numbers near the middle
between two levels flip to and fro at the end of such a training (a quarter of all codes in an epoch, measured); a pull
towards the nearest level that grows over the epochs stops that, after Nagel et al. 2022 (arXiv 2203.11086).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

TINY = 1e-9


class Rounding(nn.Module):
    """Rounds a factor to ``levels`` (odd) multiples of a learned ``step``, symmetric around zero."""

    step: nn.Parameter
    age: Tensor

    def __init__(self, levels: int, factor: Tensor) -> None:
        """The first step is the one of least squared error for ``factor`` (any shape)."""
        super().__init__()
        self.levels = levels
        self.step = nn.Parameter(best_step(factor.detach(), levels))
        self.register_buffer("age", torch.zeros(()))  # in epochs; a buffer, so that a resumed training knows it

    @property
    def largest(self) -> int:
        """The largest code; the smallest is its negative."""
        return self.levels // 2

    def forward(self, factor: Tensor) -> Tensor:
        """The rounded factor, with the gradient of the factor and of the step."""
        scaled = (factor / self.step).clamp(-self.largest, self.largest)
        return (scaled + (scaled.round() - scaled).detach()) * self.step

    @torch.no_grad()
    def codes(self, factor: Tensor) -> Tensor:
        """Whole numbers in float, of the factor's shape: ``codes * step`` is what :meth:`forward` gives."""
        return (factor / self.step).clamp(-self.largest, self.largest).round()

    def strain(self, factor: Tensor) -> Tensor:
        """Sum of squared distances to the nearest level, in steps; the step has no part in it."""
        scaled = (factor / self.step.detach()).clamp(-self.largest, self.largest)
        return (scaled - scaled.detach().round()).square().sum()

    def bits(self, factor: Tensor) -> Tensor:
        """Differentiable estimate of the code length of the whole factor, in bits."""
        scaled = (factor / self.step).clamp(-self.largest, self.largest).flatten() + self.largest
        below = scaled.detach().floor().clamp(max=self.levels - 2)
        above = scaled - below
        shares = scaled.new_zeros(self.levels).index_add(0, below.long(), 1 - above)
        shares = shares.index_add(0, below.long() + 1, above) / len(scaled)
        return -(shares * (shares + TINY).log2()).sum() * len(scaled)


def best_step(factor: Tensor, levels: int) -> Tensor:
    """The step (scalar) with the least squared error of rounding ``factor`` to ``levels``, of a grid of 60."""
    largest, values = levels // 2, factor.flatten()
    steps = values.abs().max().clamp_min(TINY) / largest * torch.linspace(0.05, 1, 60)
    rounded = (values / steps[:, None]).clamp(-largest, largest).round() * steps[:, None]
    best = (rounded - values).square().sum(1).argmin()
    return steps[best].clone()
