"""refit(): a model decomposed by what its layers are given, layer by layer.

Asymmetric reconstruction after Zhang, Zou, He & Sun 2015 (arXiv 1505.06798): the target of a layer is what the dense
model's layer gives, its input is what the compressed model delivers, so that errors do not pile up. A layer whose
output is added to a shortcut also makes up for the shortcut's error (He, Zhang & Sun 2017, arXiv 1707.06168). Linear
least squares throughout, no labels: with x the patches in the compressed model and y the target, the weight of least
error is M = E[y x^T] E[x x^T]^-1; the factors are fitted to M in the metrics of x and, where the model can be
differentiated, of the outputs' effect on what the model says (``sensitivity.output_metrics``). The mean error goes into
the bias or the batch norm behind.

One run of each model over all calibration inputs: every layer is refitted the moment its input arrives.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgecompress.calibrating import Calibration
from edgecompress.calibrating.patches import MOST_POSITIONS, images_at_once, sampled_outputs
from edgecompress.calibrating.sensitivity import Metric
from edgecompress.calibrating.shortcuts import watching_sums
from edgecompress.decomposing import decompose, fill, fill_from, fitted, refuse_noticed, replaced, uses_codec
from edgecompress.decomposing.dry_run import noticed
from edgecompress.decomposing.least_squares import Averages, affine, averages_of
from edgecompress.decompositions import DECOMPOSITIONS
from edgecompress.decompositions.base import NUMERICAL, is_conv
from edgecompress.decompositions.kernels import kernels
from edgecompress.errors import ModelError, PlanError
from edgecompress.layers import refuse_unusable
from edgecompress.models import Call, calibrated, evaluating, named_layers, observing
from edgecompress.models.accepting import unwrapped
from edgecompress.models.datasets import Inputs, first
from edgecompress.plans import CompressionPlan, LayerPlan
from edgecompress.progress import Progress, silent
from edgecompress.threads import one_thread

MOST_INPUTS = 256
"""Calibration inputs used: with 512 or 1,024 ResNet-20 ends no nearer to the dense net, with 128 less near."""

REHEARSED = 2
"""Calibration inputs that are run to see what a model does: some cannot run on one."""

MOST_BYTES = 1 << 31
"""Of what is kept of the calibration inputs while they run; fewer inputs are used where that would be exceeded."""

IN_FLIGHT = 4
"""Outputs of the widest layer that are alive at once, at most."""


def refit(
    dense: nn.Module,
    plan: CompressionPlan,
    calibration: Calibration,
    *,
    asymmetric: bool = True,
    progress: Progress = silent,
) -> nn.Module:
    """``dense`` decomposed by ``plan``, its factors fitted to what its layers give on the calibration inputs.

    Layers that run several times for one input, or never, get the factors of their weight.

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
    if not plan.rehearsed:
        refuse_noticed(noticed(dense, first(calibration.inputs, REHEARSED), replaced(plan)))
    changed, planned = decompose(dense, plan, fill=False), {layer.name: layer for layer in plan.layers}
    names = tuple(planned)
    inputs = at_most(dense, calibration.inputs, names)
    metrics = calibration.output_metrics(dense, names, len(inputs[0]))
    targets = _targets(dense, inputs, names)
    for name in planned.keys() - targets.keys():
        fill_from(changed.get_submodule(name), dense.get_submodule(name), planned[name])
    running = changed if asymmetric else dense
    work = _Refit(dense, changed, planned, targets, metrics, progress)
    with evaluating(running), torch.no_grad(), work.watching(running, sums=asymmetric):
        calibrated(running, inputs)
    return changed


def at_most(model: nn.Module, inputs: Inputs, names: tuple[str, ...]) -> Inputs:
    """So many of the inputs that what a refit keeps of them takes about ``MOST_BYTES``, and at least one.

    Kept are the sampled outputs of the layers ``names``, and a few outputs of the widest layer are in flight.
    """
    kept, widest = 0, 0

    def ran(call: Call) -> None:
        nonlocal kept, widest
        output = call.output
        if isinstance(output, Tensor) and output.dim() > 1:
            widest = max(widest, output[0].nbytes)
            kept += min(output[0].nbytes, 4 * output.shape[1] * MOST_POSITIONS) if call.name in names else 0

    with evaluating(model), torch.no_grad(), observing(model.named_modules(), after=ran):
        calibrated(model, first(inputs, REHEARSED))
    count = max(1, min(MOST_INPUTS, MOST_BYTES // max(1, kept + IN_FLIGHT * widest)))
    return first(inputs, count)


@dataclass(slots=True)
class _Target:
    """What a layer of the dense model gave, (groups, T, n), and the sum that went into, if any."""

    rows: Tensor
    at_once: int
    runs: int = 1
    sums: Tensor | None = None
    norm: str = ""
    normed: bool = True
    """Does a batch norm that reads the output norm the layer's own channels?"""


def _targets(dense: nn.Module, inputs: Inputs, names: tuple[str, ...]) -> dict[str, _Target]:
    """Run the dense model and remember what its layers, and the sums they go into, gave."""
    targets: dict[str, _Target] = {}
    reads = Counter[str]()

    def ran(call: Call) -> None:
        if call.name in targets:
            targets[call.name].runs += 1
        else:
            at_once = images_at_once(call.layer, call.given)
            rows = _finite(call.name, sampled_outputs(call.layer, call.output, at_once))
            targets[call.name] = _Target(rows, at_once, normed=is_conv(call.layer) or call.output.dim() == 2)

    def summed(name: str, norm: str, own: Tensor, other: Tensor) -> None:
        target = targets[name]
        if target.normed or not norm:
            target.sums = sampled_outputs(dense.get_submodule(name), own + other, target.at_once)

    def normed(name: str, norm: str) -> None:
        reads[norm] += 1
        if targets[name].normed:
            targets[name].norm = norm

    observed = observing(named_layers(dense, names), after=ran)
    with evaluating(dense), torch.no_grad(), observed, watching_sums(dense, names, summed, normed):
        calibrated(dense, inputs)
    return _unshared({name: target for name, target in targets.items() if target.runs == 1}, reads)


def _unshared(targets: dict[str, _Target], reads: Mapping[str, int]) -> dict[str, _Target]:
    """The same without batch norms that several layers share: their mean is not one layer's to move."""
    for target in targets.values():
        if target.norm and reads[target.norm] > 1:
            target.norm, target.sums = "", None
    return targets


def _finite(name: str, rows: Tensor) -> Tensor:
    if not bool(torch.isfinite(rows).all()):
        raise ModelError(f"{name}: gives NaN or infinity on the calibration inputs; check data and weights")
    return rows


@dataclass(slots=True)
class _Refit:
    """The chains of ``model``, each fitted when the input of its layer arrives."""

    dense: nn.Module
    model: nn.Module
    planned: Mapping[str, LayerPlan]
    targets: Mapping[str, _Target]
    metrics: Mapping[str, Metric]
    progress: Progress

    @contextmanager
    def watching(self, running: nn.Module, *, sums: bool) -> Iterator[None]:
        """While ``running`` runs, refit every layer when its input arrives.

        With ``sums`` a layer that goes into a sum waits until its shortcut is known. Models may choose their layers by
        values: a layer that does not run this time gets the factors of its weight, one whose sum does not come is
        fitted without it.
        """
        waiting: dict[str, Tensor] = {}
        done: list[str] = []

        def arrived(call: Call) -> None:
            name = call.name
            if name in done:
                return
            done.append(name)
            self.progress("refit", len(done), len(self.targets), name)
            if sums and self.targets[name].sums is not None:
                waiting[name] = call.given
            else:
                self._refit(name, call.given, self.targets[name].rows)

        def summed(name: str, norm: str, own: Tensor, other: Tensor) -> None:
            given = waiting.pop(name, None)
            if given is not None:
                self._refit(name, given, self._without(name, other))
                output = self.model.get_submodule(name)(given)
                own.copy_(self.model.get_submodule(norm)(output) if norm else output)

        watching = watching_sums(running, tuple(self.targets), summed) if sums else nullcontext()
        with observing(named_layers(running, self.targets), before=arrived), watching:
            yield
        self._finish(waiting, self.targets.keys() - set(done))

    def _finish(self, waiting: Mapping[str, Tensor], never_ran: AbstractSet[str]) -> None:
        for name, given in waiting.items():
            self._refit(name, given, self.targets[name].rows)
        for name in never_ran:
            fill_from(self.model.get_submodule(name), self.dense.get_submodule(name), self.planned[name])

    def _without(self, name: str, shortcut: Tensor) -> Tensor:
        """What the layer has to give so that its sum with ``shortcut`` is the dense one."""
        target = self.targets[name]
        assert target.sums is not None
        missing = target.sums - sampled_outputs(self.dense.get_submodule(name), shortcut, target.at_once)
        if not target.norm:
            return missing
        scale, shift = affine(self.model.get_submodule(target.norm), len(missing))
        return (missing - shift) / scale if bool(scale.any()) else target.rows

    def _refit(self, name: str, given: Tensor, rows: Tensor) -> None:
        """Fit one chain to ``rows`` (groups, T, n), wanted of it for the input ``given``."""
        layer, target = self.dense.get_submodule(name), self.targets[name]
        averages = averages_of(layer, given, rows, target.at_once)
        takes_mean = isinstance(layer.bias, Tensor) or bool(target.norm)
        reached = self._fit(name, averages.centred() if takes_mean else averages)
        if takes_mean:
            mean = averages.mean_rows - torch.einsum("gtd,gd->gt", reached.flatten(2), averages.mean)
            self._put_mean(name, mean.flatten())

    def _fit(self, name: str, averages: Averages) -> Tensor:
        """Fit the chain to the averages, to its weight where those have no answer; returns what it now stands for."""
        dense = kernels(self.dense.get_submodule(name)).double()
        try:
            weight, second = averages.solution(dense.flatten(2))
            return self._put(name, weight.reshape(dense.shape), second)
        except NUMERICAL:
            refuse_unusable(name, dense)
            return self._put(name, dense, None)

    def _put(self, name: str, weight: Tensor, second: Tensor | None) -> Tensor:
        """Fit the chain to the weight; returns the kernels it now stands for."""
        plan = self.planned[name]
        with one_thread():
            factors, reached = fitted(DECOMPOSITIONS[plan.method], plan.ranks, weight, second, self.metrics.get(name))
        fill(self.model.get_submodule(name), plan, factors)
        return reached

    def _put_mean(self, name: str, mean: Tensor) -> None:
        """What the outputs lack on average goes into the bias or into the batch norm behind."""
        links = DECOMPOSITIONS[self.planned[name].method].links
        bias = self.model.get_submodule(f"{name}.{links[-1]}" if name else links[-1]).bias
        if isinstance(bias, Tensor):
            bias.data.copy_(mean)
        else:
            running_mean = self.model.get_submodule(self.targets[name].norm).running_mean
            assert isinstance(running_mean, Tensor)
            running_mean.sub_(mean)
