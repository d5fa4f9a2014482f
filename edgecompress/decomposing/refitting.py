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

from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgecompress.calibrating import Calibration
from edgecompress.calibrating.batching import REHEARSED, affordable
from edgecompress.calibrating.sensitivity import Metric
from edgecompress.decomposing import decompose, fill, fill_from, fitted, refuse_noticed, replaced, uses_codec
from edgecompress.decomposing.dry_run import noticed
from edgecompress.decomposing.few_rows import FewRows, fittable, sums_of
from edgecompress.decomposing.hollow import hollow, share
from edgecompress.decomposing.journeys import Arrival, Gave, Journey, Models, journeys
from edgecompress.decomposing.least_squares import TOGETHER, Parts, affine
from edgecompress.decomposing.rehearsing import rehearsed
from edgecompress.decomposing.tables import fill_tables
from edgecompress.decompositions import DECOMPOSITIONS
from edgecompress.decompositions.base import NUMERICAL, is_table
from edgecompress.decompositions.kernels import kernels
from edgecompress.decompositions.sketch import Sketch
from edgecompress.errors import ModelError, PlanError
from edgecompress.layers import refuse_unusable
from edgecompress.memory import give_back, keeping_little, naming_shortage, without
from edgecompress.models import copied
from edgecompress.models.accepting import unwrapped
from edgecompress.models.adapting import adapted
from edgecompress.models.datasets import Inputs, first
from edgecompress.models.masks import counted, is_by_position
from edgecompress.plans import CompressionPlan, LayerPlan
from edgecompress.progress import Progress, silent
from edgecompress.threads import one_thread

MOST_INPUTS = 256
"""Calibration inputs used: with 512 or 1,024 ResNet-20 ends no nearer to the dense net, with 128 less near."""

MOST_MACS = 1.5e11
"""Multiply-accumulates of the dense model's runs: large models get fewer inputs."""
MOST_TEXTS, TEXTS_MACS = 1024, 1e12
"""Likewise of models that are given token numbers: a text has few positions, and wide layers need many."""
CHUNK, CHUNK_BYTES = 32, 1 << 27
"""Inputs that run together, at most, and what they may hold."""

MOST_BYTES = 3 << 27
"""Of what all runs hold while they wait; early layers are fitted on fewer inputs where that would be exceeded."""


def refit(
    dense: nn.Module,
    plan: CompressionPlan,
    calibration: Calibration | Any,
    *,
    asymmetric: bool = True,
    shortcuts: bool = True,
    progress: Progress = silent,
) -> nn.Module:
    """``dense`` decomposed by ``plan``, its factors fitted to what its layers give on the calibration inputs.

    Layers that run several times for one input, or never, and those with too many inputs (``few_rows.fittable``), get
    the factors of their weight.

    Args:
        dense: the model that ``plan`` was made for; it stays as it is.
        plan: with decompositions; what a codec stores has nothing to fit.
        calibration: unlabelled inputs, or what :class:`Calibration` takes; ``used_inputs`` of them are used.
        asymmetric: fit each layer on what the layers before it deliver in the compressed model; False: on the dense
            model's own inputs.
        shortcuts: fit each also to what the shortcut that its output is added to lacks, where it is asymmetric.
        progress: is called for each layer.

    Returns:
        A new model, its planned layers chains of standard layers.

    Raises:
        PlanError: the plan is for another model, or names a layer or ranks that do not fit.
        ModelError: the model does not run on the calibration inputs, or a layer gives NaN or infinity.
    """
    given = calibration if isinstance(calibration, Calibration) else Calibration(calibration)
    return copied(_refitted(dense, plan, given, (asymmetric,), progress, shortcuts=shortcuts)[asymmetric])


def refit_both_ways(
    dense: nn.Module, plan: CompressionPlan, calibration: Calibration, *, progress: Progress = silent
) -> dict[bool, nn.Module]:
    """What :func:`refit` gives for ``asymmetric`` and for not, in one run over the inputs.

    All layers but those of ``plan`` have the parameters of ``dense`` itself.

    Raises:
        PlanError, ModelError: as of :func:`refit`.
    """
    return _refitted(dense, plan, calibration, (True, False), progress)


def used_inputs(dense: nn.Module, calibration: Calibration) -> Inputs:
    """Those that :func:`refit` uses: at most ``MOST_INPUTS``, ``MOST_TEXTS`` of texts, of large models fewer."""
    texts = any(map(is_by_position, calibration.inputs))
    inputs = first(calibration.inputs, MOST_TEXTS if texts else MOST_INPUTS)
    return first(inputs, affordable(unwrapped(dense), inputs, TEXTS_MACS if texts else MOST_MACS))


def _refitted(
    dense: nn.Module,
    plan: CompressionPlan,
    calibration: Calibration,
    ways: tuple[bool, ...],
    progress: Progress,
    *,
    shortcuts: bool = True,
) -> dict[bool, nn.Module]:
    dense = adapted(dense, plan.adapters)
    calibration.check(dense)
    if uses_codec(plan):
        raise PlanError(f"{plan.layers[0].method}: has no chains to fit to inputs; use decompose(), and training")
    few = first(calibration.inputs, REHEARSED)
    if not plan.rehearsed:
        refuse_noticed(noticed(dense, few, replaced(plan)))
    changed, planned = {way: _hollow(dense, plan) for way in ways}, {of.name: of for of in plan.layers}
    names, inputs = tuple(planned), used_inputs(dense, calibration)
    metrics = calibration.output_metrics(dense, names, len(inputs[0]))
    done: list[str] = []
    runs, changes_inputs = rehearsed(dense, few, names, shortcuts=shortcuts)
    known = {name: of for name, of in runs.items() if fittable(dense.get_submodule(name), planned[name].method)}
    models = Models(dense, changed[ways[0]], known, done, ways[0], changes_inputs)
    for name in runs.keys() - known.keys():
        if not is_table(dense.get_submodule(name)):
            progress("refit", 0, len(known), f"{name}: to its weight alone, its inputs are too wide")
    tables = [of for of in plan.layers if is_table(dense.get_submodule(of.name))]
    _fill_by_weights(dense, changed.values(), [of for of in plan.layers if of.name not in known and of not in tables])
    fill_tables(dense, changed.values(), tables, calibration, metrics)
    with torch.no_grad(), keeping_little():
        _Refit(models, planned, metrics, progress, done, changed).run(inputs)
    _fill_by_weights(dense, changed.values(), [of for of in plan.layers if of.name in known.keys() - set(done)])
    return changed


def _hollow(dense: nn.Module, plan: CompressionPlan) -> nn.Module:
    """``dense`` with chains in place of the layers of ``plan`` that take no memory before they are filled."""
    changed = decompose(dense, plan, fill=False, shared=True)
    for layer in plan.layers:
        hollow(changed.get_submodule(layer.name))
    return changed


def _fill_by_weights(dense: nn.Module, changed: Collection[nn.Module], layers: Sequence[LayerPlan]) -> None:
    """Fill the chains of ``layers`` with the factors of their weight, worked out once."""
    for layer in layers:
        chains = [model.get_submodule(layer.name) for model in changed]
        for chain in chains[:1]:
            fill_from(chain, dense.get_submodule(layer.name), layer)
        for chain in chains[1:]:
            share(chain, chains[0])


@dataclass(slots=True)
class _Refit:
    """The chains of ``changed``, each fitted when the input of its layer has arrived everywhere.

    Asymmetrically those of the key True, symmetrically those of False.
    """

    models: Models
    planned: Mapping[str, LayerPlan]
    metrics: Mapping[str, Metric]
    progress: Progress
    done: list[str]
    changed: Mapping[bool, nn.Module]

    def run(self, inputs: Inputs) -> None:
        """Fit all layers that run once."""
        todo = journeys(self.models, inputs, self._together())
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

    def _together(self) -> int:
        """Inputs that run together, so many that all have company in their part of the inputs."""
        most = max((known.held for known in self.models.layers.values()), default=0)
        return max(2 * TOGETHER, min(CHUNK, CHUNK_BYTES // max(1, most))) // TOGETHER * TOGETHER

    def _set_out(self, todo: list[Journey], on_the_way: list[Journey]) -> None:
        """Let so many begin as may be under way from here on: early layers hold most."""
        held = [2 * known.held for layer, known in self.models.layers.items() if layer not in self.done]
        size = max(held, default=0) * len(todo[0].inputs[0]) if todo else 0
        while todo and (not on_the_way or (len(on_the_way) + 1) * size <= MOST_BYTES):
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
        self.progress("refit", len(self.done) + 1, len(self.models.layers), name)
        with naming_shortage(f"{name}: fitting it", without(name)):
            ways = self._ways(name, arrivals)
            unseen = [way for way, theirs in ways.items() if not self._fit_one(name, arrivals, theirs, asymmetric=way)]
        _fill_by_weights(self.models.dense, [one for way in unseen for one in ways[way]], [self.planned[name]])
        for journey in arrivals:
            journey.forget(name)
        self.done.append(name)
        give_back()

    def _ways(self, name: str, arrivals: Mapping[Journey, Arrival | None]) -> dict[bool, list[nn.Module]]:
        """The models whose chains are fitted in each way: all in one where the layer is given the same in both."""
        if all(journey.unchanged(name, arrival) for journey, arrival in arrivals.items()):
            return {False: list(self.changed.values())}
        return {way: [model] for way, model in self.changed.items()}

    def _fit_one(
        self, name: str, arrivals: Mapping[Journey, Arrival | None], models: Sequence[nn.Module], *, asymmetric: bool
    ) -> bool:
        """Fit the chains of ``models``, if anything arrived."""
        count = sum(len(journey.inputs[0]) for journey in arrivals)
        rows = sum(arrival.given.shape[:-1].numel() for arrival in arrivals.values() if arrival is not None)
        layer = self.models.dense.get_submodule(name)
        parts = sums_of(layer, self.planned[name].method, count, rows, own=not asymmetric)
        for journey, arrival in arrivals.items():
            gave = journey.gave(name)
            if gave is not None and arrival is not None:
                _refuse_infinite(name, gave.output)
                given, wanted = gave.given, gave.output
                if asymmetric:
                    given = arrival.given
                    wanted = wanted if arrival.shortcut is None else self._without(journey, arrival, gave)
                mask = counted(self.models.dense, journey.inputs)
                parts.add(journey.start, len(journey.inputs[0]), given, wanted, mask)
        seen = bool(parts.of)
        if seen:
            self._refit(models, name, parts)
        return seen

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

    def _refit(self, models: Sequence[nn.Module], name: str, parts: Parts | FewRows) -> None:
        """Fit the chain of each of ``models``, to its weight where the numbers have no answer."""
        layer, norm = self.models.dense.get_submodule(name), self.models.layers[name].norm
        takes_mean, dense = isinstance(layer.bias, Tensor) or bool(norm), kernels(layer)
        solution = parts.solution(self.metrics.get(name), centred=takes_mean)
        parts.of.clear()
        try:
            reached = self._put(models, name, solution.weight.reshape(dense.shape), solution.second)
        except NUMERICAL:
            refuse_unusable(name, dense)
            reached = self._put(models, name, dense, None)
        if takes_mean:
            rows = torch.einsum("gtd,gd->gt", reached.flatten(2), solution.mean.to(reached.dtype))
            mean = solution.mean_rows - rows
            for changed in models:
                self._put_mean(changed, name, mean.flatten())

    def _put(
        self, models: Sequence[nn.Module], name: str, weight: Tensor, second: Tensor | Sequence[Sketch] | None
    ) -> Tensor:
        """Fit the chain to the weight; returns the kernels it now stands for."""
        plan = self.planned[name]
        with one_thread():
            factors, reached = fitted(DECOMPOSITIONS[plan.method], plan.ranks, weight, second, self.metrics.get(name))
        chains = [changed.get_submodule(name) for changed in models]
        fill(chains[0], plan, factors)
        for chain in chains[1:]:
            share(chain, chains[0])
        return reached

    def _put_mean(self, changed: nn.Module, name: str, mean: Tensor) -> None:
        """What the outputs lack on average goes into the bias or into the batch norm behind."""
        links = DECOMPOSITIONS[self.planned[name].method].links
        bias = changed.get_submodule(f"{name}.{links[-1]}" if name else links[-1]).bias
        if isinstance(bias, Tensor):
            bias.data.copy_(mean)
        else:
            running_mean = changed.get_submodule(self.models.layers[name].norm).running_mean
            assert isinstance(running_mean, Tensor)
            running_mean.sub_(mean)


def _refuse_infinite(name: str, output: Tensor) -> None:
    if output.numel() and not bool(torch.stack(torch.aminmax(output)).isfinite().all()):
        raise ModelError(f"{name}: gives NaN or infinity on the calibration inputs; check data and weights")
