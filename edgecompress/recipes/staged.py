"""Staged decomposition: a few layers, fine-tuning, the next few, as MUSCO does (Gusak et al. 2019, arXiv 1903.09973).

Each portion is decomposed inside the net that has been fine-tuned so far. The layers that are expected to lose least go
first, so that the hard ones find a net that has settled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from torch import nn

from edgecompress.calibrating import Calibration
from edgecompress.decomposing import decompose
from edgecompress.decomposing.refitting import refit
from edgecompress.finetuning import finetune
from edgecompress.finetuning.checkpoints import discard
from edgecompress.layers import weighted_layers
from edgecompress.models import Sample
from edgecompress.plans import CompressionPlan, LayerPlan, Skipped
from edgecompress.progress import Progress, silent
from edgecompress.settings import FineTuning

CHECKPOINT = "portion-{}.pt"


def portions(layers: Sequence[LayerPlan], count: int) -> list[tuple[LayerPlan, ...]]:
    """The layers in at most ``count`` portions of about equal number, those of least loss (or error) first."""
    ordered = sorted(layers, key=lambda layer: layer.error if layer.loss is None else layer.loss)
    count = min(count, len(ordered))
    borders = [round(index * len(ordered) / count) for index in range(count + 1)] if count else [0]
    return [tuple(ordered[first:last]) for first, last in pairwise(borders)]


def partial_plan(model: nn.Module, plan: CompressionPlan, portion: Sequence[LayerPlan]) -> CompressionPlan:
    """``plan`` for one portion of layers of a model in which some are decomposed already."""
    names = {layer.name for layer in portion}
    rest = tuple(Skipped(f.name, "of another portion") for f in weighted_layers(model) if f.name not in names)
    return replace(plan, layers=tuple(portion), skipped=rest, rejected=())


def decomposed_in_stages(
    dense: nn.Module,
    plan: CompressionPlan,
    sample: Sample,
    settings: FineTuning,
    calibration: Calibration | None = None,
    folder: Path | None = None,
    progress: Progress = silent,
) -> nn.Module:
    """``dense`` decomposed by ``plan`` in ``settings.portions`` portions, fine-tuned before each but the first.

    Each fine-tuning takes its share of ``settings.epochs``; that of the last portion is the caller's. With ``folder``
    each keeps its checkpoint there until all are done.

    Raises:
        PlanError, DataError, TrainingError: as ``decompose`` and ``finetune``.
    """
    model, parts = dense, portions(plan.layers, settings.portions)
    shorter = replace(settings, epochs=settings.epochs // max(1, len(parts)), portions=1, feature=0.0)
    for number, portion in enumerate(parts, start=1):
        own = partial_plan(model, plan, portion)
        model = decompose(model, own) if calibration is None else refit(model, own, calibration, progress=progress)
        if number < len(parts):
            tuned = finetune(
                model,
                sample,
                shorter,
                teacher=dense,
                plan=replace(plan, layers=tuple(layer for done in parts[:number] for layer in done)),
                checkpoint=_checkpoint(folder, number),
                what=f"fine-tune, portion {number} of {len(parts)}",
                progress=progress,
            )
            model = tuned.model
    for number in range(1, len(parts)):
        if folder is not None:
            discard(folder / CHECKPOINT.format(number))
    return model


def _checkpoint(folder: Path | None, number: int) -> Path | None:
    return None if folder is None else folder / CHECKPOINT.format(number)


def last_epochs(settings: FineTuning, layers: int) -> FineTuning:
    """What is left for the fine-tuning of all portions together."""
    parts = max(1, min(settings.portions, layers))
    return replace(settings, epochs=settings.epochs - (parts - 1) * (settings.epochs // parts), portions=1)


def fitting(settings: FineTuning, plan: CompressionPlan, *, stored: bool) -> FineTuning:
    """For the fine-tuning of all portions: codes are trained whole, and factors alone where there are any."""
    last = last_epochs(settings, len(plan.layers))
    if stored:
        return replace(last, train="all")
    return replace(last, epochs=0) if settings.train == "factors" and not plan.layers else last
