"""The task score of a model or of anything else that maps input batches to output batches."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from edgecompress.errors import ModelError
from edgecompress.models import Sample, as_outputs, class_scores, evaluating, tensors_of, top1
from edgecompress.models.calling import call, defined
from edgecompress.models.datasets import batches, raw_bytes, size
from edgecompress.models.forms import filled, mapped
from edgecompress.models.kinds import SummedScore
from edgecompress.progress import Progress, silent
from edgecompress.split_scores import BLOCKS, FEWEST_BLOCKS, SplitScore

Predict = Callable[..., Any]
"""From a batch of inputs, one argument for each, to a batch of outputs."""
SUMMED_AT_ONCE = 4
"""Items whose outputs are in memory at once where the score is made of sums: such outputs are large."""
SLOWEST_S = 5.0
"""A score of the user's own that takes longer is not computed again on parts of the items."""


def predict_with(model: nn.Module) -> Predict:
    """``model`` as a function, in eval mode and without gradients; its own mode is left alone."""

    def predict(*inputs: Tensor) -> Any:
        with evaluating(model), torch.no_grad():
            return model(*inputs)

    return predict


def score(
    predict: Predict | nn.Module,
    sample: Sample,
    split: str = "test",
    *,
    batch_size: int = 256,
    progress: Progress = silent,
) -> float:
    """The sample's score over a whole split; for classifiers the top-1 accuracy in percent.

    Args:
        predict: a model, or a function of its inputs (batch first), such as an exported file's.
        sample: whose data and score are used.
        split: "train", "validation" or "test".
        batch_size: items given at a time.
        progress: is called with the items scored so far.

    Returns:
        What the sample's score gives for the outputs and targets of the whole split at once; higher is better.

    Raises:
        DataError: the sample has no such split.
        ModelError: the score is not one finite number, or cannot be computed.
    """
    return score_on(predict, sample, sample.data(split), batch_size=batch_size, progress=progress)


def score_on(
    predict: Predict | nn.Module,
    sample: Sample,
    dataset: Dataset[Any],
    *,
    batch_size: int = 256,
    progress: Progress = silent,
) -> float:
    """The sample's score over ``dataset``: outputs and targets are gathered and scored once, or sums of them."""
    if isinstance(sample.score, SummedScore):
        return _of_sums(sample, _sums(predict, sample, dataset, batch_size, progress)[0].sum(0))
    return _scored(sample, *_gathered(predict, sample, dataset, batch_size, progress))


def split_score(
    predict: Predict | nn.Module,
    sample: Sample,
    split: str = "test",
    *,
    batch_size: int = 256,
    progress: Progress = silent,
) -> SplitScore:
    """:func:`score`, with what it takes to pair it with another model's on the same split.

    Raises:
        DataError: the sample has no such split.
        ModelError: the score is not one finite number, or cannot be computed.
    """
    dataset = sample.data(split)
    if isinstance(sample.score, SummedScore):
        return _summed_split(sample, *_sums(predict, sample, dataset, batch_size, progress))
    outputs, targets = _gathered(predict, sample, dataset, batch_size, progress)
    digest = hashlib.sha256(raw_bytes(targets)).hexdigest()[:16]
    began = time.perf_counter()
    value, items = _scored(sample, outputs, targets), size(dataset)
    if sample.score is top1:
        right = np.packbits((class_scores(outputs).argmax(1) == targets).cpu().numpy()).tobytes()
        return SplitScore(value, items, digest, right)
    if time.perf_counter() - began > SLOWEST_S:
        return SplitScore(value, items, digest, why_not=f"one score takes more than {SLOWEST_S:g} s")
    without, why_not = _without_blocks(sample, outputs, targets, items)
    return SplitScore(value, items, digest, without=without, why_not=why_not)


def _summed_split(sample: Sample, sums: Tensor, digest: str) -> SplitScore:
    """From the sums (items, k) of a split, whose targets have this digest."""
    items, whole = len(sums), sums.sum(0)
    value = _of_sums(sample, whole)
    if items < FEWEST_BLOCKS:
        return SplitScore(value, items, digest, why_not=f"there are only {items} items")
    return SplitScore(
        value, items, digest, without=tuple(_of_sums(sample, whole - sums[b].sum(0)) for b in _blocks(items))
    )


def _of_sums(sample: Sample, sums: Tensor) -> float:
    assert isinstance(sample.score, SummedScore)
    return _number(sample, call(sample.name, "the score of sums", partial(sample.score.value, sums)))


def _sums(
    predict: Predict | nn.Module, sample: Sample, dataset: Dataset[Any], batch_size: int, progress: Progress
) -> tuple[Tensor, str]:
    """(items, k): what each item adds to the score; and a digest of the targets. No outputs are kept."""
    assert isinstance(sample.score, SummedScore)
    run, found, total = (
        predict_with(predict) if isinstance(predict, nn.Module) else predict,
        list[Tensor](),
        size(dataset),
    )
    digest = hashlib.sha256()
    for inputs, expected in batches(dataset, min(batch_size, SUMMED_AT_ONCE)):
        outputs = call(sample.name, "running the model on its data", partial(run, *inputs))
        found.append(call(sample.name, "the sums of a score", partial(sample.score.sums, outputs, expected)))
        digest.update(raw_bytes(expected))
        progress("score", sum(map(len, found)), total, "")
    return torch.cat(found), digest.hexdigest()[:16]


def _blocks(items: int) -> tuple[Tensor, ...]:
    """Items in blocks that are drawn alike for all models."""
    shuffled = torch.randperm(items, generator=torch.Generator().manual_seed(0))
    return torch.tensor_split(shuffled, min(BLOCKS, items))


def _without_blocks(sample: Sample, outputs: Any, targets: Tensor, items: int) -> tuple[tuple[float, ...], str]:
    """The score over all items but each of the blocks, which are drawn alike for all models; or why there is none."""
    if any(part.shape[:1] != (items,) for part in (*tensors_of(outputs), targets)):
        return (), "outputs and targets have not one row for each item"
    if items < FEWEST_BLOCKS:
        return (), f"there are only {items} items"
    blocks = _blocks(items)
    kept = (torch.cat([other for other in blocks if other is not block]).sort().values for block in blocks)
    try:
        return tuple(_scored(sample, _rows(outputs, rows), targets[rows]) for rows in kept), ""
    except ModelError:
        return (), "score(outputs, targets) cannot be computed on part of the items"


def _rows(outputs: Any, rows: Tensor) -> Any:
    return mapped(outputs, lambda part: part[rows] if isinstance(part, Tensor) else part)


def _gathered(
    predict: Predict | nn.Module, sample: Sample, dataset: Dataset[Any], batch_size: int, progress: Progress
) -> tuple[Any, Tensor]:
    """All outputs and all targets."""
    run = predict_with(predict) if isinstance(predict, nn.Module) else predict
    outputs, targets, total = [], [], size(dataset)
    for inputs, expected in batches(dataset, batch_size):
        outputs.append(call(sample.name, "running the model on its data", partial(run, *inputs)))
        targets.append(expected)
        progress("score", min(len(outputs) * batch_size, total), total, "")
    joined = call(sample.name, "putting the outputs of all batches together", partial(_join, outputs))
    return joined, call(sample.name, "putting the targets of all batches together", partial(torch.cat, targets))


def _scored(sample: Sample, outputs: Any, targets: Tensor) -> float:
    try:
        value = call(sample.name, "score(outputs, targets)", lambda: sample.score(outputs, targets))
    except ModelError as error:
        if sample.score is top1:
            raise ModelError(f"{sample.name}: {error}") from None
        raise
    return _number(sample, value)


def _number(sample: Sample, value: Any) -> float:
    name = f"{sample.name}: score(outputs, targets){defined(sample.score)}"
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError):
        raise ModelError(f"{name} gave {_what(value)}; a number was expected") from None
    if not math.isfinite(number):
        raise ModelError(f"{name} gave {number}; a finite number was expected")
    return number


def _what(value: Any) -> str:
    """What something is, in few words."""
    shape = f" of shape {tuple(value.shape)}" if isinstance(value, Tensor) else ""
    return "None" if value is None else f"a {type(value).__name__}{shape}"


def _join(outputs: list[Any]) -> Any:
    """Batches of outputs end to end, in their own form."""
    each = [as_outputs(output) for output in outputs]
    return filled(outputs[0], [torch.cat(parts) for parts in zip(*each, strict=True)])
