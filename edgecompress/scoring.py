"""The task score of a model or of anything else that maps input batches to output batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from edgecompress.datasets import batches, size
from edgecompress.models import Sample
from edgecompress.progress import Progress, silent

Predict = Callable[[Tensor], Any]


def predict_with(model: nn.Module) -> Predict:
    """``model`` as a function, in eval mode and without gradients."""

    def predict(inputs: Tensor) -> Any:
        with torch.inference_mode():
            return model(inputs)

    model.eval()
    return predict


def score(
    predict: Predict | nn.Module,
    sample: Sample,
    split: str = "test",
    *,
    batch_size: int = 256,
    progress: Progress = silent,
) -> float:
    """The sample's score over a whole split; for classifiers the top-1 accuracy in percent."""
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
        outputs.append(run(inputs))
        targets.append(expected)
        progress("score", min(len(outputs) * batch_size, total), total, "")
    return sample.score(_join(outputs), torch.cat(targets))


def _join(outputs: list[Any]) -> Any:
    """Batches of outputs end to end; a model with several outputs keeps its tuple."""
    if isinstance(outputs[0], Tensor):
        return torch.cat(outputs)
    return tuple(torch.cat(parts) for parts in zip(*outputs, strict=True))
