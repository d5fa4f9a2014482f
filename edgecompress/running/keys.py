"""What stages depend on of a selector or a recipe: the fields that lead to another result, and no sentences.

Folders of version 0.1 hold the ``repr`` of these, sentences included; they are recognized by those of then.
"""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from typing import Any

from edgecompress.files import Json

WORDS = ("summary", "weighs_losses")
"""Fields that are said of an entry, and are not its options."""

FORMER_SUMMARIES = {
    "Budget": "least total loss with at most --keep of the dense --of macs|params|bytes; knapsack over all layers",
    "Ceilings": "least total loss within all of --max-latency-ms, --max-size-mb, --max-macs, --keep that are given",
    "Energy": "each rank keeps --energy of its unfolding's squared singular values; cheapest method",
    "Vbmf": "ranks where EVBMF finds the noise of the weights; no budget; Nakajima et al. 2013, Kim et al. 2016",
    "Continuous": "tied ranks by a learned mixture of candidates; no budget; after Aghababaei-Harandi & Amini 2024",
    "Orthogonal": "train full-rank chains with orthogonality penalties, then ranks by EVBMF; after He et al. 2024",
    "Searched": "ranks by a learned mixture of candidates on labelled batches; after Aghababaei-Harandi & Amini 2024",
    "Search": "budget, its losses corrected by kind of layer and depth by trying whole plans; Optuna",
    "Bolaco": "one ratio for each kind of layer, by Bayesian optimisation of the perplexity; Ji et al. 2024; Optuna",
    "Ordered": "train once, cut to any budget: sampled ranks and group lasso; Maestro, Horvath et al. 2024",
}
"""The summaries of version 0.1 by class: they stay as they are here, whatever the entries say today."""


def options_key(entry: Any) -> Json:
    """The options of an entry of a table, and which it is."""
    return {"type": type(entry).__name__, **{key: value for key, value in asdict(entry).items() if key not in WORDS}}


def former_key(entry: Any) -> str:
    """As version 0.1 keyed it."""
    summary = FORMER_SUMMARIES.get(type(entry).__name__)
    worded = any(field.name == "summary" and field.init for field in fields(entry))
    return repr(replace(entry, summary=summary) if summary and worded else entry)
