"""Plans by what a device measures: rivals are built as whole files, measured in turns, corrected, chosen again.

Rivals are the plan by times, the same with times drawn towards MACs, the same with fewer chains, and the plans by MACs
at the usual multiple of ranks and at that of the runtime: which of them is best depends on the runtime, so that all are
measured and the best is kept. What the table of times lets a plan save is not quite what its file saves; how much it is
off is measured for each rival, which is chosen again between the files that were too slow and those that were fast
enough. The best of each are measured again beside each other, since the best of several noisy figures flatters; the
winner loses the chains that do not pay in their place, and is measured once more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf

from edgecompress.errors import BudgetError
from edgecompress.files import Json
from edgecompress.plans import Cost
from edgecompress.profiling.ratios import Ratio
from edgecompress.profiling.turns import ratio_of
from edgecompress.progress import Progress, silent
from edgecompress.selectors.base import Choices, LayerCandidates, replaced
from edgecompress.selectors.ceilings import Ceilings
from edgecompress.timing import Bench
from edgecompress.timing.curves import Curve
from edgecompress.timing.grafting import Chosen
from edgecompress.timing.plateaus import USUAL
from edgecompress.timing.prices import Prices

ROUNDS, TURNS, LAST_TURNS = 4, 24, 60
"""Of choosing and measuring; turns of a round, and of the winner."""
MARGIN = 0.01
"""Of the time that may remain: two measurements of one file differ by as much. Files are aimed so much below it."""
CLOSE = 0.03
"""A rival that is so little below the time it may take is not chosen again."""
BURDEN = 0.15
"""Share of its dense layer's time that a chain is counted to take more, in the rival with fewer chains."""
SMALL_DOUBT = 0.1
"""How far off the share of MACs may be as an estimate of time, in the rival whose times are drawn towards it."""
STEPS = 128
"""Plans by MACs that are looked at, by a fraction of the dense model's each."""
FINALS, MOST_ABLATED, MOST_WINNERS = 2, 8, 6

Rule = Callable[[float], Choices]
"""What is chosen where such a fraction of the dense time may remain by the table."""
Asked = tuple[float, Choices]
"""The share of the dense time that was to be saved by the table, and what was chosen."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A whole plan: the rule that made it, its expected loss, how many times as fast as dense it is, and should be.

    ``asked`` is the share of the dense time that the rule was to save by the table.
    """

    rule: str
    asked: float
    choices: Choices
    loss: float
    ratio: Ratio
    predicted: float

    @property
    def kept(self) -> float:
        """Of the dense time."""
        return 1 / self.ratio.value

    def to_json(self) -> Json:
        """A JSON object."""
        chains = chains_of(self.choices)
        return {
            "rule": self.rule,
            "loss": self.loss,
            "speedup": self.ratio.value,
            "ci95": self.ratio.ci95,
            "predicted": self.predicted,
            "chains": {name: [method, *ranks] for name, (method, ranks) in chains.items()},
        }


@dataclass(frozen=True, slots=True)
class Rivals:
    """What rivals choose from: ``layers`` with losses, their prices, the dense model's cost, and all other limits."""

    layers: Sequence[LayerCandidates]
    prices: Prices
    total: Cost
    multiple: int
    limits: Ceilings

    def rules(self) -> dict[str, Rule]:
        """By name."""
        rules: dict[str, Rule] = {
            "latency": self._timed,
            "latency, near MACs": partial(self._timed, doubt=SMALL_DOUBT),
            "latency, fewer chains": partial(self._timed, burden=BURDEN),
        }
        for multiple in sorted({USUAL, self.multiple}):
            rules[f"MACs, multiples of {multiple}"] = partial(self._by_macs, self._of_multiple(multiple), {})
        return rules

    def saving(self, choices: Choices) -> float:
        """Share of the dense time that the table of times lets chains save."""
        by_name = {layer.name: layer for layer in self.layers}
        shares = (self.prices.shares(name, [chain], by_name[name])[0] for name, chain in chains_of(choices).items())
        return -sum(shares)

    def _timed(self, keep: float, **differently: float) -> Choices:
        prices = replace(self.prices, **differently)  # type: ignore[arg-type]
        layers = [prices.on(layer) for layer in self.layers]
        return replace(self.limits, time=round(keep * prices.dense)).select(layers, prices.total(self.total))

    def _of_multiple(self, multiple: int) -> list[LayerCandidates]:
        """The layers with those candidates alone whose ranks are multiples."""
        return [
            replace(layer, candidates=tuple(c for c in layer.candidates if all(r % multiple == 0 for r in c.ranks)))
            for layer in self.layers
        ]

    def _by_macs(self, layers: Sequence[LayerCandidates], known: dict[int, Choices | None], keep: float) -> Choices:
        """The plan of most MACs whose time is expected to be within the budget; ``known`` are those of each step."""
        low, high, found = 0, STEPS, None
        while high - low > 1:
            step = (low + high) // 2
            if step not in known:
                known[step] = self._of_macs(layers, step / STEPS)
            choices = known[step]
            if choices is not None and 1 - self.saving(choices) > keep:
                high = step
            else:
                low, found = step, choices or found
        if found is None:
            raise BudgetError("no plan by MACs is fast enough", nearest_keep=inf)
        return found

    def _of_macs(self, layers: Sequence[LayerCandidates], share: float) -> Choices | None:
        """None where there is no plan of so few MACs."""
        macs = min(share * self.total.macs, self.limits.max_macs or inf)
        try:
            return replace(self.limits, max_macs=macs, time=None).select(layers, self.total)
        except BudgetError:
            return None


def chains_of(choices: Choices) -> Chosen:
    """Those that are replaced."""
    return {name: one.chain for name, one in replaced(choices).items()}


def losses_of(choices: Choices) -> dict[str, float]:
    """Of all layers that are replaced: losses, or errors where there are none."""
    return {name: one.error if one.loss is None else one.loss for name, one in replaced(choices).items()}


def closed(bench: Bench, rivals: Rivals, keep: float, progress: Progress = silent) -> tuple[Measured, list[Measured]]:
    """The best plan that was measured to take at most the fraction ``keep`` of the dense time, and all that were.

    Raises:
        BudgetError: none was; with the nearest.
    """
    loop = _Loop(bench, rivals, keep, rivals.rules())
    for number in range(ROUNDS):
        progress("plan: whole files", number, ROUNDS, "rivals in turns with the dense file")
        if not loop.goes_on():
            break
    progress("plan: whole files", ROUNDS, ROUNDS, "")
    return loop.winner(), loop.found


@dataclass(slots=True)
class _Loop:
    """Rivals by the rule, what was measured of them, and what that says of the table."""

    bench: Bench
    rivals: Rivals
    keep: float
    rules: Mapping[str, Rule]
    found: list[Measured] = field(default_factory=list)
    curves: dict[str, Curve] = field(default_factory=dict)

    def goes_on(self) -> bool:
        """Choose and measure once; False where nothing new is chosen."""
        chosen = {rule: choices for rule in self.rules if (choices := self._chosen(rule)) is not None}
        for one in self._measured(chosen, TURNS) if chosen else ():
            self._add(one)
        return bool(chosen)

    def winner(self) -> Measured:
        """The one of least loss among the finalists in time, without the chains that do not pay, measured again."""
        finalists = [one for one in self._finalists() if self._in_time(one)]
        in_time = sorted(finalists or filter(self._in_time, self.found), key=lambda one: one.loss)
        if not self.found:
            raise BudgetError(f"no plan keeps {self.keep:.3f} of the latency within the limits", nearest_keep=inf)
        for one in (*in_time[:MOST_WINNERS], max(self.found, key=lambda one: one.ratio.value)):
            last = self._again(one)
            if self._holds(last):
                return last
        raise BudgetError(
            f"no plan that was measured keeps {self.keep:.3f} of the latency; the nearest keeps {last.kept:.3f} "
            f"({last.rule}, at an expected loss of {last.loss:.3g}); what binds: the time outside the layers "
            "that may be replaced, and what the fastest chains take; allow that much",
            nearest_keep=last.kept,
        )

    def _finalists(self) -> list[Measured]:
        """Of each rule its plan of least loss in time, measured again beside the others; late ones choose again."""
        found: list[Measured] = []
        in_time = sorted((one for one in self.found if self._in_time(one)), key=lambda one: -one.loss)
        chosen = {one.rule: (one.asked, one.choices) for one in in_time}
        for _ in range(FINALS):
            found = self._measured(chosen, LAST_TURNS) if chosen else []
            for one in found:
                self._add(one)
            again = {one.rule: self._chosen(one.rule) for one in found if not self._in_time(one)}
            chosen = {rule: again.get(rule, one) for rule, one in chosen.items()}  # type: ignore[misc]
            chosen = {rule: one for rule, one in chosen.items() if one is not None}
        return found

    def _add(self, one: Measured) -> None:
        self.found.append(one)
        self._curve(one.rule).add(one.asked, 1 - one.kept)

    def _curve(self, rule: str) -> Curve:
        return self.curves.setdefault(rule, Curve())

    def _in_time(self, one: Measured) -> bool:
        return one.kept <= self.keep * (1 + MARGIN)

    def _chosen(self, rule: str) -> Asked | None:
        """What the rule chooses next; None where that was measured, or the last was close enough."""
        own = [one for one in self.found if one.rule == rule]
        if own and self.keep * (1 - CLOSE) <= own[-1].kept <= self.keep:
            return None
        asked = self._curve(rule).needed(1 - self.keep * (1 - MARGIN))
        chosen = _fastest_from(self.rules[rule], asked)
        known = [chains_of(one.choices) for one in own]
        return None if chosen is None or chains_of(chosen[1]) in known else chosen

    def _measured(self, chosen: Mapping[str, Asked], turns: int) -> list[Measured]:
        dense, *series = self.bench.compared([chains_of(choices) for _, choices in chosen.values()], turns)
        found = []
        for (rule, (asked, choices)), own in zip(chosen.items(), series, strict=True):
            predicted = 1 / max(0.01, 1 - self._curve(rule).expected(asked))
            loss = sum(losses_of(choices).values())
            found.append(Measured(rule, asked, choices, loss, ratio_of(dense, own), predicted))
        return found

    def _holds(self, last: Measured) -> bool:
        """In time, or not surely too slow and hardly above."""
        return self._in_time(last) or (1 / last.ratio.high <= self.keep and last.kept <= self.keep * (1 + CLOSE))

    def _again(self, one: Measured) -> Measured:
        """Measured again, without useless chains, and where that is too slow with all of them."""
        both = [self._paying(one), one.choices]
        both = both if chains_of(both[0]) != chains_of(both[1]) else both[1:]
        for choices in both:
            (last,) = self._measured({one.rule: (one.asked, choices)}, LAST_TURNS)
            if self._holds(last):
                break
        return last

    def _paying(self, one: Measured) -> Choices:
        """Without chains whose layer, dense again in the whole file, makes it no slower; the costliest are tried."""
        chosen, losses = chains_of(one.choices), losses_of(one.choices)
        tried = sorted(chosen, key=lambda name: -losses[name])[:MOST_ABLATED]
        without = [{name: chain for name, chain in chosen.items() if name != left} for left in tried]
        _, whole, *series = self.bench.compared([chosen, *without], TURNS)
        useless = {name for name, own in zip(tried, series, strict=True) if ratio_of(whole, own).low >= 1}
        reason = "its chain does not pay in its place: measured in the whole file"
        return {name: reason if name in useless else choice for name, choice in one.choices.items()}


def _fastest_from(rule: Rule, asked: float) -> Asked | None:
    """What a rule chooses; of one that finds nothing in time its fastest, None where that is not known."""
    for _ in range(2):
        try:
            return asked, rule(1 - asked)
        except BudgetError as error:
            asked = 1 - (1 - asked) * error.nearest_keep * (1 + MARGIN / 10)
            if not asked > 0:
                break
    return None
