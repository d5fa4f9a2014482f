"""Equal ranges between the links of a chain, before eight bits: a free choice that decomposition leaves open.

Between two links nothing but a product happens: ``W2 W1 = (W2 D)(D^-1 W1)`` for any diagonal D > 0. One scale for a
whole activation suits channels of equal range, weights have a scale for each output channel anyway: D moves range from
the activation into the second link. Candidates are those of SmoothQuant (Xiao et al., arXiv 2211.10438), which balance
both; the idea of a free diagonal is that of cross-layer equalization (Nagel et al., arXiv 1906.04721). Equal ranges are
not always better: what is moved into a weight widens its steps. So the rounding noise of each candidate is predicted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgecompress.decompositions.base import is_transposed
from edgecompress.decompositions.kernels import groups_of, weight_of
from edgecompress.exporting.flow import bonds
from edgecompress.exporting.outputs import compare, run_model
from edgecompress.models import Call, copied, observing
from edgecompress.models.datasets import Inputs, first, in_parts

BALANCES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of a channel's range that may move into the weights after it; one is chosen for each bond."""
BATCH = 64
SAME = 1e-5
"""Outputs differ by no more, as a fraction of the largest, where equal ranges changed nothing but rounding."""
TINY = 1e-12
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d)


@dataclass(frozen=True, slots=True)
class Ranges:
    """Of each channel of a layer's output: the largest absolute value, and the mean square."""

    largest: Tensor
    power: Tensor


def equalized(model: nn.Module, inputs: Inputs) -> nn.Module:
    """A copy of ``model`` that computes the same and loses less when it is rounded to int8.

    ``inputs`` are calibration inputs. Each bond, which is seen in a run, gets the diagonal, the identity among them,
    whose rounding noise is predicted to be the least; what then changes an output after all is undone.
    """
    changed, some = copied(model).eval(), first(inputs, BATCH)
    layers = [layer for layer in changed.modules() if type(layer) in LAYERS]
    found = [Bond(*pair) for pair in bonds(changed, layers, some) if _fit(*pair)]
    ranges = _ranges(changed, [bond.before for bond in found], inputs)
    expected = run_model(changed, some)

    def same() -> bool:
        parity = compare(len(some[0]), expected, run_model(changed, some))
        return parity.max_abs_error <= SAME * parity.scale

    with torch.no_grad():
        diagonals = [
            _best(of, _by_input(bond.after, weight_of(bond.after))) for bond, of in zip(found, ranges, strict=True)
        ]
        _scale_while_same(found, diagonals, same)
    return changed


@dataclass(frozen=True, slots=True)
class Bond:
    """Two layers with nothing but a product between them."""

    before: nn.Module
    after: nn.Module

    def numbers(self) -> list[Tensor]:
        """The parameters that a diagonal changes."""
        tensors = (self.before.weight, self.before.bias, self.after.weight)
        return [tensor for tensor in tensors if isinstance(tensor, Tensor)]


def _scale_while_same(found: Sequence[Bond], diagonals: Sequence[Tensor], same: Callable[[], bool]) -> None:
    """Scale every bond, in place; where outputs change, undo it and try each half alone."""
    if not found:
        return
    kept = [[tensor.clone() for tensor in bond.numbers()] for bond in found]
    for bond, diagonal in zip(found, diagonals, strict=True):
        _scale(bond.before, bond.after, diagonal)
    if same():
        return
    for bond, numbers in zip(found, kept, strict=True):
        for tensor, number in zip(bond.numbers(), numbers, strict=True):
            tensor.copy_(number)
    half = len(found) // 2
    for part in (slice(0, half), slice(half, None)) if half else ():
        _scale_while_same(found[part], diagonals[part], same)


def _best(of: Ranges, weight: Tensor) -> Tensor:
    """The diagonal of least noise; ``weight`` is (input channels, outputs, everything else) of the second link."""
    candidates = [torch.ones_like(of.largest)]
    candidates += [_diagonal(of.largest, weight.abs().flatten(1).amax(1), balance) for balance in BALANCES]
    return min(candidates, key=lambda diagonal: noise(of, weight, diagonal))


def noise(of: Ranges, weight: Tensor, diagonal: Tensor) -> float:
    """Mean squared error at the second link's outputs when both its inputs and its weights are rounded, up to a factor.

    Rounding to steps of Delta costs Delta^2 / 12 a number. Inputs share one step, from the widest channel; weights have
    one for each output channel.
    """
    scaled = weight * diagonal.view(-1, *[1] * (weight.dim() - 1))
    inputs = (of.largest / diagonal).max().square() * scaled.square().sum()
    steps = scaled.abs().movedim(1, 0).flatten(1).amax(1).square().sum()
    taps = weight[0, 0].numel()
    return float(inputs + steps * taps * (of.power / diagonal.square()).sum())


def _fit(before: nn.Module, after: nn.Module) -> bool:
    """Whether the output channels of one are the input channels of the other."""
    if isinstance(before, nn.Linear) or isinstance(after, nn.Linear):
        return type(before) is type(after) and _out(before) == _in(after)
    return len(weight_of(before).shape) == len(weight_of(after).shape) and _out(before) == _in(after)


def _out(layer: nn.Module) -> int:
    return int(layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)  # type: ignore[arg-type]


def _in(layer: nn.Module) -> int:
    return int(layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels)  # type: ignore[arg-type]


def _ranges(model: nn.Module, layers: list[nn.Module], inputs: Inputs) -> list[Ranges]:
    """Of each layer's output on the inputs."""
    largest: dict[int, list[Tensor]] = {id(layer): [] for layer in layers}
    power: dict[int, list[Tensor]] = {id(layer): [] for layer in layers}

    def ended(call: Call) -> None:
        output = call.output.movedim(-1, 1) if isinstance(call.layer, nn.Linear) else call.output
        channels = output.transpose(0, 1).flatten(1)
        largest[id(call.layer)].append(channels.abs().amax(1))
        power[id(call.layer)].append(channels.square().mean(1))

    with observing((("", layer) for layer in layers), after=ended), torch.no_grad():
        for part in in_parts(inputs, BATCH):
            model(*part)
    return [Ranges(torch.stack(largest[id(layer)]).amax(0), torch.stack(power[id(layer)]).mean(0)) for layer in layers]


def _by_input(layer: nn.Module, weight: Tensor) -> Tensor:
    """A weight as (input channels, outputs of a group, taps); the groups' inputs one after another."""
    if is_transposed(layer):
        return weight.flatten(2) if weight.dim() > 2 else weight.unsqueeze(2)
    by_input: Tensor = weight.unflatten(0, (groups_of(layer), -1)).transpose(1, 2).flatten(0, 1)
    return by_input.flatten(2) if by_input.dim() > 2 else by_input.unsqueeze(2)


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
