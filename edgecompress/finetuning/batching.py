"""What stays the same while training, and the batches that follow from it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from edgecompress.finetuning.augmentation import augmented, channels_last
from edgecompress.finetuning.workers import workers
from edgecompress.models import Sample, evaluating, state_digest, tensors_of
from edgecompress.models.calling import call
from edgecompress.models.datasets import Batch, batches, fingerprint, size, take
from edgecompress.models.kinds import IGNORED
from edgecompress.progress import Progress
from edgecompress.settings import FineTuning, SelectEpoch

if TYPE_CHECKING:
    from edgecompress.finetuning.loop import Objective
    from edgecompress.finetuning.running import Within

OUTPUT_BYTES = 2**26
"""Of the outputs of one part of a batch, where they are scores of tokens; forward and backward take about ten times
that: one window of 256 tokens of a vocabulary of 49,152 has 50 MB."""


@dataclass(frozen=True, slots=True)
class Task:
    """Everything that stays the same while training."""

    sample: Sample
    settings: FineTuning
    objective: Objective
    train: Dataset[Any]
    validation: Dataset[Any]
    progress: Progress
    what: str
    select_epoch: SelectEpoch
    at_once: int
    """Items of a batch that are run together at most."""

    @property
    def items(self) -> int:
        """Of the train split that an epoch takes."""
        return self.settings.train_items or size(self.train)

    @property
    def steps(self) -> int:
        """Whole batches an epoch; at least one."""
        return max(1, self.items // self.settings.batch_size)

    def key(self, start: str, model: nn.Module) -> str:
        """Identifies the run: what the caller said, settings, data, and the weights it starts from."""
        data = fingerprint(self.train, inputs_too=False)
        return f"{start} {self.settings!r} {data} {state_digest(model)} {self.select_epoch}"


def at_once_of(model: nn.Module, sample: Sample, train: Dataset[Any], settings: FineTuning) -> int:
    """Items of a batch that are run together: as ``accumulate`` says, and of tokens so few that outputs stay small."""
    most = -(-settings.batch_size // settings.accumulate)
    if sample.kind != "tokens":
        return most
    inputs, _ = take(train, torch.zeros(1, dtype=torch.long))
    with evaluating(model), torch.no_grad():
        outputs = call(sample.name, "running the model on its data", partial(model, *inputs))
    return max(1, min(most, OUTPUT_BYTES // max(1, sum(output.nbytes for output in tensors_of(outputs)))))


def drawn(task: Task, epoch: int, generator: torch.Generator) -> list[Tensor]:
    """The items of every batch that are this process's part, in an order that depends on seed and epoch alone.

    ``generator`` is left as augmentation goes on with it.
    """
    seed, rank, count = task.settings.seed * 100_003, workers().rank, workers().count
    generator.manual_seed(seed + epoch)
    whole, items = size(task.train), task.items
    order = torch.randperm(whole, generator=generator)
    if items != whole:
        order = next_items(whole, items, epoch, seed)
    if rank:
        generator.manual_seed(seed + epoch + 7_919 * rank)
    used = order[: task.steps * task.settings.batch_size]
    return [batch.tensor_split(count)[rank] for batch in used.split(task.settings.batch_size)]


def next_items(whole: int, items: int, epoch: int, seed: int) -> Tensor:
    """The next ``items`` of one shuffled pass after the other over the ``whole`` split."""
    first = (epoch - 1) * items
    passes = range(first // whole, (first + items - 1) // whole + 1)
    shuffled = [torch.randperm(whole, generator=torch.Generator().manual_seed(seed + 1 + one)) for one in passes]
    return torch.cat(shuffled)[first % whole :][:items]


def training_batches(task: Task, epoch: int, generator: torch.Generator, within: Within) -> Iterator[Batch]:
    """The batches of an epoch that are left, augmented by ``generator``."""
    parts = drawn(task, epoch, generator)[within.step :]
    if within.augmenting is not None:
        generator.set_state(within.augmenting.cpu())
    for inputs, targets in batches(task.train, len(parts[0]), torch.cat(parts)) if parts else ():
        given = augmented(task.sample, inputs, generator, cutout_side=task.settings.cutout)
        yield tuple(channels_last(tensor).to(workers().device) for tensor in given), targets.to(workers().device)


def counting(sample: Sample, targets: Tensor) -> int:
    """Over how many a loss is the mean: items, or the tokens among them that count; at least one."""
    return max(1, int((targets != IGNORED).sum()) if sample.kind == "tokens" else len(targets))
