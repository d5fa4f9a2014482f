"""Calibration inputs, unlabelled; and batch-norm statistics, estimated anew on them for a decomposed model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from edgecompress.errors import ModelError
from edgecompress.models import Sample, as_outputs, calibrated, check_runs, copied, evaluating
from edgecompress.models.datasets import Inputs, calibration_inputs, first


@dataclass(frozen=True, slots=True)
class Calibration:
    """Unlabelled inputs, and whether the model's outputs are scores of classes."""

    inputs: Inputs
    classes: bool = True

    def check(self, model: nn.Module) -> None:
        """Prove that ``model`` runs on one or two of the inputs.

        Raises:
            ModelError: it does not, or there are none.
        """
        name = type(model).__name__
        if not self.inputs or not all(len(tensor) for tensor in self.inputs):
            raise ModelError(f"{name}: there are no calibration inputs; give at least one")
        with evaluating(model):
            try:
                check_runs(model, first(self.inputs, 1), name, "calibration inputs")
            except ModelError as of_one:
                try:
                    check_runs(model, first(self.inputs, 2), name, "calibration inputs")
                except ModelError:
                    raise of_one from of_one.__cause__


def calibration_of(sample: Sample, count: int, seed: int) -> Calibration:
    """``count`` training inputs of ``sample``, drawn without replacement.

    Raises:
        DataError: the sample has no data, or it is not where it should be.
    """
    inputs = calibration_inputs(sample.data("train"), count, seed)
    return Calibration(inputs, classes=sample.loss is nn.functional.cross_entropy)


def recalibrate(model: nn.Module, inputs: Inputs, batch_size: int = 128) -> nn.Module:
    """A copy of ``model`` whose batch-norm statistics are the averages over ``inputs``, no gradients.

    Every other layer stays in eval mode, so dropout does not disturb the statistics.
    """
    changed = copied(model).eval()
    norms = [layer for layer in changed.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    norms = [layer for layer in norms if layer.track_running_stats]
    momenta = [layer.momentum for layer in norms]
    for layer in norms:
        layer.reset_running_stats()
        layer.momentum = None
        layer.train()
    with torch.no_grad():
        for part in _equal_parts(inputs, batch_size) if norms else ():
            calibrated(changed, part)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum
    return changed.eval()


def _equal_parts(inputs: Inputs, batch_size: int) -> Iterator[Inputs]:
    """``inputs`` in parts of about ``batch_size`` that differ by at most one, so that averages of parts are fair."""
    parts = max(1, math.ceil(len(inputs[0]) / batch_size))
    yield from zip(*(torch.tensor_split(tensor, parts) for tensor in inputs), strict=True)


def recalibrate_if_better(model: nn.Module, dense: nn.Module, inputs: Inputs) -> tuple[nn.Module, bool]:
    """Recalibrated batch norms if they bring the outputs nearer to the dense model's on ``inputs``, else a no-op.

    Re-estimation helps strongly compressed nets and can hurt mildly compressed ones; no labels are used. The
    distance is the mean squared difference of the outputs. One input alone has no statistics.
    """
    if len(inputs[0]) < 2:
        return model, False
    candidate = recalibrate(model, inputs)
    better = _distance(candidate, dense, inputs) < _distance(model, dense, inputs)
    return (candidate, True) if better else (model, False)


def _distance(model: nn.Module, dense: nn.Module, inputs: Inputs, batch_size: int = 128) -> float:
    total = 0.0
    with evaluating(model), evaluating(dense), torch.no_grad():
        for part in _equal_parts(inputs, batch_size):
            for ours, theirs in zip(
                as_outputs(calibrated(model, part)), as_outputs(calibrated(dense, part)), strict=True
            ):
                total += float((ours - theirs).double().pow(2).sum())
    return total
