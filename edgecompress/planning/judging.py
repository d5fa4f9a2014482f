"""What whole plans change of a model's outputs, on inputs that nothing was fitted to: for searches over plans."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from edgecompress.calibrating import Calibration
from edgecompress.calibrating.batching import affordable, inputs_at_once
from edgecompress.calibrating.trials import all_changed, divergences
from edgecompress.errors import PlanError
from edgecompress.models import as_outputs, calibrated, evaluating
from edgecompress.models.datasets import Inputs, first, in_parts
from edgecompress.models.kinds import IGNORED, token_sums
from edgecompress.models.masks import counted, is_by_position
from edgecompress.planning.measuring import Trials
from edgecompress.plans import Cost
from edgecompress.progress import Progress
from edgecompress.selectors.base import Choice, LayerCandidates, replaced
from edgecompress.selectors.search import Search

KL_SHARE, MOST_LOST = 1e-3, 700.0
"""Of a token's divergence beside the perplexity (Ji et al. 2024); the largest loss of a token with a finite one."""

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

    With ``selector.by_perplexity`` by the perplexity of the inputs' own tokens, and a thousandth of the divergence.

    Raises:
        BudgetError: no choice meets the selector's budget.
        ModelError: the model does not run on the calibration inputs.
        PlanError: perplexities are wanted of a model that does not score tokens.
        MissingExtra: Optuna is not installed.
        FileError: the storage of the study cannot be used.
    """
    judge = _Judge(
        model, layers, calibration, Trials(model, calibration, total, progress), by_perplexity=selector.by_perplexity
    )

    def told(done: int, best: float) -> None:
        progress("search: plans tried", min(done, selector.evaluations), selector.evaluations, f"best {best:.4g}")

    return selector.search(layers, total, usual, judge, told)


class _Judge:
    """The outputs of the dense model, against which plans are held; changes of single layers are kept for the next."""

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[LayerCandidates],
        calibration: Calibration,
        trials: Trials,
        *,
        by_perplexity: bool,
    ) -> None:
        if by_perplexity and not calibration.tokens:
            raise PlanError("perplexity is of models that score tokens (outputs = 'tokens'); use --select search")
        self.model, self.trials, self.classes = model, trials, calibration.classes
        self.by_perplexity = by_perplexity
        self.layers = {layer.name: layer for layer in layers}
        held = calibration.held(MOST_JUDGED)
        inputs = first(held, affordable(model, held, JUDGED_MACS, FEWEST_JUDGED))
        self.parts = list(in_parts(inputs, inputs_at_once(model, inputs)))
        with evaluating(model), torch.no_grad():
            self.dense = [as_outputs(calibrated(model, part)) for part in self.parts]

    def __call__(self, choices: Mapping[str, Choice]) -> float:
        """What the outputs lose with all that is chosen in place: see :func:`searched`."""
        changes = self.trials.of(list(self.layers.values()), replaced(choices))
        apart, lost = list[Tensor](), list[Tensor]()
        with evaluating(self.model), torch.no_grad(), all_changed(self.model, changes):
            for part, dense in zip(self.parts, self.dense, strict=True):
                ours = as_outputs(calibrated(self.model, part))
                apart.append(divergences(dense, ours, classes=self.classes))
                if self.by_perplexity:
                    lost.append(token_sums(ours[0], next_tokens(self.model, part)))
        divergence = float(torch.cat(apart).mean())
        return _perplexity(torch.cat(lost).sum(0), divergence, len(torch.cat(apart))) if lost else divergence


def _perplexity(sums: Tensor, divergence: float, inputs: int) -> float:
    """Of the ``sums`` over tokens and their number, and a thousandth of the mean divergence of a token."""
    lost, count = float(sums[0]), float(sums[1])
    return math.exp(min(MOST_LOST, lost / max(1.0, count))) + KL_SHARE * divergence * inputs / max(1.0, count)


def next_tokens(model: nn.Module, inputs: Inputs) -> Tensor:
    """(N, positions): what comes after each token of ``inputs``; ``IGNORED`` where nothing or padding does.

    Raises:
        PlanError: no input is (N, positions) of whole numbers.
    """
    tokens = next(filter(is_by_position, inputs), None)
    if tokens is None:
        raise PlanError("perplexity is of token numbers (N, positions), and the model has no such input")
    mask, after = counted(model, inputs), torch.full_like(tokens, IGNORED)
    after[:, :-1] = tokens[:, 1:] if mask is None else torch.where(mask[:, 1:], tokens[:, 1:], IGNORED)
    return after
