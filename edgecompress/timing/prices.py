"""What each candidate takes on a device: as it was timed, or between chains that were, drawn towards its MACs' share.

The time of a whole model with a chain in place of all layers of a geometry is measured, and so is its error. Where
there is one such layer among many, the error is larger than what is looked for: then what the MACs would save counts
more (empirical Bayes).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from edgecompress.plans import Cost, Ranks
from edgecompress.selectors.base import LayerCandidates
from edgecompress.timing.caching import Timing
from edgecompress.timing.corrections import Table, Term
from edgecompress.timing.geometries import Chain, Geometry

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

EFFICIENCY, DOUBT = 0.7, 0.5
"""Of the share of MACs that is saved, so much is of the time; and how far off that usually is, in shares of it."""
LEAST_SPREAD = 1e-6


@dataclass(frozen=True, slots=True)
class Prices:
    """Times of the candidates of a model's layers.

    Args:
        geometries: of all layers that may be replaced.
        timings: that were taken.
        dense: the whole dense model's time.
        macs: the whole dense model's.
        doubt: how far off the share of MACs may be as an estimate, in shares of it.
        burden: share of its layer's dense time that a chain is counted to take more, for plans with fewer chains.
        savings: what chains save in place of one layer, as whole files say; those that are not in it by their times.
    """

    geometries: tuple[Geometry, ...]
    timings: tuple[Timing, ...]
    dense: float
    macs: int
    burden: float = 0.0
    doubt: float = DOUBT
    savings: Table = field(default_factory=dict)

    def total(self, cost: Cost) -> Cost:
        """With the dense model's time."""
        return replace(cost, time=round(self.dense))

    def on(self, layer: LayerCandidates) -> LayerCandidates:
        """Times counted from the fastest candidate on; ``dense`` has what the fastest saves."""
        shares = self.shares(layer.name, [one.chain for one in layer.candidates], layer)
        weight = layer.dense.macs / max(1, self.macs) * self.burden
        times = [self.dense * (share + weight) for share in shares]
        least = min([0.0, *times])
        candidates = tuple(
            replace(one, cost=replace(one.cost, time=round(time - least)))
            for one, time in zip(layer.candidates, times, strict=True)
        )
        return replace(layer, candidates=candidates, dense=replace(layer.dense, time=round(-least)))

    def shares(self, name: str, chains: Sequence[Chain], layer: LayerCandidates) -> list[float]:
        """Of the dense model's time, what each chain takes more than the dense layer (negative: less)."""
        terms = [self.term_of(name, chain) for chain in chains]
        if all(term in self.savings for term in terms):
            return [-self.savings[term] for term in terms]
        key, costs = self.key_of(name), {one.chain: one.cost for one in layer.candidates}
        usual = {chain: self._usual(costs[chain].macs - layer.dense.macs) for chain in chains}
        known = {(one.method, one.ranks): one for one in self.timings if one.geometry == key}
        fitted = _between(known, costs)
        return [self._drawn(known.get(chain) or fitted.get(chain), usual[chain]) for chain in chains]

    def key_of(self, name: str) -> str:
        """A layer's geometry; nothing where its chains cannot be timed, so that there are no times of them either."""
        return next((one.key for one in self.geometries if any(item.name == name for item in one.items)), "")

    def term_of(self, name: str, chain: Chain) -> Term:
        """A chain in layers like this one; a layer whose chains cannot be timed is like no other."""
        return self.key_of(name) or name, chain

    def _usual(self, macs: int) -> float:
        """The share of the time that so many MACs more take, about."""
        return EFFICIENCY * macs / max(1, self.macs)

    def _drawn(self, timing: Timing | None, usual: float) -> float:
        """What was measured drawn towards the ``usual``, the more the less sure it is."""
        if timing is None:
            return usual
        sure, doubt = 1 / max(LEAST_SPREAD, timing.spread) ** 2, 1 / max(LEAST_SPREAD, self.doubt * abs(usual)) ** 2
        return (sure * timing.share + doubt * usual) / (sure + doubt)


def _between(known: Mapping[Chain, Timing], costs: Mapping[Chain, Cost]) -> dict[Chain, Timing]:
    """For chains that were not timed, by least squares on those of the same method: ranks and MACs."""
    found: dict[Chain, Timing] = {}
    for method in {method for method, _ in known}:
        timed = [(chain, one) for chain, one in known.items() if chain[0] == method and chain in costs]
        missing = [chain for chain in costs if chain[0] == method and chain not in known]
        if len(timed) > 1 and missing:
            found |= _fitted(timed, missing, costs)
    return found


def _fitted(
    timed: Sequence[tuple[Chain, Timing]], missing: Sequence[Chain], costs: Mapping[Chain, Cost]
) -> dict[Chain, Timing]:
    import numpy as np

    rows = _features([chain[1] for chain, _ in timed], [costs[chain].macs for chain, _ in timed])
    shares = np.array([one.share for _, one in timed])
    rows = rows if len(rows) > rows.shape[1] else rows[:, :2]
    weights, *_ = np.linalg.lstsq(rows, shares, rcond=None)
    spread = float(np.sqrt(np.mean((rows @ weights - shares) ** 2) + np.mean([one.spread**2 for _, one in timed])))
    others = _features([chain[1] for chain in missing], [costs[chain].macs for chain in missing])[:, : rows.shape[1]]
    like = timed[0][1]
    return {
        chain: replace(like, method=chain[0], ranks=chain[1], share=float(share), spread=spread)
        for chain, share in zip(missing, others @ weights, strict=True)
    }


def _features(ranks: Sequence[Ranks], macs: Sequence[int]) -> NDArray[np.float64]:
    """One, millions of MACs, and each rank but the first."""
    import numpy as np

    return np.array([[1.0, count / 1e6, *own[1:]] for own, count in zip(ranks, macs, strict=True)], np.float64)
