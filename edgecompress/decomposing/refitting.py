"""refit(): a model decomposed by what its layers are given, layer by layer.

Asymmetric reconstruction after Zhang, Zou, He & Sun 2015 (arXiv 1505.06798): the target of a layer is what the dense
model's layer gives, its input is what the compressed model delivers, so that errors do not pile up. A layer whose
output is added to a shortcut also makes up for the shortcut's error (He, Zhang & Sun 2017, arXiv 1707.06168). Linear
least squares throughout, no labels: with x the patches in the compressed model and y the target, the weight of least
error is M = E[y x^T] E[x x^T]^-1; the factors are fitted to M in the metrics of x and, where the model can be
differentiated, of the outputs' effect on what the model says (``sensitivity.output_metrics``). The mean error goes into
the bias or the batch norm behind. How far M may go from the dense weight is chosen on inputs that it was not fitted to
(``least_squares.solution``).

Both models run over the calibration inputs a few at a time, all of them stopped at the layer that is fitted
(``lockstep``): nothing is kept but what they need to go on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgecompress.calibrating import Calibration
from edgecompress.calibrating.batching import REHEARSED
from edgecompress.calibrating.moments import moment_bytes
from edgecompress.calibrating.sensitivity import Metric
from edgecompress.decomposing import decompose, fill, fill_from, fitted, refuse_noticed, replaced, uses_codec
from edgecompress.decomposing.dry_run import noticed
from edgecompress.decomposing.journeys import Arrival, Gave, Journey, Models
from edgecompress.decomposing.least_squares import Parts, affine
from edgecompress.decomposing.rehearsing import rehearsed
from edgecompress.decompositions import DECOMPOSITIONS
from edgecompress.decompositions.base import NUMERICAL
from edgecompress.decompositions.kernels import kernels
from edgecompress.errors import ModelError, PlanError
from edgecompress.layers import refuse_unusable
from edgecompress.models.accepting import unwrapped
from edgecompress.models.datasets import Inputs, first, in_parts
from edgecompress.plans import CompressionPlan, LayerPlan
from edgecompress.progress import Progress, silent
from edgecompress.threads import one_thread

MOST_INPUTS = 256
"""Calibration inputs used: with 512 or 1,024 ResNet-20 ends no nearer to the dense net, with 128 less near."""

CHUNK = 32
"""Inputs that run together."""

MOST_BYTES = 1 << 30
"""Of what all runs hold while they wait; early layers are fitted on fewer inputs where that would be exceeded."""

MOST_MOMENT_BYTES = 1 << 27
"""Of the second moments of one layer's inputs, 5,792 numbers wide: wider layers get the factors of their weight."""


def refit(
    dense: nn.Module,
    plan: CompressionPlan,
    calibration: Calibration,
    *,
    asymmetric: bool = True,
    progress: Progress = silent,
) -> nn.Module:
    """``dense`` decomposed by ``plan``, its factors fitted to what its layers give on the calibration inputs.

    Layers that run several times for one input, or never, and those with very many inputs (``MOST_MOMENT_BYTES``), get
    the factors of their weight.

    Args:
        dense: the model that ``plan`` was made for; it stays as it is.
        plan: with decompositions; what a codec stores has nothing to fit.
        calibration: unlabelled inputs, of which at most ``MOST_INPUTS`` are used.
        asymmetric: fit each layer on what the layers before it deliver in the compressed model; False: on the dense
            model's own inputs.
        progress: is called for each layer.

    Returns:
        A new model, its planned layers chains of standard layers.

    Raises:
        PlanError: the plan is for another model, or names a layer or ranks that do not fit.
        ModelError: the model does not run on the calibration inputs, or a layer gives NaN or infinity.
    """
    dense = unwrapped(dense)
    calibration.check(dense)
    if uses_codec(plan):
        raise PlanError(f"{plan.layers[0].method}: has no chains to fit to inputs; use decompose(), and training")
    few = first(calibration.inputs, REHEARSED)
    if not plan.rehearsed:
        refuse_noticed(noticed(dense, few, replaced(plan)))
    changed, planned = decompose(dense, plan, fill=False), {layer.name: layer for layer in plan.layers}
    names = tuple(planned)
    inputs = first(calibration.inputs, MOST_INPUTS)
    metrics = calibration.output_metrics(dense, names, len(inputs[0]))
    done: list[str] = []
    known = {name: of for name, of in rehearsed(dense, few, names).items() if _fits(dense.get_submodule(name))}
    models, by_weight = Models(dense, changed, known, done, asymmetric), planned.keys() - known.keys()
    for name in by_weight:
        fill_from(changed.get_submodule(name), dense.get_submodule(name), planned[name])
    with torch.no_grad():
        _Refit(models, planned, metrics, progress, done).run(inputs)
    for name in known.keys() - set(done):
        fill_from(changed.get_submodule(name), dense.get_submodule(name), planned[name])
    return changed


@dataclass(slots=True)
class _Refit:
    """The chains of ``models.compressed``, each fitted when the input of its layer has arrived everywhere."""

    models: Models
    planned: Mapping[str, LayerPlan]
    metrics: Mapping[str, Metric]
    progress: Progress
    done: list[str]

    def run(self, inputs: Inputs) -> None:
        """Fit all layers that run once."""
        todo = [Journey(self.models, part, CHUNK * index) for index, part in enumerate(in_parts(inputs, CHUNK))]
        on_the_way: list[Journey] = []
        with self.models.watched(), ExitStack() as stack:
            for journey in todo:
                stack.callback(journey.close)
            self._set_out(todo, on_the_way)
            while at := [journey for journey in on_the_way if journey.at is not None]:
                self._fit_next(at)
                self._set_out(todo, on_the_way)
            for layer in {layer: None for journey in on_the_way for layer in journey.waiting}:
                self._fit_on(layer, {journey: journey.waiting.get(layer) for journey in on_the_way})

    def _set_out(self, todo: list[Journey], on_the_way: list[Journey]) -> None:
        """Let so many begin as may be under way from here on: early layers hold most."""
        held = [2 * known.held for layer, known in self.models.layers.items() if layer not in self.done]
        while todo and (not on_the_way or (len(on_the_way) + 1) * CHUNK * max(held, default=0) <= MOST_BYTES):
            on_the_way.append(todo.pop(0))
            on_the_way[-1].go_on()

    def _fit_next(self, at: Sequence[Journey]) -> None:
        """Fit the first layer that any waits at, on those that do: models may choose their layers by values."""
        order = list(self.models.layers)
        layer = min((journey.at.layer for journey in at if journey.at), key=order.index)
        those = {journey: journey.at for journey in at if journey.at and journey.at.layer == layer}
        self._fit_on(layer, those)
        for journey in those:
            journey.go_on()

    def _fit_on(self, name: str, arrivals: Mapping[Journey, Arrival | None]) -> None:
        layer, parts = self.models.dense.get_submodule(name), Parts(self.models.dense.get_submodule(name))
        for journey, arrival in arrivals.items():
            gave = journey.gave(name)
            if gave is not None and arrival is not None:
                _refuse_infinite(name, gave.output)
                wanted = gave.output if arrival.shortcut is None else self._without(journey, arrival, gave)
                parts.add(journey.start, len(journey.inputs[0]), arrival.given, wanted)
            journey.forget(name)
        self.done.append(name)
        self.progress("refit", len(self.done), len(self.models.layers), name)
        if parts.of:
            self._refit(name, parts)
        else:
            fill_from(self.models.compressed.get_submodule(name), layer, self.planned[name])

    def _without(self, journey: Journey, arrival: Arrival, gave: Gave) -> Tensor:
        """What the layer has to give so that its sum with the shortcut is the dense one."""
        dense, norm = journey.gave(arrival.layer, is_sum=True), self.models.layers[arrival.layer].norm
        if dense is None or arrival.shortcut is None:
            return gave.output
        missing = dense.output - arrival.shortcut
        if not norm:
            return missing
        scale, shift = affine(self.models.compressed.get_submodule(norm), missing.dim())
        return (missing - shift) / scale if bool(scale.any()) else gave.output

    def _refit(self, name: str, parts: Parts) -> None:
        """Fit one chain, to its weight where the numbers have no answer."""
        layer, norm = self.models.dense.get_submodule(name), self.models.layers[name].norm
        takes_mean, dense = isinstance(layer.bias, Tensor) or bool(norm), kernels(layer).double()
        solution = parts.solution(self.metrics.get(name), centred=takes_mean)
        try:
            reached = self._put(name, solution.weight.reshape(dense.shape), solution.second)
        except NUMERICAL:
            refuse_unusable(name, dense)
            reached = self._put(name, dense, None)
        if takes_mean:
            mean = solution.mean_rows - torch.einsum("gtd,gd->gt", reached.flatten(2), solution.mean)
            self._put_mean(name, mean.flatten())

    def _put(self, name: str, weight: Tensor, second: Tensor | None) -> Tensor:
        """Fit the chain to the weight; returns the kernels it now stands for."""
        plan = self.planned[name]
        with one_thread():
            factors, reached = fitted(DECOMPOSITIONS[plan.method], plan.ranks, weight, second, self.metrics.get(name))
        fill(self.models.compressed.get_submodule(name), plan, factors)
        return reached

    def _put_mean(self, name: str, mean: Tensor) -> None:
        """What the outputs lack on average goes into the bias or into the batch norm behind."""
        links = DECOMPOSITIONS[self.planned[name].method].links
        bias = self.models.compressed.get_submodule(f"{name}.{links[-1]}" if name else links[-1]).bias
        if isinstance(bias, Tensor):
            bias.data.copy_(mean)
        else:
            running_mean = self.models.compressed.get_submodule(self.models.layers[name].norm).running_mean
            assert isinstance(running_mean, Tensor)
            running_mean.sub_(mean)


def _fits(layer: nn.Module) -> bool:
    """Are the second moments of a layer's inputs small enough?"""
    return moment_bytes(layer) <= MOST_MOMENT_BYTES


def _refuse_infinite(name: str, output: Tensor) -> None:
    if not bool(torch.isfinite(output).all()):
        raise ModelError(f"{name}: gives NaN or infinity on the calibration inputs; check data and weights")
