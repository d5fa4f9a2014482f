"""The rules that choose ranks: one file and one line in ``SELECTORS`` each."""

from __future__ import annotations

from edgecompress.selectors.base import Candidate, Choice, LayerCandidates, Selector
from edgecompress.selectors.budget import Budget
from edgecompress.selectors.continuous import Continuous
from edgecompress.selectors.energy import Energy
from edgecompress.selectors.vbmf import Vbmf
from edgecompress.tables import Table

SELECTORS: Table[Selector] = Table(
    "edgecompress.selectors",
    budget="budget:Budget",
    ceilings="ceilings:Ceilings",
    energy="energy:Energy",
    vbmf="vbmf:Vbmf",
    continuous="continuous:Continuous",
    search="search:Search",
    bolaco="bolaco:Bolaco",
)
"""With their default options; ``dataclasses.replace`` gives others."""

__all__ = ["SELECTORS", "Budget", "Candidate", "Choice", "Continuous", "Energy", "LayerCandidates", "Selector", "Vbmf"]
