"""What a change of a weight costs at the output: against the analytic second order, and against measuring it."""

import pytest
import torch
from torch import nn

from edgecompress.calibrating import Calibration, sensitivity
from edgecompress.calibrating.moments import collect
from edgecompress.calibrating.sensitivity import DAMPING, TEMPERATURE, Metric, change_losses, output_metrics, roots_of
from edgecompress.decomposing.refitting import refit
from edgecompress.decompositions.kernels import kernels
from edgecompress.planning import Scope, plan
from edgecompress.selectors import Budget
from edgecompress.sources import resolve
from tests.covering import slow


def unmoved(layer):
    """A mean patch of zero: then a change counts as a whole."""
    groups, _, *rest = kernels(layer).shape
    return torch.zeros(groups, torch.Size(rest).numel()).double()


def fisher(logits):
    """Covariance of the gradient of the log of the softened probabilities, by the logits times the temperature."""
    share = (logits / TEMPERATURE).softmax(-1)
    return torch.diag_embed(share) - share[:, :, None] * share[:, None]


def linear_problem(count=4000):
    torch.manual_seed(0)
    layer = nn.Linear(6, 5)
    x = torch.randn(1, 6).expand(count, -1)
    return nn.Sequential(layer), layer, (x,), torch.randn(3, 1, 5, 6)


def test_the_loss_of_a_linear_layer_is_half_the_quadratic_form_of_the_fisher_information():
    """4,000 random directions: a mean of squares of Gaussians is known within some percent."""
    model, layer, inputs, changes = linear_problem()
    found = change_losses(model, inputs, {"0": changes}, {"0": unmoved(layer)})["0"]
    with torch.no_grad():
        moved, information = inputs[0][:1] @ changes[:, 0].mT, fisher(layer(inputs[0][:1]))
        analytic = torch.einsum("kna,nab,knb->k", moved, information, moved) / 2
    torch.testing.assert_close(found, analytic.double(), rtol=0.1, atol=0)


def test_without_classes_every_output_error_costs_the_same():
    model, layer, inputs, changes = linear_problem()
    found = change_losses(model, inputs, {"0": changes}, {"0": unmoved(layer)}, classes=False)["0"]
    squares = (inputs[0][:1] @ changes[:, 0].mT).square().sum((1, 2)) / 2
    torch.testing.assert_close(found, squares.double(), rtol=0.1, atol=0)


def test_what_the_mean_input_changes_costs_nothing():
    """It goes into the bias: all inputs are the same here."""
    model, _, inputs, changes = linear_problem(8)
    means = {"0": collect(model, inputs, ("0",))["0"].mean}
    corrected = change_losses(model, inputs, {"0": changes}, means)
    whole = change_losses(model, inputs, {"0": changes}, {"0": unmoved(model[0])})["0"]
    assert not corrected or bool((corrected["0"] < 1e-8 * whole).all())


def test_the_loss_is_quadratic_in_the_change():
    model, layer, inputs, changes = linear_problem(50)
    once, twice = (
        change_losses(model, inputs, {"0": factor * changes}, {"0": unmoved(layer)})["0"] for factor in (1, 2)
    )
    torch.testing.assert_close(twice, 4 * once)


def convolutions(**options):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1, **options),
        nn.Tanh(),
        nn.ConvTranspose2d(8, 6, 2, stride=2, groups=2),
        nn.Flatten(),
    )


@pytest.mark.parametrize("name", ["0", "2"])
@pytest.mark.parametrize("options", [{}, {"groups": 2}, {"stride": 2}, {"dilation": 2}], ids=str)
def test_losses_of_convolutions_are_the_squares_of_what_the_outputs_change(name, options):
    """First order by finite differences; every input is repeated so that directions average out."""
    model = convolutions(**options).double()
    layer = model.get_submodule(name)
    x = torch.randn(1, 4, 5, 5).double()
    change = torch.randn(2, *kernels(layer).flatten(2).shape)
    found = change_losses(
        model, (x.expand(3000, -1, -1, -1),), {name: change.double()}, {name: unmoved(layer)}, classes=False
    )
    step, expected = 1e-5, []
    for of_kernels in change.double():
        delta = of_kernels.reshape(kernels(layer).shape)
        delta = (delta.transpose(1, 2) if name == "2" else delta).flatten(0, 1)
        with torch.no_grad():
            before = model(x)
            layer.weight += step * delta
            expected.append(float(((model(x) - before) / step).square().sum() / 2))
            layer.weight -= step * delta
    assert found[name].tolist() == pytest.approx(expected, rel=0.15)


@pytest.fixture(scope="module")
def lenet5():
    sample = resolve("lenet5")
    generator = torch.Generator().manual_seed(0)
    model = sample.model()
    for parameter in model.parameters():
        parameter.data *= 1.5
    return model, (torch.randn(256, *sample.inputs[0].shape[1:], generator=generator),)


def divergence(model, inputs, wanted):
    """KL of the softened probabilities, per input, in the units of the loss."""
    with torch.no_grad():
        ours = (model(*inputs) / TEMPERATURE).log_softmax(-1)
    return float((wanted.exp() * (wanted - ours)).sum() / len(ours)) * TEMPERATURE**2


@pytest.mark.parametrize("index", [0, 2, *slow([1, 3])])
def test_a_small_change_of_lenet5_costs_about_what_is_predicted(index, lenet5):
    model, inputs = lenet5
    name = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)][index]
    layer = model.get_submodule(name)
    torch.manual_seed(index)
    change = 0.02 * layer.weight.std() * torch.randn(1, *kernels(layer).flatten(2).shape)
    directions = (inputs[0].repeat(6, 1, 1, 1),)
    (predicted,) = change_losses(model, directions, {name: change.detach()}, {name: unmoved(layer)})[name].tolist()
    with torch.no_grad():
        wanted = (model(*inputs) / TEMPERATURE).log_softmax(-1)
        before = layer.weight.clone()
        layer.weight += change[0].reshape(layer.weight.shape)
        measured = divergence(model, inputs, wanted)
        layer.weight.copy_(before)
    assert 0.85 < predicted / measured < 1.18


# ------------------------------------------------------------------------------------------------- output metrics


def test_the_metric_of_the_last_layer_is_its_fisher_information_damped():
    model, layer, inputs, _ = linear_problem(20_000)
    found = output_metrics(model, inputs, ("0",))["0"].matrix[0]
    exact = fisher(layer(inputs[0][:1]).detach())[0].double()
    expected = exact / exact.diagonal().mean() + DAMPING * torch.eye(5)
    torch.testing.assert_close(found, expected, rtol=0.1, atol=0.05)


def test_metrics_have_a_mean_of_one_and_the_damping_and_are_positive():
    model = convolutions(groups=2)
    found = output_metrics(model, (torch.randn(100, 4, 5, 5),), ("0", "2"))
    assert {name: metric.matrix.shape for name, metric in found.items()} == {"0": (2, 4, 4), "2": (2, 3, 3)}
    for metric in found.values():
        torch.testing.assert_close(
            metric.matrix.diagonal(dim1=1, dim2=2).mean(1), torch.full((2,), 1 + DAMPING).double()
        )
        assert bool((torch.linalg.eigvalsh(metric.matrix) >= 0.99 * DAMPING).all())


def test_the_root_of_a_metric_is_taken_once_for_all_candidates_and_the_fit(monkeypatch):
    taken = []

    def counted(matrix):
        taken.append(matrix)
        return roots_of(matrix)

    monkeypatch.setattr(sensitivity, "roots_of", counted)
    model, calibration = convolutions(groups=2), Calibration((torch.randn(64, 4, 5, 5),))
    scope = Scope(("svd", "tucker2"), multiple=1)
    made = plan(model, calibration.inputs, Budget(0.9, "params"), scope, calibration=calibration)
    assert len(taken) == 2
    refit(model, made, calibration)
    assert len(taken) == 2
    metric = Metric(torch.diag_embed(torch.tensor([[4.0, 9.0]])))
    torch.testing.assert_close(metric.root @ metric.inverse, torch.eye(2)[None])
    torch.testing.assert_close(metric.root.mT @ metric.root, metric.matrix)


def test_plan_and_refit_share_the_gradients_of_a_model_until_its_weights_change(monkeypatch):
    passes = []

    def counted(model, inputs, names, **how):
        passes.append(names)
        return output_metrics(model, inputs, names, **how)

    monkeypatch.setattr("edgecompress.calibrating.output_metrics", counted)
    model, calibration = convolutions(), Calibration((torch.randn(64, 4, 5, 5),))
    made = plan(model, calibration.inputs, Budget(0.8, "params"), Scope(multiple=1), calibration=calibration)
    shared = refit(model, made, calibration)
    assert len(passes) == 1
    alone = refit(model, made, Calibration(calibration.inputs))
    assert all(map(torch.equal, shared.state_dict().values(), alone.state_dict().values()))
    assert len(passes) == 2
    with torch.no_grad():
        model.get_submodule("0").weight.mul_(2)
    refit(model, made, calibration)
    assert len(passes) == 3
    refit(convolutions(), made, calibration)
    assert len(passes) == 4


# ----------------------------------------------------------------------------------------- what cannot be told


class Through(nn.Module):
    """Two Linears with something between them, and something behind."""

    def __init__(self, between=lambda x: x, behind=lambda x: x):
        super().__init__()
        self.first, self.second = nn.Linear(24, 32), nn.Linear(32, 24)
        self.between, self.behind = between, behind

    def forward(self, x):
        return self.behind(self.second(self.between(self.first(x))))


class FrozenFirst(Through):
    """Its first layer runs without gradients, and its numbers go on."""

    def forward(self, x):
        with torch.no_grad():
            x = self.first(x)
        return self.second(x.relu())


UNTELLING = {
    "no gradient at all": (Through(behind=lambda x: x.detach()), set()),
    "whole numbers": (Through(behind=lambda x: x.argmax(-1)), set()),
    "nothing through the middle": (Through(between=lambda x: x.detach()), {"second"}),
    "a first layer without gradients": (FrozenFirst(), {"second"}),
    "gradients that are not finite": (Through(between=lambda x: (x - x).abs().sqrt() + x), {"second"}),
    "all well": (Through(), {"first", "second"}),
}
for_every_untelling = pytest.mark.parametrize(("model", "told"), UNTELLING.values(), ids=UNTELLING)


def inputs_of(count=64):
    return (torch.randn(count, 24, generator=torch.Generator().manual_seed(0)),)


@for_every_untelling
def test_only_layers_that_finite_gradients_reach_have_losses_and_metrics(model, told):
    changes = {name: 0.1 * kernels(model.get_submodule(name)).flatten(2)[None] for name in ("first", "second")}
    moments = {name: unmoved(model.get_submodule(name)) for name in changes}
    assert set(change_losses(model, inputs_of(), changes, moments)) == told
    assert set(output_metrics(model, inputs_of(), tuple(changes))) == told


@for_every_untelling
def test_a_plan_is_made_all_the_same(model, told):
    made = plan(model, inputs_of(1), Budget(0.6), multiple=2, calibration=Calibration(inputs_of()))
    assert made.layers
    assert made.compressed.macs <= 0.6 * made.dense.macs
    assert made == plan(model, inputs_of(1), Budget(0.6), multiple=2, calibration=Calibration(inputs_of()))


def test_flags_modes_gradients_and_hooks_are_as_they_were():
    model = Through().train()
    model.first.weight.requires_grad_(False)
    model.second.eval()
    before = [(parameter.requires_grad, parameter.clone()) for parameter in model.parameters()]
    for behind in (lambda x: x, lambda x: x.detach(), lambda x: x.argmax(-1)):
        model.behind = behind
        output_metrics(model, inputs_of(), ("first", "second"))
        assert [parameter.requires_grad for parameter in model.parameters()] == [flag for flag, _ in before]
        assert all(torch.equal(p, value) for p, (_, value) in zip(model.parameters(), before, strict=True))
        assert all(parameter.grad is None for parameter in model.parameters())
        assert (model.training, model.first.training, model.second.training) == (True, True, False)
        assert not any(module._forward_hooks for module in model.modules())


def test_losses_are_the_same_every_time_and_draw_nothing_from_the_global_generator():
    state = torch.get_rng_state()
    model, layer, inputs, changes = linear_problem(50)
    first = change_losses(model, inputs, {"0": changes}, {"0": unmoved(layer)})["0"]
    torch.set_rng_state(state)
    drawn = torch.rand(1)
    torch.set_rng_state(state)
    second = change_losses(model, inputs, {"0": changes}, {"0": unmoved(layer)})["0"]
    assert torch.equal(first, second)
    assert torch.equal(torch.rand(1), drawn)


def test_losses_are_worked_out_a_few_inputs_at_a_time(monkeypatch):
    model, layer, inputs, changes = linear_problem(50)
    whole = change_losses(model, inputs, {"0": changes}, {"0": unmoved(layer)})["0"]
    monkeypatch.setattr("edgecompress.calibrating.sensitivity.MOST_GRADIENT_BYTES", 1)
    torch.testing.assert_close(change_losses(model, inputs, {"0": changes}, {"0": unmoved(layer)})["0"], whole)
