"""Plans within a latency, by a stopwatch that counts weights: from times over rivals to what the plan records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from edgecompress.devices import device_named
from edgecompress.errors import BudgetError, PlanError
from edgecompress.models import Sample
from edgecompress.planning import Survey, choose, survey
from edgecompress.plans import CompressionPlan, Cost
from edgecompress.selectors import Budget, Energy
from edgecompress.selectors.base import Candidate, LayerCandidates
from edgecompress.selectors.ceilings import Ceilings
from edgecompress.selectors.search import Search
from edgecompress.settings import Scope
from edgecompress.sources import resolve
from edgecompress.targets import target_named
from edgecompress.timing import Bench, bench_of
from edgecompress.timing.caching import Timing
from edgecompress.timing.geometries import geometries_of
from edgecompress.timing.planning import Place, timed_plan
from edgecompress.timing.prices import Prices

SCOPE = Scope(methods=("svd",), multiple=4)
PLACE = Place(target_named("onnx"), device_named("local"))
REST = 2_000
"""What a file takes besides its weights."""


@dataclass
class Weighing:
    """A stopwatch by which a file takes a microsecond for each number in it, and some more."""

    machine: str = "scales"
    seconds_a_file: float = 0.0
    files: int = 0

    def take(self, graphs: Sequence[onnx.ModelProto], turns: int, loads: int = 1) -> list[list[float]]:
        self.files += len(graphs)
        sizes = [sum(int(np.prod(one.dims)) for one in graph.graph.initializer) for graph in graphs]
        return [[1e3 * (REST + size)] * turns for size in sizes]


@pytest.fixture(scope="module")
def dense(tiny_file: Path) -> tuple[Survey, Sample]:
    sample = resolve(str(tiny_file))
    return survey(sample.model(), sample.inputs, SCOPE), sample


@pytest.fixture(scope="module")
def exported(dense: tuple[Survey, Sample]) -> Iterator[Bench]:
    with bench_of(dense[1], dense[0], PLACE.target, PLACE.device) as bench:
        yield bench


@pytest.fixture(autouse=True)
def watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exported: Bench) -> Weighing:
    """Instead of the processor's time; the tiny model is exported once for all tests."""
    monkeypatch.setenv("EDGECOMPRESS_CACHE", str(tmp_path / "cache"))
    made = Weighing()

    @contextmanager
    def ours(sample: Sample, seen: Survey, *place: Any) -> Iterator[Bench]:
        if sample.name == "tiny":
            yield replace(exported, watch=made, dense=[])
        else:
            with bench_of(sample, seen, *place) as bench:
                yield replace(bench, watch=made)

    monkeypatch.setattr("edgecompress.timing.planning.bench_of", ours)
    return made


def planned(dense: tuple[Survey, Sample], selector: Any) -> CompressionPlan:
    seen, sample = dense
    return timed_plan(seen, selector, SCOPE, sample, PLACE)


def test_a_plan_keeps_the_latency_that_was_measured_and_says_so(
    dense: tuple[Survey, Sample], tmp_path: Path, watch: Weighing
) -> None:
    made = planned(dense, Budget(0.7, "latency"))
    assert made.measured is not None
    facts = made.measured["latency"]
    assert made.dense is not None
    assert made.compressed is not None
    took = 1e3 * (REST + made.compressed.params)
    assert facts["speedup"] == pytest.approx(facts["dense"] / took, rel=0.02)
    assert 1 / facts["speedup"] <= 0.7 * 1.01
    assert facts["predicted"] == pytest.approx(facts["speedup"], rel=0.05)
    assert (facts["target"], facts["device"], facts["threads"], facts["unit"]) == ("onnx", "local", 1, "ns")
    assert facts["chains"] == {one.name: [one.method, *one.ranks] for one in made.layers}
    assert len({one["rule"] for one in facts["measured"]}) >= 4
    assert any(one["front"] for one in facts["measured"])
    made.save(tmp_path / "plan.json")
    assert CompressionPlan.load(tmp_path / "plan.json") == made
    files = watch.files
    assert planned(dense, Budget(0.7, "latency")).layers == made.layers
    assert watch.files < 2 * files  # the times of chains were kept


def test_milliseconds_are_a_budget_too_beside_others(dense: tuple[Survey, Sample]) -> None:
    total = dense[0].total
    dense_ms = (REST + total.params) / 1e3
    made = planned(dense, Ceilings(max_latency_ms=0.8 * dense_ms, max_macs=0.6 * total.macs))
    assert made.measured is not None
    assert made.compressed is not None
    assert made.measured["latency"]["keep"] == pytest.approx(0.8, rel=0.02)
    assert made.compressed.macs <= 0.6 * total.macs


@pytest.mark.parametrize("by", [Ceilings(max_latency_ms=1e-3), Budget(1e-4, "latency")])
def test_far_too_little_time_is_refused_before_candidates_are_weighed(
    dense: tuple[Survey, Sample], by: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgecompress.timing.planning.weighed_choices", lambda *_, **__: pytest.fail("weighed"))
    with pytest.raises(BudgetError, match=r"cannot be met: the nearest plan has \d.* ms, [\d,]+ MACs; what binds: \d"):
        planned(dense, by)


@pytest.mark.parametrize("by", [Energy(), Search(0.5, "latency")])
def test_other_rules_choose_by_no_latency(dense: tuple[Survey, Sample], by: Any) -> None:
    with pytest.raises(PlanError, match="chooses by no latency"):
        planned(dense, by)


@pytest.mark.parametrize("by", [Budget(0.5, "latency"), Ceilings(max_latency_ms=1), Ceilings(max_acc_drop=1)])
def test_without_times_and_scores_no_plan_is_made_by_them(dense: tuple[Survey, Sample], by: Any) -> None:
    with pytest.raises(PlanError, match=r"its budget needs (times|scores)"):
        choose(dense[0], by, SCOPE)


def test_layers_no_chain_can_be_put_into_stay_dense(dense: tuple[Survey, Sample]) -> None:
    class Padded(torch.nn.Sequential):
        pass

    model = Padded(
        torch.nn.Conv2d(8, 8, 3, padding=1),
        torch.nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"),
    ).eval()
    inputs = (torch.zeros(1, 8, 6, 6),)
    sample = replace(dense[1], build=lambda: model, inputs=inputs, name="padded")
    made = timed_plan(survey(model, inputs, SCOPE), Budget(0.95, "latency"), SCOPE, sample, PLACE)
    assert [one.name for one in made.layers] == ["0"]
    assert {one.name: one.reason for one in made.skipped} == {
        "1": "no chain can be measured in its place in a file of onnx"
    }


# ---------------------------------------------------------------------------------------------------- prices


@pytest.fixture
def priced(dense: tuple[Survey, Sample]) -> tuple[Prices, LayerCandidates]:
    seen, _ = dense
    geometry = next(one for one in geometries_of(seen.items) if one.first.name == "7")
    costs = geometry.costs(("svd",), 4)
    layer = LayerCandidates(
        "7", (1, 1), geometry.dense, tuple(Candidate(*one, 0.1, cost) for one, cost in costs.items())
    )
    chains = [(one.method, one.ranks) for one in layer.candidates]
    known = tuple(
        Timing(geometry.key, *chain, -0.1 + 0.01 * at, 1e-7, 1, 8) for at, chain in enumerate(chains) if at % 2
    )
    return Prices((geometry,), known, 1000.0, seen.total.macs), layer


def test_times_are_those_measured_and_between_them_interpolated(priced: tuple[Prices, LayerCandidates]) -> None:
    prices, layer = priced
    shares = prices.shares("7", [(one.method, one.ranks) for one in layer.candidates], layer)
    assert shares == pytest.approx([-0.1 + 0.01 * at for at in range(len(shares))], abs=0.002)


def test_times_count_from_the_fastest_chain(priced: tuple[Prices, LayerCandidates]) -> None:
    prices, layer = priced
    found = prices.on(layer)
    assert min(one.cost.time for one in found.candidates) == 0
    assert found.dense.time == pytest.approx(100, abs=3)
    assert prices.total(Cost(1, 1)).time == 1000
    burdened = replace(prices, burden=0.5).on(layer)
    assert burdened.dense.time < found.dense.time


def test_times_that_are_not_sure_are_drawn_towards_macs(priced: tuple[Prices, LayerCandidates]) -> None:
    prices, layer = priced
    chains = [(one.method, one.ranks) for one in layer.candidates]
    vague = replace(prices, timings=tuple(replace(one, share=0.5, spread=10.0) for one in prices.timings))
    assert vague.shares("7", chains, layer) == pytest.approx(
        replace(prices, timings=()).shares("7", chains, layer), abs=0.01
    )
