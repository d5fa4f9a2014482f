"""Fine-tuning a compressed model: train the factors, learn from the dense model, keep the best, resume."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from edgecompress.errors import TrainingError
from edgecompress.finetuning.distillation import Distilled, FeatureDistilled, distillation
from edgecompress.finetuning.loop import FineTuned, fit
from edgecompress.finetuning.running import Epoch
from edgecompress.models import Sample, state_digest, untrained_copy
from edgecompress.plans import CompressionPlan
from edgecompress.progress import Progress, silent
from edgecompress.settings import FineTuning

__all__ = ["Epoch", "FineTuned", "FineTuning", "distillation", "finetune", "state_digest"]


def finetune(
    model: nn.Module,
    sample: Sample,
    settings: FineTuning,
    *,
    teacher: nn.Module | None = None,
    plan: CompressionPlan | None = None,
    checkpoint: str | Path | None = None,
    key: str = "",
    what: str = "fine-tune",
    progress: Progress = silent,
) -> FineTuned:
    """Train a copy of ``model`` on the sample's train split; the best by validation score, or the last, comes back.

    Args:
        model: the first weights; it stays as it is.
        sample: whose data, loss, score and augmentation are used.
        settings: epochs, rates, distillation.
        teacher: what distillation learns from, usually the dense model; None: the labels alone.
        plan: how ``model`` was made from ``teacher``, which feature distillation and training the factors alone need.
        checkpoint: a file that is written after each epoch, from which a run that was stopped goes on.
        key: what else the training depends on: a checkpoint of another key is not gone on from.
        what: the name of the work, for ``progress``.
        progress: is called after each step.

    Returns:
        The model in eval mode, the epoch and score it is of, and all epochs' losses and scores.

    Raises:
        DataError: the sample has no data.
        ModelError: ``settings`` distil, and the outputs are not one tensor.
        TrainingError: the loss is not finite any more, or the factors alone are to be trained and there are none.
    """
    objective = Distilled(sample, settings, teacher)
    if settings.feature and teacher is not None and plan is not None and plan.layers:
        objective = FeatureDistilled(sample, settings, teacher, plan)
    start = f"{key} {state_digest(objective.teacher)}"
    done = fit(
        factors_alone(model, plan) if settings.train == "factors" and settings.epochs else model,
        sample,
        settings,
        objective,
        select_epoch=settings.pick,
        what=what,
        checkpoint=None if checkpoint is None else Path(checkpoint),
        key=start,
        progress=progress,
    )
    for ours, given in zip(done.model.parameters(), model.parameters(), strict=True):
        ours.requires_grad_(given.requires_grad)
    return done


def factors_alone(model: nn.Module, plan: CompressionPlan | None) -> nn.Module:
    """``model`` with all parameters frozen but those of the layers that ``plan`` replaced; the numbers are shared.

    Raises:
        TrainingError: there are none.
    """
    names = [] if plan is None else [layer.name for layer in plan.layers]
    if not names:
        raise TrainingError(
            "no layer was replaced, so that there are no factors to train; use --train all, or --epochs 0"
        )
    view = untrained_copy(model)
    for name in names:
        view.get_submodule(name).requires_grad_(True)
    return view
