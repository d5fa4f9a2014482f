"""What rank selectors promise: the budget, the energy, and layers that only ever shrink."""

from dataclasses import dataclass, field, replace
from itertools import pairwise, product
from math import isclose

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgecompress.costs import Cost, chain_cost, input_shapes
from edgecompress.decompositions import DECOMPOSITIONS
from edgecompress.errors import BudgetError, PlanError
from edgecompress.planning import plan, rank_steps
from edgecompress.resolving import resolve
from edgecompress.selectors import SELECTORS, Budget, Candidate, Energy, LayerCandidates
from edgecompress.selectors.budget import solve_knapsack

KEEPS = (0.2, 0.25, 0.3, 1 / 3, 0.4, 0.5, 0.6, 2 / 3, 0.75, 0.8, 0.9, 0.95, 0.99, 0.999)
ENERGIES = (0.05, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)

for_every_selector = pytest.mark.parametrize("selector", SELECTORS.values(), ids=SELECTORS)
for_both_costs = pytest.mark.parametrize("of", ["macs", "params"])


@dataclass
class Recorder:
    """A selector that leaves everything dense and remembers what it could have chosen from."""

    name: str = "recorder"
    summary: str = ""
    layers: tuple[LayerCandidates, ...] = ()
    total: Cost = field(default_factory=lambda: Cost(0, 0, 0))

    def select(self, layers, total):
        self.layers, self.total = tuple(layers), total
        return {layer.name: "recorded" for layer in layers}


def recorded(model, inputs, multiple=8):
    """The layers, candidates and cost that a selector is shown."""
    recorder = Recorder()
    plan(model, inputs, recorder, multiple=multiple)
    return recorder


@pytest.fixture(scope="module")
def lenet5():
    """Layers of one, 20 and 50 channels beside wide ones; quick to plan at any multiple."""
    sample = resolve("lenet5")
    return sample.model(), sample.inputs


@pytest.fixture(scope="module")
def resnet20():
    sample = resolve("resnet20")
    return sample.model(), sample.inputs


@pytest.fixture(scope="module")
def seen(resnet20):
    """What a selector is shown of ResNet-20."""
    return recorded(*resnet20)


def candidates_chosen(choices):
    return {name: choice for name, choice in choices.items() if isinstance(choice, Candidate)}


def total_after(seen, choices, of):
    """MACs or parameters of the whole model with the choices made."""
    dense = {layer.name: layer.dense for layer in seen.layers}
    saved = sum(getattr(dense[name], of) - getattr(c.cost, of) for name, c in candidates_chosen(choices).items())
    return getattr(seen.total, of) - saved


def total_error(choices):
    return sum(choice.error for choice in candidates_chosen(choices).values())


# ------------------------------------------------------------------------------------------- all selectors


def test_the_table_goes_by_the_names_of_its_entries():
    assert all(selector.name == name and selector.summary for name, selector in SELECTORS.items())


@for_every_selector
def test_every_layer_gets_one_of_its_candidates_or_a_reason(selector, seen):
    choices = selector.select(seen.layers, seen.total)
    assert list(choices) == [layer.name for layer in seen.layers]
    for layer in seen.layers:
        choice = choices[layer.name]
        assert choice in layer.candidates or (isinstance(choice, str) and choice)


@for_every_selector
def test_selecting_is_deterministic(selector, seen):
    assert selector.select(seen.layers, seen.total) == selector.select(seen.layers, seen.total)


@for_every_selector
def test_a_layer_without_candidates_stays_dense(selector, seen):
    bare = replace(seen.layers[0], name="bare", candidates=())
    assert isinstance(selector.select([*seen.layers, bare], seen.total)["bare"], str)


@for_every_selector
def test_a_plan_takes_the_ranks_that_were_selected(selector, lenet5):
    recorder = recorded(*lenet5)
    choices = candidates_chosen(selector.select(recorder.layers, recorder.total))
    made = plan(*lenet5, selector)
    assert {layer.name: (layer.method, layer.ranks, layer.error) for layer in made.layers} == {
        name: (choice.method, choice.ranks, choice.error) for name, choice in choices.items()
    }


# ---------------------------------------------------------------------------- what there is to choose from

for_every_multiple = pytest.mark.parametrize("multiple", [1, 4, 8, 24, 48])


@for_every_multiple
def test_ranks_are_multiples_or_the_whole_of_a_small_mode(multiple, lenet5):
    model, inputs = lenet5
    for layer in recorded(model, inputs, multiple).layers:
        for candidate in layer.candidates:
            largest = DECOMPOSITIONS[candidate.method].max_ranks(model.get_submodule(layer.name))
            for rank, most in zip(candidate.ranks, largest, strict=True):
                assert rank % multiple == 0 or rank == most < multiple


@for_every_multiple
def test_every_candidate_saves_both_parameters_and_macs(multiple, lenet5):
    model, inputs = lenet5
    shapes = input_shapes(model, inputs)
    recorder = recorded(model, inputs, multiple)
    assert any(layer.candidates for layer in recorder.layers)
    for layer in recorder.layers:
        dense = model.get_submodule(layer.name)
        assert layer.dense == chain_cost(dense, shapes[layer.name])
        for candidate in layer.candidates:
            with torch.device("meta"):
                chain = DECOMPOSITIONS[candidate.method].chain(dense, candidate.ranks)
            assert candidate.cost == chain_cost(chain, shapes[layer.name])
            assert candidate.cost.macs < layer.dense.macs
            assert candidate.cost.params < layer.dense.params


@given(st.integers(1, 2_000), st.integers(1, 64))
def test_rank_steps_are_few_and_reach_from_end_to_end(largest, multiple):
    steps = rank_steps(largest, multiple, 16)
    assert 1 <= len(steps) <= 16
    assert list(steps) == sorted(set(steps))
    assert steps[0] == min(multiple, largest)
    assert largest - steps[-1] < multiple


# -------------------------------------------------------------------------------------------------- budget


@for_both_costs
@pytest.mark.parametrize("keep", KEEPS)
def test_the_budget_is_never_exceeded(keep, of, seen):
    if keep < nearest(seen, of):
        with pytest.raises(BudgetError):
            Budget(keep, of).select(seen.layers, seen.total)
    else:
        assert total_after(seen, Budget(keep, of).select(seen.layers, seen.total), of) <= keep * getattr(seen.total, of)


def nearest(seen, of):
    """The smallest fraction that the candidates can reach, counted here."""
    total = getattr(seen.total, of)
    saved = sum(
        max((getattr(layer.dense, of) - getattr(candidate.cost, of) for candidate in layer.candidates), default=0)
        for layer in seen.layers
    )
    return (total - saved) / total


@for_both_costs
def test_a_larger_budget_never_costs_more_error(of, seen):
    reachable = [keep for keep in KEEPS if keep >= nearest(seen, of)]
    errors = [total_error(Budget(keep, of).select(seen.layers, seen.total)) for keep in reachable]
    assert all(more <= less * (1 + 2e-4) for less, more in pairwise(errors))


@for_both_costs
@pytest.mark.parametrize("keep", [0.5, 0.7, 0.9])
def test_the_budget_buys_the_least_error(keep, of, lenet5):
    """Against trying every combination of what LeNet-5 can be made of."""
    recorder = recorded(*lenet5)
    least = min(
        total_error(choices)
        for choices in every_choice(recorder.layers)
        if total_after(recorder, choices, of) <= keep * getattr(recorder.total, of)
    )
    chosen = Budget(keep, of).select(recorder.layers, recorder.total)
    assert total_error(chosen) == pytest.approx(least, rel=1e-4)


def every_choice(layers):
    """Each layer dense or one of its candidates, in all combinations."""
    names = [layer.name for layer in layers]
    return (dict(zip(names, choices, strict=True)) for choices in product(*(("", *la.candidates) for la in layers)))


@for_both_costs
def test_keeping_everything_leaves_every_layer_dense(of, seen):
    assert candidates_chosen(Budget(1.0, of).select(seen.layers, seen.total)) == {}


@for_both_costs
def test_an_impossible_budget_names_the_nearest_that_is_possible(of, seen):
    with pytest.raises(BudgetError, match=f"keep 0.001 of the {of}") as caught:
        Budget(0.001, of).select(seen.layers, seen.total)
    assert isclose(caught.value.nearest_keep, nearest(seen, of))


@pytest.mark.parametrize("keep", [0, -0.1, 1.0001, 40, float("nan"), float("inf")])
def test_a_keep_that_is_no_fraction_is_refused(keep):
    with pytest.raises(PlanError, match=r"outside \(0, 1\]"):
        Budget(keep)


def test_a_budget_of_something_unknown_is_refused():
    with pytest.raises(PlanError, match="latency"):
        Budget(0.5, "latency")


def one_layer(dense, small, rest):
    """A layer with one candidate, in a model with ``rest`` other MACs."""
    candidates = (Candidate("svd", (1,), 0.5, Cost(small, small, 0)),) if small < dense else ()
    return [LayerCandidates("layer", (1, 1), Cost(dense, dense, 0), candidates)], Cost(dense + rest, dense + rest, 0)


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.integers(0, 1_000))
@example(dense=22, small=15, rest=0)
@settings(max_examples=300, deadline=None)
def test_the_nearest_keep_can_be_reached(dense, small, rest):
    layers, total = one_layer(dense, small, rest)
    with pytest.raises(BudgetError) as caught:
        Budget(1e-9).select(layers, total)
    choices = Budget(caught.value.nearest_keep).select(layers, total)
    assert isinstance(choices["layer"], Candidate) == (small < dense)


def test_the_keep_that_an_error_advises_is_one():
    layers, total = one_layer(dense=10, small=10, rest=0)
    with pytest.raises(BudgetError) as caught:
        Budget(0.5).select(layers, total)
    assert caught.value.nearest_keep == 1
    assert "1.001" not in str(caught.value)


# ------------------------------------------------------------------------------------------------ knapsack

errors_of_options = st.integers(0, 64).map(lambda steps: steps / 64)


def tables(largest_size):
    """Groups of (error, size) options, and a share of the way from the smallest to the largest total size."""
    option = st.tuples(errors_of_options, st.integers(0, largest_size))
    groups = st.lists(st.lists(option, min_size=1, max_size=4), min_size=1, max_size=4)
    return st.tuples(groups, st.floats(0, 1))


def solved(table):
    """The groups, the room, and what the solver picks."""
    groups, share = table
    sizes = [[size for _, size in group] for group in groups]
    least, most = sum(map(min, sizes)), sum(map(max, sizes))
    room = least + int(share * (most - least))
    picks = solve_knapsack([[error for error, _ in group] for group in groups], sizes, room)
    return groups, room, [group[pick] for group, pick in zip(groups, picks, strict=True)]


@given(tables(1_000))
@settings(max_examples=200, deadline=None)
def test_the_knapsack_is_as_good_as_trying_everything(table):
    groups, room, chosen = solved(table)
    fitting = (every for every in product(*groups) if sum(size for _, size in every) <= room)
    best = min(sum(error for error, _ in every) for every in fitting)
    assert sum(error for error, _ in chosen) <= best * (1 + 1e-4) + 1e-6


@given(tables(1_000) | tables(10**12))
@settings(max_examples=200, deadline=None)
def test_the_knapsack_never_overflows(table):
    _, room, chosen = solved(table)
    assert sum(size for _, size in chosen) <= room


def test_an_overflow_within_the_tolerance_of_the_solver_is_repaired():
    """One unit in two thousand million: to the solver, both layers fit as they are."""
    large = 10**9
    picks = solve_knapsack([[0.0, 0.5], [0.0, 0.5]], [[large, large - 1], [large, large - 2]], room=2 * large - 1)
    assert sorted(picks) == [0, 1]


def test_an_empty_knapsack_is_solved():
    assert solve_knapsack([], [], 10) == []


# -------------------------------------------------------------------------------------------------- energy


@pytest.mark.parametrize("energy", ENERGIES)
def test_every_planned_layer_keeps_the_energy_asked_for(energy, lenet5):
    model, inputs = lenet5
    for layer in plan(model, inputs, Energy(energy), multiple=4).layers:
        weight, method = model.get_submodule(layer.name).weight.detach().double(), DECOMPOSITIONS[layer.method]
        left = weight - method.reconstruct(method.factors(weight, layer.ranks))
        assert 1 - left.pow(2).sum() / weight.pow(2).sum() >= energy


def test_more_energy_never_costs_fewer_macs(seen):
    macs = [total_after(seen, Energy(energy).select(seen.layers, seen.total), "macs") for energy in ENERGIES]
    assert macs == sorted(macs)
    assert macs[0] < macs[-1]


def test_energy_takes_the_cheapest_candidate_that_is_enough(seen):
    choices = candidates_chosen(Energy(0.6).select(seen.layers, seen.total))
    assert choices
    for layer in seen.layers:
        enough = [candidate.cost.macs for candidate in layer.candidates if 1 - candidate.error >= 0.6]
        assert (layer.name in choices) == bool(enough)
        assert not enough or choices[layer.name].cost.macs == min(enough)


@pytest.mark.parametrize("energy", [0, 1, -0.5, 1.5, float("nan")])
def test_an_energy_that_is_no_fraction_is_refused(energy):
    with pytest.raises(PlanError, match=r"outside \(0, 1\)"):
        Energy(energy)
