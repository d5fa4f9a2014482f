"""Weights and inputs whose numbers have no answer: each layer falls back to its weight, and nothing else is lost."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgecompress import decomposing
from edgecompress.calibrating import Calibration, sensitivity
from edgecompress.calibrating.moments import Moments, collect
from edgecompress.calibrating.patches import summable
from edgecompress.costs import cost, input_shapes
from edgecompress.decomposing import decompose, fitted
from edgecompress.decomposing.refitting import refit
from edgecompress.decompositions import DECOMPOSITIONS
from edgecompress.errors import ModelError, PlanError
from edgecompress.planning import plan
from edgecompress.plans import CompressionPlan
from edgecompress.selectors import Budget
from edgecompress.selectors.budget import typical_loss
from edgecompress.settings import Storage
from edgecompress.storing.planning import plan_storage
from tests.nets import Net

IMAGES = torch.randn(12, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def images_net(groups=1):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, groups=groups), nn.ReLU(),
        nn.Flatten(), nn.Linear(8 * 36, 10),
    ).eval()  # fmt: skip


def dead():
    net = images_net()
    nn.init.constant_(net[0].bias, -100.0)
    return net


def one_group_of_zeros():
    net = images_net(groups=2)
    net[2].weight.data[:4] = 0
    return net


def silent_channels():
    net = images_net()
    net[2].weight.data[3] = 0
    net[2].weight.data[:, 2] = 0
    return net


def huge():
    net = images_net()
    net[2].weight.data *= 1e18
    return net


def denormal():
    net = images_net()
    net[2].weight.data *= 1e-40
    return net


NETS = {"dead": dead, "zero group": one_group_of_zeros, "silent": silent_channels, "huge": huge, "denormal": denormal}
INPUTS = {
    "all alike": IMAGES[:1].expand(12, -1, -1, -1).clone(),
    "one": IMAGES[:1],
    "zeros": torch.zeros(12, 3, 6, 6),
    "huge": IMAGES * 1e18,
    "tiny": IMAGES * 1e-30,
    "far from 0": IMAGES + 1e4,
}
PAIRS = [("dead", method) for method in DECOMPOSITIONS] + [("zero group", "cp3")]
PAIRS += [(net, "svd") for net in NETS if net != "dead"]


def planned_and_refitted(net, inputs, method):
    calibration = Calibration((inputs,))
    layer = "5" if method == "tensor_train" else "2"
    made = plan(net, (IMAGES[:1],), Budget(0.99, "params"), methods=[method], multiple=1, include=[layer],
                calibration=calibration)  # fmt: skip
    assert [planned.name for planned in made.layers] == [layer]
    return made, refit(net, made, calibration)


@pytest.mark.parametrize(("name", "method"), PAIRS)
def test_any_net_is_planned_and_refitted(name, method):
    made, small = planned_and_refitted(NETS[name](), IMAGES, method)
    assert small(IMAGES).isfinite().all()
    assert CompressionPlan.from_json(made.to_json()) == made


@pytest.mark.parametrize("inputs", INPUTS.values(), ids=INPUTS)
def test_any_inputs_calibrate(inputs):
    _, small = planned_and_refitted(images_net(), inputs, "tucker2")
    assert small(IMAGES).isfinite().all()


def test_inputs_that_do_not_vary_are_told_and_leave_the_weight_to_decide():
    net = dead()
    made, _ = planned_and_refitted(net, IMAGES, "svd")
    assert "its inputs do not vary" in made.layers[0].note
    alone = plan(net, (IMAGES[:1],), Budget(0.99, "params"), methods=["svd"], multiple=1, include=["2"])
    assert made.layers[0].error <= 1
    assert not alone.layers[0].note


def test_groups_that_do_not_vary_take_the_damping_of_the_others():
    spread = torch.stack([torch.eye(3), torch.zeros(3, 3)]).double()
    told = Moments(spread, torch.stack([torch.zeros(3), torch.ones(3)]).double(), 9).centred
    assert torch.allclose(told[0], 1.001 * torch.eye(3, dtype=torch.float64))
    assert torch.allclose(told[1], 0.001 * torch.eye(3, dtype=torch.float64))


@pytest.mark.parametrize("scale", [1e25, 1e-25])
def test_moments_of_any_scale_are_those_of_float64(scale):
    rows = torch.randn(1, 3, 50) * scale
    (held,) = summable(rows)
    assert torch.allclose(held @ held.mT / scale**2, (rows.double() / scale) @ (rows.double() / scale).mT)
    assert summable(rows / scale)[0].dtype == torch.float32


def test_a_spread_far_from_zero_is_not_lost():
    layer = nn.Linear(4, 4)
    given = torch.randn(4096, 4) + 1e4
    spread = collect(nn.Sequential(layer), (given,), ["0"])["0"].spread
    assert torch.allclose(spread[0], torch.eye(4, dtype=torch.float64), atol=0.1)


def test_a_failure_of_one_layer_falls_back_to_its_weight_with_the_reason(monkeypatch):
    def failing(matrix):
        if matrix.shape[-1] == 8:
            raise torch.linalg.LinAlgError("eigh did not converge\nmore")
        return roots_of(matrix)

    net, roots_of = images_net(), sensitivity.roots_of
    monkeypatch.setattr(sensitivity, "roots_of", failing)
    calibration = Calibration((IMAGES,))
    made = plan(net, (IMAGES[:1],), Budget(0.2, "params"), methods=["svd"], multiple=1, calibration=calibration)
    notes = {layer.name: layer.note for layer in made.layers}
    assert notes["2"] == "judged by its weight alone: eigh did not converge"
    assert notes["5"] == ""


def test_factors_without_numbers_are_an_error_of_the_plan_not_a_crash(monkeypatch):
    net = images_net()
    made = plan(net, (IMAGES[:1],), Budget(0.9, "params"), methods=["svd"], multiple=1)

    def failing(*_):
        raise torch.linalg.LinAlgError("no convergence")

    monkeypatch.setattr(decomposing, "_fitted", failing)
    with pytest.raises(PlanError, match=r"svd finds no factors of its weight \(no convergence\); use another method"):
        decompose(net, made)


def test_a_group_of_zeros_has_factors_of_zeros():
    stacked = torch.stack([torch.zeros(4, 4, 3, 3), torch.randn(4, 4, 3, 3)])
    for method in ("svd", "spatial_svd", "tucker2", "hierarchical_tucker2", "cp3", "cp4"):
        ranks = {"tucker2": (2, 2), "hierarchical_tucker2": (2, 2, 2)}.get(method, (2,))
        factors, whole = fitted(DECOMPOSITIONS[method], ranks, stacked, torch.eye(36).double().expand(2, 36, 36))
        assert not whole[0].any()
        assert all(factor.isfinite().all() for factor in factors)


NEVER_RUN = "does not run on the example input"


@pytest.mark.parametrize("dropped", [False, True], ids=["no spare layer", "a layer whose output is dropped"])
def test_a_layer_that_does_not_reach_the_output_leaves_the_losses_of_the_others(dropped):
    def run(net, x):
        h = net.a(x).relu()
        if dropped:
            net.spare(h)
        return net.b(h)

    torch.manual_seed(0)
    net = Net(run, a=nn.Linear(32, 64), spare=nn.Linear(64, 64), b=nn.Linear(64, 32)).eval()
    x = torch.randn(128, 32)
    made = plan(net, (x[:2],), Budget(0.9, "params"), multiple=4, calibration=Calibration((x,), classes=False))
    losses = {layer.name: layer.loss for layer in made.layers}
    assert losses
    assert all(losses[name] > 0 for name in losses)
    reasons = {skip.name: skip.reason for skip in made.skipped}
    assert reasons["spare"] == ("its output reaches no output of the model" if dropped else NEVER_RUN)


def test_a_whole_number_beside_the_scores_does_not_take_their_losses():
    def run(net, x):
        scores = net.b(net.a(x).relu())
        return scores, scores.argmax(1)

    net = Net(run, a=nn.Linear(32, 64), b=nn.Linear(64, 32)).eval()
    x = torch.randn(64, 32)
    made = plan(net, (x[:2],), Budget(0.6), multiple=4, calibration=Calibration((x,)))
    assert made.layers
    assert all(layer.loss is not None for layer in made.layers)


def test_a_layer_without_losses_beside_others_is_priced_by_its_error():
    from dataclasses import replace

    net, x = images_net(), Calibration((IMAGES,))
    taken = []

    class Watching(Budget):
        def select(self, layers, total):
            taken.extend(layers)
            return super().select(layers, total)

    plan(net, (IMAGES[:1],), Watching(0.8, "params"), multiple=1, calibration=x)
    unjudged = replace(taken[-1], candidates=tuple(replace(c, loss=None) for c in taken[-1].candidates))
    typical = typical_loss([*taken[:-1], unjudged])
    assert typical == typical_loss(taken[:-1])
    picked = Budget(0.5, "params").select([*taken[:-1], unjudged], cost(net, (IMAGES[:1],)))
    assert set(picked) == {"0", "2", "5"}
    assert typical_loss([unjudged]) is None


def test_a_batch_norm_behind_which_nothing_is_left_is_refitted():
    def run(net, x):
        return x + net.norm(net.conv(x))

    torch.manual_seed(0)
    net = Net(run, conv=nn.Conv2d(8, 8, 3, padding=1), norm=nn.BatchNorm2d(8)).eval()
    nn.init.zeros_(net.norm.weight)
    x = torch.randn(16, 8, 6, 6)
    calibration = Calibration((x,), classes=False)
    made = plan(net, (x[:1],), Budget(0.7, "params"), multiple=1, calibration=calibration)
    assert torch.allclose(refit(net, made, calibration)(x), net(x), atol=1e-5)


def test_a_net_without_statistics_is_counted_by_its_whole_example():
    net = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64, track_running_stats=False), nn.ReLU()).eval()
    assert cost(net, (torch.randn(4, 64),)).macs == 64 * 64
    assert input_shapes(net, (torch.randn(4, 64),))["0"] == [(1, 64)]
    calibration = Calibration((torch.randn(32, 64),), classes=False)
    made = plan(net, (torch.randn(4, 64),), Budget(0.5), calibration=calibration)
    assert made.compressed.macs == cost(refit(net, made, calibration), (torch.randn(4, 64),)).macs
    with pytest.raises(ModelError, match=r"does not run on its example .* ValueError: Expected more than 1 value"):
        cost(net, (torch.randn(1, 64),))


def test_a_batch_that_the_code_names_is_counted_as_one():
    net = Net(lambda net, x: net.fc(x.view(4, 8, 8)).flatten(1), fc=nn.Linear(8, 16)).eval()
    assert cost(net, (torch.randn(4, 64),)).macs == 8 * 8 * 16


def test_calibration_on_which_a_model_fails_is_a_model_error():
    def run(net, x):
        if len(x) > 2 and not x.requires_grad:
            raise ValueError("too many")
        return net.fc(x)

    net = Net(run, fc=nn.Linear(16, 16)).eval()
    calibration = Calibration((torch.randn(8, 16),), classes=False)
    with pytest.raises(
        ModelError, match=r"on calibration inputs failed: ValueError: too many \(at test_degenerate.py:"
    ):
        plan(net, (torch.randn(1, 16),), Budget(0.7), multiple=1, calibration=calibration)
    made = plan(net, (torch.randn(1, 16),), Budget(0.7), multiple=1)
    with pytest.raises(ModelError, match="on calibration inputs failed: ValueError: too many"):
        refit(net, made, calibration)


def test_inputs_that_are_no_tensors_are_refused():
    with pytest.raises(ModelError, match=r"^Linear: the example is a tuple; give a tensor, or a tuple of tensors"):
        cost(nn.Linear(2, 2), ({"x": torch.zeros(1, 2)},))


def test_a_net_made_in_inference_mode_is_compressed_like_any_other():
    with torch.inference_mode():
        net = images_net()
    _, small = planned_and_refitted(net, IMAGES, "svd")
    assert small(IMAGES).shape == (12, 10)


def test_a_layer_of_zeros_is_not_stored_as_factors():
    net = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 32)).eval()
    nn.init.zeros_(net[1].weight)
    made = plan_storage(net, (torch.randn(2, 32),), Storage("ada_tucker", rank=4))
    assert [layer.name for layer in made.layers] == ["0"]
    assert CompressionPlan.from_json(made.to_json()) == made
