"""Rounding factors to few levels while they are trained, and what their codes cost.

The step is learned as in LSQ (Esser et al., arXiv 1902.08153): rounding passes the gradient straight through, so that
the step's gradient follows by itself. The cost is the entropy of a histogram in which every number counts for the two
levels it lies between, so that it has a gradient: moving a number towards the more frequent level lowers it. Training
for loss + rate is the idea of entropy-penalized weights (Oktay et al., arXiv 1906.06624). Numbers near the middle
between two levels flip to and fro at the end of such a training (a quarter of all codes in an epoch, measured) and stop
at random. So numbers are *held* by and by, those nearest to a level first, and the others make up for it: Zhou et al.
2017 (arXiv 1702.03044) quantize in portions like that, Nagel et al. 2022 (arXiv 2203.11086) freeze what flips.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

TINY = 1e-9
SLOWER = 0.1
"""How far a step moves in logarithm while a factor's number moves by one: Adam moves both alike. A step that jitters by
a tenth of itself, as it would at the rate of learning of the numbers, moves every large code with it, to the end."""


class Rounding(nn.Module):
    """Rounds a factor to ``levels`` (odd) multiples of a learned ``step``, symmetric around zero."""

    first: Tensor
    age: Tensor
    held: Tensor
    kept: Tensor

    def __init__(self, levels: int, factor: Tensor) -> None:
        """The first step is the one of least squared error for ``factor`` (any shape)."""
        super().__init__()
        self.levels = levels
        self.register_buffer("first", best_step(factor.detach(), levels))
        self.grown = nn.Parameter(torch.zeros_like(self.first))
        self.register_buffer("age", torch.zeros(()))  # in epochs; a buffer, so that a resumed training knows it
        self.register_buffer("held", torch.zeros(factor.shape, dtype=torch.bool))
        self.register_buffer("kept", torch.zeros(factor.shape))

    @property
    def step(self) -> Tensor:
        """The distance between two levels (scalar)."""
        return self.first * (SLOWER * self.grown).exp()

    @property
    def largest(self) -> int:
        """The largest code; the smallest is its negative."""
        return self.levels // 2

    def scaled(self, factor: Tensor, step: Tensor) -> Tensor:
        """``factor`` in steps, within the levels; held numbers are their codes."""
        return torch.where(self.held, self.kept, (factor / step).clamp(-self.largest, self.largest))

    def forward(self, factor: Tensor) -> Tensor:
        """The rounded factor, with the gradient of what is not held and of the step."""
        step = self.step
        scaled = self.scaled(factor, step)
        return (scaled + (scaled.round() - scaled).detach()) * step

    @torch.no_grad()
    def codes(self, factor: Tensor) -> Tensor:
        """Whole numbers in float, of the factor's shape: ``codes * step`` is what :meth:`forward` gives."""
        return self.scaled(factor, self.step).round()

    @torch.no_grad()
    def hold(self, share: float, factor: Tensor) -> None:
        """Let ``share`` of all numbers, rounded down, stay the codes they are: of those not yet held the nearest."""
        self.kept = self.codes(factor)
        away = (self.scaled(factor, self.step) - self.kept).abs()
        away = away.masked_fill(self.held, -1).flatten()  # held ones first
        nearest = away.argsort()[: int(share * len(away))]
        self.held |= torch.zeros_like(away, dtype=torch.bool).index_fill(0, nearest, value=True).view_as(self.held)

    def strain(self, factor: Tensor) -> Tensor:
        """Sum of squared distances to the nearest level, in steps; the step has no part in it."""
        scaled = self.scaled(factor, self.step.detach())
        return (scaled - scaled.detach().round()).square().sum()

    def bits(self, factor: Tensor) -> Tensor:
        """Differentiable estimate of the code length of the whole factor, in bits."""
        scaled = self.scaled(factor, self.step).flatten() + self.largest
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
