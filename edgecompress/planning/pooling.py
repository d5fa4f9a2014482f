"""Candidates by a PCA of what layers give, as Bolaco cuts them (Ji et al. 2024, arXiv 2405.10616).

A covariance is taken of each group of inputs and the average over groups is used ("pooled"): with R the first r of
its eigenvectors the weight becomes R R^T W, and the bias takes (I - R R^T) times the mean output. Since outputs are
W x, that is the truncated SVD of W S^1/2, with S the pooled covariance of the layer's inputs: the gradients of the
outputs do not count. A layer of more inputs than patches of a group is cut by all inputs at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from edgecompress.calibrating import Calibration
from edgecompress.calibrating.moments import FewMoments, Moments, collect, in_passes
from edgecompress.models.datasets import Inputs, in_parts
from edgecompress.planning.candidates import Replaceable, candidates_of, collected_inputs, every_candidate
from edgecompress.planning.fits import Fits
from edgecompress.progress import Progress
from edgecompress.selectors.base import Candidate, LayerCandidates

GROUP = 32
"""Inputs of which one covariance is taken."""

METHOD = "svd"


def pooled_candidates(
    model: nn.Module, items: Sequence[Replaceable], calibration: Calibration, multiple: int, progress: Progress
) -> list[LayerCandidates]:
    """Of each layer the chains of all ranks that cost less, without losses.

    Raises:
        ModelError: the model does not run on the calibration inputs, or gives NaN or infinity.
        PlanError: a weight is not finite or all zeros.
    """
    calibration.check(model)
    inputs, found = collected_inputs(model, calibration), dict[str, LayerCandidates]()
    by_name = {item.name: item for item in items if type(item.layer) is nn.Linear}
    for part in in_passes({name: item.layer for name, item in by_name.items()}):
        moments = pooled(model, inputs, part)
        for name in part:
            progress("plan: ranks that fit each layer", len(found) + 1, len(by_name), name)
            found[name] = _of_layer(by_name[name], moments.pop(name), multiple)
    return [found[item.name] if item.name in found else _dense(item, multiple) for item in items]


def _dense(item: Replaceable, multiple: int) -> LayerCandidates:
    return replace(candidates_of(item, (), multiple), note="bolaco replaces Linear layers alone")


def pooled(model: nn.Module, inputs: Inputs, names: Sequence[str]) -> dict[str, Moments | FewMoments]:
    """The moments of the inputs to each of the layers ``names``, averaged over groups of inputs."""
    groups = [collect(model, part, names) for part in in_parts(inputs, GROUP)]
    pooled_ones = {name: _averaged([group[name] for group in groups]) for name in names}
    few = [name for name, own in pooled_ones.items() if own is None]
    whole = collect(model, inputs, few) if few else {}
    return {name: own or whole[name] for name, own in pooled_ones.items()}


def _averaged(groups: Sequence[Moments | FewMoments]) -> Moments | None:
    """Each group's covariance about its own mean counts alike; None where one is not known in full."""
    full = [group for group in groups if isinstance(group, Moments)]
    if len(full) < len(groups):
        return None
    spread = torch.stack([group.spread for group in full]).mean(0)
    count = sum(group.count for group in full)
    mean = torch.stack([group.mean * (group.count / count) for group in full]).sum(0)
    return Moments(spread, mean, count)


def _of_layer(item: Replaceable, moments: Moments | FewMoments, multiple: int) -> LayerCandidates:
    bare = replace(candidates_of(item, (), multiple), methods=(METHOD,))
    fits = Fits(bare.kernels, moments.centred)
    known = tuple(every_candidate(item, bare, fits, multiple))
    sliced, mean = fits.sliced(max(one.ranks[0] for one in known)) if known else None, moments.mean

    def changed(candidate: Candidate) -> tuple[Tensor, Tensor] | None:
        return None if sliced is None else (sliced.change(candidate), mean)

    return replace(bare, candidates=known, changed=changed)
