"""store(): the last training of a model whose weights are factors, and its one file of codes.

Factors are rounded while they are trained, and the codes' length is part of the loss; what comes out is written as
``model.ectk`` (see ``codecs.payload``). Storing changes what a model takes at rest; its MACs stay what they were.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from edgecompress.codecs.ada_tucker import (
    TuckerWeight,
    attach_roundings,
    factors_of,
    install,
    materialized,
    parametrized,
    put_factors,
    rounded_factors,
    stored_layers,
)
from edgecompress.codecs.payload import Stored, StoredLayer
from edgecompress.codecs.rounding import Rounding
from edgecompress.errors import ModelError
from edgecompress.files import Json
from edgecompress.finetuning import FineTuning
from edgecompress.finetuning.distillation import Distilled
from edgecompress.finetuning.loop import FineTuned, Objective, fit
from edgecompress.models import Sample, copied, put_state, state_digest
from edgecompress.models.datasets import Inputs
from edgecompress.plans import LayerPlan
from edgecompress.progress import Progress, silent
from edgecompress.settings import Storage
from edgecompress.targets import TARGETS, Job

KILOBYTE = 8192
"""Bits: what ``Storage.rate`` is for."""
FREEZING = (0.4, 0.95)
"""The fractions of the rounding epochs after which the first numbers are frozen, and all."""
CHECKPOINT = "rounding 2"
"""Names what a checkpoint of a training with rounding holds: one that holds other names starts over."""


def frozen_fraction(done: float) -> float:
    """The fraction of numbers that are frozen when the fraction ``done`` of the epochs is over."""
    first, last = FREEZING
    return min(max((done - first) / (last - first), 0.0), 1.0)


class Shortened(Objective):
    """A task's loss and ``rate`` times the estimated length of all codes in kilobytes.

    ``damp`` times the dampening loss of the factors is added too, from nothing in the first epoch to all of it after
    the last, along half a cosine.
    """

    def __init__(self, task: Objective, storage: Storage) -> None:
        self.task, self.rate, self.damp, self.epochs = task, storage.rate, storage.damp, storage.epochs

    def to(self, device: torch.device) -> None:
        """Move what the task holds."""
        self.task.to(device)

    def loss(self, model: nn.Module, inputs: Inputs, targets: Tensor) -> Tensor:
        """Task and code length."""
        loss = self.task.loss(model, inputs, targets)
        if self.rate:
            loss = loss + self.rate / KILOBYTE * torch.stack([r.bits(f) for r, f in _rounded(model)]).sum()
        if self.damp:
            loss = loss + torch.stack([self._damping(r) * r.dampening_loss(f) for r, f in _rounded(model)]).sum()
        return loss

    def _damping(self, rounding: Rounding) -> Tensor:
        return self.damp * (1 - torch.cos(torch.pi * rounding.age / self.epochs)) / 2

    def epoch_ended(self, model: nn.Module) -> None:
        """Count the epoch, and freeze more numbers."""
        for rounding, factor in _rounded(model):
            rounding.age += 1
            rounding.freeze(frozen_fraction(float(rounding.age) / self.epochs), factor)


class RoundedBias(nn.Module):
    """Parametrization of a bias: rounded to few levels."""

    def __init__(self, levels: int, bias: Tensor) -> None:
        super().__init__()
        self.rounding = Rounding(levels, bias)

    def forward(self, bias: Tensor) -> Tensor:
        """The rounded bias."""
        rounded: Tensor = self.rounding(bias)
        return rounded


def without_dropped(model: nn.Module, storage: Storage) -> None:
    """Zero the biases that will not be stored and train them no more, in place."""
    for _, layer, _ in stored_layers(model):
        if storage.bias_levels == 0 and isinstance(layer.bias, nn.Parameter):
            layer.bias.data.zero_()
            layer.bias.requires_grad_(False)


def train_codes(
    model: nn.Module,
    sample: Sample,
    storage: Storage,
    tuning: FineTuning,
    *,
    teacher: nn.Module | None = None,
    checkpoint: Path | None = None,
    key: str = "",
    progress: Progress = silent,
) -> tuple[Stored, FineTuned]:
    """Round the factors of ``model`` while training them on; returns the codes of the last epoch.

    Raises:
        DataError: the sample has no data.
        TrainingError: training diverged.
    """
    rounded = copied(model)
    without_dropped(rounded, storage)
    attach_roundings(rounded, storage.core_levels, storage.levels)
    if storage.bias_levels:
        _round_biases(rounded, storage.bias_levels)
    settings = replace(tuning, epochs=storage.epochs, lr=storage.lr)
    objective = Shortened(Distilled(sample, settings, teacher), storage)
    done = fit(
        rounded,
        sample,
        settings,
        objective,
        select_epoch="last",
        what="round",
        checkpoint=checkpoint,
        key=f"{key} {CHECKPOINT} {storage!r} {state_digest(teacher)}",
        progress=progress,
    )
    return stored_of(done.model), done


def _round_biases(model: nn.Module, levels: int) -> None:
    for _, layer, _ in stored_layers(model):
        if isinstance(layer.bias, nn.Parameter):
            parametrize.register_parametrization(layer, "bias", RoundedBias(levels, layer.bias))


def _rounded(model: nn.Module) -> list[tuple[Rounding, Tensor]]:
    """Every rounding with what it rounds, biases included."""
    biases = [
        (_bias_rounding(layer), parametrized(layer, "bias").original)
        for _, layer, _ in stored_layers(model)
        if parametrize.is_parametrized(layer, "bias")
    ]
    return rounded_factors(model) + biases


def _bias_rounding(layer: nn.Module) -> Rounding:
    parametrization = parametrized(layer, "bias")[0]
    assert isinstance(parametrization, RoundedBias)
    return parametrization.rounding


def stored_of(model: nn.Module) -> Stored:
    """The codes of a model whose factors are rounded; everything else in half precision where that holds it."""
    layers = list(stored_layers(model))
    cores = {id(factors_of(layer)[0]) for _, layer, _ in layers}
    coded = {f"{name}.{part}" for name, _, _ in layers for part in ("weight", "bias")}
    others = {name: _as_numpy(tensor) for name, tensor in materialized(model).state_dict().items() if name not in coded}
    return Stored(tuple(_stored_layer(*of) for of in layers), others, shared=len(layers) > 1 and len(cores) == 1)


def _as_numpy(tensor: Tensor) -> np.ndarray:
    """float16 where nothing is lost by its range, else float32; whole numbers as int64."""
    array = tensor.detach().cpu().numpy()
    if array.dtype.kind in "iub":
        return array.astype(np.int64)
    half = array.astype(np.float16)
    lost = (half == 0) & (np.abs(array) > 0) | ~np.isfinite(half)
    return array.astype(np.float32) if lost.any() else half


def _stored_layer(name: str, layer: nn.Module, weight: TuckerWeight) -> StoredLayer:
    roundings = [rounding for rounding in weight.roundings if isinstance(rounding, Rounding)]
    factors = factors_of(layer)
    codes = tuple(_flat(r.codes(f)) for r, f in zip(roundings, factors, strict=True))
    scale = float(weight.scale.double() * prod(float(r.step.detach().double()) for r in roundings))
    bias, step, most = np.zeros(0, np.int32), 0.0, 0
    if parametrize.is_parametrized(layer, "bias"):
        rounding = _bias_rounding(layer)
        bias, step = _flat(rounding.codes(parametrized(layer, "bias").original)), float(rounding.step)
        most = rounding.largest
    largest = (roundings[0].largest, roundings[1].largest, most)
    return StoredLayer(name, weight.shape, weight.dims, weight.ranks, scale, largest, codes, bias, step)


def _flat(codes: Tensor) -> np.ndarray:
    return codes.detach().cpu().flatten().numpy().astype(np.int32)


def decoded(dense: nn.Module, stored: Stored) -> nn.Module:
    """A copy of ``dense`` with the stored weights, still as codes: its factors are whole numbers.

    Raises:
        ModelError: the codes are of another model.
    """
    model = copied(dense)
    _check(model, stored)
    plans = [LayerPlan(part.name, "", part.ranks, part.shape, 0.0, None, part.dims) for part in stored.layers]
    install(model, plans, shared=stored.shared, fill=False)
    with torch.no_grad():
        for part in stored.layers:
            _fill(model.get_submodule(part.name), part)
    state = model.state_dict() | {name: torch.from_numpy(array.copy()) for name, array in stored.others.items()}
    put_state(model, state)
    return model


def _fill(layer: nn.Module, part: StoredLayer) -> None:
    codes = [torch.from_numpy(factor.astype(np.float32)) for factor in part.codes]
    put_factors(layer, codes, part.scale).largest = part.largest
    if isinstance(layer.bias, Tensor):
        layer.bias.zero_()
        if len(part.bias):
            layer.bias.copy_(torch.from_numpy(part.bias.astype(np.float32)) * part.step)


def _check(model: nn.Module, stored: Stored) -> None:
    """Prove that the codes and the other tensors are exactly those of ``model``."""
    state = model.state_dict()
    for part in stored.layers:
        weight = state.get(f"{part.name}.weight")
        if weight is None or tuple(weight.shape) != part.shape:
            raise ModelError(f"{part.name}: stored with shape {part.shape}; the model has no such weight")
    coded = {f"{part.name}.{kind}" for part in stored.layers for kind in ("weight", "bias")}
    missing = set(state) - coded - set(stored.others)
    extra = set(stored.others) - set(state)
    if missing or extra:
        raise ModelError(f"the stored weights are of another model: {min(missing or extra)!r} does not fit")
    for name, array in stored.others.items():
        if tuple(state[name].shape) != array.shape:
            raise ModelError(f"{name}: stored with shape {array.shape}, the model has {tuple(state[name].shape)}")


def onnx_bytes(model: nn.Module, sample: Sample) -> int:
    """Size of the .onnx of a stored model.

    Raises:
        ExportError: it cannot be written.
    """
    with TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        TARGETS["onnx"].export(Job(model, sample.inputs, sample.plan), file)
        return file.stat().st_size


@dataclass(frozen=True, slots=True)
class StorageCost:
    """What a stored model takes: bytes of the file of codes, numbers in it, bytes of the finished .onnx."""

    payload_bytes: int
    numbers: int
    onnx_bytes: int
    dense_params: int
    dense_bytes: int

    def to_json(self) -> Json:
        """A JSON object.

        ``ratio`` is the bytes of the dense parameters over those of the file, ``bits_per_weight`` all bits over the
        number of dense parameters; ``params_ratio`` compares numbers with numbers.
        """
        return {
            "payload_bytes": self.payload_bytes,
            "ratio": self.dense_bytes / self.payload_bytes,
            "bits_per_weight": 8 * self.payload_bytes / self.dense_params,
            "params_ratio": self.dense_params / self.numbers,
            "onnx_bytes": self.onnx_bytes,
        }
