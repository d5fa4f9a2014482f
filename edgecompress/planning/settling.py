"""Which candidates are taken: by losses that were measured, of each alone and of all of them together.

Choose, try what is chosen, correct the losses, choose again, until all that is chosen is measured or the rounds are
over. Models of very many large layers are not tried: what is chosen is chosen by estimates. Then whole plans are
compared. Beside all other changes a layer may cost several times what it costs alone, or
less: on EfficientNet-Lite1 at 0.7 of the MACs the narrow ends of its blocks cost 2.5 to 5.5 times as much, the wide
ones 0.4 to 2 times. So what each costs there is measured, and the selector chooses once more by it; that plan is taken
where its outputs, all changes made at once, are nearer on inputs that nothing was fitted to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from torch import Tensor, nn

from edgecompress.calibrating import Calibration
from edgecompress.planning.measuring import LEAST_LOSS, Trials, with_losses
from edgecompress.plans import Cost
from edgecompress.progress import Progress
from edgecompress.selectors.base import Candidate, Choice, Choices, LayerCandidates, Selector, as_known
from edgecompress.selectors.budget import typical_loss

ROUNDS = 4
"""Of choosing and measuring one by one; most nets settle in three."""

ROUNDS_TOGETHER = 2
"""Of measuring in context and choosing again."""

POWER = 0.5
"""Of how far a layer's cost in context is from the usual: not all that is true in one context is true in another."""

MOST_OFF = 10.0
"""How far from the usual it may be."""

BLIND = 0.01
"""An estimate counts as at least this share of what an error of its size costs in the model's other layers."""


def settled(
    model: nn.Module,
    layers: Sequence[LayerCandidates],
    total: Cost,
    selector: Selector,
    calibration: Calibration,
    progress: Progress,
) -> tuple[Sequence[LayerCandidates], dict[str, Choice]]:
    """The layers with corrected losses, and what ``selector`` chooses.

    Raises:
        BudgetError: no choice meets the selector's budget.
        ModelError: the model does not run on the calibration inputs, or gives NaN or infinity.
    """
    typical = typical_loss(layers)
    trials = Trials(model, calibration, total, progress)
    if typical is None or trials.too_many(len(layers)):
        return layers, selector.select(layers, total)
    rivals = _Rivals([_not_blind(layer, typical) for layer in layers], trials, selector, total)
    choices = rivals.nearest(rivals.one_by_one())
    corrected = rivals.corrected()
    return corrected, as_known(corrected, choices)


def _not_blind(layer: LayerCandidates, typical: float) -> LayerCandidates:
    """The layer with every loss that is known at least ``BLIND`` of what its error costs elsewhere.

    Where no gradient tells of any, all candidates are estimated by what their errors cost elsewhere.
    """
    unknown = all(candidate.loss is None for candidate in layer.candidates)

    def estimate(candidate: Candidate) -> float | None:
        usual = max(typical * candidate.error, LEAST_LOSS)
        return usual if unknown else None if candidate.loss is None else max(candidate.loss, BLIND * usual, LEAST_LOSS)

    return with_losses(layer, [estimate(candidate) for candidate in layer.candidates])


@dataclass(frozen=True, slots=True)
class _Rivals:
    """Whole plans from ``estimated`` losses."""

    estimated: Sequence[LayerCandidates]
    trials: Trials
    selector: Selector
    total: Cost

    def corrected(self, context: Mapping[str, float] | None = None) -> list[LayerCandidates]:
        """The layers with the losses that are known by now, times what their layers cost in context."""
        known, factors = map(self.trials.corrected, self.estimated), context or {}
        return [_scaled(layer, factors.get(layer.name, 1.0)) for layer in known]

    def one_by_one(self) -> Choices:
        """What is chosen by losses of each layer alone."""
        choices: Choices = self.selector.select(self.estimated, self.total)
        for _ in range(ROUNDS):
            if not self.trials.measure(self.estimated, choices):
                break
            choices = self.selector.select(self.corrected(), self.total)
        return choices

    def nearest(self, choices: Choices) -> Choices:
        """``choices``, or what is chosen by losses in their context where that keeps the outputs nearer."""
        losses = self.trials.together(choices)
        for _ in range(ROUNDS_TOGETHER):
            nearer = None if losses is None else self._nearer(choices, losses)
            if nearer is None:
                break
            choices, losses = nearer
        return choices

    def _nearer(self, choices: Choices, losses: Tensor) -> tuple[Choices, Tensor] | None:
        """A rival of ``choices``, which cost ``losses`` (inputs,), if it is nearer."""
        rival = self.selector.select(self.corrected(self._in_context(choices)), self.total)
        self.trials.measure(self.estimated, rival)
        theirs = self.trials.together(rival)
        return (rival, theirs) if theirs is not None and float(theirs.mean()) < float(losses.mean()) else None

    def _in_context(self, choices: Choices) -> dict[str, float]:
        """By layer how many times as much as alone it costs there, in units of what is usual, to the ``POWER``."""
        alone = as_known(self.corrected(), choices)
        measured = self.trials.each_in_context(choices)
        ratios = {name: max(cost, LEAST_LOSS) / _loss_of(alone[name]) for name, cost in measured.items()}
        usual = median(ratios.values())
        return {name: min(MOST_OFF, max(1 / MOST_OFF, ratio / usual)) ** POWER for name, ratio in ratios.items()}


def _loss_of(choice: Choice) -> float:
    return LEAST_LOSS if isinstance(choice, str) else max(LEAST_LOSS, choice.loss or 0.0)


def _scaled(layer: LayerCandidates, factor: float) -> LayerCandidates:
    return with_losses(layer, [None if c.loss is None else c.loss * factor for c in layer.candidates])
