"""The one training loop: fine-tuning and every recipe go through :func:`fit`.

A run that was interrupted and resumed ends with the same weights as one that was not: the order of the items, the
augmentation and dropout depend on the seed and the epoch alone, and a checkpoint is written after every epoch. With
several processes each takes its part of every batch; the first one scores and writes.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import Dataset

from edgecompress.errors import TrainingError
from edgecompress.finetuning.augmentation import augmented, channels_last
from edgecompress.finetuning.checkpoints import State, load, save
from edgecompress.finetuning.halving import sparing_slow_layers
from edgecompress.finetuning.schedules import optimizer_of, schedule_of
from edgecompress.finetuning.workers import explained, workers
from edgecompress.memory import keeping_much
from edgecompress.models import Sample, copied, put_state, state_digest
from edgecompress.models.calling import call
from edgecompress.models.datasets import Batch, Inputs, batches, fingerprint, in_parts, size
from edgecompress.models.forms import mapped
from edgecompress.progress import Progress
from edgecompress.progress import silent as quiet
from edgecompress.scoring import score_on
from edgecompress.settings import FineTuning, SelectEpoch


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
class Epoch:
    """What one epoch ended with: the mean training loss and the score on the validation split."""

    epoch: int
    loss: float
    score: float


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


@dataclass(frozen=True, slots=True)
class _Task:
    """Everything that stays the same while training."""

    sample: Sample
    settings: FineTuning
    objective: Objective
    train: Dataset[Any]
    validation: Dataset[Any]
    progress: Progress
    what: str
    select_epoch: SelectEpoch

    @property
    def steps(self) -> int:
        """Whole batches an epoch; at least one."""
        return max(1, size(self.train) // self.settings.batch_size)

    def key(self, start: str, model: nn.Module) -> str:
        """Identifies the run: what the caller said, settings, data, and the weights it starts from."""
        data = fingerprint(self.train, inputs_too=False)
        return f"{start} {self.settings!r} {data} {state_digest(model)} {self.select_epoch}"


@dataclass(slots=True)
class _Run:
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

    @property
    def judged(self) -> nn.Module:
        """The model that is scored and kept: the averaged one where there is one."""
        return self.model if self.average is None else self.average.module

    def keep_if(self, epoch: int, score: float, *, better: bool) -> None:
        """Keep this epoch's weights; of equal scores the later, whose learning rate was lower, is kept."""
        if better:
            self.best = {name: tensor.detach().clone() for name, tensor in self.judged.state_dict().items()}
            self.best_epoch, self.best_score = epoch, score

    def state(self, key: str) -> State:
        schedule = self.schedule.state_dict() if self.schedule else {}
        return {
            "key": key,
            "model": self.model.state_dict(),
            "average": self.average.state_dict() if self.average is not None else {},
            "optimizer": self.optimizer.state_dict(),
            "schedule": {
                name: value for name, value in schedule.items() if name != "lr_lambdas" and not callable(value)
            },
            "best": self.best,
            "best_epoch": self.best_epoch,
            "best_score": self.best_score,
            "history": [asdict(epoch) for epoch in self.history],
        }

    def restore(self, state: State) -> None:
        self.model.load_state_dict(state["model"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.schedule:
            self.schedule.__dict__.update(state["schedule"])
        self.best, self.best_epoch, self.best_score = state["best"], state["best_epoch"], state["best_score"]
        self.history = [Epoch(**epoch) for epoch in state["history"]]


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

    With ``checkpoint`` the state is written there after every epoch, and a run that finds a checkpoint of the
    same start, settings, data and ``key`` (what else the training depends on) goes on from it.

    Raises:
        DataError: the sample has no data.
        TrainingError: the loss is not finite any more, or another process ended.
    """
    if settings.epochs == 0:
        return FineTuned(copied(model), 0, math.nan, ())
    train, validation = sample.data("train"), sample.data("validation")
    task = _Task(sample, settings, objective, train, validation, progress, what, select_epoch)
    run, key = _start(model, task), task.key(key, model)
    stored = load(checkpoint, key)
    if stored is None:
        run.keep_if(0, _score(run, task), better=True)
    else:
        run.restore(stored)
    with keeping_much():
        for epoch in range(len(run.history) + 1, settings.epochs + 1):
            _one_epoch(run, task, epoch)
            if checkpoint is not None and workers().rank == 0:
                save(run.state(key), checkpoint)
    return _finish(run, model)


def _start(model: nn.Module, task: _Task) -> _Run:
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
    return _Run(trained, step, prepared, schedule_of(optimizer, settings, settings.epochs * task.steps), average)


def _finish(run: _Run, model: nn.Module) -> FineTuned:
    best = copied(model)
    put_state(best, {name: tensor.cpu().contiguous() for name, tensor in run.best.items()})
    return FineTuned(best.eval(), run.best_epoch, run.best_score, tuple(run.history))


def _score(run: _Run, task: _Task) -> float:
    """The validation score, worked out by the first process."""
    device = workers().device

    def predict(*inputs: Tensor) -> Any:
        with torch.no_grad():
            outputs = run.judged.eval()(*(tensor.to(device) for tensor in inputs))
        return mapped(outputs, lambda leaf: leaf.cpu() if isinstance(leaf, Tensor) else leaf)

    return workers().shared(lambda: score_on(predict, task.sample, task.validation))


def _one_epoch(run: _Run, task: _Task, epoch: int) -> None:
    """One pass over the train split, then the score."""
    loss = _train_epoch(run, task, epoch)
    task.objective.epoch_ended(run.model)
    reached = _score(run, task)
    run.history.append(Epoch(epoch, loss, reached))
    run.keep_if(epoch, reached, better=task.select_epoch == "last" or reached >= run.best_score)


def _train_epoch(run: _Run, task: _Task, epoch: int) -> float:
    """Returns the mean loss over steps and processes."""
    torch.manual_seed(task.settings.seed * 100_003 + epoch)
    run.model.train()
    total, name = 0.0, f"{task.what}, epoch {epoch} of {task.settings.epochs}"
    for step, (inputs, targets) in enumerate(_training_batches(task, epoch), start=1):
        with explained():
            loss = _update(run, task, inputs, targets)
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss became {loss} in epoch {epoch}, step {step}; try a smaller --lr (it was {task.settings.lr})"
            )
        total += loss
        task.progress(name, step, task.steps, _detail(run, total / step))
    return workers().mean(total / task.steps)


def _detail(run: _Run, loss: float) -> str:
    score = f", validation {run.history[-1].score:.2f}" if run.history else ""
    return f"loss {loss:.4f}{score}"


def _training_batches(task: _Task, epoch: int) -> Iterator[Batch]:
    """This process's part of every batch, in an order that depends on the seed and the epoch alone."""
    seed, rank, count = task.settings.seed * 100_003 + epoch, workers().rank, workers().count
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(size(task.train), generator=generator)
    if rank:
        generator.manual_seed(seed + 7_919 * rank)
    whole = order[: task.steps * task.settings.batch_size]
    parts = [batch.tensor_split(count)[rank] for batch in whole.split(task.settings.batch_size)]
    for inputs, targets in batches(task.train, len(parts[0]), torch.cat(parts)):
        given = augmented(task.sample, inputs, generator, cutout_side=task.settings.cutout)
        yield tuple(channels_last(tensor).to(workers().device) for tensor in given), targets.to(workers().device)


def _backward(name: str, loss: Tensor) -> None:
    """Gradients; of one process alone, an error is the model's, of several it may be another process that ended."""
    if workers().count > 1:
        workers().backward(loss)
    else:
        call(name, "the gradient of its loss", partial(workers().backward, loss))


def _update(run: _Run, task: _Task, inputs: Inputs, targets: Tensor) -> float:
    """One update of the weights from one batch, in parts; returns the loss."""
    run.optimizer.zero_grad(set_to_none=True)
    length = -(-len(targets) // task.settings.accumulate)
    parts, total = list(in_parts((*inputs, targets), length)), 0.0
    for number, (*some, wanted) in enumerate(parts, start=1):
        with workers().apart(run.step) if number < len(parts) else nullcontext():
            loss = run.step(tuple(some), wanted) * (len(wanted) / len(targets))
            _backward(task.sample.name, loss)
        total += float(loss.detach())
    workers().clip(list(run.model.parameters()), task.settings.clip)
    run.optimizer.step()
    if run.schedule is not None:
        run.schedule.step()
    if run.average is not None:
        run.average.update_parameters(run.model)
    return total
