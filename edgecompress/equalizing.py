"""Equal ranges between the links of a chain, before eight bits: a free choice that decomposition leaves open.

Between two links nothing but a product happens: ``W2 W1 = (W2 D)(D^-1 W1)`` for any diagonal D > 0. One scale for a
whole activation suits channels of equal range, weights have a scale for each output channel anyway: D moves range from
the activation into the second link. The balance between both is that of SmoothQuant (Xiao et al., arXiv 2211.10438)
with exponent 1/2; the idea of a free diagonal is that of cross-layer equalization (Nagel et al., arXiv 1906.04721).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise

import torch
from torch import Tensor, nn

from edgecompress.datasets import Inputs, in_parts
from edgecompress.decompositions.base import is_transposed
from edgecompress.decompositions.kernels import groups_of, weight_of
from edgecompress.models import copied

BALANCE = 0.5
BATCH = 64
TINY = 1e-12
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d)


def equalized(model: nn.Module, inputs: Inputs, *, balance: float = BALANCE) -> nn.Module:
    """A copy of ``model`` that computes the same, with activations of more equal range inside its chains.

    ``inputs`` are calibration inputs; ``balance`` is the share of a channel's range that moves into the weights of the
    link after it (0: none, 1: all of it).
    """
    changed = copied(model).eval()
    bonds = list(_bonds(changed))
    ranges = _ranges(changed, [first for first, _ in bonds], inputs)
    with torch.no_grad():
        for (first, second), largest in zip(bonds, ranges, strict=True):
            _scale(first, second, _diagonal(largest, _into(second), balance))
    return changed


def _bonds(model: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Layers of an ``nn.Sequential``, as every chain is one, that follow each other with nothing between."""
    times = Counter(id(layer) for _, layer in model.named_modules(remove_duplicate=False))
    for chain in model.modules():
        if type(chain) is not nn.Sequential:
            continue
        for first, second in pairwise(chain):
            plain = type(first) in LAYERS and type(second) in LAYERS
            if plain and times[id(first)] == times[id(second)] == 1 and _out(first) == _in(second):
                yield first, second


def _out(layer: nn.Module) -> int:
    return int(layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)  # type: ignore[arg-type]


def _in(layer: nn.Module) -> int:
    return int(layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels)  # type: ignore[arg-type]


def _ranges(model: nn.Module, layers: list[nn.Module], inputs: Inputs) -> list[Tensor]:
    """The largest absolute output of each channel of each layer."""
    seen: dict[int, Tensor] = {}

    def see(layer: nn.Module, _given: object, output: Tensor) -> None:
        channels = output.movedim(-1, 1) if isinstance(layer, nn.Linear) else output
        largest = channels.abs().transpose(0, 1).flatten(1).amax(1)
        seen[id(layer)] = torch.maximum(seen[id(layer)], largest) if id(layer) in seen else largest

    with ExitStack() as stack, torch.no_grad():
        for layer in layers:
            stack.callback(layer.register_forward_hook(see).remove)
        for part in in_parts(inputs, BATCH):
            model(*part)
    return [seen[id(layer)] for layer in layers]


def _into(layer: nn.Module) -> Tensor:
    """The largest absolute weight that each input channel of ``layer`` meets."""
    return _by_input(layer, weight_of(layer)).abs().amax(1)


def _by_input(layer: nn.Module, weight: Tensor) -> Tensor:
    """A weight as (input channels, everything else); the groups' inputs one after another."""
    if is_transposed(layer):
        return weight.flatten(1)
    grouped: Tensor = weight.unflatten(0, (groups_of(layer), -1))
    return grouped.transpose(1, 2).flatten(0, 1).flatten(1)


def _diagonal(activations: Tensor, weights: Tensor, balance: float) -> Tensor:
    """What each channel is divided by; silent channels stay, and the mean of the logarithms is zero."""
    alive = (activations > TINY) & (weights > TINY)
    exponent = balance * activations.clamp_min(TINY).log() - (1 - balance) * weights.clamp_min(TINY).log()
    exponent = exponent - exponent[alive].mean() if alive.any() else exponent
    return torch.where(alive, exponent, torch.zeros_like(exponent)).exp()


def _scale(first: nn.Module, second: nn.Module, diagonal: Tensor) -> None:
    """Divide what ``first`` gives by the diagonal and multiply what ``second`` takes with it, in place."""
    _by_output(first, 1 / diagonal)
    if isinstance(first.bias, Tensor):
        first.bias /= diagonal
    weight = weight_of(second)
    if is_transposed(second):
        weight *= _column(diagonal, weight.dim())
        return
    grouped = weight.unflatten(0, (groups_of(second), -1))
    grouped *= _column(diagonal.view(groups_of(second), 1, -1), grouped.dim())


def _by_output(layer: nn.Module, factors: Tensor) -> None:
    weight = weight_of(layer)
    if is_transposed(layer):
        grouped = weight.unflatten(0, (groups_of(layer), -1))
        grouped *= _column(factors.view(groups_of(layer), 1, -1), grouped.dim())
    else:
        weight *= _column(factors, weight.dim())


def _column(factors: Tensor, dims: int) -> Tensor:
    """With as many dimensions of one behind as are missing to ``dims``."""
    return factors.reshape(*factors.shape, *[1] * (dims - factors.dim()))
