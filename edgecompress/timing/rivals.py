"""Rules that choose plans within a latency, and compete: by times, by MACs, with fewer chains."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import inf

from edgecompress.errors import BudgetError
from edgecompress.plans import Cost
from edgecompress.selectors.base import Choices, LayerCandidates, replaced
from edgecompress.selectors.ceilings import Ceilings
from edgecompress.timing.corrections import Table, Term, saving
from edgecompress.timing.grafting import Chosen
from edgecompress.timing.plateaus import USUAL
from edgecompress.timing.prices import Prices

BURDEN = 0.15
"""Share of its dense layer's time that a chain is counted to take more, in the rival with fewer chains."""
SMALL_DOUBT = 0.1
"""How far off the share of MACs may be as an estimate of time, in the rival whose times are drawn towards it."""
STEPS = 128
"""Plans by MACs that are looked at, by a fraction of the dense model's each."""
HALVINGS = 10
"""Of what may be asked of a rule."""
NEAR = 0.001
"""Of the time that may remain, so much more is requested of a rule than the fastest that it names."""

LEFT_OUT = "left dense to see what layers of its geometry save: measured in the whole file"
"""Why a layer of such a plan is dense."""
TIMED = "latency"
"""The rule whose table is corrected by what whole files save."""
DRAWN = "latency, explored"
"""By tables drawn from those that may be."""

Rule = Callable[[float], Choices]
"""What is chosen where such a fraction of the dense time may remain by the table."""
Asked = tuple[float, Choices]
"""The share of the dense time that was to be saved by the table, and what was chosen."""


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
            TIMED: self.timed,
            "latency, near MACs": partial(self.timed, doubt=SMALL_DOUBT),
            "latency, fewer chains": partial(self.timed, burden=BURDEN),
        }
        table = self.table()
        for multiple in sorted({USUAL, self.multiple}):
            own = of_multiple(self.layers, multiple)
            rules[f"MACs, multiples of {multiple}"] = partial(self._by_macs, own, table, {})
        return rules

    def table(self) -> Table:
        """Of all candidates, what each saves in place of one layer."""
        found = dict[Term, float]()
        for layer in self.layers:
            chains = [one.chain for one in layer.candidates if self.prices.term_of(layer.name, one.chain) not in found]
            shares = self.prices.shares(layer.name, chains, layer)
            found |= {self.prices.term_of(layer.name, c): -share for c, share in zip(chains, shares, strict=True)}
        return found

    def counts(self, choices: Choices) -> Counter[Term]:
        """How many layers have each chain."""
        return Counter(self.prices.term_of(name, chain) for name, chain in chains_of(choices).items())

    def without(self, geometry: str, choices: Choices) -> Choices:
        """With all layers of a geometry dense."""
        names = {name for name, chain in chains_of(choices).items() if self.prices.term_of(name, chain)[0] == geometry}
        return left_dense(choices, names, LEFT_OUT)

    def allows(self, choices: Choices) -> bool:
        """Whether all other limits are met."""
        dense = {layer.name: layer.dense for layer in self.layers}
        chosen = replaced(choices)
        cost = sum((one.cost - dense[name] for name, one in chosen.items()), start=self.total)
        return all(
            getattr(cost, name) <= room for name, room in self.limits.rooms(self.total).items() if name != "time"
        )

    def mended(self, table: Table) -> Rivals:
        """With what chains save by another table."""
        return replace(self, prices=replace(self.prices, savings=table))

    def timed(self, keep: float, **differently: float) -> Choices:
        """Of least loss where by the table so much of the dense time may remain."""
        prices = replace(self.prices, **differently)  # type: ignore[arg-type]
        layers = [prices.on(layer) for layer in self.layers]
        return replace(self.limits, time=round(keep * prices.dense)).select(layers, prices.total(self.total))

    def _by_macs(
        self, layers: Sequence[LayerCandidates], table: Table, known: dict[int, Choices | None], keep: float
    ) -> Choices:
        """The plan of most MACs whose time is expected to be within the budget; ``known`` are those of each step."""
        low, high, found = 0, STEPS, None
        while high - low > 1:
            step = (low + high) // 2
            if step not in known:
                known[step] = self._of_macs(layers, step / STEPS)
            choices = known[step]
            if choices is not None and 1 - saving(table, self.counts(choices)) > keep:
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


def loss_of(choices: Choices) -> float:
    """Their sum."""
    return sum(losses_of(choices).values())


def left_dense(choices: Choices, names: Collection[str], reason: str) -> Choices:
    """With layers dense, each for the reason."""
    return {name: reason if name in names else choice for name, choice in choices.items()}


def of_multiple(layers: Iterable[LayerCandidates], multiple: int) -> list[LayerCandidates]:
    """Layers with those candidates alone whose ranks are multiples."""
    return [
        replace(layer, candidates=tuple(c for c in layer.candidates if all(r % multiple == 0 for r in c.ranks)))
        for layer in layers
    ]


def fastest_from(rule: Rule, asked: float) -> Asked | None:
    """What a rule chooses; of one that finds nothing in time its fastest, None where that is not known."""
    for _ in range(2):
        try:
            return asked, rule(1 - asked)
        except BudgetError as error:
            asked = 1 - (1 - asked) * error.nearest_keep * (1 + NEAR)
            if not asked > 0:
                break
    return None


def fastest_within(rule: Rule, loss: float) -> Asked | None:
    """What a rule chooses for the most that it can be asked within a loss; None where it names no such plan."""
    low, high, found = 0.0, 1.0, None
    for _ in range(HALVINGS):
        asked = (low + high) / 2
        try:
            choices: Choices | None = rule(1 - asked)
        except BudgetError:
            choices = None
        if choices is not None and loss_of(choices) <= loss:
            low, found = asked, (asked, choices)
        else:
            high = asked
    return found
