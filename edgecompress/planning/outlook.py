"""What a plan is expected to cost, in words, and what other budgets would."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from edgecompress.decompositions import DECOMPOSITIONS
from edgecompress.errors import BudgetError
from edgecompress.plans import ROOM, CompressionPlan, Cost, LayerPlan, Outlook
from edgecompress.selectors import Budget
from edgecompress.selectors.base import LayerCandidates, Selector

LARGE_ERROR = 0.3
"""Of a layer: so much of what it gives is lost."""
LARGE_LOSS = 0.2
"""Of a plan: ResNet-20 at 30 % of its MACs is past it, and one in ten of its answers changes before fine-tuning."""
MOST_NAMED = 4
"""Layers in a warning."""
STEP = 0.05
"""Between two budgets that are looked at."""


def outlook(selector: Selector, layers: Sequence[LayerCandidates], total: Cost) -> Outlook:
    """For the selector's budget and larger ones ``(keep, predicted loss)``; none where losses are not known."""
    if not isinstance(selector, Budget):
        return ()
    larger = (round(STEP * step, 2) for step in range(1, round(1 / STEP)))
    found = []
    for keep in (selector.keep, *(keep for keep in larger if keep > selector.keep)):
        loss = _predicted(replace(selector, keep=keep), layers, total)
        if loss is None:
            return ()
        found.append((keep, loss))
    return tuple(found)


def _predicted(selector: Budget, layers: Sequence[LayerCandidates], total: Cost) -> float | None:
    try:
        choices = selector.select(layers, total).values()
    except BudgetError:
        return None
    losses = [choice.loss for choice in choices if not isinstance(choice, str)]
    return sum(loss for loss in losses if loss is not None) if None not in losses else None


def predicted_loss(plan: CompressionPlan) -> float | None:
    """Of all layers together; None where one is not known."""
    losses = [layer.loss for layer in plan.layers]
    return sum(loss for loss in losses if loss is not None) if None not in losses else None


def warnings_of(plan: CompressionPlan) -> Iterator[str]:
    """What a plan is likely to break, with the layers and the way out; nothing where it is harmless."""
    spoiled = sorted((one for one in plan.layers if one.error > LARGE_ERROR), key=lambda one: -one.error)
    if spoiled:
        them = "it" if len(spoiled) == 1 else "them"
        few = ", ".join(f"{one.name} ({one.error:.2g})" for one in spoiled[:MOST_NAMED])
        yield (
            f"{_so_many(spoiled)} loses more than {100 * LARGE_ERROR:.0f} % of what it gives, by its error: "
            f"{few}{_more(spoiled)}; leave {them} dense with {_excluding(spoiled)}, or ask for a higher --keep"
        )
    loss = predicted_loss(plan)
    if loss is not None and loss > LARGE_LOSS:
        costly = sorted(plan.layers, key=lambda one: -(one.loss or 0))[:MOST_NAMED]
        most = ", ".join(f"{one.name} ({one.loss:.2g})" for one in costly)
        yield (
            f"the outputs are expected to change much before any fine-tuning: a predicted loss of {loss:.2g}, most of "
            f"it from {most}; leave such layers dense with {_excluding(costly[:1])}, or {_higher(plan)}"
        )
    yield from _no_faster(plan)


def _no_faster(plan: CompressionPlan) -> Iterator[str]:
    """A smaller model with as many MACs, where chains are run: an embedding takes bytes and hardly any time."""
    before, after = plan.dense, plan.compressed
    chains = bool(plan.layers) and all(one.method in DECOMPOSITIONS for one in plan.layers)
    if chains and before is not None and after is not None and after.is_only_smaller(before):
        yield (
            f"smaller and not faster: {after.params / before.params:.2f} of the parameters and "
            f"{after.macs / max(1, before.macs):.2f} of the MACs remain, since parameters are taken where they cost "
            f"least; for a faster model within the same budget give {before.faster_too} too, {ROOM:g} of them"
        )


def _so_many(layers: Sequence[LayerPlan]) -> str:
    return "a layer" if len(layers) == 1 else f"each of {len(layers)} layers"


def _more(layers: Sequence[LayerPlan]) -> str:
    return f" and {len(layers) - MOST_NAMED} more" if len(layers) > MOST_NAMED else ""


def _excluding(layers: Sequence[LayerPlan]) -> str:
    return " ".join(f"--exclude '{one.name}'" for one in layers[:MOST_NAMED])


def _higher(plan: CompressionPlan) -> str:
    """The smallest budget that is expected to cost little, where losses of other budgets are known."""
    little = next((one for one in plan.outlook if one[1] <= LARGE_LOSS), None)
    if little is None:
        return "ask for a higher --keep"
    return f"ask for --keep {little[0]:g}, with a predicted loss of {little[1]:.2g}"
