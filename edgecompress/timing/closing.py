"""Plans by what a device measures: rivals are built as whole files, measured in turns, corrected, chosen again.

Rivals are the plan by times, the same with times drawn towards MACs, the same with fewer chains, and the plans by MACs
at the usual multiple of ranks and at that of the runtime: which of them is best depends on the runtime, so that all are
measured and the best is kept. What the table of times lets a plan save is not quite what its file saves; how much it is
off is measured for each rival, which is chosen again between the files that were too slow and those that were fast
enough. In the end each rule offers its fastest plan of no more loss than the winner's.

The table's errors are mostly of geometries: their chains save more or less in a whole file than in place of all layers
of one geometry, in some runtimes nothing. So the first plan by times is measured without the chains of one geometry
too, and by all files that were measured the table is corrected by geometry and by chain, round after round. A chain
that saves more than the table says is never chosen by it: so plans by tables drawn from those that may be are tried.

One measurement says little of the next: a file loaded anew takes some percent more or less. So each file is loaded
several times, all that was ever measured is pooled, and no round alone takes or refuses a plan: those that lose less
than the one to be taken, and are not surely too slow, are measured again until they are. The winner loses the chains
that do not pay in their place, where that is fast enough too, and is measured once more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import inf

from edgecompress.errors import BudgetError
from edgecompress.profiling.ratios import Ratio
from edgecompress.profiling.turns import runs_in_turn
from edgecompress.progress import Progress, silent
from edgecompress.selectors.base import Choices
from edgecompress.timing import Bench
from edgecompress.timing.beliefs import Beliefs
from edgecompress.timing.curves import Curve
from edgecompress.timing.measured import DENSE, Key, Measured, key_of
from edgecompress.timing.pooling import Pool
from edgecompress.timing.rivals import (
    DRAWN,
    TIMED,
    Asked,
    Rivals,
    Rule,
    chains_of,
    fastest_from,
    fastest_within,
    left_dense,
    loss_of,
    losses_of,
)

ROUNDS, MOST_CHOICES = 24, 10
"""Of choosing and measuring; and how many plans a rule may choose."""
DRAWS, MOST_DRAWN = 3, 24
"""Tables that are drawn in a round, and in all."""
LOADS, TURNS, LAST_LOADS, MOST_LOADS = 4, 4, 8, 24
"""Of each file in a round; turns of each load; loads of the winner, and of a plan that stays in doubt."""
SECONDS_A_LOAD, FEWEST_TURNS = 0.1, 2
"""What the turns of a load may take for each file, about: there are fewer of them in a large net."""
MARGIN = 0.01
"""Of the time that may remain: two measurements of one file differ by as much. Files are aimed so much below it."""
CLOSE = 0.03
"""A rival that is so little below the time it may take is not chosen again; one in doubt may take so much more."""
MOST_PROBED = 5
"""Geometries whose chains are left out, one at a time, to see what they save."""
TIE = 0.02
"""Of a loss, which no estimate is as fine as: of plans that lose so little more the faster one is better."""
GAIN = 0.05
"""Of its loss, that a plan has to promise if it is to be tried where another of its rule is close already."""
NUDGE, NUDGES = 0.01, 4
"""More of the dense time, or less, is requested where a rule chooses what was measured; and how often."""
MOST_AGAIN, MOST_ABLATED = 5, 8
"""Plans that are measured again in one round; chains of the winner that are left out, one at a time."""


def closed(bench: Bench, rivals: Rivals, keep: float, progress: Progress = silent) -> tuple[Measured, list[Measured]]:
    """The best plan that was measured to take at most the fraction ``keep`` of the dense time, and all that were.

    Raises:
        BudgetError: none was; with the nearest.
    """
    loop = _Loop(bench, rivals, keep, rivals.rules(), Beliefs.of(rivals), Pool(exact=bench.counts))
    for number in range(ROUNDS):
        progress("plan: whole files", number, ROUNDS, "rivals in turns with the dense file")
        if not loop.goes_on():
            break
    progress("plan: whole files", ROUNDS, ROUNDS, "")
    return loop.winner(), [loop.pooled(one) for one in loop.found.values()]


@dataclass(slots=True)
class _Loop:
    """Rivals by the rule, what was measured of them, and what that says of the table.

    ``tried`` is what each rule was asked and chose, be it what another one did before.
    """

    bench: Bench
    rivals: Rivals
    keep: float
    rules: dict[str, Rule]
    beliefs: Beliefs
    pool: Pool
    found: dict[Key, Measured] = field(default_factory=dict)
    tried: dict[str, list[tuple[float, Key]]] = field(default_factory=dict)
    probes: dict[Key, Measured] = field(default_factory=dict)
    ablated: set[Key] = field(default_factory=set)
    challenged: set[Key] = field(default_factory=set)

    def goes_on(self) -> bool:
        """Choose and measure once; False where nothing new is chosen, and nothing is in doubt."""
        self._correct()
        chosen = [(rule, choices) for rule in self.rules if (choices := self._chosen(rule)) is not None]
        chosen += [(DRAWN, asked) for asked in self._drawn()]
        again, new = self._doubtful(), self._adds(chosen)
        if not new and not again:
            return self._challenges() or self._prunes()
        self._measure([*new, *again], LOADS)
        if len(self.tried.get(TIMED, ())) == 1 and not self.pool.exact:
            self._probe()
        return True

    def _adds(self, chosen: Iterable[tuple[str, Asked]]) -> list[Key]:
        """What rules chose, to be measured."""
        new = dict[Key, Measured]()
        for one in [self._new(rule, asked, plan) for rule, (asked, plan) in chosen]:
            new.setdefault(one.key, one)
            self.tried.setdefault(one.rule, []).append((one.asked, one.key))
        self.found |= {key: one for key, one in new.items() if key not in self.found}
        return list(new)

    def _probe(self) -> None:
        """Measure the first plan by times without its chains of one geometry: of those that save most by the table."""
        ((asked, key),) = self.tried[TIMED]
        whole = self.found[key]
        by_geometry = self.beliefs.by_geometry(whole.choices)
        most = sorted(by_geometry, key=lambda geometry: -by_geometry[geometry])[:MOST_PROBED]
        without = (self._new(TIMED, asked, self.rivals.without(geometry, whole.choices)) for geometry in most)
        self.probes = {one.key: one for one in without if one.key not in {DENSE, *self.found}}
        self.found |= {probe: one for probe, one in self.probes.items() if self.rivals.allows(one.choices)}
        self._measure([key, *self.probes], LOADS)

    def winner(self) -> Measured:
        """The plan of least loss in time, measured once more; the next one where that shows it to be too slow."""
        if not self.found:
            raise BudgetError(f"no plan keeps {self.keep:.3f} of the latency within the limits", nearest_keep=inf)
        known = set[Key]()
        while (first := self._first()) is not None and first.key not in known:
            known.add(first.key)
            self._measure([first.key], LAST_LOADS)
            if (last := self._first()) is not None and last.key == first.key:
                return replace(last, predicted=first.ratio.value)
        if first is not None:
            return first
        last = min(map(self.pooled, self.found.values()), key=lambda one: one.kept)
        if 1 / last.ratio.high <= self.keep and last.kept <= self.keep * (1 + CLOSE):
            return last
        raise BudgetError(
            f"no plan that was measured keeps {self.keep:.3f} of the latency; the nearest keeps {last.kept:.3f} "
            f"({last.rule}, at an expected loss of {last.loss:.3g}); what binds: the time outside the layers "
            "that may be replaced, and what the fastest chains take; allow that much",
            nearest_keep=last.kept,
        )

    def pooled(self, one: Measured) -> Measured:
        """With all that was measured of its file up to now."""
        return replace(one, ratio=self.pool.ratio(one.key, DENSE), loads=self.pool.loads_of(one.key))

    def _by_loss(self) -> list[Measured]:
        return sorted(map(self.pooled, self.found.values()), key=lambda one: one.loss)

    def _first(self) -> Measured | None:
        """The one of least loss among those in time; of those that lose hardly more the surely fastest."""
        in_time = [one for one in self._by_loss() if self._in_time(one)]
        alike = [one for one in in_time if one.loss <= in_time[0].loss * (1 + TIE)]
        return max(alike, key=lambda one: one.ratio.low, default=None)

    def _in_time(self, one: Measured) -> bool:
        return one.kept <= self.keep * (1 if self.pool.exact else 1 + MARGIN)

    def _is_close(self, one: Measured) -> bool:
        """In time, and no faster than it has to be."""
        return self._in_time(one) and one.kept >= self.keep * (1 - CLOSE)

    def _is_late(self, one: Measured) -> bool:
        """Surely."""
        return not self._in_time(one) and 1 / one.ratio.high > self.keep

    def _is_sure(self, one: Measured) -> bool:
        """To be hardly too slow, if at all; or as sure as it gets."""
        return 1 / one.ratio.low <= self.keep * (1 + CLOSE) or one.loads >= MOST_LOADS

    def _doubtful(self) -> list[Key]:
        """Those that lose less than the first that is surely in time, and are not surely too slow: by loss."""
        found = list[Key]()
        for one in self._by_loss():
            if self._in_time(one) and self._is_sure(one):
                break
            if not self._is_late(one) and one.loads < MOST_LOADS:
                found.append(one.key)
        return found[:MOST_AGAIN]

    def _chosen(self, rule: str) -> Asked | None:
        """What the rule chooses next; None where that was measured, or one of its plans is close enough.

        Where its table is corrected, a plan that promises clearly less loss is chosen all the same.
        """
        own = [self.pooled(self.found[key]) for _, key in self.tried.get(rule, ())]
        close = any(map(self._is_close, own))
        if len(own) >= MOST_CHOICES or (close and rule != TIMED):
            return None
        asked = self._curve(rule).needed(1 - self.keep * (1 - MARGIN))
        for _ in range(NUDGES):
            chosen = fastest_from(self.rules[rule], asked)
            known = chosen and self.found.get(key_of(chains_of(chosen[1])))
            if chosen is None or known is None:
                return chosen if chosen and (not close or self._promises(chosen[1])) else None
            if close or self._is_close(self.pooled(known)):
                break
            asked += -NUDGE if self._in_time(self.pooled(known)) else NUDGE
            if not 0 <= asked < 1:
                break
        return None

    def _promises(self, choices: Choices) -> bool:
        """Whether a plan is expected to lose clearly less than the best that was measured in time."""
        best = self._first()
        return best is not None and loss_of(choices) < (1 - GAIN) * best.loss

    def _drawn(self) -> list[Asked]:
        """Plans by tables that may be, as all that was measured says, where they promise less loss than the best."""
        left, best = MOST_DRAWN - len(self.tried.get(DRAWN, ())), self._first()
        if not self.found or self.pool.exact:
            return []
        files, wanted = self._files(), 1 - self.keep * (1 - MARGIN)
        draws = [self.beliefs.drawn(files, wanted) for _ in range(min(DRAWS, left))]
        found = {key_of(chains_of(one[1])): one for one in draws if one and (not best or loss_of(one[1]) < best.loss)}
        return [one for key, one in found.items() if key not in self.found]

    def _correct(self) -> None:
        """Mend the table of the rule by times, and what it was asked, by all that was measured."""
        self.rules[TIMED] = self.beliefs.mend(self._files())
        own = [self.found[key] for _, key in self.tried.get(TIMED, ())]
        self.tried[TIMED] = [(self.beliefs.saving(one.choices), one.key) for one in own]

    def _files(self) -> list[Measured]:
        """All that were measured."""
        return [self.pooled(one) for one in (self.probes | self.found).values()]

    def _curve(self, rule: str) -> Curve:
        """What its files save, by what was requested of the table."""
        own = [(asked, self.pooled(self.found[key])) for asked, key in self.tried.get(rule, ())]
        return Curve([(asked, max(0.0, 1 - one.kept)) for asked, one in own])

    def _new(self, rule: str, asked: float, choices: Choices) -> Measured:
        """Before it is measured."""
        predicted = 1 / max(0.01, 1 - self._curve(rule).expected(asked))
        return Measured(rule, asked, choices, loss_of(choices), Ratio(predicted, 0.0, inf), predicted, 0)

    def _measure(self, keys: Sequence[Key], loads: int) -> None:
        """Files in turns with the dense one."""
        loads = 1 if self.pool.exact else loads
        turns = 2 * loads if not self.bench.dense else loads * _turns(self.bench.dense_time)
        keys = [key for key in keys if key != DENSE]
        series = self.bench.compared([dict(key) for key in keys], turns, loads)
        self.pool.add(dict(zip([DENSE, *keys], series, strict=True)), loads)

    def _challenges(self) -> bool:
        """Measure what other rules offer for no more loss than the winner's; False where all of that was measured."""
        first = self._first()
        if first is None or first.key in self.challenged:
            return False
        self.challenged.add(first.key)
        offered = {rule: fastest_within(self.rules[rule], first.loss) for rule in self.rules if rule != first.rule}
        new = {rule: one for rule, one in offered.items() if one and key_of(chains_of(one[1])) not in self.found}
        if new:
            self._measure([first.key, *self._adds(new.items())], LOADS)
        return bool(new)

    def _prunes(self) -> bool:
        """Measure the winner without chains that do not pay in their place; False where all do, or that was done."""
        first = self._first()
        if first is None or first.key in self.ablated:
            return False
        useless = self._useless(first)
        self.ablated |= {first.key, first.key - useless}
        if not useless or first.key - useless in self.found:
            return False
        names, reason = {name for name, _ in useless}, "its chain does not pay in its place: measured in the whole file"
        choices = left_dense(first.choices, names, reason)
        if not self.rivals.allows(choices):
            return False
        one = self._new(first.rule, first.asked, choices)
        self.found[one.key] = one
        self._measure([one.key, first.key], LAST_LOADS)
        return True

    def _useless(self, one: Measured) -> Key:
        """Chains without which the file is surely no slower; of those that cost most loss."""
        losses = losses_of(one.choices)
        tried = sorted(one.key, key=lambda chain: -losses[chain[0]])[:MOST_ABLATED]
        without = [one.key - {chain} for chain in tried]
        self._measure([one.key, *without], LAST_LOADS)
        return frozenset(
            chain for chain, key in zip(tried, without, strict=True) if self.pool.ratio(key, one.key).low >= 1
        )


def _turns(nanoseconds: float) -> int:
    """Of a load."""
    seconds = 1e-9 * nanoseconds * sum(runs_in_turn(nanoseconds))
    return round(min(TURNS, max(FEWEST_TURNS, SECONDS_A_LOAD / seconds)))
