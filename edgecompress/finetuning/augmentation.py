"""What may be done to a batch on its way into training, whole batches at a time."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from edgecompress.errors import ModelError
from edgecompress.models import Sample, tensors_of
from edgecompress.models.calling import call, defined
from edgecompress.models.datasets import Inputs, as_inputs, single


def augmented(sample: Sample, inputs: Inputs, generator: torch.Generator, *, cutout_side: int) -> Inputs:
    """A batch by the sample's own ``augment`` and by cutout; in float32.

    Args:
        sample: whose ``augment`` is called, if it has one.
        inputs: of one batch.
        generator: what all randomness comes from.
        cutout_side: pixels of the square; 0: none.

    Raises:
        ModelError: ``augment`` fails, or gives other tensors than it got.
    """
    given: Any = inputs
    augment, form = sample.augment, sample.form
    if augment is not None:
        asked = form.given(inputs) if form else inputs[0] if len(inputs) == 1 else inputs
        given = call(sample.name, "augment(inputs, generator)", partial(augment, asked, generator))
        given = tuple(tensors_of(given)) if form else given
        _check_augmented(f"{sample.name}: augment(inputs, generator){defined(augment)}", given, inputs)
    tensors = tuple(map(single, as_inputs(given)))
    if cutout_side:
        tensors = tuple(cutout(tensor, cutout_side, generator) if tensor.dim() == 4 else tensor for tensor in tensors)
    return tensors


def _check_augmented(name: str, given: Any, inputs: Inputs) -> None:
    """As many tensors of as many items as there were."""
    tensors = given if isinstance(given, tuple | list) else (given,)
    fits = len(tensors) == len(inputs) and all(
        isinstance(ours, Tensor) and ours.shape[:1] == theirs.shape[:1]
        for ours, theirs in zip(tensors, inputs, strict=False)
    )
    if not fits:
        gave = ", ".join(str(tuple(t.shape)) if isinstance(t, Tensor) else type(t).__name__ for t in tensors)
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in inputs)
        raise ModelError(f"{name} gave {gave or 'nothing'} for inputs of shape {shapes}")


def channels_last(inputs: Tensor) -> Tensor:
    """Images with the strides of channels last also where there is one channel, for which PyTorch would not move them.

    Convolutions pick their own layout by those strides; max-pooling of the other layout takes three times as long.
    """
    if inputs.dim() != 4 or not inputs.is_floating_point():
        return inputs
    return torch.empty_like(inputs, memory_format=torch.channels_last).copy_(inputs)


def cutout(inputs: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Images (N, C, H, W) with a square of ``side`` pixels, centred anywhere, set to 0: DeVries & Taylor 2017.

    The square may reach over the border; 0 is the mean of normalised images (arXiv 1708.04552).
    """
    count, _, *lengths = inputs.shape
    blanked = torch.ones(count, 1, 1, 1, dtype=torch.bool, device=inputs.device)
    for axis, length in enumerate(lengths):
        first = torch.randint(0, length, (count, 1), generator=generator) - side // 2
        places = torch.arange(length)
        within = ((places >= first) & (places < first + side)).to(inputs.device)
        blanked = blanked & within.view(count, 1, *(length if axis == other else 1 for other in range(len(lengths))))
    return inputs.masked_fill(blanked, 0)


def mixed(inputs: Inputs, alpha: float) -> tuple[Inputs, Tensor, float]:
    """Inputs blended with those of other items, the others' places, and the own share: mixup, Zhang et al. 2018.

    One share for the batch, from Beta(alpha, alpha), drawn like the order from torch's global generator
    (arXiv 1710.09412).
    """
    share = float(torch.distributions.Beta(alpha, alpha).sample())
    others = torch.randperm(len(inputs[0])).to(inputs[0].device)
    return tuple(share * tensor + (1 - share) * tensor[others] for tensor in inputs), others, share
