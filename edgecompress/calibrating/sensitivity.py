"""What a change of one layer's weight costs at the model's output, to second order, from one backward pass.

For an input n let G_n be the gradient, with respect to a layer's weight, of the outputs in a random direction whose
covariance is the Fisher information of the (softened) class probabilities. Half the mean of <G_n, W' - W>^2 is then
the second-order estimate of the divergence that W' in place of W causes: every candidate of every layer is scored by
the same pass, against one run a candidate for measuring it.

Chosen by experiment (ResNet-20, 256 images; KL to the dense net and accuracy on 2,000 other training images, after
the same refit): by measured divergences of single replaced layers 0.304, 91.3 % and 0.069, 97.2 % at 30 and 50 % of
the MACs, by this 0.293, 91.1 % and 0.052, 98.0 %, twenty times faster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from edgecompress.calibrating.batching import inputs_at_once
from edgecompress.calibrating.patches import output_rows, patches
from edgecompress.calibrating.texts import shortest_first
from edgecompress.decompositions.kernels import groups_of, kernel_shape, weight_of
from edgecompress.decompositions.projection import root_and_inverse
from edgecompress.decompositions.sketch import WIDE
from edgecompress.errors import ModelError
from edgecompress.memory import SMALLER, is_shortage, naming_shortage
from edgecompress.models import Call, as_outputs, calibrated, evaluating, named_layers, observing
from edgecompress.models.datasets import Inputs, first
from edgecompress.models.masks import counted, without_padding

Add = Callable[[str, nn.Module, Tensor, Tensor], None]

TEMPERATURE = 4.0
"""Of the class probabilities: at 1, trained nets are too sure of training images to tell much."""

DAMPING = 0.1
"""Share of the mean that is added to every direction of an output metric."""

METRIC_INPUTS = 128
"""Enough inputs for output metrics: every position of each adds to them."""

METRIC_MACS, FEWEST_METRIC_INPUTS = 6e10, 12
"""Multiply-accumulates of the runs that a metric is taken from: large models get fewer inputs, of more positions."""

FEW_INPUTS = 16
"""Enough to see whether a layer's output reaches the model's."""

MOST_GRADIENT_BYTES = 1 << 26
"""Of the gradients of single inputs in memory at once."""


MOST_OUTPUTS = 2048
"""Layers of more outputs have no metric: all their outputs count alike, and no root of a huge matrix is taken."""


@dataclass(frozen=True)
class Components:
    """Changes of a Linear layer's outputs y by leaving out all but the first components: A_r^T B_r y - y.

    Stands for changes of its weight too large to be kept. ``left`` and ``right`` (k, T) are A and B; each candidate
    keeps ``ranks`` components and costs ``scales`` of what that gives.
    """

    left: Tensor
    right: Tensor
    ranks: tuple[int, ...]
    scales: Tensor

    def __len__(self) -> int:
        return len(self.ranks)

    @property
    def nbytes(self) -> int:
        """In memory."""
        return self.left.nbytes + self.right.nbytes

    def products(self, outputs: Tensor, gradients: Tensor) -> Tensor:
        """(n, candidates): of the gradients (n, l, T) with what each changes of the outputs (n, l, T)."""
        shares = ((gradients @ self.left.T) * (outputs @ self.right.T)).sum(1).cumsum(1)
        whole = (gradients * outputs).sum((1, 2))
        return (shares[:, [rank - 1 for rank in self.ranks]] - whole[:, None]) * self.scales.sqrt().to(shares)


@dataclass(frozen=True)
class Metric:
    """What an error of a layer's outputs costs: ``matrix`` (groups, T, T), symmetric and positive.

    In float64; of ``WIDE`` outputs and more in float32. Its root is taken once, for all candidates of the layer and
    for the fit that follows. ``level`` (groups,) is what a unit of it stands for: half of it times the mean squared
    error, in this metric, of a position's outputs is the divergence that the error causes for an input, where errors
    at different positions have nothing to do with each other.
    """

    matrix: Tensor
    level: Tensor | None = None

    @property
    def root(self) -> Tensor:
        """(groups, T, T): R with R^T R the matrix; kernels times these have plain squared errors."""
        return self._roots[0]

    @property
    def inverse(self) -> Tensor:
        """(groups, T, T): the roots' (pseudo-)inverses."""
        return self._roots[1]

    @cached_property
    def _roots(self) -> tuple[Tensor, Tensor]:
        return roots_of(self.matrix)


def roots_of(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Roots R with R^T R the matrices (groups, T, T), and their inverses.

    By Cholesky, a fifth of the work of symmetric roots; these, and pseudo-inverses, where it fails.
    """
    factor, failed = torch.linalg.cholesky_ex(matrices)
    if not bool(failed.any()):
        root, one = factor.mT, torch.eye(factor.shape[-1], dtype=factor.dtype)
        return root, torch.linalg.solve_triangular(root, one.expand_as(root), upper=True)
    roots, inverses = zip(*map(root_and_inverse, matrices), strict=True)
    return torch.stack(roots), torch.stack(inverses)


def change_losses(
    model: nn.Module,
    inputs: Inputs,
    changes: Mapping[str, Tensor | Components],
    means: Mapping[str, Tensor],
    *,
    classes: bool = True,
) -> dict[str, Tensor]:
    """For each layer the loss (candidates,) of its ``changes`` (candidates, groups, T, D): W' - W.

    ``means`` (groups, D) are those of the layers' patches: the mean error of the outputs counts as corrected. A
    layer whose output reaches none of the model's loses nothing; one that no finite gradient reaches has no loss
    otherwise. Empty for a model that cannot be differentiated.
    """
    sums: dict[str, Tensor] = {}

    def add(name: str, layer: nn.Module, given: Tensor, gradient: Tensor) -> None:
        mean, change = means[name].to(given.dtype)[:, :, None], changes[name]
        if isinstance(change, Components):
            outputs = (given - mean.flatten()).unflatten(0, (len(given), -1)).flatten(1, -2) @ weight_of(layer).T
            of_each = change.products(outputs, gradient.unflatten(0, (len(given), -1)).flatten(1, -2))
            sums[name] = sums.get(name, 0) + of_each.double().square().sum(0)
            return
        for few, theirs in _few_at_a_time(layer, given, gradient):
            everywhere = theirs[0].numel()
            u = (patches(layer, few, most=everywhere) - mean).unflatten(2, (len(few), -1))
            g = output_rows(layer, theirs, most=everywhere).unflatten(2, (len(few), -1))
            of_each = torch.einsum("gtnl,gdnl->ngtd", g, u).flatten(1)
            sums[name] = sums.get(name, 0) + (of_each @ change.flatten(1).to(of_each.dtype).T).double().square().sum(0)

    if not _run_backward(model, inputs, tuple(changes), add, classes=classes) or not any(map(_tells, sums.values())):
        return {}
    unreached = [name for name in changes if name not in sums and not _reaches_output(model, inputs, name)]
    unseen = {name: torch.zeros(len(changes[name]), dtype=torch.float64) for name in unreached}
    return {
        name: total / (2 * len(inputs[0])) for name, total in (sums | unseen).items() if bool(total.isfinite().all())
    }


def output_metrics(
    model: nn.Module, inputs: Inputs, names: tuple[str, ...], *, classes: bool = True
) -> dict[str, Metric]:
    """For each layer what an error of its outputs costs, damped, with a mean of 1.

    The output half of a Kronecker-factored Fisher matrix (Martens & Grosse 2015, arXiv 1503.05671). Layers that no
    finite gradient reaches, and those of more than ``MOST_OUTPUTS`` outputs, have none; empty for a model that cannot
    be differentiated.
    """
    sums: dict[str, Tensor] = {}

    def add(name: str, layer: nn.Module, _given: Tensor, gradient: Tensor) -> None:
        rows = output_rows(layer, gradient, most=gradient[0].numel())
        sums[name] = sums.get(name, 0) + (rows @ rows.mT).double()

    names = tuple(name for name in names if kernel_shape(model.get_submodule(name))[0] <= MOST_OUTPUTS)
    differentiable = _run_backward(model, inputs, names, add, classes=classes)
    if not differentiable:
        return {}
    given = (name for name in list(sums) if _tells(sums[name]))
    return {name: _metric(sums.pop(name), len(inputs[0])) for name in given}


def _metric(total: Tensor, inputs: int) -> Metric:
    """Of the ``total`` over so many inputs of the products of gradients."""
    return Metric(_damped(total), _level(total) / inputs)


def _level(second: Tensor) -> Tensor:
    """(groups,): the mean of the diagonal."""
    return second.diagonal(dim1=1, dim2=2).mean(1)


def _reaches_output(model: nn.Module, inputs: Inputs, name: str) -> bool:
    """Does another output of a layer change any of the model's? Code may stop gradients, and not numbers."""

    def changed(call: Call) -> Any:
        return 2 * call.output + 1

    few = first(inputs, FEW_INPUTS)
    with evaluating(model), torch.no_grad():
        expected = as_outputs(calibrated(model, few))
        with observing(named_layers(model, (name,)), after=changed):
            reached = as_outputs(calibrated(model, few))
    return not all(map(torch.equal, expected, reached))


def _tells(total: Tensor) -> bool:
    """Is a sum over gradients finite and not all zeros?"""
    return bool(total.isfinite().all()) and bool(total.any())


def _damped(second: Tensor) -> Tensor:
    mean = _level(second)[:, None, None].clamp_min(torch.finfo(second.dtype).tiny)
    damped = second / mean + DAMPING * torch.eye(second.shape[-1], dtype=second.dtype)
    return damped.float() if damped.shape[-1] >= WIDE else damped


def _few_at_a_time(layer: nn.Module, given: Tensor, gradient: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """So few inputs that neither their gradients nor their patches take more than ``MOST_GRADIENT_BYTES``."""
    outputs, *rest = kernel_shape(layer)
    patch = torch.Size(rest).numel() * groups_of(layer)
    positions = gradient[0].numel() // (outputs * groups_of(layer))
    size = max(1, MOST_GRADIENT_BYTES // (4 * patch * max(outputs, positions)))
    yield from zip(torch.split(given, size), torch.split(gradient, size), strict=True)


def _run_backward(model: nn.Module, inputs: Inputs, names: tuple[str, ...], add: Add, *, classes: bool) -> bool:
    """Call ``add(name, layer, input, gradient)`` for every layer and batch; False if there are no gradients."""
    generator = torch.Generator().manual_seed(0)
    at_once = inputs_at_once(model, inputs, gradients=True)
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        for parameter, wanted in before:
            if wanted and not parameter.is_inference():
                parameter.requires_grad_(False)
        watched = observing(named_layers(model, names), after=partial(_with_gradient, add))
        with evaluating(model), torch.enable_grad(), watched:
            for part in shortest_first(model, inputs, at_once):
                outputs = [output for output in as_outputs(calibrated(model, part)) if output.requires_grad]
                with naming_shortage(f"{type(model).__name__}: gradients of its outputs", SMALLER):
                    given = [_direction(output, generator, classes=classes) for output in outputs]
                    torch.autograd.backward(outputs, [without_padding(of, counted(model, part)) for of in given])
    except (RuntimeError, ModelError) as error:
        if is_shortage(error):
            raise
        return False
    finally:
        for parameter, wanted in before:
            if parameter.requires_grad != wanted:
                parameter.requires_grad_(wanted)
    return True


def _direction(output: Tensor, generator: torch.Generator, *, classes: bool) -> Tensor:
    """A random direction among the outputs, so drawn that its covariance is what an error costs."""
    noise = torch.randn(output.shape, generator=generator).to(output)
    if not classes:
        return noise
    share = (output.detach() / temperature_of(output)).softmax(-1)
    direction: Tensor = share.sqrt() * noise
    return direction - share * direction.sum(-1, keepdim=True)


def temperature_of(scores: Tensor, usual: float = TEMPERATURE) -> float:
    """``usual`` of class scores (N, classes); 1 where every position has its own: such nets are not as sure."""
    return usual if scores.dim() < 3 else 1.0


def _with_gradient(add: Add, call: Call) -> Any:
    """The output of a layer, whose gradient goes to ``add``: it needs none of a parameter's."""
    output = call.output
    if not torch.is_grad_enabled():
        return output
    name, layer, given = call.name, call.layer, call.given.detach()
    watched = output if output.requires_grad else output.detach().requires_grad_().clone()
    watched.register_hook(lambda gradient: add(name, layer, given, gradient))
    return watched
