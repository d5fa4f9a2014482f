"""Rounding factors to few levels while they are trained, and what their codes cost.

The step is learned as in LSQ (Esser et al., arXiv 1902.08153): rounding passes the gradient straight through, so that
the step's gradient follows by itself. The cost is the entropy of a histogram in which every number counts for the two
levels it lies between, so that it has a gradient: moving a number towards the more frequent level lowers it. Training
for loss + rate is the idea of entropy-penalized weights (Oktay et al., arXiv 1906.06624). Numbers near the middle
between two levels flip to and fro at the end of such a training (a quarter of all codes in an epoch, measured) and stop
at random. So numbers are *frozen* by and by, those nearest to a level first, and the others make up for it: Zhou et al.
2017 (arXiv 1702.03044) quantize in portions like that, Nagel et al. 2022 (arXiv 2203.11086) freeze what oscillates,
and dampen it before by a loss on the distance to the nearest level.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

TINY = 1e-9
SLOWER = 0.1
"""How far a step moves in logarithm while a factor's number moves by one: Adam moves both alike. A step that jitters by
a tenth of itself, as it would at the rate of learning of the numbers, moves every large code with it, to the end."""


class Rounding(nn.Module):
    """Rounds a factor to ``levels`` (odd) multiples of a learned ``step``, symmetric around zero.

    ``frozen_mask`` are the numbers that stay at their ``frozen_codes``, ``age`` is in epochs: buffers, so that a
    training that is taken up again knows them.
    """

    initial_step: Tensor
    age: Tensor
    frozen_mask: Tensor
    frozen_codes: Tensor

    def __init__(self, levels: int, factor: Tensor) -> None:
        """The initial step is the one of least squared error for ``factor`` (any shape)."""
        super().__init__()
        self.levels = levels
        self.register_buffer("initial_step", best_step(factor.detach(), levels))
        self.log_step = nn.Parameter(torch.zeros_like(self.initial_step))
        self.register_buffer("age", torch.zeros(()))
        self.register_buffer("frozen_mask", torch.zeros(factor.shape, dtype=torch.bool))
        self.register_buffer("frozen_codes", torch.zeros(factor.shape))

    @property
    def step(self) -> Tensor:
        """The distance between two levels (scalar)."""
        return self.initial_step * (SLOWER * self.log_step).exp()

    @property
    def largest(self) -> int:
        """The largest code; the smallest is its negative."""
        return self.levels // 2

    def scaled(self, factor: Tensor, step: Tensor) -> Tensor:
        """``factor`` in steps, within the levels; frozen numbers are their codes."""
        return torch.where(self.frozen_mask, self.frozen_codes, (factor / step).clamp(-self.largest, self.largest))

    def forward(self, factor: Tensor) -> Tensor:
        """The rounded factor, with the gradient of what is not frozen and of the step."""
        step = self.step
        scaled = self.scaled(factor, step)
        return (scaled + (scaled.round() - scaled).detach()) * step

    @torch.no_grad()
    def codes(self, factor: Tensor) -> Tensor:
        """Whole numbers in float, of the factor's shape: ``codes * step`` is what :meth:`forward` gives."""
        return self.scaled(factor, self.step).round()

    @torch.no_grad()
    def freeze(self, fraction: float, factor: Tensor) -> None:
        """Freeze the numbers nearest to a level at their current codes (Nagel et al. 2022).

        Args:
            fraction: of all numbers, in [0, 1], those that are frozen already among them; their count is rounded down.
            factor: of the shape this was made for.
        """
        self.frozen_codes = self.codes(factor)
        distance = (self.scaled(factor, self.step) - self.frozen_codes).abs()
        distance = distance.masked_fill(self.frozen_mask, -1).flatten()  # once frozen, always frozen
        nearest = distance.argsort()[: int(fraction * len(distance))]
        chosen = torch.zeros_like(distance, dtype=torch.bool).index_fill(0, nearest, value=True)
        self.frozen_mask |= chosen.view_as(self.frozen_mask)

    def dampening_loss(self, factor: Tensor) -> Tensor:
        """Sum of squared distances to the nearest level, in steps; it has no gradient to the step."""
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
