"""Ordered low rank: any first ranks of the factors make a model, and one training gives one for every budget."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from edgecompress.calibrating import Calibration
from edgecompress.costs import cost
from edgecompress.decomposing import check_plan, decompose, merged
from edgecompress.decompositions import DECOMPOSITIONS
from edgecompress.errors import BudgetError, PlanError
from edgecompress.finetuning import FineTuning, state_digest
from edgecompress.finetuning.distillation import Distilled
from edgecompress.models import Sample
from edgecompress.planning import Scope
from edgecompress.plans import LayerPlan
from edgecompress.recipes.base import RecipeInputs
from edgecompress.recipes.ordered import Ordered
from edgecompress.recipes.ordered_layers import Ranked, ranked_layers
from edgecompress.recipes.ordered_training import Sampled, draw, group_lasso, live_rank, with_ranks
from edgecompress.recipes.orthogonal_training import full_rank_plan
from edgecompress.recipes.truncation import Truncated, truncate
from edgecompress.selectors import Budget, Energy
from edgecompress.sources import resolve
from tests.covering import slow

SETTINGS = FineTuning(epochs=2, lr=0.05, distill=0.5, batch_size=64)
SCOPE = Scope(multiple=2)
SVD = DECOMPOSITIONS["svd"]
LAYERS = {
    "linear": (nn.Linear(7, 5), (3, 7)),
    "conv": (nn.Conv2d(4, 6, 3, stride=2, padding=1, padding_mode="reflect"), (2, 4, 8, 8)),
    "conv1d": (nn.Conv1d(4, 6, 3, dilation=2, bias=False), (2, 4, 9)),
    "grouped": (nn.Conv2d(6, 8, 3, groups=2), (2, 6, 5, 5)),
    "transposed": (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2, output_padding=1), (2, 4, 5, 5)),
}
each_layer = pytest.mark.parametrize(("layer", "shape"), LAYERS.values(), ids=LAYERS)


class Stop(Exception):
    """Stands for Ctrl-C."""


@pytest.fixture(scope="module")
def sample(tiny_file: Path) -> Sample:
    return resolve(str(tiny_file))


def asked_of(sample: Sample, **changes: object) -> RecipeInputs:
    given = RecipeInputs(sample.model(), sample, Budget(0.4), SCOPE, SETTINGS)
    return replace(given, **changes)


def ranked(layer: nn.Module) -> Ranked:
    """One layer with its full-rank factors, as ``with_ranks`` makes it."""
    plan = LayerPlan("0", "svd", SVD.max_ranks(layer), tuple(layer.weight.shape), 0.0)
    made = with_ranks(nn.Sequential(layer), [plan]).get_submodule("0")
    assert isinstance(made, Ranked)
    return made


def square(size: int = 6, scale: float = 0.4) -> Ranked:
    """A Linear without bias, its factors random and so in no order."""
    layer = ranked(nn.Linear(size, size, bias=False))
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=scale)
    return layer


def regression(model: nn.Module, options: Ordered) -> Sampled:
    """The recipe's objective for the mean squared error."""
    data = Sample("regression", "", lambda: model, (torch.zeros(1, 6),), loss=nn.functional.mse_loss)
    return Sampled(Distilled(data, replace(SETTINGS, distill=0.0)), options)


def descend(model: nn.Module, objective: Sampled, inputs: Tensor, targets: Tensor, steps: int = 1500) -> None:
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        objective.loss(model, (inputs,), targets).backward()
        optimizer.step()


def product(layer: Ranked, width: int) -> Tensor:
    """The matrix that the first ``width`` ranks of a Linear stand for."""
    return (layer.expand.weight[:, :width] @ layer.reduce.weight[:width]).detach().double()


# --- the factors ---


@each_layer
def test_full_rank_factors_compute_the_layer(layer: nn.Module, shape: tuple[int, ...]) -> None:
    given = torch.randn(shape)
    torch.testing.assert_close(ranked(layer)(given), layer(given), rtol=1e-4, atol=1e-5)


@each_layer
def test_a_width_is_the_layer_at_that_rank(layer: nn.Module, shape: tuple[int, ...]) -> None:
    """The best approximation of each rank, as the SVD gives it: also of every group."""
    given, factors, full = torch.randn(shape), ranked(layer), SVD.max_ranks(layer)[0]
    seen = []
    for width in range(1, full + 1):
        plan = LayerPlan("0", "svd", (width,), tuple(layer.weight.shape), 0.0)
        short = with_ranks(nn.Sequential(layer), [plan]).get_submodule("0")
        factors.width = width
        seen.append(factors(given))
        torch.testing.assert_close(seen[-1], short(given), rtol=1e-4, atol=1e-5)
    assert not any(torch.allclose(one, other, atol=1e-3) for one, other in itertools.pairwise(seen))
    factors.width = None
    factors.rank.fill_(2)
    torch.testing.assert_close(factors(given), seen[1])
    factors.width = full
    torch.testing.assert_close(factors(given), seen[1])


def test_a_smaller_width_computes_less() -> None:
    layer, counts = ranked(nn.Conv2d(6, 8, 3, groups=2)), []
    for width in (1, 2, 4):
        layer.width = width
        with FlopCounterMode(display=False) as counter:
            layer(torch.randn(1, 6, 5, 5))
        counts.append(counter.get_total_flops())
    assert counts[1:] == [2 * counts[0], 4 * counts[0]]


@each_layer
def test_shrinking_zeroes_what_is_dead(layer: nn.Module, shape: tuple[int, ...]) -> None:
    given, factors = torch.randn(shape), ranked(layer)
    factors.width = 2
    expected = factors(given)
    factors.width = None
    factors.shrink(2)
    assert int(factors.rank) == 2
    whole = nn.Sequential()
    whole.add_module("reduce", factors.reduce)
    whole.add_module("expand", factors.expand)
    torch.testing.assert_close(whole(given), expected, rtol=1e-4, atol=1e-5)
    factors.shrink(3)
    assert int(factors.rank) == 2


def test_dead_ranks_stay_dead_although_momentum_moves_them() -> None:
    layer, given = square(), torch.randn(32, 6)
    optimizer = torch.optim.SGD(layer.parameters(), 0.05, 0.9)

    def step() -> None:
        optimizer.zero_grad()
        ((layer(given) - given).square().mean() + 0.01 * group_lasso([layer])).backward()
        optimizer.step()

    for _ in range(3):
        step()
    layer.shrink(3)
    step()
    assert float(layer.reduce.weight[3:].detach().norm()) > 0.01
    assert len(layer.tails()[0]) == 3
    optimizer.zero_grad()
    group_lasso([layer]).backward()
    assert not layer.reduce.weight.grad[3:].any()
    assert layer.reduce.weight.grad[:3].all()
    torch.testing.assert_close(layer(given).double(), given.double() @ product(layer, 3).T, atol=1e-5, rtol=1e-4)
    layer.shrink(live_rank(layer, 0.0))
    assert not layer.reduce.weight[3:].any()
    assert not layer.expand.weight[:, 3:].any()


# --- sampling ---


def test_pairs_are_drawn_uniformly() -> None:
    ranks, draws = [1, 5, 2, 12], 8000
    counts = Counter(draw(ranks) for _ in range(draws))
    pairs = [(layer, width) for layer, rank in enumerate(ranks) for width in range(1, rank + 1)]
    assert set(counts) == set(pairs)
    expected = draws / len(pairs)
    chi_square = sum((counts[pair] - expected) ** 2 / expected for pair in pairs)
    assert chi_square < 43.8  # 19 degrees of freedom, 1 in 1000


def test_each_step_runs_one_layer_at_the_drawn_width_and_the_others_at_all_alive() -> None:
    model = nn.Sequential(square(), nn.ReLU(), square(), square())
    model[2].shrink(2)
    full, steps, counts = (6, 2, 6), 2800, Counter()
    run: list[int] = []
    for layer in (model[0], model[2], model[3]):
        layer.reduce.register_forward_pre_hook(lambda *_: pytest.fail("the sliced weight runs, not the link"))
        layer.register_forward_hook(lambda layer, *_: run.append(layer.width or int(layer.rank)))
    objective = regression(model, Ordered(lasso=0.0))
    given = torch.randn(2, 6)
    for _ in range(steps):
        run.clear()
        objective.loss(model, (given,), given)
        changed = [place for place, (width, most) in enumerate(zip(run, full, strict=True)) if width != most]
        assert len(changed) <= 1
        counts[(changed[0], run[changed[0]]) if changed else "full"] += 1
    pairs = {(0, b) for b in range(1, 6)} | {(1, 1)} | {(2, b) for b in range(1, 6)}
    assert set(counts) == {*pairs, "full"}
    expected = steps / sum(full)
    chi_square = sum((counts[pair] - expected) ** 2 / expected for pair in pairs)
    chi_square += (counts["full"] - 3 * expected) ** 2 / (3 * expected)
    assert chi_square < 31.3  # 11 degrees of freedom, 1 in 1000
    assert all(layer.width is None for _, layer in ranked_layers(model))


def test_the_same_seed_draws_the_same() -> None:
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append([draw([3, 9]) for _ in range(20)])
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_failing_run_leaves_no_width_behind() -> None:
    model = nn.Sequential(square())
    with pytest.raises(Exception, match="regression"):
        regression(model, Ordered()).loss(model, (torch.zeros(2, 5),), torch.zeros(2, 6))
    assert model[0].width is None


def test_the_full_pass_teaches_the_sampled_one(monkeypatch: pytest.MonkeyPatch, sample: Sample) -> None:
    model, given, labels = nn.Sequential(square()), torch.randn(8, 6), torch.randint(0, 6, (8,))
    monkeypatch.setattr("edgecompress.recipes.ordered_training.draw", lambda ranks: (0, 2))
    objective = Sampled(Distilled(sample, replace(SETTINGS, distill=0.0)), Ordered(lasso=0.0, full_pass=True))
    loss = objective.loss(model, (given,), labels)
    whole, cut = ((given.double() @ product(model[0], width).T) for width in (6, 2))
    taught = -(whole.softmax(1) * cut.log_softmax(1)).sum(1).mean()
    expected = nn.functional.cross_entropy(whole, labels) + taught
    assert float(loss.detach()) == pytest.approx(float(expected), rel=1e-5)


# --- the group lasso and shrinking ---


def lasso_by_loops(columns: Tensor, rows: Tensor) -> Tensor:
    """(T, r) and (r, n): the sum over b of the norms of what is from b on, one by one."""
    tails = [columns[:, b:].norm() + rows[b:].norm() for b in range(len(rows))]
    return torch.stack(tails).sum()


def test_the_lasso_and_its_gradient_by_finite_differences() -> None:
    layer = ranked(nn.Linear(5, 4, bias=False))
    value = group_lasso([layer])
    value.backward()
    weights = [layer.expand.weight.detach().double(), layer.reduce.weight.detach().double()]
    assert float(value.detach()) == pytest.approx(float(lasso_by_loops(*weights)), rel=1e-5)
    for which, gradient in enumerate((layer.expand.weight.grad, layer.reduce.weight.grad)):
        for place in itertools.product(*map(range, gradient.shape)):
            ends = []
            for step in (1e-5, -1e-5):
                moved = [weight.clone() for weight in weights]
                moved[which][place] += step
                ends.append(float(lasso_by_loops(*moved)))
            assert float(gradient[place]) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-3, abs=1e-4)


def test_the_lasso_of_groups_and_layers_adds_up() -> None:
    grouped, linear = ranked(nn.Conv2d(6, 8, 3, groups=2)), ranked(nn.Linear(5, 4))
    expand = grouped.expand.weight.detach().flatten(1).unflatten(0, (2, 4))
    reduce = grouped.reduce.weight.detach().flatten(1).unflatten(0, (2, 4))
    columns, rows = torch.cat([*expand]), torch.cat([*reduce], 1)
    expected = lasso_by_loops(columns, rows) + group_lasso([linear]).detach()
    torch.testing.assert_close(group_lasso([grouped, linear]).detach(), expected)


def test_the_gradient_is_finite_where_a_tail_is_zero() -> None:
    layer = square()
    with torch.no_grad():
        layer.reduce.weight[2:] = 0
        layer.expand.weight[:] = 0
    group_lasso([layer]).backward()
    assert not layer.expand.weight.grad.any()
    assert bool(layer.reduce.weight.grad[:2].isfinite().all())
    assert bool(layer.reduce.weight.grad[:2].any())
    assert not layer.reduce.weight.grad[2:].any()


@pytest.mark.parametrize(("lasso", "left"), [(0.01, 3), (0.0, 6)])
def test_the_lasso_removes_a_useless_tail(lasso: float, left: int) -> None:
    """Ranks that the data never sees: nothing but the lasso moves them; those it sees stay, and stay right."""
    layer = ranked(nn.Linear(6, 6, bias=False))
    with torch.no_grad():
        scale = torch.tensor([2.0, 1.7, 1.4, 0.6, 0.4, 0.3]).sqrt()
        layer.reduce.weight.copy_(torch.diag(scale))
        layer.expand.weight.copy_(torch.diag(scale))
    model, wanted = nn.Sequential(layer), product(layer, 6).float()
    inputs = torch.cat([torch.randn(64, 3), torch.zeros(64, 3)], 1)
    options = Ordered(lasso=lasso, threshold=0.02)
    objective = regression(model, options)
    assert live_rank(layer, options.threshold) == 6
    optimizer = torch.optim.SGD(model.parameters(), 0.02, 0.9)
    for _ in range(600):
        optimizer.zero_grad()
        objective.loss(model, (inputs,), inputs @ wanted.T).backward()
        optimizer.step()
    objective.epoch_ended(model)
    assert int(layer.rank) == left
    assert not layer.expand.weight[:, left:].any()
    assert not layer.reduce.weight[left:].any()
    error = (layer(inputs) - inputs @ wanted.T).square().mean() / (inputs @ wanted.T).square().mean()
    assert float(error.detach()) < 0.05


def test_the_live_rank_compares_products_of_tails() -> None:
    layer = square(4)
    with torch.no_grad():
        layer.reduce.weight.copy_(torch.diag(torch.tensor([1.0, 0.1, 0.1, 0.01])))
        layer.expand.weight.copy_(torch.diag(torch.tensor([1.0, 0.5, 0.01, 0.01])))
    whole = _length(1, 0.1, 0.1, 0.01) * _length(1, 0.5, 0.01, 0.01)
    second = _length(0.1, 0.1, 0.01) * _length(0.5, 0.01, 0.01) / whole
    last = 0.01 * 0.01 / whole
    assert live_rank(layer, second * 1.01) == 1
    assert live_rank(layer, second * 0.99) == 2
    assert live_rank(layer, last * 1.01) == 3
    assert live_rank(layer, last * 0.98) == 4
    assert live_rank(layer, 2.0) == 1
    assert live_rank(layer, 0.0) == 4


def _length(*values: float) -> float:
    return math.sqrt(sum(value * value for value in values))


# --- what the theory says ---


@pytest.mark.slow
def test_sampled_widths_of_a_linear_map_find_its_truncated_svd_at_every_width() -> None:
    values = torch.tensor([3.0, 2.4, 1.8, 1.3, 0.8, 0.4], dtype=torch.float64)
    left, right = (torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))[0] for _ in range(2))
    matrix = left @ torch.diag(values) @ right.T
    inputs = math.sqrt(6) * torch.eye(6)
    targets = inputs @ matrix.T.float()
    tails = values.square().flip(0).cumsum(0).flip(0)[1:]

    def errors(layer: Ranked) -> Tensor:
        return torch.stack([(matrix - product(layer, width)).square().sum() for width in range(1, 7)])

    ordered, plain = square(), square()
    descend(nn.Sequential(ordered), regression(ordered, Ordered(lasso=0.0)), inputs, targets)
    optimizer = torch.optim.Adam(plain.parameters(), 0.02)
    for _ in range(1500):
        optimizer.zero_grad()
        nn.functional.mse_loss(plain(inputs), targets).backward()
        optimizer.step()
    torch.testing.assert_close(errors(ordered)[:5], tails, rtol=0.01, atol=1e-3)
    assert float(errors(ordered)[5]) < 1e-3
    assert float(errors(plain)[5]) < 1e-3
    assert bool((errors(plain)[:5] > 1.2 * tails).all())  # without sampling the ranks come in no order


@pytest.mark.slow
def test_sampled_widths_of_an_autoencoder_find_the_principal_components() -> None:
    deviations = torch.tensor([2.5, 2.0, 1.5, 1.1, 0.7, 0.4], dtype=torch.float64)
    basis = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))[0]
    inputs = (math.sqrt(6) * torch.diag(deviations) @ basis.T).float()
    torch.testing.assert_close(
        (inputs.T @ inputs / 6).double(), basis @ torch.diag(deviations**2) @ basis.T, atol=1e-4, rtol=1e-4
    )
    layer = square()
    descend(nn.Sequential(layer), regression(layer, Ordered(lasso=0.0)), inputs, inputs, 2500)
    for width in range(1, 6):
        columns = layer.expand.weight[:, :width].detach().double()
        spanned = torch.linalg.qr(columns)[0]
        principal = basis[:, :width]
        cosines = torch.linalg.svdvals(spanned.T @ principal)
        assert float(cosines.min()) > 0.999, width


# --- cutting to budgets ---


def trained_like(sample: Sample) -> tuple[nn.Module, nn.Module]:
    """The tiny net, and its factors with ranks that died as training would have left them."""
    dense = sample.model()
    full = full_rank_plan(dense, sample.inputs, "svd", SCOPE)
    model = with_ranks(dense, full.layers).eval()
    for (_, layer), rank in zip(ranked_layers(model), (5, 20, 40, 4), strict=True):
        layer.shrink(rank)
    return dense, model


def cut(sample: Sample, dense: nn.Module, model: nn.Module, budget: Budget) -> Truncated:
    return truncate(model, dense, full_rank_plan(dense, sample.inputs, "svd", SCOPE), budget, SCOPE, sample)


@pytest.mark.parametrize("of", ["macs", "bytes", *slow(["params"])])
def test_one_set_of_factors_gives_a_model_for_every_budget(sample: Sample, of: str) -> None:
    dense, model = trained_like(sample)
    total, before, ranks, sizes = cost(dense, sample.inputs), state_digest(model), [], []
    for keep in (0.9, 0.7, 0.5, 0.3, 0.2, 0.15):
        budget = Budget(keep, of)
        made = cut(sample, dense, model, budget)
        check_plan(dense, made.plan)
        true = cost(made.model, sample.inputs)
        assert (true.macs, true.params) == (made.plan.compressed.macs, made.plan.compressed.params)
        assert (total.macs, total.params) == (made.plan.dense.macs, made.plan.dense.params)
        assert budget.size(true) <= keep * budget.size(total)
        sizes.append(budget.size(true))
        ranks.append({layer.name: layer.ranks[0] for layer in made.plan.layers})
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) > 3
    for more, less in itertools.pairwise(ranks):
        assert all(less[name] <= rank for name, rank in more.items())
    assert state_digest(model) == before


def test_a_cut_model_holds_the_first_ranks_and_its_plan_their_errors(sample: Sample) -> None:
    dense, model = trained_like(sample)
    made = cut(sample, dense, model, Budget(0.3))
    assert made.plan.layers
    for layer in made.plan.layers:
        factors, rank = model.get_submodule(layer.name), layer.ranks[0]
        assert rank % SCOPE.multiple == 0 or rank == SVD.max_ranks(dense.get_submodule(layer.name))[0]
        short = made.model.get_submodule(layer.name)
        torch.testing.assert_close(short.reduce.weight, factors.reduce.weight[:rank])
        torch.testing.assert_close(short.expand.weight, factors.expand.weight[:, :rank])
        chain = nn.Sequential()
        chain.add_module("reduce", factors.reduce)
        chain.add_module("expand", factors.expand)
        full = replace(layer, ranks=SVD.max_ranks(dense.get_submodule(layer.name)))
        trained = merged(chain, dense.get_submodule(layer.name), full).weight.detach().double()
        kept = merged(short, dense.get_submodule(layer.name), layer).weight.detach().double()
        error = float((kept - trained).square().sum() / trained.square().sum())
        assert layer.error == pytest.approx(error, rel=1e-3, abs=1e-9)
    assert any(layer.error > 1e-3 for layer in made.plan.layers)


def test_a_budget_out_of_reach_names_the_nearest(sample: Sample) -> None:
    dense, model = trained_like(sample)
    with pytest.raises(BudgetError, match="cannot be reached") as raised:
        cut(sample, dense, model, Budget(0.01))
    nearest = raised.value.nearest_keep
    made = cut(sample, dense, model, Budget(nearest))
    assert made.plan.compressed.macs <= nearest * made.plan.dense.macs
    with pytest.raises(BudgetError):
        cut(sample, dense, model, Budget(nearest - 0.002))


def test_layers_whose_factors_save_nothing_are_merged(sample: Sample) -> None:
    dense = sample.model()
    full = full_rank_plan(dense, sample.inputs, "svd", SCOPE)
    model = with_ranks(dense, full.layers).eval()
    with torch.no_grad():
        for _, layer in ranked_layers(model):
            layer.reduce.weight.mul_(1.1)
    made = cut(sample, dense, model, Budget(1.0))
    assert not made.plan.layers
    given = torch.randn(4, 1, 12, 12)
    torch.testing.assert_close(made.model(given), model(given), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(made.model(given), dense(given), atol=1e-2)
    assert set(made.model.state_dict()) == set(dense.state_dict())


def test_live_ranks_that_save_are_taken_at_any_budget(sample: Sample) -> None:
    dense, model = trained_like(sample)
    made = cut(sample, dense, model, Budget(1.0))
    assert {layer.name: layer.ranks for layer in made.plan.layers} == {"4": (20,), "7": (40,)}
    given = torch.randn(4, 1, 12, 12)
    torch.testing.assert_close(made.model(given), model(given), atol=1e-5, rtol=1e-4)


def test_the_nearest_fraction_can_always_be_reached() -> None:
    for total, least in itertools.product((100, 700, 1000), range(1, 100)):
        assert int(BudgetError.beyond(0.001, "macs", least, total, str).nearest_keep * total) >= least


def test_a_grouped_convolution_is_cut_in_every_group() -> None:
    dense = nn.Sequential(nn.Conv2d(8, 16, 3, groups=2, padding=1), nn.ReLU(), nn.Conv2d(16, 4, 1)).eval()
    given = torch.randn(2, 8, 6, 6)
    data = Sample("grouped", "", lambda: dense, (given,))
    full = full_rank_plan(dense, data.inputs, "svd", SCOPE)
    model = with_ranks(dense, full.layers).eval()
    made = cut(data, dense, model, Budget(0.5))
    check_plan(dense, made.plan)
    assert "0" in {layer.name for layer in made.plan.layers}
    for layer in made.plan.layers:
        model.get_submodule(layer.name).width = layer.ranks[0]
    torch.testing.assert_close(made.model(given), model(given), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(made.model(given), dense(given), atol=1e-2)
    assert cost(made.model, data.inputs).macs == made.plan.compressed.macs <= made.plan.dense.macs / 2


# --- from start to end ---


def test_start_gives_a_plan_and_a_model_that_rebuilds_from_its_numbers(sample: Sample) -> None:
    asked = asked_of(sample)
    start = Ordered(lasso=1e-3).start(asked)
    check_plan(asked.dense, start.plan)
    true, total = cost(start.model, sample.inputs), cost(asked.dense, sample.inputs)
    assert (true.macs, true.params) == (start.plan.compressed.macs, start.plan.compressed.params)
    assert true.macs <= 0.4 * total.macs
    rebuilt = decompose(asked.dense, start.plan, fill=False)
    rebuilt.load_state_dict(start.model.state_dict())
    given = torch.randn(4, 1, 12, 12)
    assert torch.equal(rebuilt.eval()(given), start.model(given))
    alive = start.facts["alive"]
    assert set(alive) == {"0", "4", "7", "10"}
    assert start.plan.layers
    assert all(layer.ranks[0] < alive[layer.name] + SCOPE.multiple for layer in start.plan.layers)
    assert [epoch["epoch"] for epoch in start.facts["history"]] == [1, 2]
    assert (start.facts["lasso"], start.facts["full_pass"], start.facts["epochs"]) == (1e-3, False, 2)
    assert start.facts["history"][-1]["score"] > 60


def test_batch_norms_see_the_cut_model(sample: Sample) -> None:
    inputs = sample.data("train").tensors[0][:128]
    start = Ordered().start(asked_of(sample, calibration=Calibration((inputs,))))
    assert isinstance(start.model[1], nn.BatchNorm2d)
    with torch.no_grad():
        seen = start.model[0](inputs).mean((0, 2, 3))
    torch.testing.assert_close(start.model[1].running_mean, seen, atol=1e-5, rtol=1e-4)


def test_a_stopped_run_goes_on_to_the_same_end(sample: Sample, tmp_path: Path) -> None:
    recipe, asked = Ordered(lasso=0.01, threshold=0.2), asked_of(sample)
    whole = recipe.start(asked)
    assert sum(whole.facts["alive"].values()) < 9 + 32 + 64 + 4  # ranks died on the way

    def listen(name: str, *_: object) -> None:
        if "epoch 2 " in name:
            raise Stop

    kept = replace(asked, checkpoint=tmp_path / "recipe.pt")
    with pytest.raises(Stop):
        recipe.start(replace(kept, progress=listen))
    steps: list[str] = []
    resumed = recipe.start(replace(kept, progress=lambda name, *_: steps.append(name)))
    assert not any("epoch 1 " in name for name in steps)
    assert any("epoch 2 " in name for name in steps)
    assert state_digest(resumed.model) == state_digest(whole.model)
    assert resumed.plan == whole.plan
    assert resumed.facts == whole.facts


def test_layers_out_of_scope_are_left_alone(sample: Sample) -> None:
    start = Ordered().start(asked_of(sample, selector=Budget(0.6), scope=Scope(multiple=2, exclude=("0",))))
    assert "0" not in start.facts["alive"]
    assert "excluded" in {skip.name: skip.reason for skip in start.plan.skipped}["0"]
    assert isinstance(start.model[0], nn.Conv2d)


@pytest.mark.slow
def test_averaged_weights_are_not_asked_for(sample: Sample) -> None:
    plain, averaged = (Ordered().start(asked_of(sample, tuning=replace(SETTINGS, ema=ema))) for ema in (0, 0.9))
    assert state_digest(plain.model) == state_digest(averaged.model)


@pytest.mark.slow
def test_the_full_pass_trains_too(sample: Sample) -> None:
    plain, full = (Ordered(full_pass=full_pass).start(asked_of(sample)) for full_pass in (False, True))
    assert state_digest(plain.model) != state_digest(full.model)
    assert full.facts["history"][-1]["score"] > 60


def test_the_full_pass_takes_the_place_of_the_dense_teacher(sample: Sample) -> None:
    ends = [
        Ordered(full_pass=full_pass).start(asked_of(sample, tuning=replace(SETTINGS, epochs=1, distill=distill)))
        for full_pass in (True, False)
        for distill in (0.0, 0.5)
    ]
    with_full, with_full_distilled, plain, distilled = (state_digest(end.model) for end in ends)
    assert with_full == with_full_distilled
    assert plain != distilled


def test_another_rank_rule_is_refused(sample: Sample) -> None:
    with pytest.raises(PlanError, match="--keep"):
        Ordered().start(asked_of(sample, selector=Energy()))
