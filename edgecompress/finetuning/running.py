"""What changes while training, as it is written to a checkpoint and read back."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel

from edgecompress.finetuning.checkpoints import State, save
from edgecompress.finetuning.workers import workers
from edgecompress.models import put_state

SAVE_S, SAVE_SHARE = 60.0, 0.02
"""Within an epoch the state is written after so many seconds, or later: writing takes at most that share of them."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """What one epoch ended with: the mean training loss and the score on the validation split."""

    epoch: int
    loss: float
    score: float


@dataclass(slots=True)
class Within:
    """How far an epoch is: steps done, the sum of their losses, and the states of what numbers are drawn from."""

    step: int = 0
    total: float = 0.0
    drawn: Tensor | None = None
    augmenting: Tensor | None = None


@dataclass(slots=True)
class Run:
    """Everything that changes while training."""

    model: nn.Module
    step: nn.Module
    optimizer: Optimizer
    schedule: LRScheduler | None
    average: AveragedModel | None
    best: dict[str, Tensor] = field(default_factory=dict)
    best_epoch: int = 0
    best_score: float = -math.inf
    history: list[Epoch] = field(default_factory=list)
    within: Within = field(default_factory=Within)
    scoring_s: float = 0.0
    """Seconds that the last score took."""
    steps: int = 0
    """That this process did."""

    @property
    def judged(self) -> nn.Module:
        """The model that is scored and kept: the averaged one where there is one."""
        return self.model if self.average is None else self.average.module

    def keep_if(self, epoch: int, score: float, *, better: bool) -> None:
        """Keep this epoch's weights; of equal scores the later, whose learning rate was lower, is kept."""
        if better:
            self.best = {name: tensor.detach().clone() for name, tensor in changing(self.judged).items()}
            self.best_epoch, self.best_score = epoch, score

    def state(self, key: str) -> State:
        """For a checkpoint: what training may have changed."""
        schedule = self.schedule.state_dict() if self.schedule else {}
        return {
            "key": key,
            "model": changing(self.model),
            "average": self.average.state_dict() if self.average is not None else {},
            "optimizer": self.optimizer.state_dict(),
            "schedule": {
                name: value for name, value in schedule.items() if name != "lr_lambdas" and not callable(value)
            },
            "best": self.best,
            "best_epoch": self.best_epoch,
            "best_score": self.best_score,
            "history": [asdict(epoch) for epoch in self.history],
            "within": asdict(self.within),
        }

    def restore(self, state: State) -> None:
        """The inverse of :meth:`state`."""
        put_state(self.model, {**self.model.state_dict(), **state["model"]})
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.schedule:
            self.schedule.__dict__.update(state["schedule"])
        self.best, self.best_epoch, self.best_score = state["best"], state["best_epoch"], state["best_score"]
        self.history = [Epoch(**epoch) for epoch in state["history"]]
        self.within = Within(**state.get("within", {}))


class Saver:
    """Writes the state of a run: after every epoch, and within one where that is worth it."""

    def __init__(self, run: Run, checkpoint: Path | None, key: str) -> None:
        self.run, self.key = run, key
        self.checkpoint = checkpoint if workers().rank == 0 else None
        self.last, self.pause = time.monotonic(), SAVE_S

    def write(self) -> None:
        """Now."""
        if self.checkpoint is None:
            return
        began = time.monotonic()
        save(self.run.state(self.key), self.checkpoint)
        self.last = time.monotonic()
        self.pause = max(SAVE_S, (self.last - began) / SAVE_SHARE)

    def write_within(self, augmenting: torch.Generator) -> None:
        """After a step, if the last time is long ago; other processes would have to be at the same step.

        On an accelerator, whose random numbers are its own, states are written after epochs alone.
        """
        alone = workers().count == 1 and workers().device.type == "cpu"
        if self.checkpoint is None or not alone or time.monotonic() - self.last < self.pause:
            return
        self.run.within.drawn, self.run.within.augmenting = torch.get_rng_state(), augmenting.get_state()
        self.write()


def changing(model: nn.Module) -> dict[str, Tensor]:
    """The part of a model's state that training may change: all but frozen parameters."""
    named = model.named_parameters(remove_duplicate=False)
    frozen = {name for name, parameter in named if not parameter.requires_grad}
    return {name: tensor for name, tensor in model.state_dict().items() if name not in frozen}
