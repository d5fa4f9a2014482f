"""The one training loop: fine-tuning and every recipe go through :func:`fit`.

A run that was interrupted and resumed ends with the same weights as one that was not: the order of the items, the
augmentation and dropout depend on the seed and the epoch alone, and a checkpoint is written after every epoch and, in a
process that trains alone on a CPU, within long ones. With several processes each takes its part of every batch; the
first one scores and writes.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from edgecompress.errors import TrainingError
from edgecompress.finetuning.batching import Task, at_once_of, counting, training_batches
from edgecompress.finetuning.checkpoints import load
from edgecompress.finetuning.halving import sparing_slow_layers
from edgecompress.finetuning.running import Epoch, Run, Saver, Within
from edgecompress.finetuning.schedules import optimizer_of, schedule_of
from edgecompress.finetuning.workers import explained, workers
from edgecompress.memory import keeping_much
from edgecompress.models import Sample, copied, put_state
from edgecompress.models.calling import call
from edgecompress.models.datasets import Inputs, in_parts
from edgecompress.models.forms import mapped
from edgecompress.progress import Progress, duration, notice
from edgecompress.progress import silent as quiet
from edgecompress.scoring import score_on
from edgecompress.settings import FineTuning, SelectEpoch

UNSEEN_S = 5.0
"""A score that takes longer is seen in progress."""
LONG_S = 120.0
"""A training that will take longer is announced with its length, once a step is known to take."""


class Objective(ABC):
    """What training minimises. Lasting state belongs into the model's buffers: the object itself is not stored."""

    @abstractmethod
    def loss(self, model: nn.Module, inputs: Inputs, targets: Tensor) -> Tensor:
        """A scalar for one batch; runs ``model`` itself, in autocast where that is asked for."""

    def epoch_ended(self, model: nn.Module) -> None:  # noqa: B027 - most have nothing to do there
        """May change parameters and buffers in place between epochs, not their shapes."""

    def to(self, device: torch.device) -> None:  # noqa: B027
        """Move what the objective itself holds, such as a teacher."""


@dataclass(frozen=True, slots=True)
class FineTuned:
    """The best model by validation score (the later of equals), or the last; ``best_epoch`` 0 is the model as given."""

    model: nn.Module
    best_epoch: int
    best_score: float
    history: tuple[Epoch, ...]


class _Step(nn.Module):
    """Model and objective as one module, so that gradients of everything in the loss are averaged over processes."""

    def __init__(self, model: nn.Module, objective: Objective, *, halved: bool) -> None:
        super().__init__()
        self.model, self.objective, self.halved = model, objective, halved

    def forward(self, inputs: Inputs, targets: Tensor) -> Tensor:
        """The loss of one batch."""
        with torch.autocast(targets.device.type, torch.bfloat16, enabled=True) if self.halved else nullcontext():
            return self.objective.loss(self.model, inputs, targets)


def fit(
    model: nn.Module,
    sample: Sample,
    settings: FineTuning,
    objective: Objective,
    *,
    select_epoch: SelectEpoch = "best",
    what: str = "fine-tune",
    checkpoint: Path | None = None,
    key: str = "",
    progress: Progress = quiet,
) -> FineTuned:
    """Train a copy of ``model`` for ``settings.epochs`` on the sample's train split.

    With ``checkpoint`` the state is written there after every epoch and within long ones, and a run that finds a
    checkpoint of the same start, settings, data and ``key`` (what else the training depends on) goes on from it.
    Parameters of ``model`` that are frozen stay as they are.

    Raises:
        DataError: the sample has no data.
        TrainingError: the loss is not finite any more, or another process ended.
    """
    if settings.epochs == 0:
        return FineTuned(copied(model), 0, math.nan, ())
    train, validation = sample.data("train"), sample.data("validation")
    at_once = at_once_of(model, sample, train, settings)
    task = Task(sample, settings, objective, train, validation, progress, what, select_epoch, at_once)
    run, key = _start(model, task), task.key(key, model)
    stored, saver = load(checkpoint, key), Saver(run, checkpoint, key)
    if stored is None:
        run.keep_if(0, _score(run, task), better=True)
    else:
        run.restore(stored)
    with keeping_much():
        for epoch in range(len(run.history) + 1, settings.epochs + 1):
            _one_epoch(run, task, epoch, saver)
            saver.write()
    return _finish(run, model)


def _start(model: nn.Module, task: Task) -> Run:
    settings, device = task.settings, workers().device
    trained = copied(model).to(device)
    if all(parameter.dim() <= 4 for parameter in trained.parameters()):
        trained.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if settings.bfloat16 and device.type == "cpu":
        sparing_slow_layers(trained)
    task.objective.to(device)
    optimizer = optimizer_of(trained, settings)
    step, prepared = workers().prepare(_Step(trained, task.objective, halved=settings.bfloat16), optimizer)
    average = None
    if settings.ema:
        average = AveragedModel(trained, multi_avg_fn=get_ema_multi_avg_fn(settings.ema), use_buffers=True)
    return Run(trained, step, prepared, schedule_of(optimizer, settings, settings.epochs * task.steps), average)


def _finish(run: Run, model: nn.Module) -> FineTuned:
    best = copied(model)
    put_state(best, {**best.state_dict(), **{name: tensor.cpu().contiguous() for name, tensor in run.best.items()}})
    return FineTuned(best.eval(), run.best_epoch, run.best_score, tuple(run.history))


def _score(run: Run, task: Task) -> float:
    """The validation score, worked out by the first process."""
    device = workers().device

    def predict(*inputs: Tensor) -> Any:
        with torch.no_grad():
            outputs = run.judged.eval()(*(tensor.to(device) for tensor in inputs))
        return mapped(outputs, lambda leaf: leaf.cpu() if isinstance(leaf, Tensor) else leaf)

    def listen(_name: str, done: int, total: int, detail: str) -> None:
        if time.monotonic() - began > UNSEEN_S:
            task.progress(f"{task.what}, validation", done, total, detail)

    began = time.monotonic()
    found = workers().shared(lambda: score_on(predict, task.sample, task.validation, progress=listen))
    run.scoring_s = time.monotonic() - began
    return found


def _one_epoch(run: Run, task: Task, epoch: int, saver: Saver) -> None:
    """One pass over the train split, or the items of an epoch, then the score."""
    loss = _train_epoch(run, task, epoch, saver)
    task.objective.epoch_ended(run.model)
    reached = _score(run, task)
    run.history.append(Epoch(epoch, loss, reached))
    run.keep_if(epoch, reached, better=task.select_epoch == "last" or reached >= run.best_score)


def _train_epoch(run: Run, task: Task, epoch: int, saver: Saver) -> float:
    """Returns the mean loss over steps and processes."""
    name, generator = f"{task.what}, epoch {epoch} of {task.settings.epochs}", torch.Generator()
    torch.manual_seed(task.settings.seed * 100_003 + epoch)
    if run.within.drawn is not None:
        torch.set_rng_state(run.within.drawn.cpu())
    _set_mode(run.model, task.settings)
    for inputs, targets in training_batches(task, epoch, generator, run.within):
        began = time.monotonic()
        with explained():
            loss = _update(run, task, inputs, targets)
        run.within.step, run.steps = run.within.step + 1, run.steps + 1
        run.within.total += loss
        _check_finite(loss, epoch, run.within.step, task.settings.lr)
        task.progress(name, run.within.step, task.steps, _detail(run, run.within.total / run.within.step))
        _announce(run, task, epoch, time.monotonic() - began)
        saver.write_within(generator)
    total, run.within = run.within.total, Within()
    return workers().mean(total / task.steps)


def _set_mode(model: nn.Module, settings: FineTuning) -> None:
    """Training mode; where factors alone are trained, the statistics of batch norms stay too."""
    model.train()
    for module in model.modules() if settings.train == "factors" else ():
        if isinstance(module, _BatchNorm):
            module.eval()


def _check_finite(loss: float, epoch: int, step: int, lr: float) -> None:
    if not math.isfinite(loss):
        raise TrainingError(f"the loss became {loss} in epoch {epoch}, step {step}; try a smaller --lr (it was {lr})")


def _announce(run: Run, task: Task, epoch: int, step_s: float) -> None:
    """Say how long it will take, once that is known: by the second step, since the first takes what others reuse."""
    later = task.settings.epochs - epoch
    left = (task.steps - run.within.step + later * task.steps) * step_s + (later + 1) * run.scoring_s
    if run.steps == 2 and left > LONG_S:
        notice(
            f"{task.what}: about {duration(left)} left (epochs: {task.settings.epochs}, of {task.steps} steps each); a "
            f"step takes {step_s:.2g} s, a score {duration(run.scoring_s)}; --train-items N makes epochs shorter"
        )


def _detail(run: Run, loss: float) -> str:
    score = f", validation {run.history[-1].score:.2f}" if run.history else ""
    return f"loss {loss:.4f}{score}"


def _backward(name: str, loss: Tensor) -> None:
    """Gradients; of one process alone, an error is the model's, of several it may be another process that ended."""
    if workers().count > 1:
        workers().backward(loss)
    else:
        call(name, "the gradient of its loss", partial(workers().backward, loss))


def _update(run: Run, task: Task, inputs: Inputs, targets: Tensor) -> float:
    """One update of the weights from one batch, in parts; returns the loss."""
    run.optimizer.zero_grad(set_to_none=True)
    length = min(task.at_once, -(-len(targets) // task.settings.accumulate))
    parts, total = list(in_parts((*inputs, targets), length)), 0.0
    whole = counting(task.sample, targets)
    for number, (*some, wanted) in enumerate(parts, start=1):
        with workers().apart(run.step) if number < len(parts) else nullcontext():
            loss = run.step(tuple(some), wanted) * (counting(task.sample, wanted) / whole)
            _backward(task.sample.name, loss)
        total += float(loss.detach())
    workers().clip(list(run.model.parameters()), task.settings.clip)
    run.optimizer.step()
    if run.schedule is not None:
        run.schedule.step()
    if run.average is not None:
        run.average.update_parameters(run.model)
    return total
