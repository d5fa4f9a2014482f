"""The optimizer of a training, and how its learning rate changes over the steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from torch import nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from edgecompress.settings import FineTuning

BETAS = (0.9, 0.99)
"""Of Adam: a second moment over 100 steps follows a short training better than one over 1,000 (measured: factors of
LeNet-300, 20 epochs, training loss 0.163 against 0.184)."""
CYCLES = 3
"""Of warm restarts, each twice as long as the one before."""
FEWEST = 10
"""Fewer steps than these make no cycle: the learning rate is then constant."""


def optimizer_of(model: nn.Module, settings: FineTuning) -> Optimizer:
    """SGD with Nesterov momentum, or Adam, of what is to be trained."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if settings.optimizer == "adam":
        return Adam(parameters, settings.lr, BETAS, weight_decay=settings.weight_decay)
    return SGD(parameters, settings.lr, settings.momentum, weight_decay=settings.weight_decay, nesterov=True)


def schedule_of(optimizer: Optimizer, settings: FineTuning, steps: int) -> LRScheduler | None:
    """One cycle (Smith & Topin 2019), a warm-up and one or more half cosines (Loshchilov & Hutter 2017), or none."""
    if steps < FEWEST or settings.schedule == "constant":
        return None
    if settings.schedule in SHAPES:
        return LambdaLR(optimizer, partial(SHAPES[settings.schedule], round(settings.warm_up * steps), steps))
    share = min(max(settings.warm_up, 1 / steps), 1 - 1 / steps)
    return OneCycleLR(optimizer, settings.lr, total_steps=steps, pct_start=share)


def cosine(warm_up: int, steps: int, step: int, cycles: int = 1) -> float:
    """The share of the peak learning rate at ``step``; ``cycles`` fall from it one by one (arXiv 1608.03983)."""
    if step < warm_up:
        return (step + 1) / warm_up
    at = min(1, (step - warm_up) / max(1, steps - warm_up)) * (2**cycles - 1)
    cycle = min(cycles - 1, int(math.log2(at + 1)))
    return 0.5 * (1 + math.cos(math.pi * (at - (2**cycle - 1)) / 2**cycle))


restarts = partial(cosine, cycles=CYCLES)
SHAPES: dict[str, Callable[..., float]] = {"cosine": cosine, "restarts": restarts}
"""Of the rate after a linear warm-up."""
