"""refit(): the factors of a decomposed model, layer by layer, on what the layers before it really deliver.

Asymmetric reconstruction after Zhang, Zou, He & Sun 2015 (arXiv 1505.06798): the target of a layer is what the dense
model's layer gives, its input is what the compressed model delivers, so that errors do not pile up. A layer whose
output is added to a shortcut also makes up for the shortcut's error (He, Zhang & Sun 2017, arXiv 1707.06168). Linear
least squares throughout, no labels: with x the patches in the compressed model and y the target, the weight of least
error is M = E[y x^T] E[x x^T]^-1; the factors are fitted to M in the metrics of x and, where the model can be
differentiated, of the outputs' effect on the loss (ours: a Kronecker-factored Fisher matrix, Martens & Grosse 2015,
of class probabilities softened by ``TEMPERATURE``). The mean error goes into the bias or the batch norm behind.

One run of each model over all calibration inputs: every layer is refitted the moment its input arrives.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from edgecompress.datasets import Inputs
from edgecompress.decomposing import fill, fitted
from edgecompress.decompositions.kernels import kernels, weight_from
from edgecompress.decompositions.weighted import solved
from edgecompress.models import copied, evaluating
from edgecompress.moments import images_at_once, sampled_outputs, sampled_patches
from edgecompress.plans import CompressionPlan, LayerPlan
from edgecompress.progress import Progress, silent
from edgecompress.sums import Norm, watching_sums

RIDGE = 1e-3
"""Pull towards the dense weight, as a share of the mean second moment of the inputs."""

SILENT = 1e-2
"""A batch norm's scale below this share of its largest is taken for that: no channel may ask for huge weights."""

FEW = 0.1
"""The pull grows to this share where there are no more patches than unknowns a row."""


@dataclass(slots=True)
class _Target:
    """What a layer of the dense model gave: (groups, T, n) of its outputs or, where ``summed``, of their sum."""

    rows: Tensor
    at_once: int
    runs: int = 1
    summed: bool = False
    norm: str = ""


def refit(
    dense: nn.Module,
    model: nn.Module,
    plan: CompressionPlan,
    inputs: Inputs,
    *,
    metrics: Mapping[str, Tensor] | None = None,
    others: tuple[str, ...] = (),
    progress: Progress = silent,
) -> nn.Module:
    """A copy of ``model``, which is ``dense`` decomposed by ``plan``, fitted to ``dense`` on ``inputs``.

    ``metrics`` (groups, T, T) say by layer what an output error costs (none: its square); ``others`` are layers left
    dense whose weights are refitted too. Layers that run several times for one input stay as they are.
    """
    changed = copied(model)
    planned = {layer.name: layer for layer in plan.layers}
    targets = _targets(dense, inputs, (*planned, *others))
    work = _Refit(dense, changed, planned, targets, metrics or {}, progress)
    with evaluating(changed), torch.no_grad(), work.watching():
        changed(*inputs)
    return changed


def _targets(dense: nn.Module, inputs: Inputs, names: tuple[str, ...]) -> dict[str, _Target]:
    """Run the dense model and remember what its layers, and the sums they go into, gave."""
    targets: dict[str, _Target] = {}

    def ran(name: str, layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        if name in targets:
            targets[name].runs += 1
        else:
            at_once = images_at_once(layer, args[0])
            targets[name] = _Target(sampled_outputs(layer, output, at_once), at_once)

    def summed(name: str, norm: str, own: Tensor, other: Tensor) -> None:
        target = targets[name]
        target.rows = sampled_outputs(dense.get_submodule(name), own + other, target.at_once)
        target.summed, target.norm = True, norm

    def normed(name: str, norm: str) -> None:
        targets[name].norm = norm

    with evaluating(dense), torch.no_grad(), ExitStack() as stack:
        for name in names:
            layer = dense.get_submodule(name)
            hook = partial(lambda name, layer, args, output: ran(name, layer, args, output), name)
            stack.callback(layer.register_forward_hook(hook).remove)
        stack.enter_context(watching_sums(dense, names, summed, normed))
        dense(*inputs)
    return {name: target for name, target in targets.items() if target.runs == 1}


@dataclass(slots=True)
class _Refit:
    """One run of the compressed model in which each layer is refitted when its input arrives."""

    dense: nn.Module
    model: nn.Module
    planned: Mapping[str, LayerPlan]
    targets: Mapping[str, _Target]
    metrics: Mapping[str, Tensor]
    progress: Progress

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Hooks at every layer to refit; a layer that goes into a sum waits until its shortcut is known."""
        waiting: dict[str, Tensor] = {}

        def arrived(name: str, _module: nn.Module, args: tuple[Tensor, ...]) -> None:
            if name in done:
                return
            done.append(name)
            self.progress("refit", len(done), len(self.targets), name)
            if self.targets[name].summed:
                waiting[name] = args[0]
            else:
                self._refit(name, args[0], self.targets[name].rows)

        def summed(name: str, norm: str, own: Tensor, other: Tensor) -> None:
            given = waiting.pop(name, None)
            if given is not None:
                self._refit(name, given, self._without(name, other))
                output = self.model.get_submodule(name)(given)
                own.copy_(self.model.get_submodule(norm)(output) if norm else output)

        done: list[str] = []
        with ExitStack() as stack:
            for name in self.targets:
                module = self.model.get_submodule(name)
                stack.callback(module.register_forward_pre_hook(partial(arrived, name)).remove)
            stack.enter_context(watching_sums(self.model, tuple(self.targets), summed))
            yield

    def _without(self, name: str, shortcut: Tensor) -> Tensor:
        """What the layer has to give so that its sum with ``shortcut`` is the dense one."""
        target, layer = self.targets[name], self.dense.get_submodule(name)
        missing = target.rows - sampled_outputs(layer, shortcut, target.at_once)
        if not target.norm:
            return missing
        scale, shift = _affine(self.model.get_submodule(target.norm), len(missing))
        return (missing - shift) / scale

    def _refit(self, name: str, given: Tensor, rows: Tensor) -> None:
        layer, target = self.dense.get_submodule(name), self.targets[name]
        regression = _regression(layer, given, rows, target.at_once)
        module, norm = self.model.get_submodule(name), target.norm
        takes_mean = getattr(layer, "bias", None) is not None or bool(norm)
        fit_of = regression.centred() if takes_mean else regression
        weight, second = fit_of.solution(kernels(layer).double().flatten(2))
        weight = weight.unflatten(2, kernels(layer).shape[2:])
        fitted_weight = self._put(name, module, weight, second)
        if takes_mean:
            mean = regression.mean_rows - torch.einsum("gtd,gd->gt", fitted_weight.flatten(2), regression.mean)
            self._put_mean(name, module, mean.flatten(), norm)

    def _put(self, name: str, module: nn.Module, weight: Tensor, second: Tensor) -> Tensor:
        """Give the chain (or the dense layer) the weight; returns the kernels it now stands for."""
        if name not in self.planned:
            module.weight.data.copy_(weight_from(module, weight))  # type: ignore[union-attr, operator]
            return weight
        factors, reached = fitted(self.planned[name], weight, second, self.metrics.get(name))
        fill(module, self.planned[name], factors)
        return reached

    def _put_mean(self, name: str, module: nn.Module, mean: Tensor, norm: str) -> None:
        """What the outputs lack on average goes into the bias or into the batch norm behind."""
        last = list(module.children())[-1] if name in self.planned else module
        bias = getattr(last, "bias", None)
        if isinstance(bias, Tensor):
            bias.data.copy_(mean)
        else:
            behind = self.model.get_submodule(norm)
            behind.running_mean.sub_(mean)  # type: ignore[union-attr, operator]


@dataclass(frozen=True, slots=True)
class _Regression:
    """Averages over n patches x and targets y: E[x x^T], E[y x^T], E[x], E[y], by group, float64."""

    second: Tensor
    cross: Tensor
    mean: Tensor
    mean_rows: Tensor
    count: int

    def centred(self) -> _Regression:
        """The same about the means."""
        second = self.second - self.mean[:, :, None] * self.mean[:, None]
        cross = self.cross - self.mean_rows[:, :, None] * self.mean[:, None]
        return _Regression(second, cross, self.mean, self.mean_rows, self.count)

    def solution(self, dense: Tensor) -> tuple[Tensor, Tensor]:
        """The weight (groups, T, D) of least squares, pulled towards ``dense``, and the metric it is best in."""
        size = self.second.shape[-1]
        pull = max(RIDGE, FEW * size / self.count) * self.second.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
        second = self.second + pull * torch.eye(size, dtype=torch.float64)
        weights = [solved(own, cross) for own, cross in zip(second, self.cross + pull * dense, strict=True)]
        return torch.stack(weights), second


def _regression(layer: nn.Module, given: Tensor, rows: Tensor, at_once: int) -> _Regression:
    groups, size = kernels(layer).shape[0], kernels(layer).flatten(2).shape[2]
    second = torch.zeros(groups, size, size, dtype=torch.float64)
    cross = torch.zeros(groups, rows.shape[1], size, dtype=torch.float64)
    mean, first = torch.zeros(groups, size, dtype=torch.float64), 0
    for patches in sampled_patches(layer, given, at_once):
        last = first + patches.shape[2]
        second += (patches @ patches.mT).double()
        cross += (rows[:, :, first:last] @ patches.mT).double()
        mean += patches.sum(2).double()
        first = last
    return _Regression(second / first, cross / first, mean / first, rows.double().mean(2), first)


def _affine(norm: nn.Module, groups: int) -> tuple[Tensor, Tensor]:
    """Scale and shift (groups, T, 1) of a batch norm in eval mode; channels it all but silences count as louder."""
    assert isinstance(norm, Norm)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.running_var + norm.eps).rsqrt() * (1 if norm.weight is None else norm.weight.detach())
    shift = -norm.running_mean * scale + (0 if norm.bias is None else norm.bias.detach())
    least = SILENT * scale.abs().max()
    scale = torch.where(scale.abs() < least, least.copysign(scale), scale)
    return scale.reshape(groups, -1, 1), shift.reshape(groups, -1, 1)
