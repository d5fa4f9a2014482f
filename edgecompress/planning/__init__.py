"""plan(): which layers are replaced, by which method, at which ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict, Unpack

from torch import nn

from edgecompress.calibrating import Calibration
from edgecompress.costs import Shape, chain_cost, cost_and_shapes
from edgecompress.decomposing import matching
from edgecompress.decomposing.dry_run import noticed
from edgecompress.decompositions import AUTO
from edgecompress.decompositions.base import RECURRENT
from edgecompress.decompositions.kernels import weight_of
from edgecompress.errors import PlanError
from edgecompress.layers import Found, weighted_layers, without_numbers_to_fit
from edgecompress.memory import keeping_little
from edgecompress.models.accepting import refuse_sealed, unwrapped
from edgecompress.models.adapting import adapted_for, adapters_of
from edgecompress.models.data_forms import example_of
from edgecompress.models.datasets import Inputs
from edgecompress.planning.candidates import Replaceable, calibrated_candidates, smaller_costs, timed, weighed
from edgecompress.planning.judging import searched
from edgecompress.planning.outlook import outlook
from edgecompress.planning.pooling import pooled_candidates
from edgecompress.planning.reaching import unreached
from edgecompress.planning.rejecting import rejected
from edgecompress.planning.settling import settled
from edgecompress.plans import CompressionPlan, Cost, LayerPlan, Skipped
from edgecompress.progress import Progress, silent
from edgecompress.selectors import Budget
from edgecompress.selectors.base import NO_RANK, Choice, LayerCandidates, Prices, Selector
from edgecompress.selectors.bolaco import Bolaco
from edgecompress.selectors.ceilings import Ceilings, needs_scores, needs_times
from edgecompress.selectors.search import Search
from edgecompress.settings import Scope as Scope


class Limits(TypedDict, total=False):
    """The fields of :class:`Scope`, as :func:`plan` takes them by keyword."""

    methods: Sequence[str]
    multiple: int
    include: Sequence[str]
    exclude: Sequence[str]


EVERYTHING = Scope()
"""All layers, by all methods that are tried without being named."""


def plan(
    model: nn.Module,
    inputs: Inputs,
    selector: Selector,
    scope: Scope = EVERYTHING,
    *,
    calibration: Calibration | None = None,
    name: str = "",
    progress: Progress = silent,
    **limits: Unpack[Limits],
) -> CompressionPlan:
    """Choose method and ranks for every layer of ``model``; only what needs fewer parameters and MACs is considered.

    Args:
        model: any ``nn.Module``; it is not changed.
        inputs: an example of its inputs, a tensor or a tuple of them, batch first, of any batch size.
        selector: the rule that chooses, such as ``Budget(keep=0.5)``.
        scope: the layers, methods and ranks that may be chosen.
        calibration: unlabelled inputs. With them, and a selector that weighs losses, errors are those of the layers'
            outputs and the loss of each candidate is estimated; without, only weights are looked at.
        name: of the model, for people.
        progress: called as ``progress(stage, done, total, detail)``.
        limits: ``methods``, ``multiple``, ``include`` and ``exclude`` in place of those of ``scope``.

    Returns:
        A plan in which every layer with a weight is either replaced or skipped with the reason.

    Raises:
        PlanError: an unknown method, pattern or a bad multiple, or a weight that is not finite.
        ModelError: the model does not run on ``inputs``, or gives other outputs each time.
        BudgetError: the selector's budget cannot be met; said before anything is worked out.
    """
    refuse_sealed(unwrapped(model), type(model).__name__)
    inputs = example_of(inputs, name or type(model).__name__)
    scope, model = _limited(scope, limits), adapted_for(model, inputs, name or type(model).__name__)
    seen = survey(model, inputs, scope)
    return choose(seen, selector, scope, calibration=calibration, name=name, progress=progress)


def choose(
    seen: Survey,
    selector: Selector,
    scope: Scope = EVERYTHING,
    *,
    calibration: Calibration | None = None,
    name: str = "",
    progress: Progress = silent,
) -> CompressionPlan:
    """:func:`plan` for a model whose layers were surveyed, in the same ``scope``, before.

    Raises:
        ModelError: the model does not run on the calibration inputs, or gives NaN or infinity.
        BudgetError: the selector's budget cannot be met; said before anything is worked out.
    """
    layers, choices = weighed_choices(seen, selector, scope, calibration=calibration, progress=progress)
    return assembled(seen, selector, layers, choices, name)


def assembled(
    seen: Survey, selector: Selector, layers: Sequence[LayerCandidates], choices: dict[str, Choice], name: str = ""
) -> CompressionPlan:
    """The plan of ``choices`` from the candidates of ``layers``, which ``selector`` made."""
    skipped = [Skipped(name, reason) for name, reason in seen.reasons.items()]
    made = _assemble(name, seen.total, layers, choices, skipped, seen.found)
    return replace(made, outlook=outlook(selector, layers, seen.total), adapters=adapters_of(seen.model))


def weighed_choices(
    seen: Survey,
    selector: Selector,
    scope: Scope = EVERYTHING,
    *,
    calibration: Calibration | None = None,
    prices: Prices | None = None,
    progress: Progress = silent,
) -> tuple[Sequence[LayerCandidates], dict[str, Choice]]:
    """The candidates, and which of them the selector takes: by losses that were measured where there are inputs.

    Raises:
        ModelError: the model does not run on the calibration inputs, or gives NaN or infinity.
        BudgetError: the selector's budget cannot be met; said before anything is worked out.
        PlanError: the budget is of what is not known here: times, or scores.
    """
    _refuse_unknown(seen, selector)
    refuse_out_of_reach(seen, selector, scope)
    if isinstance(selector, Search):
        selector.refuse_in_vain(calibration)
    with keeping_little():
        return _chosen(seen, selector, scope, calibration if selector.weighs_losses else None, prices, progress)


def _chosen(
    seen: Survey,
    selector: Selector,
    scope: Scope,
    calibration: Calibration | None,
    prices: Prices | None,
    progress: Progress,
) -> tuple[Sequence[LayerCandidates], dict[str, Choice]]:
    if isinstance(selector, Bolaco) and calibration is not None:
        pooled = pooled_candidates(seen.model, seen.items, calibration, scope.multiple, progress)
        return pooled, searched(seen.model, pooled, seen.total, selector, {}, calibration, progress)
    layers = _candidates(seen, scope, calibration, prices, progress)
    if calibration is None:
        return layers, selector.select(layers, seen.total)
    corrected, choices = settled(seen.model, layers, seen.total, selector, calibration, progress)
    if isinstance(selector, Search):
        choices = searched(seen.model, corrected, seen.total, selector, choices, calibration, progress)
    return corrected, choices


def _refuse_unknown(seen: Survey, selector: Selector) -> None:
    if (needs_times(selector) and not seen.total.time) or needs_scores(selector):
        what = "scores" if needs_scores(selector) else "times"
        raise PlanError(f"{selector.name}: its budget needs {what}; plan by edgecompress.running.budgeting.plan_within")


def _limited(scope: Scope, limits: Limits) -> Scope:
    """``scope`` with the fields that were given one by one."""
    fields: dict[str, Any] = dict(limits)
    for name in fields.keys() - {"multiple"}:
        fields[name] = tuple(fields[name])
    return replace(scope, **fields)


@dataclass(frozen=True, slots=True)
class Survey:
    """The layers of a model: those that may be replaced, and the ``reasons``, by name, why the others stay dense."""

    model: nn.Module
    total: Cost
    found: tuple[Found, ...]
    items: tuple[Replaceable, ...]
    reasons: dict[str, str]


def survey(model: nn.Module, inputs: Inputs, scope: Scope) -> Survey:
    """What may be replaced in ``model``: what is in scope, runs on ``inputs``, and is not looked at by its code.

    Raises:
        PlanError: a pattern of ``scope`` matches no layer, or a weight is not finite.
        ModelError: the model does not run on ``inputs``, or gives other outputs each time.
    """
    refuse_sealed(model, type(model).__name__)
    total, shapes = cost_and_shapes(model, inputs)
    found = weighted_layers(model)
    matching([item.name for item in found], (*scope.include, *scope.exclude), "layer")
    missed = unreached(model, inputs, {item.name: item.name in shapes for item in found})
    reasons = {item.name: _refusal(item, shapes, scope, missed.get(item.name, "")) for item in found}
    reasons |= {item.name: _with_share(item, shapes, total) for item in found if isinstance(item.layer, RECURRENT)}
    reasons |= noticed(model, inputs, [name for name, reason in reasons.items() if not reason])
    items = (Replaceable(item.name, item.layer, shapes[item.name]) for item in found if not reasons[item.name])
    return Survey(model, total, found, tuple(items), {name: reason for name, reason in reasons.items() if reason})


def _refusal(item: Found, shapes: dict[str, list[Shape]], scope: Scope, missed: str) -> str:
    refused = item.refused or scope.refusal(item.name) or missed
    if refused or item.name not in shapes:
        return refused or "does not run on the example input"
    return without_numbers_to_fit(item.name, weight_of(item.layer))


def _with_share(item: Found, shapes: dict[str, list[Shape]], total: Cost) -> str:
    """Why a recurrent layer stays dense, and what that leaves as it is."""
    macs = chain_cost(item.layer, shapes.get(item.name, [])).macs
    return f"{item.refused} ({100 * macs / max(1, total.macs):.0f} % of the model's MACs)"


def refuse_out_of_reach(seen: Survey, selector: Selector, scope: Scope) -> None:
    """Refuse a budget that no plan can meet, by the candidates' costs alone: before anything is worked out.

    Raises:
        BudgetError: with the smallest fraction that can be reached, and what keeps it from being smaller.
    """
    selector = replace(selector, time=None) if isinstance(selector, Ceilings) else selector
    if isinstance(selector, Budget | Ceilings):
        costs = [smaller_costs(item, scope.methods or AUTO, scope.multiple) for item in seen.items]
        selector.refuse_out_of_reach(costs, seen.total, seen.reasons)


def _candidates(
    seen: Survey, scope: Scope, calibration: Calibration | None, prices: Prices | None, progress: Progress
) -> list[LayerCandidates]:
    methods = scope.methods or AUTO
    if calibration is not None:
        return calibrated_candidates(seen.model, seen.items, calibration, methods, scope.multiple, progress, prices)
    layers = []
    for done, item in enumerate(seen.items, start=1):
        progress("plan", done, len(seen.items), item.name)
        layers.append(timed(weighed(item, methods, scope.multiple), prices))
    return layers


def _assemble(
    name: str,
    total: Cost,
    layers: Sequence[LayerCandidates],
    choices: dict[str, Choice],
    skipped: list[Skipped],
    found: Sequence[Found],
) -> CompressionPlan:
    """The plan, its layers in the model's order, with the cost it predicts."""
    compressed, chosen = total, []
    for layer in layers:
        choice = choices[layer.name]
        if isinstance(choice, str):
            skipped.append(Skipped(layer.name, choice if layer.candidates else layer.note or NO_RANK))
            continue
        compressed += choice.cost - layer.dense
        method, ranks, error, loss = choice.method, choice.ranks, choice.error, choice.loss
        chosen.append(LayerPlan(layer.name, method, ranks, layer.shape, error, loss, note=layer.note))
    order = {item.name: index for index, item in enumerate(found)}
    in_order = sorted(skipped, key=lambda skip: order[skip.name])
    return CompressionPlan(
        model=name,
        layers=tuple(chosen),
        skipped=tuple(in_order),
        dense=total,
        compressed=compressed,
        rejected=tuple(other for layer in layers for other in rejected(layer, choices[layer.name])),
        rehearsed=True,
    )
