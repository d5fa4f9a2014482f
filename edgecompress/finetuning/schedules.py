"""The optimizer of a training, and how its learning rate changes over the steps."""

from __future__ import annotations

import math
from functools import partial

from torch import nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from edgecompress.settings import FineTuning

BETAS = (0.9, 0.99)
"""Of Adam: a second moment over 100 steps follows a short training better than one over 1,000 (measured: factors of
LeNet-300, 20 epochs, training loss 0.163 against 0.184)."""
FEWEST = 10
"""Fewer steps than these make no cycle: the learning rate is then constant."""


def optimizer_of(model: nn.Module, settings: FineTuning) -> Optimizer:
    """SGD with Nesterov momentum, or Adam, of what is to be trained."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if settings.optimizer == "adam":
        return Adam(parameters, settings.lr, BETAS, weight_decay=settings.weight_decay)
    return SGD(parameters, settings.lr, settings.momentum, weight_decay=settings.weight_decay, nesterov=True)


def schedule_of(optimizer: Optimizer, settings: FineTuning, steps: int) -> LRScheduler | None:
    """One cycle (Smith & Topin 2019), or a linear warm-up and a half cosine (Loshchilov & Hutter 2017), or none."""
    if steps < FEWEST or settings.schedule == "constant":
        return None
    if settings.schedule == "cosine":
        return LambdaLR(optimizer, partial(cosine, round(settings.warm_up * steps), steps))
    share = min(max(settings.warm_up, 1 / steps), 1 - 1 / steps)
    return OneCycleLR(optimizer, settings.lr, total_steps=steps, pct_start=share)


def cosine(warm_up: int, steps: int, step: int) -> float:
    """The share of the peak learning rate at ``step``."""
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * min(1, (step - warm_up) / max(1, steps - warm_up))))
