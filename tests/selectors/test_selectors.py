"""What rank selectors promise: the budget, the energy, and layers that only ever shrink."""

from dataclasses import dataclass, field, fields, replace
from functools import cache
from itertools import pairwise, product
from math import isclose

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import LinearConstraint, milp
from torch import nn

from edgecompress.costs import chain_cost, input_shapes
from edgecompress.decompositions import AUTO, DECOMPOSITIONS
from edgecompress.errors import BudgetError, PlanError
from edgecompress.planning import plan
from edgecompress.planning.grids import rank_steps
from edgecompress.plans import Cost
from edgecompress.selectors import SELECTORS, Budget, Candidate, Continuous, Energy, LayerCandidates
from edgecompress.selectors.budget import solve_knapsack
from edgecompress.sources import resolve

KEEPS = (0.2, 0.25, 0.3, 1 / 3, 0.4, 0.5, 0.6, 2 / 3, 0.75, 0.8, 0.9, 0.95, 0.99, 0.999)
ENERGIES = (0.05, 0.3, 0.5, 0.7, 0.9, 0.99)

QUICK = {**SELECTORS, "continuous": Continuous(iterations=3, warm_up=1)}
for_every_selector = pytest.mark.parametrize("selector", QUICK.values(), ids=QUICK)
for_every_cost = pytest.mark.parametrize("of", ["macs", "params", "bytes"])


@dataclass
class Recorder:
    """A selector that leaves everything dense and remembers what it could have chosen from."""

    name: str = "recorder"
    summary: str = ""
    weighs_losses: bool = False
    layers: tuple[LayerCandidates, ...] = ()
    total: Cost = field(default_factory=lambda: Cost(0, 0, 0))

    def select(self, layers, total):
        self.layers, self.total = tuple(layers), total
        return {layer.name: "recorded" for layer in layers}


def recorded(model, inputs, multiple=8, exclude=()):
    """The layers, candidates and cost that a selector is shown."""
    recorder = Recorder()
    plan(model, inputs, recorder, multiple=multiple, exclude=exclude)
    return recorder


@pytest.fixture(scope="module")
def lenet5():
    """Layers of one, 20 and 50 channels beside wide ones; quick to plan at any multiple."""
    sample = resolve("lenet5")
    return sample.model(), sample.inputs


@pytest.fixture(scope="module")
def of_lenet5(lenet5):
    """What a selector is shown of LeNet-5 at a multiple."""
    return cache(lambda multiple: recorded(*lenet5, multiple))


@pytest.fixture(scope="module")
def resnet20():
    sample = resolve("resnet20")
    return sample.model(), sample.inputs


@pytest.fixture(scope="module")
def seen(resnet20):
    """What a selector is shown of ResNet-20."""
    return recorded(*resnet20)


@pytest.fixture(scope="module")
def few(seen):
    """A quarter of ResNet-20, layers of all its widths, as if it were the whole."""
    layers = seen.layers[::4]
    total = Cost(*(sum(getattr(layer.dense, own.name) for layer in layers) for own in fields(Cost)))
    return Recorder(layers=layers, total=total)


@pytest.fixture(scope="module")
def chosen(few):
    """What each selector makes of it."""
    return {name: selector.select(few.layers, few.total) for name, selector in QUICK.items()}


def size(cost, of):
    """What a budget ``of`` something counts."""
    return getattr(cost, "weight_bytes" if of == "bytes" else of)


def candidates_chosen(choices):
    return {name: choice for name, choice in choices.items() if isinstance(choice, Candidate)}


def total_after(seen, choices, of):
    """MACs, parameters or bytes of the whole model with the choices made."""
    dense = {layer.name: layer.dense for layer in seen.layers}
    saved = sum(size(dense[name], of) - size(choice.cost, of) for name, choice in candidates_chosen(choices).items())
    return size(seen.total, of) - saved


def total_error(choices):
    return sum(choice.error for choice in candidates_chosen(choices).values())


# ------------------------------------------------------------------------------------------- all selectors


def test_the_table_goes_by_the_names_of_its_entries():
    assert all(selector.name == name and selector.summary for name, selector in SELECTORS.items())


def offered(layer, choice):
    """Is it one of the candidates, or what the layer's own pricing makes of ranks that saves something?"""
    return choice in layer.candidates or (
        layer.at(choice.method, choice.ranks) == choice and choice.cost.saves_over(layer.dense)
    )


@for_every_selector
def test_every_layer_gets_one_of_its_candidates_or_a_reason(selector, few, chosen):
    choices = chosen[selector.name]
    assert list(choices) == [layer.name for layer in few.layers]
    for layer in few.layers:
        choice = choices[layer.name]
        assert choice if isinstance(choice, str) else offered(layer, choice)
    assert candidates_chosen(choices)


@for_every_selector
def test_selecting_is_deterministic(selector, few, chosen):
    assert selector.select(few.layers, few.total) == chosen[selector.name]


@for_every_selector
def test_a_layer_without_candidates_stays_dense(selector, few):
    bare = replace(few.layers[0], name="bare", candidates=(), methods=())
    assert isinstance(selector.select([*few.layers, bare], few.total)["bare"], str)


@for_every_selector
def test_a_plan_takes_the_ranks_that_were_selected(selector, lenet5):
    recorder = recorded(*lenet5, exclude=("fc1",))  # which takes seconds
    choices = candidates_chosen(selector.select(recorder.layers, recorder.total))
    made = plan(*lenet5, selector, exclude=("fc1",))
    assert made.layers
    assert {layer.name: (layer.method, layer.ranks, layer.error) for layer in made.layers} == {
        name: (choice.method, choice.ranks, choice.error) for name, choice in choices.items()
    }


# ---------------------------------------------------------------------------- what there is to choose from

for_every_multiple = pytest.mark.parametrize("multiple", [1, 4, 8, 24, 48])


@for_every_multiple
def test_ranks_are_multiples_or_the_whole_of_a_small_mode(multiple, lenet5, of_lenet5):
    model, _ = lenet5
    for layer in of_lenet5(multiple).layers:
        for candidate in layer.candidates:
            largest = DECOMPOSITIONS[candidate.method].max_ranks(model.get_submodule(layer.name))
            for rank, most in zip(candidate.ranks, largest, strict=True):
                assert rank % multiple == 0 or rank == most < multiple


@for_every_multiple
def test_every_candidate_saves_both_parameters_and_macs(multiple, lenet5, of_lenet5):
    model, inputs = lenet5
    shapes = input_shapes(model, inputs)
    recorder = of_lenet5(multiple)
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
            assert candidate.cost.saves_over(layer.dense)


def test_without_a_choice_of_methods_the_automatic_ones_are_tried(seen):
    assert set(AUTO) < set(DECOMPOSITIONS)
    assert {candidate.method for layer in seen.layers for candidate in layer.candidates} <= set(AUTO)
    assert {method for layer in seen.layers for method in layer.methods} == set(AUTO)


@for_every_multiple
def test_any_ranks_are_priced_at_the_next_multiple(multiple, lenet5, of_lenet5):
    model, inputs = lenet5
    shapes = input_shapes(model, inputs)
    for layer in of_lenet5(multiple).layers:
        dense = model.get_submodule(layer.name)
        for method in layer.methods:
            largest = DECOMPOSITIONS[method].max_ranks(dense)
            for asked in (tuple(1 for _ in largest), largest):
                priced = layer.at(method, asked)
                for rank, least, most in zip(priced.ranks, asked, largest, strict=True):
                    assert least <= rank < least + multiple
                    assert rank == most or rank % multiple == 0
                with torch.device("meta"):
                    chain = DECOMPOSITIONS[method].chain(dense, priced.ranks)
                assert priced.cost == chain_cost(chain, shapes[layer.name])


@given(st.integers(1, 2_000), st.integers(1, 64))
def test_rank_steps_are_few_and_reach_from_end_to_end(largest, multiple):
    steps = rank_steps(largest, multiple, 16)
    assert 1 <= len(steps) <= 16
    assert list(steps) == sorted(set(steps))
    assert steps[0] == min(multiple, largest)
    assert largest - steps[-1] < multiple


# -------------------------------------------------------------------------------------------------- budget


@for_every_cost
@pytest.mark.parametrize("keep", KEEPS)
def test_the_budget_is_never_exceeded(keep, of, seen):
    if keep < nearest(seen, of):
        with pytest.raises(BudgetError):
            Budget(keep, of).select(seen.layers, seen.total)
    else:
        assert total_after(seen, Budget(keep, of).select(seen.layers, seen.total), of) <= keep * size(seen.total, of)


def nearest(seen, of):
    """The smallest fraction that the candidates can reach, counted here."""
    total = size(seen.total, of)
    saved = sum(
        max((size(layer.dense, of) - size(candidate.cost, of) for candidate in layer.candidates), default=0)
        for layer in seen.layers
    )
    return (total - saved) / total


@for_every_cost
def test_a_larger_budget_never_costs_more_error(of, seen):
    reachable = [keep for keep in KEEPS if keep >= nearest(seen, of)]
    errors = [total_error(Budget(keep, of).select(seen.layers, seen.total)) for keep in reachable]
    assert all(more <= less * 1.01 for less, more in pairwise(errors))


@for_every_cost
@pytest.mark.parametrize("keep", [0.3, 0.4, 0.5, 0.7, 0.9])
@pytest.mark.covering(1)
def test_the_budget_buys_almost_the_least_error(keep, of, seen):
    """Against the exact answer of an integer program; the little that is lost at 0.9 is a large share of nothing."""
    sizes = [[size(layer.dense, of), *(size(c.cost, of) for c in layer.candidates)] for layer in seen.layers]
    errors = [[0.0, *(c.error for c in layer.candidates)] for layer in seen.layers]
    fixed = size(seen.total, of) - sum(of_layer[0] for of_layer in sizes)
    least = least_loss(errors, sizes, int(keep * size(seen.total, of)) - fixed)
    within = 1.02 if keep < 0.9 else 1.1
    assert total_error(Budget(keep, of).select(seen.layers, seen.total)) <= least * within


def test_losses_count_only_where_every_layer_has_one():
    """An error of one layer and a loss of another are different things."""
    with_loss = (Candidate("svd", (1,), 0.1, Cost(10, 10, 40), 5.0),)
    without = (Candidate("svd", (1,), 0.9, Cost(10, 10, 40)),)
    layers = [LayerCandidates(name, (1, 1), Cost(100, 100, 400), c) for name, c in (("a", with_loss), ("b", without))]
    chosen = Budget(0.6).select(layers, Cost(200, 200, 800))
    assert chosen["a"] == with_loss[0]
    assert isinstance(chosen["b"], str)


def test_a_known_loss_counts_instead_of_the_error():
    """The layer whose error is larger costs less at the output."""
    cheap = (Candidate("svd", (1,), 0.9, Cost(10, 10, 40), 0.001),)
    dear = (Candidate("svd", (1,), 0.1, Cost(10, 10, 40), 5.0),)
    layers = [LayerCandidates(name, (1, 1), Cost(100, 100, 400), c) for name, c in (("a", dear), ("b", cheap))]
    chosen = Budget(0.6).select(layers, Cost(200, 200, 800))
    assert isinstance(chosen["a"], str)
    assert chosen["b"] == cheap[0]


@for_every_cost
def test_keeping_everything_leaves_every_layer_dense(of, seen):
    assert candidates_chosen(Budget(1.0, of).select(seen.layers, seen.total)) == {}


@for_every_cost
def test_an_impossible_budget_names_the_nearest_that_is_possible(of, seen):
    words = {"macs": "MACs", "params": "parameters", "bytes": "bytes"}
    with pytest.raises(BudgetError, match=f"keep 0.001 of the {words[of]} cannot") as caught:
        Budget(0.001, of).select(seen.layers, seen.total)
    assert isclose(caught.value.nearest_keep, nearest(seen, of))


@pytest.mark.parametrize("keep", [0, -0.1, 1.0001, 40, float("nan"), float("inf")])
def test_a_keep_that_is_no_fraction_is_refused(keep):
    with pytest.raises(PlanError, match=r"outside \(0, 1\]"):
        Budget(keep)


def test_a_budget_of_something_unknown_is_refused():
    with pytest.raises(PlanError, match="energy"):
        Budget(0.5, "energy")


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


def least_loss(losses, sizes, room):
    """What no answer is below, of HiGHS, at most 0.1 % below the best; sizes relative to the room, as its tolerances
    are absolute.
    """
    flat, taken = np.concatenate(losses), np.concatenate(sizes) / room
    starts = np.cumsum([0, *map(len, losses)])
    one_each = np.zeros((len(losses), len(flat)))
    for row, (first, last) in enumerate(pairwise(starts)):
        one_each[row, first:last] = 1
    rules = [LinearConstraint(one_each, 1, 1), LinearConstraint(taken[None], 0, 1)]
    found = milp(flat, integrality=np.ones(len(flat)), bounds=(0, 1), constraints=rules, options={"mip_rel_gap": 1e-3})
    assert found.success
    return float(found.mip_dual_bound)


def random_layers(seed, layers, options=24):
    """Losses that fall steeply with size, as those of ranks do, with noise; layers of very different sizes."""
    random = np.random.default_rng(seed)
    losses, sizes = [], []
    for _ in range(layers):
        dense = int(10 ** random.uniform(3, 6))
        shares = np.sort(random.uniform(0.02, 0.95, options))
        fall = np.exp(-random.uniform(2, 8) * shares) * random.uniform(0.7, 1.3, options)
        losses.append([0.0, *(10 ** random.uniform(-2, 0) * fall).tolist()])
        sizes.append([dense, *(int(share * dense) for share in shares)])
    return losses, sizes


@pytest.mark.parametrize(
    ("layers", "on_average", "at_most"),
    [(10, 1.04, 1.25), pytest.param(20, 1.02, 1.1, marks=pytest.mark.slow), (50, 1.01, 1.03)],
)
def test_the_knapsack_is_within_a_few_percent_of_an_integer_program(layers, on_average, at_most):
    """The gap of a Lagrange relaxation is about one step of one layer: less, the more layers there are."""
    ratios = []
    for seed, share in product(range({10: 4, 20: 2, 50: 1}[layers]), (0.1, 0.3, 0.5, 0.8)):
        losses, sizes = random_layers(seed, layers)
        least, most = sum(map(min, sizes)), sum(map(max, sizes))
        room = least + int(share * (most - least))
        picks = solve_knapsack(losses, sizes, room)
        assert sum(of_layer[pick] for of_layer, pick in zip(sizes, picks, strict=True)) <= room
        lost = sum(of_layer[pick] for of_layer, pick in zip(losses, picks, strict=True))
        ratios.append(lost / least_loss(losses, sizes, room))
    assert max(ratios) <= at_most
    assert sum(ratios) / len(ratios) <= on_average


@given(tables(1_000))
@settings(max_examples=200, deadline=None)
def test_no_single_change_that_fits_improves_on_the_knapsack(table):
    groups, room, chosen = solved(table)
    left = room - sum(size for _, size in chosen)
    for group, (error, taken) in zip(groups, chosen, strict=True):
        assert not any(other < error and more - taken <= left for other, more in group)


@given(tables(1_000) | tables(10**12))
@settings(max_examples=200, deadline=None)
def test_the_knapsack_never_overflows(table):
    _, room, chosen = solved(table)
    assert sum(size for _, size in chosen) <= room


def test_one_unit_too_much_is_too_much():
    """One unit in two thousand million."""
    large = 10**9
    picks = solve_knapsack([[0.0, 0.5], [0.0, 0.5]], [[large, large - 1], [large, large - 2]], room=2 * large - 1)
    assert sorted(picks) == [0, 1]


def test_an_empty_knapsack_is_solved():
    assert solve_knapsack([], [], 10) == []


# -------------------------------------------------------------------------------------------------- energy


def kept_by_unfoldings(layer, choice):
    """The share of the squared singular values (LAPACK's) that each rank keeps of its unfolding, and one less."""
    kept = []
    for rank, matrix in zip(choice.ranks, DECOMPOSITIONS[choice.method].unfoldings(layer.kernels[0]), strict=True):
        energy = torch.linalg.svdvals(matrix.double()).square()
        kept.append([float(energy[:some].sum() / energy.sum()) for some in (rank, rank - 1)])
    return kept


@pytest.mark.parametrize("energy", ENERGIES)
def test_every_rank_is_the_smallest_that_keeps_the_energy_asked_for(energy, of_lenet5):
    recorder = of_lenet5(1)
    for layer in recorder.layers:
        for choice in candidates_chosen(Energy(energy).select([layer], recorder.total)).values():
            for kept, one_less in kept_by_unfoldings(layer, choice):
                assert kept >= energy * (1 - 1e-9)
                assert one_less < energy


@pytest.mark.parametrize("energy", ENERGIES)
def test_rounding_to_a_multiple_only_keeps_more(energy, lenet5, of_lenet5):
    recorder = of_lenet5(8)
    for layer in recorder.layers:
        for choice in candidates_chosen(Energy(energy).select([layer], recorder.total)).values():
            largest = DECOMPOSITIONS[choice.method].max_ranks(lenet5[0].get_submodule(layer.name))
            assert all(rank % 8 == 0 or rank == most for rank, most in zip(choice.ranks, largest, strict=True))
            if DECOMPOSITIONS[choice.method].unfoldings(layer.kernels[0]):
                assert all(kept >= energy * (1 - 1e-9) for kept, _ in kept_by_unfoldings(layer, choice))
            else:
                assert 1 - choice.error >= energy


def test_more_energy_never_costs_fewer_macs(few):
    macs = [total_after(few, Energy(energy).select(few.layers, few.total), "macs") for energy in ENERGIES]
    assert macs == sorted(macs)
    assert macs[0] < macs[-1]


def test_energy_takes_the_cheapest_method(seen):
    choices = Energy(0.6).select(seen.layers, seen.total)
    assert len(candidates_chosen(choices)) > 10
    for layer in seen.layers:
        own = {name: tuple(c for c in layer.candidates if c.method == name) for name in layer.methods}
        each = {name: replace(layer, methods=(name,), candidates=own[name]) for name in layer.methods}
        alone = [Energy(0.6).select([only], seen.total)[layer.name] for only in each.values()]
        macs = [choice.cost.macs for choice in alone if isinstance(choice, Candidate)]
        assert isinstance(choices[layer.name], Candidate) == bool(macs)
        assert not macs or choices[layer.name].cost.macs == min(macs)


def test_a_method_without_unfoldings_keeps_that_share_of_the_weight():
    torch.manual_seed(0)
    model, inputs = nn.Sequential(nn.Conv2d(8, 16, 3)), (torch.randn(1, 8, 9, 9),)
    for energy in (0.3, 0.5, 0.7):
        (layer,) = plan(model, inputs, Energy(energy), methods=["cp3"], multiple=1).layers
        weight, method = model[0].weight.detach().double(), DECOMPOSITIONS["cp3"]
        left = weight - method.reconstruct(method.factors(weight, layer.ranks))
        assert 1 - left.square().sum() / weight.square().sum() >= energy


@pytest.mark.parametrize("energy", [0, 1, -0.5, 1.5, float("nan")])
def test_an_energy_that_is_no_fraction_is_refused(energy):
    with pytest.raises(PlanError, match=r"outside \(0, 1\)"):
        Energy(energy)
