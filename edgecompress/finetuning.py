"""Fine-tuning a compressed model: train the factors, learn from the dense model, keep the best, resume.

A run that was interrupted and resumed ends with the same weights as one that was not: the order of the
images, the augmentation and dropout depend on the seed and the epoch alone, and a checkpoint is written after
every epoch.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import Dataset

from edgecompress.datasets import Batch, Inputs, as_inputs, batches, fingerprint, raw_bytes, size
from edgecompress.errors import ModelError, TrainingError
from edgecompress.files import written_aside
from edgecompress.models import Sample, call, copied
from edgecompress.progress import Progress, silent
from edgecompress.scoring import score_on

CHECKPOINT_VERSION = 1
FEWEST = 10
"""Fewer steps than these make no cycle: the learning rate is then constant."""
State = dict[str, Any]


@dataclass(frozen=True, slots=True)
class FineTuning:
    """Options of :func:`finetune`.

    ``lr`` is the peak of the one-cycle schedule (``sgd``) or constant (``adam``); ``distill`` in [0, 1] is the
    share of the loss that follows the teacher's softened outputs at ``temperature``; ``clip`` bounds the
    gradient's norm; ``bfloat16`` runs forward and backward in autocast.
    """

    epochs: int = 3
    optimizer: Literal["sgd", "adam"] = "sgd"
    lr: float = 0.03
    momentum: float = 0.9
    weight_decay: float = 1e-4
    batch_size: int = 128
    distill: float = 0.7
    temperature: float = 4.0
    clip: float = 5.0
    seed: int = 0
    bfloat16: bool = False


@dataclass(frozen=True, slots=True)
class Epoch:
    """What one epoch ended with: the mean training loss and the score on the validation split."""

    epoch: int
    loss: float
    score: float


@dataclass(frozen=True, slots=True)
class FineTuned:
    """The best model by validation score (the later of equals); ``best_epoch`` 0 is the model as given."""

    model: nn.Module
    best_epoch: int
    best_score: float
    history: tuple[Epoch, ...]


@dataclass(frozen=True, slots=True)
class _Task:
    """Everything that stays the same while training."""

    sample: Sample
    settings: FineTuning
    teacher: nn.Module | None
    train: Dataset[Any]
    validation: Dataset[Any]
    progress: Progress
    start: str

    @property
    def steps(self) -> int:
        """Whole batches an epoch; at least one."""
        return max(1, size(self.train) // self.settings.batch_size)

    def key(self, model: nn.Module) -> str:
        """Identifies the start: what the caller said, settings, data, and the weights of model and teacher."""
        data = fingerprint(self.train, inputs_too=False)
        return f"{self.start} {self.settings!r} {data} {state_digest(model)} {state_digest(self.teacher)}"


@dataclass(slots=True)
class _Run:
    """Everything that changes while training."""

    model: nn.Module
    optimizer: Optimizer
    schedule: OneCycleLR | None
    best: dict[str, Tensor] = field(default_factory=dict)
    best_epoch: int = 0
    best_score: float = -math.inf
    history: list[Epoch] = field(default_factory=list)

    def keep_if_best(self, epoch: int, score: float) -> None:
        """Keep this epoch's weights; of equal scores the later, whose learning rate was lower, is kept."""
        if score >= self.best_score:
            self.best = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}
            self.best_epoch, self.best_score = epoch, score

    def state(self, key: str) -> State:
        schedule = self.schedule.state_dict() if self.schedule else {}
        return {
            "version": CHECKPOINT_VERSION,
            "key": key,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": {name: value for name, value in schedule.items() if not callable(value)},
            "best": self.best,
            "best_epoch": self.best_epoch,
            "best_score": self.best_score,
            "history": [asdict(epoch) for epoch in self.history],
        }

    def restore(self, state: State) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.schedule:
            self.schedule.load_state_dict(state["schedule"])
        self.best, self.best_epoch, self.best_score = state["best"], state["best_epoch"], state["best_score"]
        self.history = [Epoch(**epoch) for epoch in state["history"]]


def finetune(
    model: nn.Module,
    sample: Sample,
    settings: FineTuning,
    *,
    teacher: nn.Module | None = None,
    checkpoint: Path | None = None,
    key: str = "",
    progress: Progress = silent,
) -> FineTuned:
    """Train a copy of ``model`` on the sample's train split; the best by validation score comes back.

    With ``checkpoint`` the state is written there after every epoch, and a run that finds a checkpoint of the
    same start, settings, data and ``key`` (what else the caller's training depends on) goes on from it.

    Raises:
        DataError: the sample has no data.
        ModelError: distillation is asked for and the outputs are not one tensor.
        TrainingError: the loss is not finite any more.
    """
    if settings.epochs == 0:
        return FineTuned(copied(model), 0, math.nan, ())
    splits = sample.data("train"), sample.data("validation")
    task = _Task(sample, settings, copied(teacher).eval() if teacher else None, *splits, progress, key)
    run, key = _start(model, task), task.key(model)
    if not _resume(run, checkpoint, key):
        run.keep_if_best(0, score_on(run.model, sample, task.validation))
    for epoch in range(len(run.history) + 1, settings.epochs + 1):
        loss = _train_epoch(run, task, epoch)
        reached = score_on(run.model, sample, task.validation)
        run.history.append(Epoch(epoch, loss, reached))
        run.keep_if_best(epoch, reached)
        if checkpoint is not None:
            _save(run, checkpoint, key)
    return _finish(run, model)


def _start(model: nn.Module, task: _Task) -> _Run:
    settings, trained = task.settings, copied(model)
    if all(parameter.dim() <= 4 for parameter in trained.parameters()):
        trained.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    parameters = [parameter for parameter in trained.parameters() if parameter.requires_grad]
    if settings.optimizer == "adam":
        return _Run(trained, Adam(parameters, settings.lr, weight_decay=settings.weight_decay), None)
    optimizer = SGD(parameters, settings.lr, settings.momentum, weight_decay=settings.weight_decay, nesterov=True)
    steps = settings.epochs * task.steps
    return _Run(trained, optimizer, OneCycleLR(optimizer, settings.lr, total_steps=steps) if steps >= FEWEST else None)


def _finish(run: _Run, model: nn.Module) -> FineTuned:
    best = copied(model)
    best.load_state_dict({name: tensor.contiguous() for name, tensor in run.best.items()})
    return FineTuned(best.eval(), run.best_epoch, run.best_score, tuple(run.history))


def _train_epoch(run: _Run, task: _Task, epoch: int) -> float:
    """One pass over the train split; returns the mean loss."""
    torch.manual_seed(task.settings.seed * 100_003 + epoch)
    run.model.train()
    total, name = 0.0, f"fine-tune, epoch {epoch} of {task.settings.epochs}"
    for step, (inputs, targets) in enumerate(_training_batches(task, epoch), start=1):
        loss = _step(run, task, inputs, targets)
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss became {loss} in epoch {epoch}, step {step}; try a smaller --lr (it was {task.settings.lr})"
            )
        total += loss
        task.progress(name, step, task.steps, _detail(run, total / step))
    return total / task.steps


def _detail(run: _Run, loss: float) -> str:
    score = f", validation {run.history[-1].score:.2f}" if run.history else ""
    return f"loss {loss:.4f}{score}"


def _training_batches(task: _Task, epoch: int) -> Iterator[Batch]:
    """Whole batches in an order, and with an augmentation, that depend on the seed and the epoch alone."""
    generator = torch.Generator().manual_seed(task.settings.seed * 100_003 + epoch)
    order = torch.randperm(size(task.train), generator=generator)
    whole = order[: task.steps * task.settings.batch_size]
    augment = task.sample.augment
    for inputs, targets in batches(task.train, task.settings.batch_size, whole):
        given = inputs[0] if len(inputs) == 1 else inputs
        if augment is not None:
            given = call(task.sample.name, "augment(inputs, generator)", partial(augment, given, generator))
        yield tuple(map(_channels_last, as_inputs(given))), targets


def _channels_last(inputs: Tensor) -> Tensor:
    return inputs.contiguous(memory_format=torch.channels_last) if inputs.dim() == 4 else inputs


def _step(run: _Run, task: _Task, inputs: Inputs, targets: Tensor) -> float:
    """One update of the weights; returns the loss."""
    run.optimizer.zero_grad(set_to_none=True)
    loss = _loss(run.model, task, inputs, targets)
    torch.autograd.backward(loss)
    nn.utils.clip_grad_norm_(run.model.parameters(), task.settings.clip)
    run.optimizer.step()
    if run.schedule is not None:
        run.schedule.step()
    return float(loss.detach())


def _loss(model: nn.Module, task: _Task, inputs: Inputs, targets: Tensor) -> Tensor:
    """The sample's loss and the distillation loss, mixed; what has no share is not computed."""
    share = task.settings.distill if task.teacher is not None else 0.0
    with torch.autocast("cpu", torch.bfloat16, enabled=task.settings.bfloat16):
        outputs = call(task.sample.name, "running the model on its data", partial(model, *inputs))
        expected = _teach(task.teacher, inputs) if task.teacher is not None and share else None
    loss = torch.zeros(())
    if share < 1:
        given = call(task.sample.name, "loss(outputs, targets)", partial(task.sample.loss, outputs, targets))
        loss = (1 - share) * given
    if expected is not None:
        loss = loss + share * distillation(outputs, expected, task.settings.temperature)
    return loss


def _teach(teacher: nn.Module, inputs: Inputs) -> Tensor:
    with torch.no_grad():
        expected: Tensor = teacher(*inputs)
    return expected


def distillation(outputs: Tensor, expected: Tensor, temperature: float) -> Tensor:
    """Cross-entropy between softened outputs less the teacher's entropy, times T^2 (Hinton et al. 2015).

    ``outputs`` and ``expected`` are logits (N, classes, ...); the mean over N and any further dimensions.

    Raises:
        ModelError: the model's outputs are not one tensor of logits.
    """
    if not isinstance(outputs, Tensor) or outputs.dim() < 2 or outputs.shape[1] < 2:
        raise ModelError("distillation needs one output of logits (N, classes, ...); fine-tune with --distill 0")
    student = (outputs.float() / temperature).log_softmax(1)
    target = (expected.float() / temperature).log_softmax(1)
    divergence = nn.functional.kl_div(student, target, reduction="none", log_target=True).sum(1).mean()
    return divergence * temperature**2


def state_digest(model: nn.Module | None) -> str:
    """A digest of a model's weights and buffers, by name."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items() if model is not None else ():
        digest.update(name.encode())
        digest.update(raw_bytes(tensor))
    return digest.hexdigest()


def _save(run: _Run, checkpoint: Path, key: str) -> None:
    state = io.BytesIO()
    torch.save(run.state(key), state)
    with written_aside(checkpoint) as aside:
        aside.write_bytes(state.getbuffer())


def _resume(run: _Run, checkpoint: Path | None, key: str) -> bool:
    """Restore a checkpoint of the same start; anything else, or a damaged file, means starting over."""
    if checkpoint is None or not checkpoint.is_file():
        return False
    try:
        state = torch.load(checkpoint, weights_only=True)
    except Exception:  # a damaged file can fail in any way; the run can always start over
        return False
    if not isinstance(state, dict) or state.get("version") != CHECKPOINT_VERSION or state.get("key") != key:
        return False
    run.restore(state)
    return True
