"""Several budgets at once, also in absolute numbers: a knapsack with a price for each.

Where the plan for one limit keeps all others, it is taken. Else sizes are weighed into one, in shares of what each
limit leaves; a limit that is overstepped gets more weight, one that is not less, and of all plans within all limits the
one of least loss is taken (multiplicative weights: Plotkin, Shmoys & Tardos 1995), with what else fits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import mul

from edgecompress.errors import BudgetError
from edgecompress.fields import option
from edgecompress.plans import Cost
from edgecompress.selectors.base import NO_RANK, Candidate, Choice, LayerCandidates, Selector, scored
from edgecompress.selectors.budget import Budget, Of, loss_or_error, solve_knapsack, typical_loss

USUAL_KEEP = 0.5
ROUNDS, POWER, UNITS = 16, 3.0, 10**9
"""Of weighing anew, how strongly, and what a whole room is in the weighed size."""
STEPS = 8
"""For each layer, at most, that lead a plan into its limits."""
OF = {"macs": "macs", "params": "params", "bytes": "weight_bytes", "latency": "time"}
"""By what ``--of`` takes, the name of a cost."""
AMOUNTS = {"macs": "MACs", "params": "parameters"}

Sizes = Mapping[str, Sequence[Sequence[int]]]
"""By the name of a cost, that of each layer dense, then with each of its candidates."""


@dataclass(frozen=True, slots=True)
class Ceilings:
    """At most so much of each that is given.

    Args:
        keep: fraction of the dense cost ``of`` that may remain; 0.5 where nothing at all is limited.
        of: as of ``Budget``.
        max_latency_ms: median of one run on a device, by a target and a number of threads.
        max_size_mb: of a file in float32.
        max_macs: of one input.
        max_acc_drop: points of score that may be lost; it takes data to see, so that no choice heeds it here.
        time: what the latency may be, in the unit of the candidates' times, once these are known.
        dense_ms: the dense model's latency, for messages.
    """

    keep: float | None = option(None, "Fraction of the dense cost to keep.", above=0, high=1, basic=True, chooses=True)
    of: Of = option("macs", "Which cost.", basic=True, chooses=True)
    max_latency_ms: float | None = option(
        None,
        "Latency with --target on --device, at most.",
        usual="any",
        above=0,
        basic=True,
        chooses=True,
        codecs=False,
    )
    max_size_mb: float | None = option(
        None, "Size of the file, in 10^6 bytes, at most.", usual="any", above=0, basic=True, chooses=True, codecs=False
    )
    max_macs: float | None = option(
        None, "MACs of one input, at most: 20e6.", usual="any", above=0, basic=True, chooses=True, codecs=False
    )
    max_acc_drop: float | None = option(
        None,
        "Points of score that may be lost, measured on validation data.",
        usual="any",
        low=0,
        basic=True,
        chooses=True,
        codecs=False,
    )
    time: int | None = None
    dense_ms: float | None = None
    name: str = "ceilings"
    summary: str = "least total loss within all of --max-latency-ms, --max-size-mb, --max-macs, --keep that are given"
    weighs_losses: bool = True

    @property
    def is_open(self) -> bool:
        """Whether nothing but what may be lost is limited."""
        return self.keep is None and self.max_latency_ms is None and self.max_size_mb is None and self.max_macs is None

    def rooms(self, total: Cost) -> dict[str, float]:
        """By the name of a cost how much there may be of it."""
        given = {"macs": self.max_macs, "weight_bytes": self.max_size_mb and self.max_size_mb * 1e6, "time": self.time}
        rooms = {name: float(room) for name, room in given.items() if room is not None}
        name = OF[self.of]
        if self.keep is not None and name != "time":
            rooms[name] = min(rooms.get(name, float("inf")), float(int(self.keep * getattr(total, name))))
        return {"macs": USUAL_KEEP * total.macs} if self.is_open and not rooms else rooms

    def select(self, layers: Sequence[LayerCandidates], total: Cost) -> dict[str, Choice]:
        """A candidate or a reason for every layer, within all limits.

        Raises:
            BudgetError: there is none; with the limit that binds and the nearest plan.
        """
        usual = typical_loss(layers)
        options = [scored(layer.candidates) for layer in layers]
        losses = [[0.0, *(loss_or_error(one, usual) for one in of_layer)] for of_layer in options]
        costs = [[layer.dense, *(one.cost for one in own)] for layer, own in zip(layers, options, strict=True)]
        picks = self._picked(losses, costs, total)
        return {
            layer.name: of_layer[pick - 1] if pick else _why_dense(of_layer)
            for layer, of_layer, pick in zip(layers, options, picks, strict=True)
        }

    def refuse_out_of_reach(
        self, costs: Sequence[Sequence[Cost]], total: Cost, reasons: Mapping[str, str] | None = None
    ) -> None:
        """Refuse a limit that the smallest of each layer's ``costs``, the dense one first, exceed together.

        Raises:
            BudgetError: with the nearest plan and what binds.
        """
        del reasons
        for name, room in self.rooms(total).items():
            fixed = getattr(total, name) - sum(getattr(own[0], name) for own in costs)
            picks = [min(range(len(own)), key=lambda at, own=own: getattr(own[at], name)) for own in costs]  # type: ignore[misc]
            if sum(getattr(own[pick], name) for own, pick in zip(costs, picks, strict=True)) + fixed > room:
                raise self._refusal(name, _cost_of(picks, costs, total), total, fixed)

    def _picked(self, losses: Sequence[Sequence[float]], costs: Sequence[Sequence[Cost]], total: Cost) -> Sequence[int]:
        """The option of each layer: of all plans within the limits that were found the one of least loss."""
        self.refuse_out_of_reach(costs, total)
        rooms = self.rooms(total)
        sizes = {name: [[getattr(cost, name) for cost in own] for own in costs] for name in rooms}
        fixed = {name: getattr(total, name) - sum(own[0] for own in sizes[name]) for name in rooms}
        left = {name: max(1.0, room - fixed[name]) for name, room in rooms.items()}
        found = [(max(_used(picks, sizes, left).values()), picks) for picks in _tried(losses, sizes, left)]
        within = [picks for used, picks in found if used <= 1]
        if not within:
            _, nearest = min(found, key=lambda one: one[0])
            used = _used(nearest, sizes, left)
            name = max(used, key=lambda one: used[one])
            raise self._refusal(name, _cost_of(nearest, costs, total), total, fixed[name], ", and the other limits")
        filled = [_filled(picks, losses, sizes, left) for picks in within]
        return min(filled, key=lambda picks: sum(own[pick] for own, pick in zip(losses, picks, strict=True)))

    def _refusal(self, name: str, nearest: Cost, total: Cost, fixed: int, others: str = "") -> BudgetError:
        """What cannot be met, the nearest plan, what binds, the way out."""
        rooms = self.rooms(total)
        limit, least = rooms[name], getattr(nearest, name)
        shown = ", ".join(
            self._shown(one, getattr(nearest, one), total) for one in dict.fromkeys((name, *rooms, "macs"))
        )
        outside = "outside the layers that may be replaced, the rest is what the smallest chains leave"
        rest = "what the fastest chains leave" if name == "time" else outside
        return BudgetError(
            f"{self._spelled(name)} cannot be met: the nearest plan has {shown}; what binds: "
            f"{self._shown(name, fixed, total)} {rest}{others}; allow that much, or more methods or a smaller "
            "--multiple",
            nearest_keep=least / max(1e-9, limit),
        )

    def _spelled(self, name: str) -> str:
        """The option that a limit was given by."""
        by_name = {"macs": ("--max-macs", self.max_macs), "weight_bytes": ("--max-size-mb", self.max_size_mb),
                   "time": ("--max-latency-ms", self.max_latency_ms)}  # fmt: skip
        option_name, value = by_name.get(name, ("", None))
        if value is None or (self.keep is not None and OF[self.of] == name):
            return f"--keep {self.keep or USUAL_KEEP:g} --of {self.of}"
        return f"{option_name} {value:g}"

    def _shown(self, name: str, amount: float, total: Cost) -> str:
        if name == "weight_bytes":
            return f"{amount / 1e6:.3g} MB"
        if name == "time" and self.dense_ms:
            return f"{amount / max(1, total.time) * self.dense_ms:.3g} ms"
        return (
            f"{amount / max(1, total.time):.3f} of the latency" if name == "time" else f"{amount:,.0f} {AMOUNTS[name]}"
        )


def needs_times(selector: Selector) -> bool:
    """Does it choose by latency? Then candidates have to have times."""
    if isinstance(selector, Ceilings):
        kept = selector.keep is not None and selector.of == "latency"
        return kept or selector.max_latency_ms is not None
    return isinstance(selector, Budget) and selector.of == "latency"


def needs_scores(selector: Selector) -> bool:
    """Does it take labelled data to see whether a plan is within its limits?"""
    return isinstance(selector, Ceilings) and selector.max_acc_drop is not None


def _tried(losses: Sequence[Sequence[float]], sizes: Sizes, left: Mapping[str, float]) -> Iterator[list[int]]:
    """Plans within one limit each, then, unless one of them keeps all, within weighed sums of them."""
    for name in left:
        picks = _solved(losses, sizes, left, {one: float(one == name) for one in left})
        yield picks
        if max(_used(picks, sizes, left).values()) <= 1:
            return
        yield _brought_within(picks, losses, sizes, left)
    weights = {name: 1.0 / len(left) for name in left}
    for _ in range(ROUNDS):
        picks = _solved(losses, sizes, left, weights)
        yield picks
        if (most := max(_used(picks, sizes, left).values())) > 1:
            yield _solved(losses, sizes, left, weights, room=int(UNITS / most))
        weights = {name: weights[name] * used**POWER for name, used in _used(picks, sizes, left).items()}
        weights = {name: weight / max(1e-9, sum(weights.values())) for name, weight in weights.items()}


def _solved(
    losses: Sequence[Sequence[float]],
    sizes: Sizes,
    left: Mapping[str, float],
    weights: Mapping[str, float],
    room: int = UNITS,
) -> list[int]:
    """The plan of least loss whose sum of all sizes, each a share of what is left for it, is at most ``room``."""
    shares = [weights[name] / whole for name, whole in left.items()]
    layers = zip(*(sizes[name] for name in left), strict=True)
    weighed = [[round(UNITS * sum(map(mul, shares, option))) for option in zip(*own, strict=True)] for own in layers]
    return solve_knapsack([list(own) for own in losses], weighed, room)


def _brought_within(
    picks: Sequence[int], losses: Sequence[Sequence[float]], sizes: Sizes, left: Mapping[str, float]
) -> list[int]:
    """As near within all limits as single changes lead: again and again the one that costs least for what it takes off.

    Prices alone pass by plans in which one layer takes a little off one limit: an embedding, cut, has MACs.
    """
    near = list(picks)
    for _ in range(STEPS * len(near)):
        used, ways = _used(near, sizes, left), list[tuple[float, int, int]]()
        over = sum(max(0.0, share - 1) for share in used.values())
        for at, own in enumerate(losses) if over > 0 else ():
            before = {name: used[name] - 1 - sizes[name][at][near[at]] / room for name, room in left.items()}
            for pick, loss in enumerate(own):
                off = over - sum(max(0.0, before[n] + sizes[n][at][pick] / room) for n, room in left.items())
                if off > 1e-12:
                    ways.append(((loss - own[near[at]]) / off, at, pick))
        if not ways:
            return near
        _, at, pick = min(ways)
        near[at] = pick
    return near


def _filled(
    picks: Sequence[int], losses: Sequence[Sequence[float]], sizes: Sizes, left: Mapping[str, float]
) -> list[int]:
    """With what still fits: again and again the change that lowers the loss most for its share of the rooms."""
    filled = list(picks)
    while True:
        used, gains = _used(filled, sizes, left), list[tuple[float, int, int]]()
        for at, own in enumerate(losses):
            before = {name: sizes[name][at][filled[at]] for name in left}
            for pick in (pick for pick, loss in enumerate(own) if loss < own[filled[at]]):
                more = {name: (sizes[name][at][pick] - before[name]) / room for name, room in left.items()}
                if all(used[name] + share <= 1 for name, share in more.items()):
                    taken = sum(max(0.0, share) for share in more.values())
                    gains.append(((own[filled[at]] - own[pick]) / max(1e-12, taken), at, pick))
        if not gains:
            return filled
        _, at, pick = max(gains)
        filled[at] = pick


def _used(picks: Sequence[int], sizes: Sizes, left: Mapping[str, float]) -> dict[str, float]:
    """Of each room the share that is taken."""
    return {
        name: sum(own[pick] for own, pick in zip(sizes[name], picks, strict=True)) / room for name, room in left.items()
    }


def _cost_of(picks: Sequence[int], costs: Sequence[Sequence[Cost]], total: Cost) -> Cost:
    """Of the whole model with these options."""
    return sum((own[pick] - own[0] for own, pick in zip(costs, picks, strict=True)), start=total)


def _why_dense(kept: Sequence[Candidate]) -> str:
    return "the limits are met at less loss by compressing other layers" if kept else NO_RANK
