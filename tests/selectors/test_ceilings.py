"""Several limits at once: all are kept, at least loss; what cannot be kept is said with the nearest plan."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from edgecompress.errors import BudgetError
from edgecompress.plans import Cost
from edgecompress.selectors import SELECTORS, Budget
from edgecompress.selectors.base import Candidate, Choice, LayerCandidates
from edgecompress.selectors.ceilings import Ceilings, needs_scores, needs_times

REST = Cost(50, 500, 200, 100)


def layers(seed: int, count: int = 4, options: int = 4) -> list[LayerCandidates]:
    """Of random sizes and losses, smaller with more loss by and large."""
    draw, found = np.random.default_rng(seed), []
    for number in range(count):
        made = []
        for option in range(options):
            params, macs, time = (int(size) for size in draw.integers(10, 100, 3) * (option + 1))
            loss = float(draw.uniform(0.5, 1.5)) / (option + 1)
            made.append(Candidate("svd", (option + 1,), loss, Cost(params, macs, 4 * params, time), loss))
        found.append(LayerCandidates(f"layer{number}", (1, 1), Cost(600, 600, 2400, 600), tuple(made)))
    return found


def total_of(of: list[LayerCandidates]) -> Cost:
    return sum((layer.dense for layer in of), start=REST)


def spent(of: list[LayerCandidates], choices: dict[str, Choice]) -> tuple[Cost, float]:
    return spent_of(of, choices, total_of(of))


def spent_of(of: list[LayerCandidates], choices: dict[str, Choice], total: Cost) -> tuple[Cost, float]:
    loss = 0.0
    for layer in of:
        choice = choices[layer.name]
        if isinstance(choice, Candidate):
            total, loss = total + choice.cost - layer.dense, loss + (choice.loss or 0)
    return total, loss


def least(of: list[LayerCandidates], by: Ceilings) -> float:
    """The least loss of all plans within the limits."""
    found = float("inf")
    for picks in product(*(("dense", *layer.candidates) for layer in of)):
        cost, loss = spent(of, {layer.name: pick for layer, pick in zip(of, picks, strict=True)})
        if all(getattr(cost, name) <= room for name, room in by.rooms(total_of(of)).items()):
            found = min(found, loss)
    return found


@pytest.mark.parametrize("seed", range(8))
def test_all_limits_are_kept_at_little_more_than_the_least_loss(seed: int) -> None:
    of, draw = layers(seed), np.random.default_rng(100 + seed)
    shares = draw.uniform(0.35, 0.8, 3)
    total = total_of(of)
    by = Ceilings(max_macs=shares[0] * total.macs, max_size_mb=shares[1] * total.weight_bytes / 1e6,
                  time=int(shares[2] * total.time))  # fmt: skip
    best = least(of, by)
    if best == float("inf"):
        with pytest.raises(BudgetError):
            by.select(of, total)
        return
    cost, loss = spent(of, by.select(of, total))
    assert all(getattr(cost, name) <= room for name, room in by.rooms(total).items())
    assert loss <= 1.35 * best + 1e-9


def test_a_layer_that_takes_a_little_off_one_limit_adds_a_little_to_another() -> None:
    """As an embedding does: dense it has no MACs, and prices alone cut it far more than the parameters ask for."""
    table = tuple(
        Candidate("svd", (r,), (96 - r) / 96, Cost(12 * r, r, 48 * r), (96 - r) / 96) for r in range(8, 96, 8)
    )
    block = tuple(Candidate("svd", (r,), 1 - r / 50, Cost(10 * r, 20 * r, 40 * r), 1 - r / 50) for r in range(2, 50, 2))
    of = [LayerCandidates("table", (1, 1), Cost(1200, 0, 4800), table)]
    of += [LayerCandidates(f"block{at}", (1, 1), Cost(500, 1000, 2000), block) for at in range(2)]
    total = sum((layer.dense for layer in of), start=Cost(0, 0))
    by = Ceilings(keep=0.8, of="params", max_macs=0.7 * total.macs)
    cost, loss = spent_of(of, by.select(of, total), total)
    assert cost.params <= 0.8 * total.params
    assert cost.macs <= 0.7 * total.macs
    assert loss <= 1.05 * min(
        theirs
        for picks in product(*(("dense", *layer.candidates) for layer in of))
        for kept, theirs in [spent_of(of, {x.name: pick for x, pick in zip(of, picks, strict=True)}, total)]
        if kept.params <= 0.8 * total.params and kept.macs <= 0.7 * total.macs
    )


@pytest.mark.parametrize("seed", range(8))
def test_what_still_fits_is_taken(seed: int) -> None:
    of = layers(seed, 6, 8)
    total = total_of(of)
    by = Ceilings(max_macs=0.6 * total.macs, max_size_mb=0.5 * total.weight_bytes / 1e6)
    choices = by.select(of, total)
    _, loss = spent(of, choices)
    for layer in of:
        for other in ("dense", *layer.candidates):
            cost, theirs = spent(of, {**choices, layer.name: other})
            assert theirs >= loss or any(getattr(cost, name) > room for name, room in by.rooms(total).items())


def test_one_limit_is_a_budget() -> None:
    of = layers(1)
    total = total_of(of)
    ours, theirs = Ceilings(keep=0.5, of="params"), Budget(0.5, "params")
    assert spent(of, ours.select(of, total)) == spent(of, theirs.select(of, total))
    assert spent(of, SELECTORS["ceilings"].select(of, total)) == spent(of, Budget(0.5).select(of, total))


@pytest.mark.parametrize(
    ("by", "message"),
    [
        (Ceilings(max_macs=10), r"max-macs 10 cannot be met: the nearest plan has [\d,]+ MACs; what binds: 500 MACs"),
        (
            Ceilings(max_size_mb=1e-5),
            r"size-mb 1e-05 cannot be met: the nearest plan has 0.00\d+ MB, [\d,]+ MACs",
        ),
        (
            Ceilings(keep=0.01, of="params"),
            r"--keep 0.01 --of params cannot be met: the nearest plan has \d+ param",
        ),
        (
            Ceilings(max_latency_ms=0.01, time=3, dense_ms=2.0),
            r"--max-latency-ms 0.01 cannot be met: the nearest plan has 0\.\d+ ms, .*; what binds: 0\.0\d+ ms what the",
        ),
    ],
)
def test_a_limit_out_of_reach_is_refused_with_the_nearest_plan(by: Ceilings, message: str) -> None:
    of = layers(2)
    with pytest.raises(BudgetError, match=message) as refused:
        by.select(of, total_of(of))
    assert refused.value.nearest_keep > 1


def test_limits_that_exclude_each_other_are_refused_together() -> None:
    small = Candidate("svd", (1,), 0.1, Cost(10, 90, 40), 0.1)
    quick = Candidate("svd", (2,), 0.1, Cost(90, 10, 360), 0.1)
    of = [LayerCandidates("one", (1, 1), Cost(100, 100, 400), (small, quick))]
    by = Ceilings(max_macs=50, max_size_mb=200 / 1e6)
    with pytest.raises(BudgetError, match="and the other limits; allow that much"):
        by.select(of, Cost(100, 100, 400))


def test_what_a_limit_needs_is_known() -> None:
    assert needs_times(Budget(0.5, "latency"))
    assert needs_times(Ceilings(max_latency_ms=1))
    assert needs_times(Ceilings(keep=0.5, of="latency"))
    assert not needs_times(Ceilings(max_macs=1, max_acc_drop=1))
    assert needs_scores(Ceilings(max_acc_drop=0))
    assert not needs_scores(Budget(0.5))
