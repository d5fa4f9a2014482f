"""What low rank can reach in a model, and what would pay instead, in sentences."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from edgecompress.reporting.numbers import bytes_text, count_text, percent
from edgecompress.reporting.wording import latency_clause

if TYPE_CHECKING:
    from edgecompress.advising import Int8, Reach

UNPROVED = "its outputs were not looked at: `edgecompress export MODEL --quantize int8` compares them"


def reach_sentences(reach: Reach) -> Iterator[str]:
    """What can be reached, and why that may buy little in tiny nets and in those of separable layers."""
    if not reach.reachable_layers:
        yield "low rank reaches nothing here: no layer has a candidate of fewer MACs and parameters"
        return
    yield (
        f"low rank reaches {percent(reach.reachable_macs, reach.macs)} of the MACs, in {reach.reachable_layers} of "
        f"{reach.layers} layers; with the smallest candidates {percent(reach.least_macs, reach.macs)} of them are left"
    )
    if reach.separable and reach.rank_at_half is not None:
        yield (
            f"{percent(reach.pointwise, reach.macs)} of the MACs are in 1x1 convolutions beside depthwise ones: at "
            f"half its MACs such a layer keeps {100 * reach.rank_at_half:.0f} % of its rank (median) and becomes two "
            "calls; what that costs of the score and saves of the time differs much from net to net: look at both, and "
            "compare with int8"
        )
    if reach.tiny:
        yield (
            f"with {count_text(reach.macs)} MACs much of the time goes into calling operators, of which low rank makes "
            "more: bytes fall with the parameters, time less than MACs, if at all; compare with int8"
        )


def int8_sentence(found: Int8 | str) -> str:
    """What int8 buys of the dense model, as it was just measured, or why that was not."""
    if isinstance(found, str):
        return f"int8 of the dense model: not measured ({found})"
    sizes = f"{bytes_text(found.bytes_before)} -> {bytes_text(found.bytes_after)}"
    return f"int8 of the dense model instead: {latency_clause(found.pair)}; file {sizes}; {UNPROVED}"
