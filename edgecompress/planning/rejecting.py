"""What the methods that were not chosen would have done, and why they lost."""

from __future__ import annotations

from collections.abc import Iterator

from edgecompress.plans import Alternative
from edgecompress.selectors.base import NO_RANK, Candidate, Choice, LayerCandidates, scored


def rejected(layer: LayerCandidates, choice: Choice) -> Iterator[Alternative]:
    """For each method but the chosen one what it would have done at about the same MACs, and why that lost."""
    for method, why in layer.left_out.items():
        yield Alternative(layer.name, method, why)
    for method in layer.methods:
        own = [c for c in layer.candidates if c.method == method]
        if isinstance(choice, Candidate) and method == choice.method:
            continue
        if not own:
            yield Alternative(layer.name, method, NO_RANK)
            continue
        aim = choice.cost.macs if isinstance(choice, Candidate) else layer.dense.macs / 2
        nearest = min(scored(own), key=lambda c: (abs(c.cost.macs - aim), c.error))
        why = _why_rejected(nearest, choice)
        cost = nearest.cost.without_bytes
        yield Alternative(layer.name, method, why, nearest.ranks, cost, nearest.error, nearest.loss)


def _why_rejected(candidate: Candidate, choice: Choice) -> str:
    """The two ratios that decided."""
    if isinstance(choice, str):
        return choice
    both = candidate.loss is not None and choice.loss is not None
    measure, loss, least = ("loss", candidate.loss, choice.loss) if both else ("error", candidate.error, choice.error)
    assert loss is not None
    assert least is not None
    more = f"{loss / least:.2g}x the {measure}" if least > 0 else f"more {measure}"
    return f"{more} at {candidate.cost.macs / choice.cost.macs:.2g}x the MACs"
