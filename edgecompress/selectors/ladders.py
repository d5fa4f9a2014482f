"""The ranks a layer could have where all ranks of a method are one number, and how a search narrows them down."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field

from edgecompress.selectors.base import Candidate, LayerCandidates

PREFERRED = ("tucker2", "svd")
"""Where several methods are allowed and save, a layer takes the first of these, else the first allowed one."""

MOST = 10
"""Candidates of a layer in its first window, where no step is given."""

LARGEST = 1 << 40
"""Above every rank: priced, it gives a layer's largest ranks."""


@dataclass(frozen=True, slots=True)
class Ladder:
    """A layer with one of its methods and the candidates there are: one for each tied rank r.

    All ranks are r, each at most its own largest and rounded up as ``layer.at`` does; ``modes`` is how many there are.
    """

    layer: LayerCandidates
    method: str
    modes: int
    priced: dict[int, Candidate] = field(default_factory=dict, compare=False, repr=False)

    def at(self, rank: int) -> Candidate:
        """The candidate of a tied rank."""
        if rank not in self.priced:
            assert self.layer.at is not None
            self.priced[rank] = self.layer.at(self.method, (rank,) * self.modes)
        return self.priced[rank]

    def pays(self, rank: int) -> bool:
        """Has it fewer parameters and fewer MACs than the dense layer?"""
        return self.at(rank).cost.saves_over(self.layer.dense)

    def highest(self) -> int:
        """The highest tied rank that pays, 0 if none does; cost grows with rank."""
        ranks = range(1, max(self.at(LARGEST).ranks) + 1)
        paying = bisect_left(ranks, True, key=lambda rank: not self.pays(rank))
        return max(self.at(paying).ranks) if paying else 0

    def rungs(self, ranks: Iterable[int], low: float, high: float) -> tuple[int, ...]:
        """``ranks`` as they come out after rounding: those in [low, high] that pay, ascending, each once."""
        tied = {max(self.at(rank).ranks) for rank in ranks}
        return tuple(sorted(rank for rank in tied if low <= rank <= high and self.pays(rank)))


@dataclass(frozen=True, slots=True)
class Window:
    """The candidate ranks of a layer and the spacing they were laid out with; 0 where its search has ended."""

    ranks: tuple[int, ...]
    spacing: int


def ladder_of(layer: LayerCandidates) -> Ladder | None:
    """The layer with the first method, of ``PREFERRED`` and then its own, that has a tied rank that pays."""
    modes = {candidate.method: len(candidate.ranks) for candidate in layer.candidates}
    for method in (*PREFERRED, *layer.methods):
        if method in modes and layer.at is not None:
            ladder = Ladder(layer, method, modes[method])
            if ladder.highest():
                return ladder
    return None


def first_window(ladder: Ladder, step: int = 0) -> Window:
    """The multiples of the spacing up to the highest rank that pays; a spacing above that rank is lowered to it."""
    highest = ladder.highest()
    spacing = min(step or -(-highest // MOST), highest)
    ranks = ladder.rungs(range(spacing, highest + 1, spacing), 1, highest)
    return Window(ranks or ladder.rungs((1,), 1, highest), spacing)


def next_window(ladder: Ladder, rank: int, spacing: int, shrink: int) -> Window:
    """The ranks at most half a ``spacing`` from ``rank``, laid out from ``rank`` at ``spacing`` // ``shrink``."""
    if spacing <= 1:
        return Window((rank,), 0)
    finer, half = max(1, spacing // shrink), spacing / 2
    reach = int(half) // finer * finer
    around = range(rank - reach, rank + reach + 1, finer)
    return Window(ladder.rungs((near for near in around if near >= 1), rank - half, rank + half), finer)
