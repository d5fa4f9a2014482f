"""Calibration inputs, unlabelled; and batch-norm statistics, estimated anew on them for a decomposed model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from weakref import ReferenceType, ref

import torch
from torch import Tensor, nn

from edgecompress.calibrating.batching import affordable, inputs_at_once
from edgecompress.calibrating.sensitivity import (
    FEWEST_METRIC_INPUTS,
    METRIC_INPUTS,
    METRIC_MACS,
    Metric,
    output_metrics,
)
from edgecompress.calibrating.trials import apart_by_input
from edgecompress.errors import ModelError
from edgecompress.models import Sample, calibrated, check_runs, copied, evaluating, state_digest
from edgecompress.models.data_forms import example_of, inputs_of
from edgecompress.models.datasets import Inputs, calibration_inputs, first

MOST_REMEMBERED = 1 << 28
"""Bytes of metrics that are kept for the next stage; their roots take twice as much again."""


RECALIBRATED = 256
"""Calibration inputs that batch norms are re-estimated on; every position of each counts."""

SURELY = 2.0
"""Standard errors of a paired mean: what is tried on inputs held back is kept only where it is better by more. Of a
ResNet-56 at 0.3 of the MACs 64 inputs once took the worse batch norms, which cost 2.3 points of accuracy."""

FEWEST_AT_ONCE = 16
"""That batch norms see together, whatever they take."""

RECALIBRATED_MACS = 1e11
"""Multiply-accumulates of the dense model's runs over them: of large models fewer are used."""

FEWEST_TOKEN_INPUTS = 24
"""That metrics of models that score tokens are taken from: their layers are wide."""

MOST_HELD, HELD_PART, FEWEST_TO_HOLD = 64, 4, 16
"""Inputs that are held back for what is measured: every fourth, at most so many, none of fewer than 16."""


@dataclass(frozen=True, slots=True)
class _Measured:
    """The metrics of layers ``names`` of a ``model`` with weights of this digest, on the first ``count`` inputs."""

    model: ReferenceType[nn.Module]
    digest: str
    count: int
    names: frozenset[str]
    metrics: dict[str, Metric]


@dataclass(frozen=True, slots=True)
class Calibration:
    """Unlabelled inputs, by which candidates are scored and factors are fitted.

    What was measured of the last model is remembered: ``plan`` and ``refit`` with the same calibration share it.

    Args:
        inputs: a tuple of tensors, batch first; also one tensor, a list of batches, a Dataset or a DataLoader, of which
            at most 1,024 inputs are taken and labels left out.
        classes: are the model's outputs scores of classes, as for cross-entropy? Then errors count by what they change
            of the class probabilities.
        tokens: are there such scores at every position, as of a language model? Positions then count as inputs do.
    """

    inputs: Inputs
    classes: bool = True
    tokens: bool = False
    _last: list[_Measured] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Inputs as a tuple of tensors, whatever they were given as."""
        given: Any = self.inputs
        if not isinstance(given, tuple):
            object.__setattr__(self, "inputs", inputs_of(given))

    @property
    def fitting(self) -> Inputs:
        """The inputs that candidates are fitted to: all but those that :meth:`held` may give."""
        return first(self.inputs, len(self.inputs[0]) - self._spare)

    def held(self, most: int) -> Inputs:
        """At most so many inputs that no candidate was fitted to; of few inputs the same ones again."""
        start = len(self.inputs[0]) - self._spare if self._spare else 0
        return tuple(tensor[start : start + most] for tensor in self.inputs)

    @property
    def _spare(self) -> int:
        count = len(self.inputs[0])
        return min(MOST_HELD, count // HELD_PART) if count >= FEWEST_TO_HOLD else 0

    def output_metrics(self, model: nn.Module, names: tuple[str, ...], most: int) -> dict[str, Metric]:
        """:func:`~edgecompress.calibrating.sensitivity.output_metrics` of ``model`` on at most ``most`` inputs."""
        inputs, digest = first(self.inputs, min(most, METRIC_INPUTS)), state_digest(model)
        fewest = FEWEST_TOKEN_INPUTS if self.tokens else FEWEST_METRIC_INPUTS
        count = affordable(model, inputs, METRIC_MACS, fewest, fewer_of_large=True)
        for known in self._last:
            if known.model() is model and (known.digest, known.count) == (digest, count) and known.names >= set(names):
                return {name: known.metrics[name] for name in names if name in known.metrics}
        metrics = output_metrics(model, first(self.inputs, count), names, classes=self.classes)
        small = sum(metric.matrix.nbytes for metric in metrics.values()) <= MOST_REMEMBERED
        self._last[:] = [_Measured(ref(model), digest, count, frozenset(names), metrics)] if metrics and small else []
        return metrics

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
    """``count`` training inputs of ``sample``, drawn without replacement; their labels are not looked at.

    Args:
        sample: with a train split.
        count: inputs; all where there are fewer.
        seed: of the draw.

    Returns:
        The inputs, for ``plan()`` and ``refit()``.

    Raises:
        DataError: the sample has no data, or it is not where it should be.
    """
    if sample.splits is None and sample.unlabelled is not None:
        inputs = first(sample.unlabelled, count)
    else:
        inputs = calibration_inputs(sample.data("train"), count, seed)
    return Calibration(inputs, classes=sample.kind != "values", tokens=sample.kind == "tokens")


def recalibrate(model: nn.Module, inputs: Inputs, batch_size: int = 128) -> nn.Module:
    """A copy of ``model`` whose batch-norm statistics are the averages over ``inputs``, no gradients.

    Every other layer stays in eval mode, so dropout does not disturb the statistics.

    Args:
        model: stays as it is.
        inputs: unlabelled, batch first.
        batch_size: about how many are run at a time; all parts count the same.

    Returns:
        The copy, in eval mode.

    Raises:
        ModelError: the model fails on the inputs.
    """
    inputs, changed = example_of(inputs, "calibration"), copied(model).eval()
    norms = _norms(changed)
    momenta = [layer.momentum for layer in norms]
    for layer in norms:
        layer.reset_running_stats()
        layer.momentum = None
        layer.train()
    with torch.no_grad():
        for part in _equal_parts(inputs, min(batch_size, _at_once(model, inputs))) if norms else ():
            calibrated(changed, part)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum
    return changed.eval()


def _at_once(model: nn.Module, inputs: Inputs) -> int:
    """As many as memory allows, but enough for statistics."""
    return max(FEWEST_AT_ONCE, inputs_at_once(model, inputs, most=RECALIBRATED))


def _norms(model: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """The batch norms that keep statistics."""
    norms = (layer for layer in model.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm))
    return [layer for layer in norms if layer.track_running_stats]


def _equal_parts(inputs: Inputs, batch_size: int) -> Iterator[Inputs]:
    """``inputs`` in parts of about ``batch_size`` that differ by at most one, so that averages of parts are fair."""
    parts = max(1, math.ceil(len(inputs[0]) / batch_size))
    yield from zip(*(torch.tensor_split(tensor, parts) for tensor in inputs), strict=True)


def recalibrate_if_better(model: nn.Module, dense: nn.Module, calibration: Calibration) -> tuple[nn.Module, bool]:
    """Recalibrated batch norms if they surely bring the outputs nearer to the dense model's, else a no-op.

    Re-estimation helps strongly compressed nets and can hurt mildly compressed ones, and those whose factors were
    fitted to the statistics that there are. Statistics are those of at most ``RECALIBRATED`` inputs, outputs are
    compared on others where there are enough; no labels are used. One input alone has no statistics.
    """
    inputs, held = first(calibration.fitting, RECALIBRATED), calibration.held(MOST_HELD)
    if len(inputs[0]) < 2 or not _norms(model):
        return model, False
    candidate = recalibrate(model, first(inputs, affordable(dense, inputs, RECALIBRATED_MACS, fewer_of_large=True)))
    changed, kept = apart_by_input(dense, (candidate, model), held, classes=calibration.classes)
    return (candidate, True) if _surely_above_zero(kept - changed) else (model, False)


def _surely_above_zero(gains: Tensor) -> bool:
    """Is their mean ``SURELY`` of its standard errors above zero? A few inputs with large divergences sway a mean."""
    spread = float(gains.std()) / math.sqrt(len(gains)) if len(gains) > 1 else 0.0
    return float(gains.mean()) > SURELY * spread
