"""The nearer of two refits, on inputs that neither was fitted to.

What layers deliver in the compressed model is the right input to fit the next layer on, and where inputs are few also a
way to learn them by heart. Which of both weighs more is a matter of the network: EfficientNet-Lite1 at 0.7 of its MACs,
fitted to 128 pictures, has a KL divergence of 0.72 on others by the asymmetric refit and of 0.38 by the symmetric one;
of SqueezeNet the reverse is known. Where the asymmetric one is the farther, it may be for what it makes up for of the
shortcuts: then it is tried without that.
"""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from edgecompress.calibrating import MOST_HELD, Calibration
from edgecompress.calibrating.batching import REHEARSED
from edgecompress.calibrating.trials import outputs_apart
from edgecompress.decomposing.refitting import refit, refit_both_ways, used_inputs
from edgecompress.decomposing.rehearsing import rehearsed
from edgecompress.models import copied
from edgecompress.models.adapting import adapted
from edgecompress.models.datasets import first
from edgecompress.plans import CompressionPlan
from edgecompress.progress import Progress, silent

ENOUGH = 160
"""Inputs that were fitted to: with more it is not worth another run."""


def refit_nearest(
    dense: nn.Module, plan: CompressionPlan, calibration: Calibration, *, progress: Progress = silent
) -> tuple[nn.Module, bool]:
    """:func:`~edgecompress.decomposing.refitting.refit`, asymmetric or symmetric, whichever keeps the outputs nearer.

    They are fitted to some of the inputs and compared on others. Where the former are few, the nearest one is fitted
    again, to all. With so few inputs that none can be held back, it is the asymmetric one.

    Args:
        dense: the model that ``plan`` was made for; it stays as it is.
        plan: with decompositions.
        calibration: unlabelled inputs.
        progress: is called for each layer, of each run over the inputs.

    Returns:
        The new model, and whether it is the asymmetric one.

    Raises:
        PlanError: the plan is for another model, or names a layer or ranks that do not fit.
        ModelError: the model does not run on the calibration inputs, or a layer gives NaN or infinity.
    """
    fitting, held = calibration.fitting, calibration.held(MOST_HELD)
    if len(fitting[0]) == len(calibration.inputs[0]):
        return refit(dense, plan, calibration, progress=progress), True
    few = replace(calibration, inputs=fitting)
    models = refit_both_ways(dense, plan, few, progress=progress)
    dense = adapted(dense, plan.adapters)
    asymmetric, symmetric = outputs_apart(dense, (models[True], models[False]), held, classes=calibration.classes)
    nearer = not symmetric < asymmetric
    chosen, shortcuts = models[nearer], True
    models.clear()
    if not nearer and _has_shortcuts(dense, plan, few):
        without = refit(dense, plan, few, shortcuts=False, progress=progress)
        if outputs_apart(dense, (without,), held, classes=calibration.classes)[0] < symmetric:
            chosen, nearer, shortcuts = without, True, False
    if len(fitting[0]) >= min(ENOUGH, len(used_inputs(dense, calibration)[0])):
        return copied(chosen), nearer
    del chosen
    return refit(dense, plan, calibration, asymmetric=nearer, shortcuts=shortcuts, progress=progress), nearer


def _has_shortcuts(dense: nn.Module, plan: CompressionPlan, calibration: Calibration) -> bool:
    """Is the output of any layer of ``plan`` added to another tensor?"""
    runs, _ = rehearsed(dense, first(calibration.inputs, REHEARSED), [layer.name for layer in plan.layers])
    return any(known.sums for known in runs.values())
