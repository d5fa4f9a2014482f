"""Many small nets as one table of numbers, for ``search_storage.py``: LeNet-300 and LeNet-5, dense or with one core.

They run side by side in a few large matrix products. Those of one seed see the same images.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from train_samples import untrained

from edgecompress.settings import Storage
from edgecompress.sources import resolve
from edgecompress.storing.planning import plan_storage

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BATCH = 128
"""Images of a training step, the number for which the convolutions are compiled."""
TAPS, ALIGNED = 25, 32
"""Taps of the first kernel, and with zeros: what matrix units like."""

Factors = tuple[list[Tensor], list[Tensor]]


class Nets(ABC):
    """``seeds`` times ``members`` nets as one table (nets, numbers); those of one seed are neighbours."""

    def __init__(self, network: str, seeds: int, members: int) -> None:
        self.network, self.seeds, self.members, self.count = network, seeds, members, seeds * members

    @abstractmethod
    def weights(self, numbers: Tensor) -> Factors:
        """Of every layer the weights (nets, *shape) and, where there are any, the biases (nets, outputs)."""

    def logits(self, numbers: Tensor, inputs: Tensor) -> Tensor:
        """(seeds, members, N, classes) of (seeds, N, 1, 28, 28)."""
        dtype = torch.bfloat16 if self.network == "lenet5" else torch.float32
        weights, biases = ([factor.to(dtype) for factor in factors] for factors in self.weights(numbers))
        shifts: list[Any] = [bias[:, :, None] for bias in biases] or [0.0] * len(weights)
        if self.network == "lenet5":
            maps = [shift[..., None, None] if biases else shift for shift in shifts[:2]]
            hidden = self._maps(weights[:2], maps, inputs.to(dtype))
            weights, shifts = weights[2:], shifts[2:]
        else:
            flat = inputs.to(dtype).flatten(2).transpose(1, 2)
            hidden = torch.bmm(weights[0].view(self.seeds, -1, flat.shape[1]), flat)
            hidden = (hidden.view(*weights[0].shape[:2], -1) + shifts[0]).relu()
            weights, shifts = weights[1:], shifts[1:]
        for at, (weight, shift) in enumerate(zip(weights, shifts, strict=True)):
            hidden = torch.bmm(weight, hidden.relu() if at else hidden) + shift
        outputs: Tensor = hidden.float().transpose(1, 2)
        return outputs.view(self.seeds, self.members, *outputs.shape[1:])

    def _maps(self, weights: Sequence[Tensor], shifts: Sequence[Any], images: Tensor) -> Tensor:
        """What LeNet-5 pools of its second convolution, (nets, features, N)."""
        with torch.no_grad():
            windows = images[:, :, 0].unfold(2, 5, 1).unfold(3, 5, 1).permute(0, 4, 5, 1, 2, 3)
            taps = functional.pad(windows.reshape(self.seeds, TAPS, -1), (0, 0, 0, ALIGNED - TAPS))
        kernels = functional.pad(weights[0].flatten(2).view(self.seeds, -1, TAPS), (0, ALIGNED - TAPS))
        convolved = _compiled if images.shape[1] == BATCH else _convolved
        pooled: Tensor = convolved(kernels, weights[1].flatten(2), shifts, taps, images.shape[1])
        return pooled


def _convolved(kernels: Tensor, second: Tensor, shifts: Sequence[Any], taps: Tensor, number: int) -> Tensor:
    """Both convolutions as matrix products: three times as fast as grouped ones, their copies compiled."""
    count = len(second)
    maps = torch.bmm(kernels, taps).view(count, -1, number, 24, 24) + shifts[0]
    pooled = functional.max_pool2d(maps.flatten(0, 2), 2).view(count, -1, number, 12, 12)
    taps = torch.stack([pooled[..., i : i + 8, j : j + 8] for i in range(5) for j in range(5)], 2)
    maps = torch.bmm(second, taps.reshape(count, -1, number * 64)).view(count, -1, number, 8, 8) + shifts[1]
    pooled = functional.max_pool2d(maps.flatten(0, 2), 2).view(count, -1, number, 16)
    return pooled.transpose(2, 3).reshape(count, -1, number)


_compiled: Callable[..., Tensor] = torch.compile(_convolved, dynamic=False) if DEVICE == "cuda" else _convolved


class Dense(Nets):
    """Nets as they are, with PyTorch's default initialisation."""

    def __init__(self, network: str, seeds: int) -> None:
        super().__init__(network, seeds, 1)
        states = []
        for seed in range(seeds):
            torch.manual_seed(seed)
            states.append(untrained(network).build().state_dict())
        self.shapes = [value.shape for value in states[0].values()]
        self.fresh = torch.stack([torch.cat([v.flatten() for v in state.values()]) for state in states]).to(DEVICE)

    def weights(self, numbers: Tensor) -> Factors:
        """They are the numbers."""
        parts = numbers.split([prod(shape) for shape in self.shapes], 1)
        made = [part.view(-1, *shape) for part, shape in zip(parts, self.shapes, strict=True)]
        return made[::2], made[1::2]


class Stored(Nets):
    """Nets with one shared core each: the core, then the matrices of each layer."""

    def __init__(self, network: str, settings: Mapping[str, Any], seeds: int, members: int) -> None:
        super().__init__(network, seeds, members)
        rank, order = int(settings["rank"]), int(settings["order"])
        sample = resolve(network)
        storage = Storage("scada_tucker", rank, order=order, mix_axes=bool(settings["mix_axes"]))
        layers = plan_storage(sample.model(), sample.inputs, storage).layers
        self.ranks = (rank,) * order
        self.shapes, self.dims = [layer.shape for layer in layers], [layer.dims for layer in layers]
        self.sizes = [rank**order, *(d * rank for dims in self.dims for d in dims)]
        self.scales = [math.sqrt(2 / prod(shape[1:]) / rank**order) for shape in self.shapes]
        owner = torch.repeat_interleave(torch.arange(len(self.sizes)), torch.tensor(self.sizes))
        self.owner = owner.to(DEVICE)
        self.of_factor = functional.one_hot(self.owner, len(self.sizes)).float()
        fresh = torch.stack([_normal(sum(self.sizes), seed) for seed in range(seeds)]).to(DEVICE)
        self.fresh = fresh.repeat_interleave(members, 0)

    def weights(self, numbers: Tensor) -> Factors:
        """Contracted; no biases."""
        core, *matrices = numbers.split(self.sizes, 1)
        made, order = [], len(self.ranks)
        for at, (shape, dims) in enumerate(zip(self.shapes, self.dims, strict=True)):
            whole = core
            for mode, d in enumerate(dims):
                front = whole.reshape(self.count, self.ranks[mode], -1).transpose(1, 2)
                matrix = matrices[at * order + mode].view(self.count, d, -1)
                whole = torch.bmm(front, matrix.transpose(1, 2))
            made.append(self.scales[at] * whole.reshape(self.count, *shape))
        return made, []


def _normal(count: int, seed: int) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed))
