"""The task score of a model or of anything else that maps input batches to output batches."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from edgecompress.datasets import batches, size
from edgecompress.errors import ModelError
from edgecompress.models import Sample, call, evaluating
from edgecompress.progress import Progress, silent

Predict = Callable[..., Any]
"""From a batch of inputs, one argument for each, to a batch of outputs."""


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
    """The sample's score over ``dataset``: outputs and targets are gathered and scored once."""
    run = predict_with(predict) if isinstance(predict, nn.Module) else predict
    outputs, targets, total = [], [], size(dataset)
    for inputs, expected in batches(dataset, batch_size):
        outputs.append(call(sample.name, "running the model on its data", partial(run, *inputs)))
        targets.append(expected)
        progress("score", min(len(outputs) * batch_size, total), total, "")
    return _scored(sample, _join(outputs), torch.cat(targets))


def _scored(sample: Sample, outputs: Any, targets: Tensor) -> float:
    value = call(sample.name, "score(outputs, targets)", lambda: float(sample.score(outputs, targets)))
    if not math.isfinite(value):
        raise ModelError(f"{sample.name}: score(outputs, targets) gave {value}; a finite number was expected")
    return float(value)


def _join(outputs: list[Any]) -> Any:
    """Batches of outputs end to end; a model with several outputs keeps its tuple."""
    if isinstance(outputs[0], Tensor):
        return torch.cat(outputs)
    return tuple(torch.cat(parts) for parts in zip(*outputs, strict=True))
