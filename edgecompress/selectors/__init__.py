"""The rules that choose ranks: one file and one line in ``SELECTORS`` each."""

from __future__ import annotations

from edgecompress.selectors.base import Candidate, Choice, LayerCandidates, Selector
from edgecompress.selectors.budget import Budget
from edgecompress.selectors.continuous import Continuous
from edgecompress.selectors.energy import Energy
from edgecompress.selectors.vbmf import Vbmf

SELECTORS: dict[str, Selector] = {
    selector.name: selector
    for selector in (
        Budget(),
        Energy(),
        Vbmf(),
        Continuous(),
    )
}
"""With their default options; ``dataclasses.replace`` gives others."""

__all__ = ["SELECTORS", "Budget", "Candidate", "Choice", "Continuous", "Energy", "LayerCandidates", "Selector", "Vbmf"]
