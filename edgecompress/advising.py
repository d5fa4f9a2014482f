"""What low rank can reach in a model, and what int8 buys of its time instead."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from torch import nn

from edgecompress.costs import chain_cost
from edgecompress.decompositions import AUTO
from edgecompress.devices import device_named
from edgecompress.errors import BatchError, EdgeCompressError, first_line
from edgecompress.exporting.inputs import probe
from edgecompress.exporting.jobs import DEFAULT_EXPORT, jobs_of
from edgecompress.files import Json, size_of
from edgecompress.layers import weighted_layers
from edgecompress.models import Sample
from edgecompress.planning import Survey
from edgecompress.planning.candidates import smaller_costs
from edgecompress.profiling import compare
from edgecompress.profiling.comparisons import Comparison
from edgecompress.profiling.ratios import Ratio
from edgecompress.settings import USUAL_DEVICE, USUAL_TARGET, Scope
from edgecompress.targets import target_named
from edgecompress.targets.mixed_precision import KeepFloat
from edgecompress.targets.onnx.rewrites import REWRITES

TINY_MACS = 1_000_000
"""Below, calling operators takes as long as what they compute; LeNet-5, with 2.3 million, still gains."""
LEAST_MACS = 50_000
"""Below, a run takes some microseconds whatever is done."""
MOSTLY = 0.5
MOST_MACS = 2 * 10**9
"""Above, a measurement takes more than some seconds."""
RANGE_INPUTS = 8
SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Reach:
    """What low rank can reach: MACs of all layers and of those that a candidate makes smaller, and of what is left.

    ``pointwise`` are the MACs in 1x1 convolutions of a net with depthwise ones (0 in others), ``rank_at_half`` the
    median share of its rank that such a layer keeps at half its MACs.
    """

    macs: int
    layers: int
    reachable_layers: int
    reachable_macs: int
    least_macs: int
    pointwise: int
    rank_at_half: float | None

    @property
    def separable(self) -> bool:
        """Whether most MACs are in 1x1 convolutions beside depthwise ones."""
        return self.pointwise > MOSTLY * self.macs

    @property
    def tiny(self) -> bool:
        """Whether there is hardly anything to compute."""
        return self.macs < TINY_MACS

    def to_json(self) -> Json:
        """A JSON object."""
        return {
            "macs": self.macs,
            "layers": self.layers,
            "reachable_layers": self.reachable_layers,
            "reachable_macs": self.reachable_macs,
            "least_macs": self.least_macs,
            "pointwise_macs": self.pointwise,
            "rank_at_half": self.rank_at_half,
        }


@dataclass(frozen=True, slots=True)
class Int8:
    """The dense model's file in int8 against that in float32, each at batch 1: times in turns, and bytes."""

    pair: Comparison
    bytes_before: int
    bytes_after: int

    @property
    def ratio(self) -> Ratio:
        """How many times as fast it is, by CPU time where that is known, as plans for a latency are measured."""
        return self.pair.cpu or self.pair.wall

    def to_json(self) -> Json:
        """A JSON object."""
        sizes = {"size_bytes_fp32": self.bytes_before, "size_bytes_int8": self.bytes_after}
        return {**sizes, "comparison": self.pair.summary()}


def reach_of(seen: Survey, scope: Scope) -> Reach:
    """What low rank can reach in a model that was surveyed."""
    costs = {item.name: smaller_costs(item, scope.methods or AUTO, scope.multiple) for item in seen.items}
    saving = {name: of_layer for name, of_layer in costs.items() if len(of_layer) > 1}
    saved = sum(dense.macs - min(one.macs for one in others) for dense, *others in saving.values())
    depthwise = any(map(_is_depthwise, (item.layer for item in weighted_layers(seen.model))))
    pointwise = [item for item in seen.items if depthwise and _is_pointwise(item.layer)]
    return Reach(
        macs=seen.total.macs,
        layers=len(seen.found),
        reachable_layers=len(saving),
        reachable_macs=sum(dense.macs for dense, *_ in saving.values()),
        least_macs=seen.total.macs - saved,
        pointwise=sum(chain_cost(item.layer, item.shapes).macs for item in pointwise),
        rank_at_half=median(map(_rank_at_half, (item.layer for item in pointwise))) if pointwise else None,
    )


def _is_depthwise(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv1d | nn.Conv2d) and 1 < layer.groups == layer.in_channels


def _is_pointwise(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv1d | nn.Conv2d) and layer.groups == 1 and set(layer.kernel_size) == {1}


def _rank_at_half(layer: nn.Module) -> float:
    """r (C + T) = C T / 2, over the largest rank, the smaller of both."""
    assert isinstance(layer, nn.Conv1d | nn.Conv2d)
    inputs, outputs = layer.in_channels, layer.out_channels
    return max(inputs, outputs) / (2 * (inputs + outputs))


def measured_int8(model: nn.Module, sample: Sample) -> Int8 | str:
    """How much faster the dense model's .onnx is in int8 here, in some seconds; or why that was not measured.

    Ranges come from the example and noise: it is a measurement of time and bytes, not of outputs.
    """
    try:
        with _files(model, sample) as (dense, small):
            pair = compare(small, dense, device_named(USUAL_DEVICE), seconds=SECONDS)
            assert isinstance(pair, Comparison)
            return Int8(pair, size_of(dense), size_of(small))
    except EdgeCompressError as error:
        return first_line(error)


@contextmanager
def _files(model: nn.Module, sample: Sample) -> Iterator[tuple[Path, Path]]:
    """The model in float32 and in int8, from one trace, both rewritten for the runtime as exported files are."""
    target, inputs = target_named(USUAL_TARGET), probe(sample.inputs, RANGE_INPUTS)
    with TemporaryDirectory() as folder, jobs_of(model, sample, DEFAULT_EXPORT) as jobs:
        dense, small = (Path(folder, f"{name}{target.suffix}") for name in ("dense", "int8"))
        job = replace(jobs.job(target, jobs.batch().size, None), rewrites=tuple(REWRITES))
        try:
            target.export(job, dense)
        except BatchError as error:
            if job.batch is not None:
                raise
            job = replace(jobs.job(target, error.batch, None), rewrites=tuple(REWRITES))
            target.export(job, dense)
        target.export(replace(job, precision="int8", calibration=inputs, keep=KeepFloat(())), small)
        yield dense, small
