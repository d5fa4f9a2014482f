"""Learning from the dense model: its softened outputs (Hinton et al. 2015), or their values, and what its layers give.

What the outputs are decides how they are compared: scores of classes and of tokens as distributions, values by their
distance.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from edgecompress.decompositions import DECOMPOSITIONS
from edgecompress.decompositions.base import is_transposed
from edgecompress.decompositions.kernels import kernels, weight_of
from edgecompress.errors import ModelError
from edgecompress.finetuning.augmentation import mixed
from edgecompress.finetuning.loop import Objective
from edgecompress.finetuning.teacher_cache import Recall
from edgecompress.models import Call, Loss, Sample, class_scores, named_layers, observing, tensors_of, untrained_copy
from edgecompress.models.calling import call, defined
from edgecompress.models.datasets import Inputs, single
from edgecompress.models.forms import mapped
from edgecompress.models.kinds import IGNORED, token_scores
from edgecompress.plans import CompressionPlan, LayerPlan
from edgecompress.settings import FineTuning

TINY = 1e-12


class Ensemble(nn.Module):
    """Several teachers as one: the mean of their logits, a geometric mean of what they predict (Hinton et al. 2015)."""

    def __init__(self, teachers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.teachers = nn.ModuleList(teachers)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Inputs (N, ...) to logits (N, classes, ...)."""
        return torch.stack([class_scores(teacher(*inputs)) for teacher in self.teachers]).mean(0)


class Distilled(Objective):
    """The sample's loss and the distance to the teacher's outputs, mixed; what has no share is not computed.

    Raises:
        ModelError: label smoothing is asked for and the sample has a loss of its own, or mixup of whole numbers.
    """

    def __init__(self, sample: Sample, settings: FineTuning, teacher: nn.Module | None = None) -> None:
        self.sample, self.settings = sample, settings
        self.task_loss = _smoothed(sample, settings.smoothing)
        _refuse_blending(sample, settings.mixup)
        self.share = settings.distill if teacher is not None else 0.0
        needed = teacher is not None and (self.share or settings.feature)
        self.teacher = untrained_copy(teacher).eval() if needed and teacher is not None else None
        changing = sample.augment is not None or settings.mixup or settings.cutout
        self.recall = None if changing or settings.feature else Recall()

    def to(self, device: torch.device) -> None:
        """Move the teacher; a device that copies inputs back slowly does not look them up."""
        if self.teacher is not None:
            self.teacher.to(device)
        if device.type != "cpu":
            self.recall = None

    def loss(self, model: nn.Module, inputs: Inputs, targets: Tensor) -> Tensor:
        """Cross-entropy, distillation or both, of one batch, mixed up where that is asked for."""
        others, share = None, 1.0
        if self.settings.mixup:
            inputs, others, share = mixed(inputs, self.settings.mixup)
        outputs = call(self.sample.name, "running the model on its data", partial(model, *inputs))
        return self.of_outputs(outputs, inputs, targets, others, share)

    def of_outputs(
        self, outputs: Any, inputs: Inputs, targets: Tensor, others: Tensor | None = None, share: float = 1.0
    ) -> Tensor:
        """The loss of outputs; ``others`` are the places of the items blended in with the share ``1 - share``."""
        given, loss = _full_precision(outputs), torch.zeros((), device=targets.device)
        if self.share < 1:
            task = self._task(given, targets)
            if others is not None:
                task = share * task + (1 - share) * self._task(given, targets[others])
            loss = (1 - self.share) * task
        if self.teacher is not None:
            said = self._said(inputs)
            if self.share:
                loss = loss + self.share * self._distance(given, said, targets)
        return loss

    def _distance(self, outputs: Any, expected: Any, targets: Tensor) -> Tensor:
        """The distance to the teacher's outputs, by what they are."""
        if self.sample.kind == "tokens":
            return token_distillation(outputs, expected, targets, self.settings.temperature)
        if self.sample.kind == "values":
            return value_distillation(outputs, expected)
        return distillation(outputs, expected, self.settings.temperature)

    def _task(self, outputs: Any, targets: Tensor) -> Tensor:
        return asked_loss(self.sample.name, self.task_loss, outputs, targets)

    def _said(self, inputs: Inputs) -> Any:
        said = self._asked(inputs) if self.recall is None else self.recall.of(inputs, self._asked)
        if self.recall is not None and self.recall.full:
            self.recall = None
        return said

    @torch.no_grad()
    def _asked(self, inputs: Inputs) -> Any:
        assert self.teacher is not None
        return call(self.sample.name, "running the teacher on its data", partial(self.teacher, *inputs))


def asked_loss(name: str, function: Loss, outputs: Any, targets: Tensor) -> Tensor:
    """The loss of one batch, by a function of the user's.

    Raises:
        ModelError: it fails, or gives anything but a scalar tensor that depends on the outputs.
    """
    outputs = class_scores(outputs) if function is nn.functional.cross_entropy else outputs
    value = call(name, "loss(outputs, targets)", partial(function, outputs, targets))
    fact = ""
    if not isinstance(value, Tensor):
        fact = "None" if value is None else f"a {type(value).__name__}"
    elif value.numel() != 1 or not value.is_floating_point():
        fact = f"a {value.dtype} tensor of shape {tuple(value.shape)}".replace("torch.", "")
    elif not value.requires_grad and any(output.requires_grad for output in tensors_of(outputs)):
        fact = "a tensor without gradients"
    if fact:
        what = f"loss(outputs, targets){defined(function)} gave {fact}"
        raise ModelError(f"{name}: {what}; a scalar that depends on the outputs was expected")
    assert isinstance(value, Tensor)
    return value.reshape(())


class FeatureDistilled(Distilled):
    """The same, and the distance of the replaced layers' outputs and weights to the teacher's.

    The fine-tuning loss of Aghababaei-Harandi & Amini (arXiv 2409.03555), L_ce + lambda (weights + outputs), with
    distances as means over layers of ``|x - t|^2 / |t|^2``: the paper's sums would drown the cross-entropy.
    """

    def __init__(self, sample: Sample, settings: FineTuning, teacher: nn.Module, plan: CompressionPlan) -> None:
        super().__init__(sample, settings, teacher)
        assert self.teacher is not None
        self.layers = plan.layers
        self.dense = {layer.name: kernels(self.teacher.get_submodule(layer.name)) for layer in plan.layers}

    def to(self, device: torch.device) -> None:
        """Move the teacher and its kernels."""
        super().to(device)
        self.dense = {name: kernel.to(device) for name, kernel in self.dense.items()}

    def loss(self, model: nn.Module, inputs: Inputs, targets: Tensor) -> Tensor:
        """The task's loss and ``feature`` times the mean distances."""
        names = [layer.name for layer in self.layers]
        assert self.teacher is not None
        with watched(model, names) as ours, watched(self.teacher, names) as theirs:
            loss = super().loss(model, inputs, targets)
        return loss + self.settings.feature * (_outputs_apart(ours, theirs) + self._weights_apart(model))

    def _weights_apart(self, model: nn.Module) -> Tensor:
        apart = []
        for layer in self.layers:
            dense = self.dense[layer.name].float()
            apart.append(_apart(_reconstructed(model.get_submodule(layer.name), layer, len(dense)), dense))
        return torch.stack(apart).mean()


def _outputs_apart(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> Tensor:
    return torch.stack([_apart(ours[name].float(), theirs[name].float()) for name in ours]).mean()


def _apart(ours: Tensor, theirs: Tensor) -> Tensor:
    return (ours - theirs).pow(2).sum() / theirs.pow(2).sum().clamp_min(TINY)


def _reconstructed(chain: nn.Module, layer: LayerPlan, groups: int) -> Tensor:
    """The kernels (groups, T, C, *taps) that a chain stands for, with gradients."""
    method = DECOMPOSITIONS[layer.method]
    links = [live_kernels(chain.get_submodule(link), groups) for link in method.links]
    return torch.stack([method.reconstruct(of_group) for of_group in zip(*links, strict=True)])


def live_kernels(layer: nn.Module, groups: int) -> Tensor:
    """As :func:`edgecompress.decompositions.kernels.kernels`, in float32 and with gradients."""
    grouped = weight_of(layer).float().unflatten(0, (groups, -1))
    kernel: Tensor = grouped.transpose(1, 2) if is_transposed(layer) else grouped
    return kernel


@contextmanager
def watched(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """The outputs of the named layers, once the model has run; those of the last run of each."""
    seen: dict[str, Tensor] = {}

    def ended(call: Call) -> None:
        seen[call.name] = call.output

    with observing(named_layers(model, names), after=ended):
        yield seen


def _smoothed(sample: Sample, smoothing: float) -> Loss:
    if not smoothing:
        return sample.loss
    if sample.loss is not nn.functional.cross_entropy:
        raise ModelError(f"{sample.name}: has a loss of its own, whose targets cannot be smoothed; use --smoothing 0")
    return partial(nn.functional.cross_entropy, label_smoothing=smoothing)


def _refuse_blending(sample: Sample, mixup: float) -> None:
    if mixup and not all(given.is_floating_point() for given in sample.inputs):
        raise ModelError(f"{sample.name}: its inputs are whole numbers, which cannot be blended; use --mixup 0")


def _full_precision(outputs: Any) -> Any:
    """Losses are worked out in float32, also in autocast."""
    return mapped(outputs, lambda leaf: single(leaf) if isinstance(leaf, Tensor) else leaf)


def distillation(outputs: Tensor, expected: Tensor, temperature: float) -> Tensor:
    """Cross-entropy between softened outputs less the teacher's entropy, times T^2 (Hinton et al. 2015).

    ``outputs`` and ``expected`` are logits (N, classes, ...); the mean over N and any further dimensions.

    Raises:
        ModelError: the model's outputs are not one tensor of logits.
    """
    outputs, expected = class_scores(outputs), class_scores(expected)
    if not isinstance(outputs, Tensor) or outputs.dim() < 2 or outputs.shape[1] < 2:
        raise ModelError("distillation needs one output of logits (N, classes, ...); fine-tune with --distill 0")
    student = (outputs.float() / temperature).log_softmax(1)
    target = (expected.float() / temperature).log_softmax(1)
    divergence = nn.functional.kl_div(student, target, reduction="none", log_target=True).sum(1).mean()
    return divergence * temperature**2


def token_distillation(outputs: Any, expected: Any, targets: Tensor, temperature: float) -> Tensor:
    """The same of tokens: (N, positions, vocabulary), the mean over the positions whose targets count; 0 without any.

    Raises:
        ModelError: the outputs are no scores of tokens.
    """
    counts = targets != IGNORED
    student, target = (
        (token_scores(scores, targets)[counts].float() / temperature).log_softmax(1) for scores in (outputs, expected)
    )
    divergence = nn.functional.kl_div(student, target, reduction="sum", log_target=True)
    return divergence / counts.sum().clamp_min(1) * temperature**2


def value_distillation(outputs: Any, expected: Any) -> Tensor:
    """The squared distance of numbers of any kind by their squared size, the mean over all floating outputs.

    Raises:
        ModelError: there are none, or others than the teacher's.
    """
    ours, theirs = (
        [given for given in tensors_of(outputs_) if given.is_floating_point()] for outputs_ in (outputs, expected)
    )
    if not ours or [given.shape for given in ours] != [given.shape for given in theirs]:
        raise ModelError("distillation needs outputs of the teacher's shapes; fine-tune with --distill 0")
    return torch.stack([_apart(one.float(), other.float()) for one, other in zip(ours, theirs, strict=True)]).mean()
