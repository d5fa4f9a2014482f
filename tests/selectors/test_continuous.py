"""The continuous rank search: its losses, the ranks it may take, and that it finds ranks that were planted."""

import json
from dataclasses import asdict, replace
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

from edgecompress.calibrating import calibration_of
from edgecompress.decomposing import fill_from
from edgecompress.decompositions import DECOMPOSITIONS
from edgecompress.errors import PlanError, TrainingError
from edgecompress.models import Sample
from edgecompress.planning import Scope, plan
from edgecompress.plans import Cost, LayerPlan
from edgecompress.recipes.base import RecipeInputs
from edgecompress.recipes.continuous import Searched
from edgecompress.recipes.labelled_search import ValidationBatches
from edgecompress.selectors import Budget
from edgecompress.selectors.continuous import Continuous
from edgecompress.selectors.ladders import Window, first_window, ladder_of, next_window
from edgecompress.selectors.relaxation import (
    Mixed,
    _factors_loss,
    _logits_loss,
    choose,
    mixture,
    rank_loss,
    search,
    squared_errors,
)
from edgecompress.settings import FineTuning
from edgecompress.sources import resolve

QUICK = Continuous(iterations=8, warm_up=2)


class Recorder:
    """A selector that remembers what it could have chosen from."""

    name = "recorder"
    summary = ""
    weighs_losses = False
    layers = ()

    def select(self, layers, total):
        self.layers = tuple(layers)
        return {layer.name: "recorded" for layer in layers}


def layers_of(model, inputs, methods=("tucker2", "svd"), multiple=1):
    recorder = Recorder()
    plan(model, inputs, recorder, methods=methods, multiple=multiple)
    return recorder.layers


def ladder(layer, shape, method, multiple=1):
    model = nn.Sequential(layer)
    return ladder_of(layers_of(model, (torch.randn(2, *shape),), (method,), multiple)[0])


def conv_ladder(weight=None, multiple=1, channels=32, method="tucker2"):
    conv = nn.Conv2d(channels, channels, 3, padding=1)
    if weight is not None:
        conv.weight.data = weight
    return ladder(conv, (channels, 8, 8), method, multiple)


def planted(rank, noise=1e-5, channels=32):
    """A weight of exact Tucker ranks (rank, rank) and norm 5, in noise."""
    out, into = (torch.linalg.qr(torch.randn(channels, rank))[0] for _ in range(2))
    weight = torch.einsum("to,oiab,ci->tcab", out, torch.randn(rank, rank, 3, 3), into)
    return 5 * weight / weight.norm() + noise * torch.randn_like(weight)


def recorded_search(ladders, options, validation_loss=None):
    windows = []
    ranks = search(ladders, options, validation_loss, watch=lambda name, settled: windows.append((name, settled)))
    return ranks, windows


# ------------------------------------------------------------------------------------------------- the losses


def test_equation_5_is_the_expected_share_of_the_largest_rank_to_the_power_beta():
    probabilities = [torch.tensor([0.25, 0.75]), torch.tensor([1.0])]
    shares = [torch.tensor([0.5, 1.0]), torch.tensor([1.0])]
    assert float(rank_loss(probabilities, shares, 0.4, 0.8)) == pytest.approx(0.4 * (0.875**0.8 + 1))


def test_the_mixture_and_its_squared_error():
    weights = torch.tensor([[[[1.0, 2.0]]], [[[3.0, 6.0]]]])
    mixed = mixture(torch.tensor([0.25, 0.75]), weights)
    assert mixed.tolist() == [[[2.5, 5.0]]]
    assert squared_errors([torch.tensor([[[2.0, 7.0]]])], [mixed]).tolist() == [0.25 + 4.0]


def two_layers(logits):
    """Two layers in float64 with two candidates each and given logits."""
    mixed = []
    for channels, own in zip((8, 12), logits, strict=True):
        conv = nn.Conv2d(channels, channels, 3, dtype=torch.float64)
        built = ladder_of(layers_of(nn.Sequential(conv), (torch.randn(1, channels, 8, 8).double(),), ("tucker2",))[0])
        layer = Mixed(built, Window((2, 5), 3))
        layer.logits = own
        layer.name = f"of {channels}"
        mixed.append(layer)
    return mixed


def by_hand(layers, first):
    """(first part of the loss) x Eq. 5, written out for two candidates of ranks 2 and 5."""
    shares = []
    for layer in layers:
        low, high = layer.logits.detach().exp().tolist()
        shares.append((low * 2 / 5 + high) / (low + high))
    return first * 0.4 * sum(share**0.8 for share in shares)


def errors_by_hand(layers):
    total = 0.0
    for layer in layers:
        low, high = layer.logits.detach().exp().tolist()
        first, second = (
            torch.stack([DECOMPOSITIONS["tucker2"].reconstruct(of) for of in zip(*factors, strict=True)])
            for factors in layer.candidates
        )
        total += float((layer.kernels - (low * first + high * second) / (low + high)).detach().pow(2).sum())
    return total


def test_the_factors_follow_equation_6_and_not_the_probabilities():
    layers = two_layers([torch.randn(2, dtype=torch.float64, requires_grad=True) for _ in range(2)])
    loss = _factors_loss(layers, [layer.weights() for layer in layers], Continuous())
    assert float(loss.detach()) == pytest.approx(by_hand(layers, errors_by_hand(layers)))
    loss.backward()
    assert all(layer.logits.grad is None for layer in layers)
    assert all(bool(factor.grad.any()) for layer in layers for factor in layer.parameters)


def test_the_logits_follow_equation_7():
    layers = two_layers([torch.randn(2, dtype=torch.float64, requires_grad=True) for _ in range(2)])
    weights = [layer.weights().detach() for layer in layers]
    seen = {}

    def validation(mixed):
        seen.update(mixed)
        return torch.tensor(3.0, dtype=torch.float64)

    loss = float(_logits_loss(layers, weights, Continuous(), validation).detach())
    assert loss == pytest.approx(by_hand(layers, 3.0))
    assert list(seen) == ["of 8", "of 12"]
    assert seen["of 8"].shape == (1, 8, 8, 3, 3)
    without = float(_logits_loss(layers, weights, Continuous(), None).detach())
    assert without == pytest.approx(by_hand(layers, errors_by_hand(layers)), rel=1e-5)


@pytest.mark.parametrize("labelled", [False, True])
def test_gradients_of_the_logits(labelled):
    target = torch.randn(1, 8, 8, 3, 3, dtype=torch.float64)
    logits = [torch.randn(2, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    layers = two_layers(logits)
    weights = [layer.weights().detach() for layer in layers]

    def validation(mixed):
        return (mixed["of 8"] * target).sum().exp() + mixed["of 12"].square().sum()

    def loss(*own):
        for layer, logit in zip(layers, own, strict=True):
            layer.logits = logit
        return _logits_loss(layers, weights, Continuous(), validation if labelled else None)

    assert torch.autograd.gradcheck(loss, logits)


@pytest.mark.parametrize(
    "layer",
    [nn.Conv2d(8, 12, 3, 2, 1), nn.Conv2d(8, 16, 3, groups=2), nn.ConvTranspose2d(12, 8, 3, 2)],
    ids=["strided", "grouped", "transposed"],
)
def test_a_layer_with_the_mixed_weight_is_the_mixture_of_its_candidates(layer):
    inputs = torch.randn(6, layer.in_channels, 9, 9)
    model = nn.Sequential(layer, nn.Flatten())
    targets = torch.randn_like(model(inputs)).detach()
    built = ladder_of(layers_of(model, (inputs,), ("tucker2",))[0])
    mixed, chances = Mixed(built, Window((2, 3), 1)), torch.tensor([0.3, 0.7])

    def squares(outputs, wanted):
        return (outputs - wanted).square().sum()

    sample = Sample("s", "s", lambda: model, (inputs,), lambda _: TensorDataset(inputs, targets), squares)
    batches = ValidationBatches(RecipeInputs(model, sample, QUICK, Scope(), FineTuning()))
    loss = batches({"0": mixture(chances, mixed.weights())})
    apart = 0
    for chance, rank in zip(chances, (2, 3), strict=True):
        chain = DECOMPOSITIONS["tucker2"].chain(layer, built.at(rank).ranks)
        fill_from(chain, layer, LayerPlan("0", "tucker2", built.at(rank).ranks, tuple(layer.weight.shape), 0.0))
        apart = apart + chance * chain(inputs).flatten(1)
    assert float(loss.detach()) == pytest.approx(float(squares(apart, targets).detach()), rel=1e-4)
    assert model[0].weight.grad is None


# ------------------------------------------------------------------------------------------------- the ranks


@pytest.mark.parametrize("method", ["tucker2", "svd", "spatial_svd", "cp3", "hierarchical_tucker2", "cp4"])
@pytest.mark.parametrize("multiple", [1, 8])
@pytest.mark.covering(1)
def test_every_rank_searched_pays_and_the_highest_is_the_break_even(method, multiple):
    built = conv_ladder(channels=16 if method.startswith("cp") else 32, multiple=multiple, method=method)
    window = first_window(built)
    assert 1 <= len(window.ranks) <= 10
    assert all(built.pays(rank) and rank <= built.highest() for rank in window.ranks)
    assert all(lower < higher for lower, higher in pairwise(window.ranks))
    beyond = built.at(built.highest() + 1)
    assert not beyond.cost.saves_over(built.layer.dense) or max(beyond.ranks) == built.highest()


def test_the_break_even_of_tied_tucker_ranks():
    """64 r + 9 r^2 < 9 * 32 * 32 gives 28."""
    assert conv_ladder().highest() == 28
    assert first_window(conv_ladder()).ranks == (3, 6, 9, 12, 15, 18, 21, 24, 27)
    assert first_window(conv_ladder(), 10).ranks == (10, 20)
    assert first_window(conv_ladder(), 100) == Window((28,), 28)
    assert first_window(conv_ladder(multiple=8)).ranks == (8, 16, 24)


def test_a_method_of_linear_layers_has_tied_ranks_too():
    built = ladder(nn.Linear(64, 48), (64,), "tensor_train")
    assert len(built.at(3).ranks) == 2
    assert search([built], QUICK)["0"] <= built.highest()


def test_a_tied_rank_is_at_most_each_modes_largest():
    built = ladder(nn.Conv2d(4, 32, 3), (4, 8, 8), "tucker2")
    assert built.at(7).ranks == (7, 4)


def test_windows_shrink_around_the_rank_that_was_found():
    built = conv_ladder(channels=64)
    assert next_window(built, 40, 20, 10) == Window((30, 32, 34, 36, 38, 40, 42, 44, 46, 48, 50), 2)
    assert next_window(built, 40, 2, 10) == Window((39, 40, 41), 1)
    assert next_window(built, 40, 1, 10) == Window((40,), 0)
    assert next_window(built, 2, 10, 10) == Window((1, 2, 3, 4, 5, 6, 7), 1)
    assert next_window(built, 57, 10, 10) == Window((52, 53, 54, 55, 56, 57), 1)
    assert next_window(conv_ladder(channels=64, multiple=8), 40, 10, 10) == Window((40,), 1)


def test_a_layer_takes_the_preferred_method_that_pays():
    model = nn.Sequential(nn.Conv2d(16, 16, 3), nn.Conv2d(16, 32, 1), nn.Conv2d(16, 16, 2, stride=8))
    shapes = [(16, 8, 8), (16, 8, 8), (16, 8, 8)]
    inputs = [(torch.randn(1, *shape),) for shape in shapes]
    found = [ladder_of(layers_of(nn.Sequential(layer), own)[0]) for layer, own in zip(model, inputs, strict=True)]
    assert [own.method for own in found] == ["tucker2", "svd", "svd"]
    assert ladder_of(replace(layers_of(model[:1], inputs[0])[0], candidates=(), methods=())) is None


# ------------------------------------------------------------------------------------------------- the search


@pytest.mark.parametrize("rank", [8, pytest.param(4, marks=pytest.mark.slow)])
def test_a_planted_rank_is_found_from_the_weight_alone(rank):
    ranks, windows = recorded_search([conv_ladder(planted(rank))], Continuous(step=4))
    assert ranks == {"0": rank}
    assert [settled.window.spacing for _, settled in windows] == [4, 1]
    assert windows[-1][1].rank == rank
    assert sum(windows[-1][1].probabilities) == pytest.approx(1)


@pytest.mark.parametrize("rank", [20, pytest.param(8, marks=pytest.mark.slow)])
def test_a_planted_optimum_of_the_validation_loss_is_found(rank):
    """A weight of full rank, whose loss is least at one rank's weight and otherwise large."""
    built = conv_ladder()
    best = Mixed(built, Window((rank,), 1)).weights()[0].detach()

    def validation(mixed):
        return 0.01 + (mixed["0"] - best).square().sum() / best.square().sum()

    ranks, _ = recorded_search([built], Continuous(step=4), validation)
    assert abs(ranks["0"] - rank) <= 1


@pytest.mark.slow
def test_a_weight_of_full_rank_alone_asks_for_high_ranks():
    assert search([conv_ladder()], Continuous(step=4))["0"] > 24


@pytest.mark.slow
def test_a_loss_that_no_rank_changes_leaves_the_lowest():
    """Then Eq. 5 alone decides."""
    ranks = search([conv_ladder()], Continuous(step=4), lambda mixed: 1 + 0 * mixed["0"].sum())
    assert ranks == {"0": 2}


@pytest.mark.slow
def test_gamma_scales_a_product_and_beta_weighs_ranks():
    built = conv_ladder(planted(4, noise=0.01, channels=16), channels=16)
    ranks = [search([built], Continuous(step=4, gamma=gamma))["0"] for gamma in (0.1, 1.6)]
    assert all(more <= less + 1 for less, more in pairwise(ranks))
    assert search([built], Continuous(step=4, beta=6.0))["0"] < min(ranks)


def test_layers_of_different_depth_are_searched_together():
    wide, narrow = conv_ladder(channels=48), conv_ladder(channels=8)
    narrow = replace(narrow, layer=replace(narrow.layer, name="narrow"))
    ranks, windows = recorded_search([wide, narrow], QUICK)
    assert wide.pays(ranks["0"])
    assert narrow.pays(ranks["narrow"])
    assert [name for name, _ in windows].count("0") == 2
    assert [name for name, _ in windows].count("narrow") == 1


@pytest.mark.slow
def test_the_search_works_where_gradients_are_switched_off():
    with torch.no_grad():
        assert search([conv_ladder(planted(4))], Continuous(step=4)) == {"0": 4}


# ------------------------------------------------------------------------------------------- what is refused


def test_numbers_that_are_not_finite_name_the_layer_and_never_choose_a_rank():
    good, huge = conv_ladder(), conv_ladder(1e25 * torch.randn(32, 32, 3, 3))
    huge = replace(huge, layer=replace(huge.layer, name="huge"))
    with pytest.raises(TrainingError, match=r"^huge: .*diverged"):
        search([good, huge], QUICK)


def test_a_learning_rate_that_diverges_is_refused():
    with pytest.raises(TrainingError, match=r"^0: .*smaller lr"):
        search([conv_ladder()], replace(QUICK, lr=1e30))


def test_a_validation_loss_that_is_not_finite_names_the_layer_farthest_from_its_weight():
    low, good = conv_ladder(), conv_ladder(planted(2))
    low = replace(low, layer=replace(low.layer, name="far"))
    with pytest.raises(TrainingError, match=r"^far: "):
        search([good, low], QUICK, lambda mixed: mixed["far"].sum() * float("nan"))


def test_gradients_of_a_finite_loss_that_are_not_finite_are_refused():
    """The square root's slope at zero is infinite, its value is not."""
    with pytest.raises(TrainingError, match=r"^0: "):
        search([conv_ladder()], Continuous(iterations=1), lambda mixed: (mixed["0"] * 0).sum().sqrt() + 1)


@pytest.mark.parametrize(
    "option", [{"gamma": 0}, {"beta": float("nan")}, {"iterations": 0}, {"lr": -1}, {"shrink": 1}, {"warm_up": -1}]
)
def test_options_that_make_no_search_are_refused(option):
    with pytest.raises(PlanError, match=next(iter(option))):
        Continuous(**option)


# ------------------------------------------------------------------------------------- as selector and recipe


@pytest.fixture(scope="module")
def tiny(tiny_file):
    sample = resolve(str(tiny_file), trust=True)
    return sample, sample.model()


def asked(tiny, **changes):
    sample, model = tiny
    options = {"selector": QUICK, "scope": Scope(multiple=4), "tuning": FineTuning(batch_size=32), **changes}
    return RecipeInputs(model, sample, **options)


def test_without_data_it_is_a_selector(tiny):
    sample, model = tiny
    made = plan(model, sample.inputs, QUICK, methods=("tucker2", "svd"), multiple=4)
    again = plan(model, sample.inputs, QUICK, methods=("tucker2", "svd"), multiple=4)
    assert made == again
    assert made.compressed.macs < made.dense.macs
    assert {layer.name: layer.method for layer in made.layers} == {"0": "tucker2", "4": "tucker2", "7": "svd"}
    assert [skip.name for skip in made.skipped] == ["10"]
    assert json.loads(json.dumps(asdict(QUICK))) == asdict(QUICK)


def test_layers_without_candidates_stay_dense(tiny):
    sample, model = tiny
    layers = [replace(layer, candidates=(), methods=()) for layer in layers_of(model, sample.inputs)]
    assert QUICK.select(layers, Cost(0, 0, 0)) == dict.fromkeys(
        [layer.name for layer in layers], "no tied rank makes it smaller"
    )


def test_the_choice_is_priced_by_the_layer(tiny):
    sample, model = tiny
    layers = layers_of(model, sample.inputs, multiple=4)
    for layer, choice in zip(layers[:3], list(choose(layers, QUICK).values())[:3], strict=True):
        assert layer.at(choice.method, choice.ranks) == choice
        assert choice.cost.saves_over(layer.dense)


def test_with_labels_it_is_a_recipe(tiny):
    request = asked(tiny)
    before = {name: tensor.clone() for name, tensor in request.dense.state_dict().items()}
    start = Searched().start(request)
    assert start.plan.compressed.macs < start.plan.dense.macs
    assert start.plan.model == tiny[0].name
    assert {layer.method for layer in start.plan.layers} == {"tucker2", "svd"}
    assert start.model(*tiny[0].inputs).shape == (2, 4)
    facts = json.loads(json.dumps(start.facts))
    assert facts["iterations"] == 8
    assert facts["batch_size"] == 32
    assert {name: ended[-1]["rank"] for name, ended in facts["layers"].items()} == {
        layer.name: max(layer.ranks) for layer in start.plan.layers
    }
    assert all(torch.equal(before[name], tensor) for name, tensor in request.dense.state_dict().items())


def without_time(start):
    return {name: fact for name, fact in start.facts.items() if name != "seconds"}


@pytest.mark.slow
def test_the_seed_decides(tiny):
    first, again = (Searched().start(asked(tiny)) for _ in range(2))
    torch.manual_seed(1)
    assert first.plan == again.plan == Searched().start(asked(tiny)).plan
    assert without_time(first) == without_time(again)
    other = Searched().start(asked(tiny, tuning=FineTuning(batch_size=32, seed=1)))
    assert other.facts["layers"] != first.facts["layers"]


def test_scope_and_other_selectors_are_respected(tiny):
    start = Searched().start(asked(tiny, scope=Scope(("spatial_svd",), 8, include=("4",))))
    assert [(layer.name, layer.method) for layer in start.plan.layers] == [("4", "spatial_svd")]
    assert start.plan.layers[0].ranks[0] % 8 == 0
    defaults = Searched().start(asked(tiny, selector=Budget(), scope=Scope(include=("10",))))
    assert defaults.facts["iterations"] == Continuous().iterations


def test_calibration_inputs_refit_the_factors(tiny):
    calibration = calibration_of(tiny[0], 64, 0)
    plain, refitted = Searched().start(asked(tiny)), Searched().start(asked(tiny, calibration=calibration))
    assert plain.plan == refitted.plan
    assert not torch.equal(plain.model(*tiny[0].inputs), refitted.model(*tiny[0].inputs))


def test_each_call_draws_another_batch(tiny):
    batches = ValidationBatches(asked(tiny))
    assert float(batches({})) != float(batches({}))


@pytest.mark.slow
def test_labels_choose_what_matters_to_the_outputs():
    """Fourteen directions make the weight, but the inputs have two of them."""
    left, right = (torch.linalg.qr(torch.randn(32, 32))[0] for _ in range(2))
    sizes = torch.tensor([3.0] * 2 + [2.5] * 12 + [0.01] * 18)
    model = nn.Sequential(nn.Linear(32, 32, bias=False))
    model[0].weight.data = (left * sizes) @ right
    inputs = 10 * torch.randn(512, 2) @ right[:2]
    targets = model(inputs).detach().argmax(1)
    sample = Sample("s", "s", lambda: model, (inputs[:2],), lambda _: TensorDataset(inputs, targets), cross_entropy)
    options = Continuous(step=2)
    labelled = Searched().start(RecipeInputs(model, sample, options, Scope(multiple=1), FineTuning()))
    unlabelled = plan(model, sample.inputs, options, methods=("svd",), multiple=1)
    assert labelled.plan.layers[0].ranks == (2,)
    assert unlabelled.layers[0].ranks == (14,)
