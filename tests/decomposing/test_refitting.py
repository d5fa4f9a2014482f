"""refit(): the outputs of small random nets, decomposed, against those of the dense nets."""

import copy
from functools import cache
from math import ceil

import pytest
import torch
from torch import nn

from edgecompress import planning
from edgecompress.calibrating import Calibration
from edgecompress.decomposing import decompose
from edgecompress.decomposing.refitting import CHUNK, MOST_INPUTS, MOST_TEXTS, refit, used_inputs
from edgecompress.decompositions import DECOMPOSITIONS
from edgecompress.errors import ModelError
from edgecompress.layers import weighted_layers
from edgecompress.plans import CompressionPlan, LayerPlan, Skipped
from edgecompress.selectors import Budget
from tests.covering import slow
from tests.nets import Net


def plain():
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1, bias=False),
        nn.BatchNorm2d(12),
        nn.ReLU(inplace=True),
        nn.Conv2d(12, 16, 3, stride=2),
        nn.ReLU(inplace=True),
        nn.Conv2d(16, 16, 3, bias=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )


def residual(*, bias=False, norm=nn.BatchNorm2d):
    """As ResNets are: a block with its input as shortcut, one with a downsampling shortcut, one in place."""

    def run(net, x):
        h = torch.relu(net.norm0(net.stem(x)))
        h = torch.relu(net.norm2(net.b(torch.relu(net.norm1(net.a(h))))) + h)
        shortcut = net.norm_down(net.down(h))
        out = net.norm4(net.d(torch.relu(net.norm3(net.c(h)))))
        out += shortcut
        h = torch.relu_(out)
        return net.head(h.mean((2, 3)))

    layers = {
        "stem": nn.Conv2d(3, 12, 3, padding=1, bias=bias),
        "a": nn.Conv2d(12, 12, 3, padding=1, bias=bias),
        "b": nn.Conv2d(12, 12, 3, padding=1, bias=bias),
        "c": nn.Conv2d(12, 16, 3, stride=2, padding=1, bias=bias),
        "d": nn.Conv2d(16, 16, 3, padding=1, bias=bias),
        "down": nn.Conv2d(12, 16, 1, stride=2, bias=bias),
        "head": nn.Linear(16, 10),
    }
    widths = {"norm0": 12, "norm1": 12, "norm2": 12, "norm3": 16, "norm4": 16, "norm_down": 16}
    return Net(run, **layers, **{name: norm(width) for name, width in widths.items()})


def residual_with_biases():
    return residual(bias=True, norm=nn.Identity)


def inverted():
    """As MobileNets are: 1x1, depthwise left dense, 1x1, shortcut; grouped and transposed convolutions."""

    def run(net, x):
        h = net.stem(x)
        out = net.norm1(net.expand(h)).clamp(0, 6)
        out = net.norm2(net.depthwise(out)).clamp(0, 6)
        h = h + net.norm3(net.project(out))
        return net.head(net.up(torch.relu(net.grouped(h))).flatten(2).mean(2))

    return Net(
        run,
        stem=nn.Conv2d(3, 8, 3, stride=2, padding=1),
        expand=nn.Conv2d(8, 24, 1, bias=False),
        depthwise=nn.Conv2d(24, 24, 3, padding=1, groups=24, bias=False),
        project=nn.Conv2d(24, 8, 1, bias=False),
        grouped=nn.Conv2d(8, 16, 3, padding=1, groups=2),
        up=nn.ConvTranspose2d(16, 12, 2, stride=2),
        norm1=nn.BatchNorm2d(24),
        norm2=nn.BatchNorm2d(24),
        norm3=nn.BatchNorm2d(8),
        head=nn.Linear(12, 10),
    )


def sequence():
    """Conv1d, Linears on positions, a shortcut between them; the batch norm is over positions, not features."""

    def run(net, x):
        h = torch.relu(net.conv(x.flatten(2))).transpose(1, 2)
        h = h + net.second(torch.relu(net.norm(net.first(h))))
        return net.head(h.mean(1))

    return Net(
        run,
        conv=nn.Conv1d(3, 12, 5, stride=5),
        first=nn.Linear(12, 20),
        norm=nn.BatchNorm1d(24),
        second=nn.Linear(20, 12),
        head=nn.Linear(12, 10),
    )


NETS = {
    "plain": plain,
    "residual, batch norm": residual,
    "residual, biases": residual_with_biases,
    "inverted residual": inverted,
    "sequence": sequence,
}
QUICK = ("plain", "residual, batch norm", "sequence")
for_few_nets = pytest.mark.parametrize("name", [*QUICK, *slow(name for name in NETS if name not in QUICK)])
for_every_net = pytest.mark.parametrize("name", NETS)


def built(name, dtype=torch.float32):
    """A net with batch norms as after training, in eval mode."""
    torch.manual_seed(1)
    model = NETS[name]().to(dtype)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    return model.eval()


def images(count, seed=0, dtype=torch.float32):
    """Smooth in space, channels correlated, with a mean: as images are."""
    noise = torch.randn(count, 3, 12, 12, generator=torch.Generator().manual_seed(seed))
    smooth = nn.functional.interpolate(noise[:, :, :4, :4], size=(12, 10), mode="bilinear")
    mixed = torch.einsum("cd,ndhw->nchw", torch.tensor([[1.0, 0.3, 0], [0.8, 0.5, 0.1], [0.6, 0, 0.4]]), smooth)
    return (mixed + 0.1 * noise[:, :, :, :10] + 0.5).to(dtype)


def plan_at(model, share):
    """Every layer by the method its kind suits, at a share of its largest ranks."""
    layers, skipped = [], []
    for item in weighted_layers(model):
        method = next((m for m in map(DECOMPOSITIONS.get, ("tucker2", "svd")) if m.supports(item.layer)), None)
        if item.refused or method is None:
            skipped.append(Skipped(item.name, item.refused or "not supported"))
        else:
            ranks = tuple(ceil(share * rank) for rank in method.max_ranks(item.layer))
            layers.append(LayerPlan(item.name, method.name, ranks, tuple(item.layer.weight.shape), 0.0))
    return CompressionPlan(model="net", layers=tuple(layers), skipped=tuple(skipped))


CALIBRATION = Calibration((images(64),))
SHARES = (0.3, 0.7)


@cache
def fitted(name, share, *, asymmetric=True):
    """A net refitted, and the progress that was told."""
    dense, seen = built(name), []
    made = plan_at(dense, share)
    return refit(dense, made, CALIBRATION, asymmetric=asymmetric, progress=lambda *step: seen.append(step)), seen


@cache
def decomposed(name, share):
    """The same by its weights alone."""
    dense = built(name)
    return decompose(dense, plan_at(dense, share))


def distance(model, dense, x):
    """The squared error of the outputs as a share of their variance."""
    with torch.no_grad():
        ours, theirs = model(x), dense(x)
    return float((ours - theirs).square().sum() / (theirs - theirs.mean(0)).square().sum())


@for_every_net
@pytest.mark.parametrize("asymmetric", [True, False])
@pytest.mark.parametrize(("dtype", "within"), [(torch.float32, 1e-4), (torch.float64, 1e-9)], ids=str)
@pytest.mark.covering(2)
def test_at_the_largest_ranks_the_outputs_are_the_dense_ones(name, dtype, within, asymmetric):
    dense, x = built(name, dtype), images(64, dtype=dtype)
    small = refit(dense, plan_at(dense, 1), Calibration((x,)), asymmetric=asymmetric)
    with torch.no_grad():
        for inputs in (x, images(32, seed=5, dtype=dtype)):
            torch.testing.assert_close(small(inputs), dense(inputs), rtol=within, atol=within)


@for_every_net
@pytest.mark.parametrize("seed", [0, 7], ids=["on calibration inputs", "on others"])
@pytest.mark.covering(1)
def test_the_outputs_are_nearer_than_by_the_weights_alone(name, seed):
    dense, x = built(name), images(128, seed=seed)
    assert distance(fitted(name, 0.5)[0], dense, x) < 0.5 * distance(decomposed(name, 0.5), dense, x)


@for_few_nets
def test_refitting_on_what_the_compressed_model_gives_is_better_than_on_what_the_dense_one_gives(name):
    dense, x = built(name), images(128, seed=7)
    asymmetric, symmetric = (
        sum(distance(fitted(name, share, asymmetric=way)[0], dense, x) for share in SHARES) for way in (True, False)
    )
    assert asymmetric < symmetric


@for_few_nets
def test_the_mean_error_of_the_outputs_is_corrected(name):
    dense, (x,) = built(name), CALIBRATION.inputs
    with torch.no_grad():
        wanted = dense(x)
        off, before = ((model(x) - wanted).mean(0) for model in (fitted(name, 0.3)[0], decomposed(name, 0.3)))
    assert off.abs().max() < 1e-4 * wanted.std()
    assert before.abs().max() > 1e-2 * wanted.std()


def test_a_norm_takes_the_mean_error_where_there_is_no_bias():
    """The output of the net is that of a batch norm."""
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16)).eval()
    made = plan_at(dense, 0.3)
    small, (x,) = refit(dense, made, CALIBRATION), CALIBRATION.inputs
    with torch.no_grad():
        off = (small(x) - dense(x)).mean((0, 2, 3))
        before = (decompose(dense, made)(x) - dense(x)).mean((0, 2, 3))
    assert off.abs().max() < 1e-5 < 1e-3 < before.abs().max()
    assert not torch.equal(small[1].running_mean, dense[1].running_mean)
    assert torch.equal(small[1].running_var, dense[1].running_var)


def test_a_layer_makes_up_for_its_shortcut():
    """The block's own path is exact: whatever is wrong comes through the shortcut."""

    def run(net, x):
        h = net.stem(x)
        return net.norm(net.b(torch.relu(net.a(x)))) + h

    torch.manual_seed(0)
    convs = {"stem": (3, 12), "a": (3, 24), "b": (24, 12)}
    layers = {name: nn.Conv2d(*width, 3, padding=1, bias=False) for name, width in convs.items()}
    dense = Net(run, **layers, norm=nn.BatchNorm2d(12)).eval()
    whole, low = plan_at(dense, 1), plan_at(dense, 0.2)
    mixed = CompressionPlan(layers=(low.layers[0], *whole.layers[1:]))
    asymmetric, symmetric = (refit(dense, mixed, CALIBRATION, asymmetric=way) for way in (True, False))
    x = images(64, seed=7)
    assert distance(asymmetric, dense, x) < 0.5 * distance(symmetric, dense, x)


# ------------------------------------------------------------------------------------------------- odd models


def weights_of(chain):
    return [parameter for name, parameter in chain.named_parameters() if name.endswith("weight")]


def test_a_layer_that_runs_twice_keeps_the_factors_of_its_weight():
    torch.manual_seed(0)
    layers = {"stem": nn.Conv2d(3, 8, 3), "twice": nn.Conv2d(8, 8, 3, padding=1), "head": nn.Linear(8, 10)}
    dense = Net(lambda net, x: net.head(net.twice(net.twice(net.stem(x)).relu()).mean((2, 3))), **layers).eval()
    made = plan_at(dense, 0.5)
    ours, plain = refit(dense, made, CALIBRATION), decompose(dense, made)
    assert all(map(torch.equal, ours.twice.parameters(), plain.twice.parameters()))
    assert not any(map(torch.equal, weights_of(ours.head), weights_of(plain.head)))


def test_a_layer_called_by_keyword_is_one_called_by_position():
    """Moments, gradients, targets, shortcuts and norms alike."""

    def by_keyword(net, x):
        h = net.a(input=x)
        return net.c(input=(h + net.norm(input=net.b(input=torch.relu(h)))).mean((2, 3)))

    def by_position(net, x):
        h = net.a(x)
        return net.c((h + net.norm(net.b(torch.relu(h)))).mean((2, 3)))

    layers = {"a": nn.Conv2d(3, 8, 3, padding=1), "b": nn.Conv2d(8, 8, 3, padding=1, bias=False), "c": nn.Linear(8, 4)}
    found = []
    for run in (by_keyword, by_position):
        dense = Net(run, **layers, norm=nn.BatchNorm2d(8)).eval()
        made = planning.plan(dense, (images(2),), Budget(0.6), methods=["svd"], multiple=2, calibration=CALIBRATION)
        found.append((made, refit(dense, plan_at(dense, 0.4), CALIBRATION).state_dict()))
    (plan, state), (wanted_plan, wanted) = found
    assert plan.layers
    assert plan == wanted_plan
    torch.testing.assert_close(state, wanted, rtol=0, atol=0)


def test_a_layer_that_never_runs_gets_the_factors_of_its_weight():
    torch.manual_seed(0)
    dense = Net(lambda net, x: net.used(x.mean((2, 3))), used=nn.Linear(3, 10), spare=nn.Linear(8, 8)).eval()
    made = plan_at(dense, 0.5)
    ours, plain = refit(dense, made, CALIBRATION), decompose(dense, made)
    assert all(map(torch.equal, ours.spare.parameters(), plain.spare.parameters()))


def test_a_layer_that_runs_only_in_the_dense_model_gets_the_factors_of_its_weight():
    """The compressed model takes another way: the dense model's outputs are told apart by their exact value."""
    torch.manual_seed(0)
    stem = nn.Linear(3, 8)
    exact = [stem(x.mean((2, 3))).square().sum().item() for x in images(128).split(CHUNK)]

    def run(net, x):
        h = net.stem(x.mean((2, 3)))
        return (
            net.often(h)
            if min(abs(h.square().sum().item() - value) for value in exact) < 1e-3 or len(h) == 1
            else net.rarely(h)
        )

    dense = Net(run, stem=stem, often=nn.Linear(8, 10), rarely=nn.Linear(8, 10)).eval()
    made = plan_at(dense, 0.3)
    ours, plain = refit(dense, made, CALIBRATION), decompose(dense, made)
    for name in ("often", "rarely"):
        assert all(map(torch.equal, getattr(ours, name).parameters(), getattr(plain, name).parameters())), name


def test_a_sum_with_something_made_of_the_layer_s_own_output_is_no_shortcut():
    """A layer waits for its shortcut; one that needs the layer's own output would be made of unfitted weights."""
    torch.manual_seed(0)
    layers = {"a": nn.Conv2d(3, 12, 3), "side": nn.Conv2d(12, 12, 3, padding=1, groups=12), "head": nn.Linear(12, 10)}

    def run(net, x):
        h = net.a(x)
        return net.head((h + net.side(h)).relu().mean((2, 3)))

    dense = Net(run, **layers).eval()
    made = plan_at(dense, 1)
    with torch.no_grad():
        torch.testing.assert_close(refit(dense, made, CALIBRATION)(images(8)), dense(images(8)), rtol=1e-4, atol=1e-4)


def test_a_norm_that_two_layers_share_is_left_alone():
    torch.manual_seed(0)
    layers = {"a": nn.Conv2d(3, 12, 3, bias=False), "b": nn.Conv2d(12, 12, 3, bias=False), "norm": nn.BatchNorm2d(12)}
    dense = Net(lambda net, x: net.norm(net.b(net.norm(net.a(x)).relu())), **layers).eval()
    made = plan_at(dense, 0.5)
    small = refit(dense, made, CALIBRATION)
    assert torch.equal(small.norm.running_mean, dense.norm.running_mean)
    assert distance(small, dense, images(32, seed=7)) < distance(decompose(dense, made), dense, images(32, seed=7))


@pytest.mark.parametrize("features", [20, 12], ids=["of another size", "of the same size"])
def test_a_norm_over_positions_is_no_norm_of_features(features):
    """BatchNorm1d takes axis 1 for channels: behind a Linear on sequences these are its positions."""
    torch.manual_seed(0)
    layers = {"first": nn.Linear(10, features, bias=False), "norm": nn.BatchNorm1d(12), "head": nn.Linear(features, 10)}
    dense = Net(lambda net, x: net.head(net.norm(net.first(x[:, 0])).relu().mean(1)), **layers).eval()
    small = refit(dense, plan_at(dense, 0.5), CALIBRATION)
    assert torch.equal(small.norm.running_mean, dense.norm.running_mean)


@for_few_nets
@pytest.mark.parametrize("count", [1, *(pytest.param(count, marks=pytest.mark.slow) for count in (2, 4))])
def test_few_calibration_inputs_are_better_than_none(name, count):
    """One input gives a layer behind a global pooling one patch, without any spread."""
    dense, x = built(name), images(128, seed=7)
    for share in SHARES:
        small = refit(dense, plan_at(dense, share), Calibration((images(count),)))
        assert distance(small, dense, x) < distance(decomposed(name, share), dense, x), share


def test_a_model_of_one_layer_is_refitted():
    torch.manual_seed(0)
    dense, made = nn.Conv2d(3, 16, 3).eval(), plan_at(nn.Conv2d(3, 16, 3), 0.4)
    x = images(32, seed=7)
    assert distance(refit(dense, made, CALIBRATION), dense, x) < distance(decompose(dense, made), dense, x)


def test_a_model_without_gradients_is_refitted_without_a_metric_of_the_outputs():
    torch.manual_seed(0)
    layers = {"conv": nn.Conv2d(3, 16, 3), "head": nn.Linear(16, 10)}
    dense = Net(lambda net, x: net.head(net.conv(x).detach().round().mean((2, 3))).detach(), **layers).eval()
    made, x = plan_at(dense, 0.4), images(64, seed=7)
    assert distance(refit(dense, made, CALIBRATION), dense, x) < distance(decompose(dense, made), dense, x)


# ------------------------------------------------------------------------------------------- left as it was


@for_few_nets
def test_the_dense_model_is_left_as_it_was(name):
    dense = built(name).train()
    next(dense.children()).eval()
    untouched, modes = copy.deepcopy(dense.state_dict()), [module.training for module in dense.modules()]
    small = refit(dense, plan_at(dense, 0.5), CALIBRATION)
    assert [module.training for module in dense.modules()] == modes
    assert [small.get_submodule(name).training for name, _ in dense.named_modules()] == modes
    assert all(torch.equal(value, untouched[key]) for key, value in dense.state_dict().items())
    for model in (dense, small):
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
        assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_the_calibration_inputs_are_left_as_they_were():
    """A model may begin with something in place."""
    dense, x = built("plain"), images(16)
    refit(dense, plan_at(dense, 0.5), Calibration((x,)))
    assert torch.equal(x, images(16))


def test_what_is_left_dense_keeps_its_numbers():
    dense = built("inverted residual")
    small = refit(dense, plan_at(dense, 0.5), CALIBRATION)
    assert torch.equal(small.depthwise.weight, dense.depthwise.weight)


@for_few_nets
def test_refitting_is_deterministic(name):
    first, second = fitted(name, 0.5)[0], refit(built(name), plan_at(built(name), 0.5), CALIBRATION)
    assert all(map(torch.equal, first.state_dict().values(), second.state_dict().values()))


@for_few_nets
def test_progress_names_every_layer_once(name):
    made, (_, seen) = plan_at(built(name), 0.5), fitted(name, 0.5)
    assert sorted(layer for *_, layer in seen) == sorted(layer.name for layer in made.layers)
    assert [(stage, done, of) for stage, done, of, _ in seen] == [
        ("refit", done, len(made.layers)) for done in range(1, len(made.layers) + 1)
    ]


# ------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=str)
def test_numbers_that_are_not_finite_are_refused_where_they_are_met(value):
    dense, x = built("residual, batch norm"), images(8)
    x[3, 1, 2, 2] = value
    with pytest.raises(ModelError, match=r"^stem: gives NaN or infinity on the calibration inputs"):
        refit(dense, plan_at(dense, 0.5), Calibration((x,)))
    dense.norm3.bias.data[0] = value
    with pytest.raises(ModelError, match=r"^d: gives NaN"):
        refit(dense, plan_at(dense, 0.5), CALIBRATION)
    assert not any(module._forward_hooks for module in dense.modules())


WRONG = {
    "channels": ((images(4)[:, :2],), r"^Net: does not run on calibration inputs of shape \(1, 2, 12, 10\)"),
    "dimensions": ((images(4)[:, 0, 0],), r"^Net: does not run on calibration inputs of shape \(1, 10\)"),
    "two for one": ((images(4), images(4)), r"^Net: does not run on .* \(1, 3, 12, 10\), \(1, 3, 12, 10\)"),
    "none": ((), "^Net: there are no calibration inputs"),
    "an empty batch": ((images(4)[:0],), "^Net: there are no calibration inputs"),
    "dtype": ((images(4).double(),), "^Net: does not run on calibration inputs"),
}


@pytest.mark.parametrize(("inputs", "words"), WRONG.values(), ids=WRONG)
def test_calibration_inputs_that_the_model_does_not_take_are_refused(inputs, words):
    dense = built("residual, batch norm").train()
    with pytest.raises(ModelError, match=words):
        refit(dense, plan_at(dense, 0.5), Calibration(inputs))
    assert all(module.training for module in dense.modules())


def test_early_layers_are_fitted_on_fewer_inputs_where_all_would_hold_too_much(monkeypatch):
    dense, made = built("residual, batch norm"), plan_at(built("residual, batch norm"), 0.7)
    whole = refit(dense, made, CALIBRATION)
    monkeypatch.setattr("edgecompress.decomposing.refitting.MOST_BYTES", 64 * 2 * 12000)
    fewer = refit(dense, made, CALIBRATION)
    assert not torch.equal(fewer.stem.reduce.weight, whole.stem.reduce.weight)
    assert distance(fewer, dense, images(32, seed=7)) < 1.2 * distance(whole, dense, images(32, seed=7)) + 1e-3


@pytest.mark.parametrize("chunk", [16, pytest.param(8, marks=pytest.mark.slow)])
@for_few_nets
def test_how_many_inputs_run_together_makes_no_difference(monkeypatch, name, chunk):
    dense = built(name, torch.float64)
    calibration = Calibration((images(40, dtype=torch.float64),))
    whole = refit(dense, plan_at(dense, 0.5), calibration)
    monkeypatch.setattr("edgecompress.decomposing.refitting.CHUNK", chunk)
    torch.testing.assert_close(refit(dense, plan_at(dense, 0.5), calibration).state_dict(), whole.state_dict())


def test_of_texts_more_are_used_than_of_other_inputs():
    texts, model = torch.zeros(1200, 3, dtype=torch.long), nn.Sequential(nn.Embedding(4, 5), nn.Linear(5, 2))
    assert len(used_inputs(model, Calibration(texts))[0]) == MOST_TEXTS
    assert len(used_inputs(nn.Linear(3, 2), Calibration(texts.float()))[0]) == MOST_INPUTS
