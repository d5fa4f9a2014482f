"""What whole plans change of a model's outputs, on inputs that nothing was fitted to: for searches over plans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from edgecompress.calibrating import Calibration
from edgecompress.calibrating.batching import affordable, inputs_at_once
from edgecompress.calibrating.trials import all_changed, divergences
from edgecompress.models import as_outputs, calibrated, evaluating
from edgecompress.models.datasets import first, in_parts
from edgecompress.planning.measuring import Trials
from edgecompress.plans import Cost
from edgecompress.progress import Progress
from edgecompress.selectors.base import Candidate, Choice, LayerCandidates
from edgecompress.selectors.search import Search

JUDGED_MACS, FEWEST_JUDGED, MOST_JUDGED = 2e11, 4, 64
"""Multiply-accumulates of one run of the model on the inputs that plans are judged on, and how many there are."""


def searched(
    model: nn.Module,
    layers: Sequence[LayerCandidates],
    total: Cost,
    selector: Search,
    usual: Mapping[str, Choice],
    calibration: Calibration,
    progress: Progress,
) -> dict[str, Choice]:
    """What ``selector`` finds, ``usual`` being the plan to beat; plans are judged by the divergence of the outputs.

    Raises:
        BudgetError: no choice meets the selector's budget.
        ModelError: the model does not run on the calibration inputs.
        MissingExtra: Optuna is not installed.
        FileError: the storage of the study cannot be used.
    """
    judge = _Judge(model, layers, calibration, Trials(model, calibration, total, progress))

    def told(done: int, best: float) -> None:
        progress("search: plans tried", min(done, selector.evaluations), selector.evaluations, f"best {best:.4g}")

    return selector.search(layers, total, usual, judge, told)


class _Judge:
    """The outputs of the dense model, against which plans are held; changes of single layers are kept for the next."""

    def __init__(
        self, model: nn.Module, layers: Sequence[LayerCandidates], calibration: Calibration, trials: Trials
    ) -> None:
        self.model, self.trials, self.classes = model, trials, calibration.classes
        self.layers = {layer.name: layer for layer in layers}
        held = calibration.held(MOST_JUDGED)
        inputs = first(held, affordable(model, held, JUDGED_MACS, FEWEST_JUDGED))
        self.parts = list(in_parts(inputs, inputs_at_once(model, inputs)))
        with evaluating(model), torch.no_grad():
            self.dense = [as_outputs(calibrated(model, part)) for part in self.parts]

    def __call__(self, choices: Mapping[str, Choice]) -> float:
        """The mean divergence of the outputs, with all that is chosen in place."""
        wanted = {name: choice for name, choice in choices.items() if isinstance(choice, Candidate)}
        changes = self.trials.of(list(self.layers.values()), wanted)
        losses = list[Tensor]()
        with evaluating(self.model), torch.no_grad(), all_changed(self.model, changes):
            for part, dense in zip(self.parts, self.dense, strict=True):
                ours = as_outputs(calibrated(self.model, part))
                losses.append(divergences(dense, ours, classes=self.classes))
        return float(torch.cat(losses).mean())
