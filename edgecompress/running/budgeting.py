"""Plans within budgets: of costs, of a latency that is measured, of a score that is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import nn

from edgecompress.advising import MOST_MACS, measured_int8, reach_of
from edgecompress.calibrating import Calibration, recalibrate_if_better
from edgecompress.decomposing import decompose
from edgecompress.decomposing.choosing import refit_nearest
from edgecompress.errors import BudgetError, DataError, PlanError
from edgecompress.files import Json
from edgecompress.models import Sample
from edgecompress.planning import Survey, assembled, choose, refuse_out_of_reach, weighed_choices
from edgecompress.plans import CompressionPlan
from edgecompress.progress import Progress, notice, silent
from edgecompress.running.advice import reach_sentences
from edgecompress.scoring import score
from edgecompress.selectors import Selector
from edgecompress.selectors.ceilings import Ceilings, needs_scores, needs_times
from edgecompress.settings import USUAL_DEVICE, Precision, Scope
from edgecompress.timing.planning import Place, timed_plan

FIRST_KEEP, HALVINGS = 0.5, 6
"""Where the search for the smallest plan begins, and how often what is between is halved."""
SMALLER: Mapping[Precision, int] = {"fp32": 1, "fp16": 2, "int8": 4}
AS_FAST, IN_ORT = 1.05, ("onnx", "ort")
"""How much more time int8 may take to be called as fast; where it is tried."""
SPLIT = "validation"
"""Data that was not trained on, and is not what results are reported on."""


@dataclass(frozen=True, slots=True)
class Planning:
    """What plans are made from and for.

    Args:
        seen: the model's layers.
        scope: the layers, methods and ranks that may be chosen.
        sample: the model, its data and name.
        place: target, device and threads that a latency is of.
        calibration: unlabelled inputs; None: by weights alone.
        tuned: is the model fine-tuned afterwards? Then the plan may lose more than ``max_acc_drop`` before.
        progress: listens.
    """

    seen: Survey
    scope: Scope
    sample: Sample
    place: Place
    calibration: Calibration | None = None
    tuned: bool = False
    progress: Progress = silent


def plan_within(given: Planning, selector: Selector) -> CompressionPlan:
    """The plan by a selector, whatever its budgets are of; said before, where low rank may buy little.

    Where ``max_acc_drop`` is the only limit, it is the smallest plan that keeps it; else the plan of least loss within
    the other limits is measured on validation data. Test data is never looked at.

    Raises:
        BudgetError: no plan is within all limits; with the nearest and what binds.
        DataError: there is no labelled data for ``max_acc_drop``.
        PlanError: the selector chooses by no latency, or the device counts no time.
        DeviceError: the device cannot be used.
        ModelError: the model does not run on the calibration inputs.
    """
    _say_if_little(given.seen, given.scope)
    if not isinstance(selector, Ceilings) or not needs_scores(selector):
        return _planned(given, selector)
    drops = _Drops(given, selector)
    others = replace(selector, max_acc_drop=None)
    return drops.smallest() if others.is_open else drops.checked(_planned(given, others))


def _say_if_little(seen: Survey, scope: Scope) -> None:
    """Before any long work: what can be reached in a net in which low rank may buy little."""
    reach = reach_of(seen, scope)
    if reach.separable or reach.tiny:
        for sentence in reach_sentences(reach):
            notice(sentence)
        notice("`edgecompress inspect MODEL` measures what int8 buys, in seconds")


def in_float(selector: Selector, precision: Precision) -> Selector:
    """The same with the size that the file would have in float32: plans count its weights as such."""
    if isinstance(selector, Ceilings) and selector.max_size_mb is not None:
        return replace(selector, max_size_mb=selector.max_size_mb * SMALLER[precision])
    return selector


def _planned(given: Planning, selector: Selector) -> CompressionPlan:
    """The plan by costs, or by what a device measures."""
    inputs, progress = given.calibration, given.progress
    if needs_times(selector):
        place = given.place
        made = timed_plan(given.seen, selector, given.scope, given.sample, place, calibration=inputs, progress=progress)
        return _beside_int8(given, made)
    return choose(given.seen, selector, given.scope, calibration=inputs, name=given.sample.name, progress=progress)


def _beside_int8(given: Planning, made: CompressionPlan) -> CompressionPlan:
    """The plan with what the dense model takes in int8, where that is measured in seconds; said where it is as fast."""
    place, measured = given.place, made.measured or {}
    if place.device.name != USUAL_DEVICE or place.target.name not in IN_ORT or place.threads != 1:
        return made
    found = measured_int8(given.seen.model, given.sample) if given.seen.total.macs <= MOST_MACS else "too large"
    if isinstance(found, str):
        return made
    ratio, planned = found.ratio, float(measured["latency"]["speedup"])
    as_fast = ratio.value * AS_FAST >= planned
    facts = {"speedup": ratio.value, "ci95": ratio.ci95, "size_bytes": found.bytes_after, "as_fast": as_fast}
    if as_fast:
        notice(f"the dense model in int8 is {ratio.value:.2f}x as fast as in float32 (95 % interval {ratio.low:.2f} to "
               f"{ratio.high:.2f}), the plan {planned:.2f}x: rather `edgecompress export {given.sample.source} "
               "--quantize int8`, which compares its outputs")  # fmt: skip
    return replace(made, measured={**measured, "int8": facts})


def refuse_lost(selector: Selector, made: CompressionPlan, training: Json | None) -> None:
    """Refuse what fine-tuning did not win back, by the validation scores of its epochs.

    Raises:
        BudgetError: more is lost than ``max_acc_drop``.
    """
    if not isinstance(selector, Ceilings) or selector.max_acc_drop is None or training is None:
        return
    scores = (made.measured or {})["score"]
    reached = {0: scores["compressed"], **{one["epoch"]: one["score"] for one in training["history"]}}
    drop = scores["dense"] - reached[training["best_epoch"]]
    if drop > selector.max_acc_drop:
        raise BudgetError(
            f"--max-acc-drop {selector.max_acc_drop:g} is missed: {drop:.2f} points are lost on {SPLIT} data after "
            "fine-tuning; allow that much, or more --epochs, or larger limits",
            nearest_keep=_kept(made),
        )


class _Drops:
    """What plans lose on validation data before fine-tuning."""

    def __init__(self, given: Planning, limits: Ceilings) -> None:
        if given.sample.splits is None:
            raise DataError(f"{given.sample.name}: has no labelled data, by which --max-acc-drop is measured")
        assert limits.max_acc_drop is not None
        if limits.of == "latency" and limits.is_open:
            raise PlanError("--max-acc-drop of latency: give --max-latency-ms or --keep too")
        if given.sample.validation_seen:
            notice(
                f"the weights of {given.sample.name} have seen the {SPLIT} data: what is lost on other data may differ"
            )
        self.given, self.limits, self.most = given, limits, limits.max_acc_drop
        self.dense = self._score(given.seen.model, "dense")

    def checked(self, made: CompressionPlan) -> CompressionPlan:
        """The plan with what it loses, if that is allowed."""
        made, drop = self._measured(made)
        if drop > self.most and not self.given.tuned:
            raise BudgetError(
                f"--max-acc-drop {self.most:g} cannot be met within the other limits: of all plans within them the one "
                f"of least expected loss loses {drop:.2f} points on {SPLIT} data; allow that much, or larger limits, "
                "or fine-tune",
                nearest_keep=_kept(made),
            )
        if drop > self.most:
            notice(f"{drop:.2f} points are lost before fine-tuning, over --max-acc-drop {self.most:g}")
        return made

    def smallest(self) -> CompressionPlan:
        """The smallest plan that loses no more than is allowed, by bisection on the budget."""
        given, limits = self.given, replace(self.limits, max_acc_drop=None)
        layers, _ = weighed_choices(
            given.seen, self._first(limits), given.scope, calibration=given.calibration, progress=given.progress
        )
        low, high, best = 0.0, 1.0, None
        nearest = float("inf")
        for _ in range(HALVINGS):
            keep = (low + high) / 2
            by = replace(limits, keep=keep)
            try:
                choices = by.select(layers, given.seen.total)
            except BudgetError:
                low = keep
                continue
            made, drop = self._measured(assembled(given.seen, by, layers, choices, given.sample.name))
            nearest = min(nearest, drop)
            low, high, best = (low, keep, made) if drop <= self.most else (keep, high, best)
        if best is None:
            raise BudgetError(
                f"--max-acc-drop {self.most:g} cannot be met: the nearest plan keeps {high:.3f} of the {limits.of} "
                f"or a little less and loses {nearest:.2f} points on {SPLIT} data; allow that much",
                nearest_keep=high,
            )
        return best

    def _first(self, limits: Ceilings) -> Ceilings:
        """A budget that can be met, by which candidates are weighed."""
        first = replace(limits, keep=FIRST_KEEP)
        try:
            refuse_out_of_reach(self.given.seen, first, self.given.scope)
        except BudgetError as error:
            return replace(limits, keep=min(1.0, FIRST_KEEP * error.nearest_keep * 1.01))
        return first

    def _measured(self, made: CompressionPlan) -> tuple[CompressionPlan, float]:
        """The plan with its score, and what it loses."""
        reached = self._score(self._compressed(made), "compressed")
        facts: Json = {"split": SPLIT, "dense": self.dense, "compressed": reached, "before": "fine-tuning"}
        return replace(made, measured={**(made.measured or {}), "score": facts}), self.dense - reached

    def _compressed(self, made: CompressionPlan) -> nn.Module:
        """As ``compress`` starts fine-tuning from."""
        dense, calibration = self.given.seen.model, self.given.calibration
        if calibration is None:
            return decompose(dense, made, progress=self.given.progress)
        model, _ = refit_nearest(dense, made, calibration, progress=self.given.progress)
        return recalibrate_if_better(model, dense, calibration)[0]

    def _score(self, model: nn.Module, what: str) -> float:
        def listen(_name: str, done: int, total: int, detail: str) -> None:
            self.given.progress(f"plan: score of the {what} model", done, total, detail)

        return score(model, self.given.sample, SPLIT, progress=listen)


def _kept(made: CompressionPlan) -> float:
    """Of the MACs."""
    costs = made.dense and made.compressed and (made.dense.macs, made.compressed.macs)
    return costs[1] / max(1, costs[0]) if costs else 1.0
