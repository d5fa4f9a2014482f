"""Chains of embeddings, fitted by how often each row is asked for."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from torch import nn

from edgecompress.calibrating import Calibration
from edgecompress.calibrating.sensitivity import Metric
from edgecompress.calibrating.tables import counts_of
from edgecompress.decomposing import fill, fill_from, fitted
from edgecompress.decomposing.hollow import share
from edgecompress.decompositions import DECOMPOSITIONS
from edgecompress.decompositions.base import NUMERICAL
from edgecompress.decompositions.kernels import kernels
from edgecompress.plans import LayerPlan


def fill_tables(
    dense: nn.Module,
    changed: Collection[nn.Module],
    layers: Sequence[LayerPlan],
    calibration: Calibration,
    metrics: Mapping[str, Metric],
) -> None:
    """Fill the chains of the embeddings ``layers`` in all of ``changed``; what was never asked goes by its weight."""
    counts = counts_of(dense, calibration.inputs, [layer.name for layer in layers])
    for plan in layers:
        layer, method = dense.get_submodule(plan.name), DECOMPOSITIONS[plan.method]
        chains = [model.get_submodule(plan.name) for model in changed]
        moments = counts[plan.name].centred if plan.name in counts else None
        try:
            factors, _ = fitted(method, plan.ranks, kernels(layer), moments, metrics.get(plan.name))
        except NUMERICAL:
            fill_from(chains[0], layer, plan)
        else:
            fill(chains[0], plan, factors)
        for chain in chains[1:]:
            share(chain, chains[0])
