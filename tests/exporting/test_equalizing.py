"""Equal ranges inside chains: the same function, whatever the links are."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgecompress.decomposing import decompose
from edgecompress.decompositions import DECOMPOSITIONS
from edgecompress.exporting.equalizing import LAYERS as KINDS
from edgecompress.exporting.equalizing import Ranges, equalized, noise
from edgecompress.exporting.flow import bonds
from edgecompress.plans import CompressionPlan, LayerPlan
from tests.nets import Net

LAYERS = {
    "conv": lambda: nn.Conv2d(12, 10, 3, padding=1),
    "grouped": lambda: nn.Conv2d(12, 8, 3, groups=2),
    "transposed": lambda: nn.ConvTranspose2d(12, 10, 3, stride=2),
    "grouped transposed": lambda: nn.ConvTranspose2d(12, 8, 3, groups=2),
    "conv1d": lambda: nn.Conv1d(12, 10, 5),
    "linear": lambda: nn.Linear(12, 10),
}
INPUTS = {"conv1d": (6, 12, 9), "linear": (6, 12)}
CASES = [
    (kind, name) for kind, made in LAYERS.items() for name, method in DECOMPOSITIONS.items() if method.supports(made())
]


@pytest.mark.parametrize(("kind", "name"), CASES)
@pytest.mark.covering(1)
def test_the_model_computes_the_same(kind: str, name: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(LAYERS[kind](), nn.ReLU()).double().eval()
    inputs = torch.randn(INPUTS.get(kind, (6, 12, 7, 7)), dtype=torch.double)
    small = decomposed(model, name)
    changed = equalized(small, (inputs,))
    torch.testing.assert_close(changed(inputs), small(inputs), rtol=1e-9, atol=1e-10)


def decomposed(model: nn.Sequential, name: str) -> nn.Module:
    ranks = tuple(max(1, rank // 2) for rank in DECOMPOSITIONS[name].max_ranks(model[0]))
    layer = LayerPlan("0", name, ranks, tuple(model[0].weight.shape), 0.0, None)
    plan = CompressionPlan(layers=(layer,))
    return decompose(model, plan).double().eval()


def test_the_rounded_model_is_nearer_where_ranges_differ_and_the_model_given_stays() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16)).eval()
    small = decomposed(model, "svd").float()
    first, second = (layer for layer in small.modules() if isinstance(layer, nn.Linear))
    with torch.no_grad():  # the same function, with channels of very different range between the links
        scales = torch.logspace(-1, 1, len(first.weight))
        first.weight *= scales.view(-1, 1)
        second.weight /= scales
    inputs = torch.randn(500, 16)
    before = {name: tensor.clone() for name, tensor in small.state_dict().items()}
    changed = equalized(small, (inputs,))
    assert rounded_error(changed, inputs) < 0.3 * rounded_error(small, inputs)
    for name, tensor in small.state_dict().items():
        assert torch.equal(tensor, before[name])


def rounded_error(model: nn.Module, inputs: torch.Tensor) -> float:
    """Mean squared error of a two-link chain whose middle and second weight are rounded to 8 bits."""
    first, second = (layer for layer in model.modules() if isinstance(layer, nn.Linear))
    with torch.no_grad():
        middle = first(inputs)
        step = middle.abs().max() / 127
        steps = second.weight.abs().amax(1, keepdim=True) / 127
        weight = (second.weight / steps).round() * steps
        found = nn.functional.linear((middle / step).round() * step, weight, second.bias)
        return float((found - second(middle)).square().mean())


@pytest.mark.parametrize("seed", range(5))
def test_the_predicted_noise_is_that_of_rounding(seed: int) -> None:
    torch.manual_seed(seed)
    middle, weight = torch.randn(4000, 12) * torch.logspace(-1, 0.5, 12), torch.randn(12, 10, 1)
    of = Ranges(middle.abs().amax(0), middle.square().mean(0))
    for diagonal in (torch.ones(12), middle.abs().amax(0), torch.logspace(0.3, -0.3, 12)):
        scaled, shrunk = weight[:, :, 0] * diagonal.view(-1, 1), middle / diagonal
        step, steps = shrunk.abs().max() / 127, scaled.abs().amax(0) / 127
        found = (shrunk / step).round() * step @ ((scaled / steps).round() * steps)
        measured = float((found - shrunk @ scaled).square().sum(1).mean())
        assert noise(of, weight, diagonal) / 127**2 / 12 == pytest.approx(measured, rel=0.35)


def test_a_silent_channel_stays() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5)).eval()
    small = decomposed(model, "svd")
    first = next(layer for layer in small.modules() if isinstance(layer, nn.Linear))
    with torch.no_grad():
        first.weight[0] = 0
    inputs = torch.randn(20, 6, dtype=torch.double)
    changed = equalized(small, (inputs,))
    torch.testing.assert_close(changed(inputs), small(inputs))
    assert all(torch.isfinite(parameter).all() for parameter in changed.parameters())


def pair():
    """Two layers of very different ranges, kept as neighbours, and a head."""
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(12, 12), nn.Linear(12, 12))
    with torch.no_grad():
        body[0].weight *= torch.logspace(-1.5, 0.5, 12).view(-1, 1)
        body[0].bias *= 3
    return {"body": body, "head": nn.Linear(12, 4)}


def twice(net, x):
    return net.head(net.body[1](net.body[0](net.body[0](x))))


def residual(net, x):
    y = net.body[0](x)
    return net.head(y + net.body[1](y))


def auxiliary(net, x):
    y = net.body[0](x)
    return net.head(net.body[1](y)), y.mean(1)


def returned(net, x):
    y = net.body[0](x)
    return net.head(net.body[1](y)), y


def in_place(net, x):
    y = net.body[0](x)
    y.relu_()
    return net.head(net.body[1](y))


def in_place_after(net, x):
    y = net.body[0](x)
    z = net.body[1](y)
    return net.head(z + y.tanh_())


def remembered(net, x):
    y = net.body[0](x)
    z = net.body[1](y)
    y, net.last = getattr(net, "last", y), y
    return net.head(z) + y[:, :4]


def weight_read(net, x):
    return net.head(net.body(x)) * net.body[0].weight.abs().mean()


def by_keyword(net, x):
    return net.head(net.body[1](input=net.body[0](x).sigmoid()))


BETWEEN = {
    "activation": lambda net, x: net.head(net.body[1](nn.functional.gelu(net.body[0](x)))),
    "view": lambda net, x: net.head(net.body[1](net.body[0](x).flip(1))),
    "other order": lambda net, x: net.head(net.body[0](net.body[1](x))),
    **{
        f.__name__: f
        for f in (twice, residual, auxiliary, returned, in_place, in_place_after, remembered, weight_read, by_keyword)
    },
}


def assert_same(model: nn.Module, inputs: torch.Tensor) -> None:
    changed = equalized(model, (inputs,))
    for ours, theirs in zip(outputs_of(changed, inputs), outputs_of(model, inputs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def outputs_of(model, inputs):
    with torch.no_grad():
        found = model(inputs)
    return found if isinstance(found, tuple) else (found,)


def of_body(net: Net, x: torch.Tensor) -> bool:
    layers = [layer for layer in net.modules() if type(layer) in KINDS]
    return (net.body[0], net.body[1]) in bonds(net, layers, (x,))


@pytest.mark.parametrize("name", BETWEEN)
def test_neighbours_are_no_bond_where_data_flows_otherwise(name: str) -> None:
    net, x = Net(BETWEEN[name], **pair()).eval(), torch.randn(20, 12)
    assert not of_body(net, x)
    assert_same(net, x)


def test_what_flows_from_layer_to_layer_is_a_bond_wherever_the_layers_are_kept() -> None:
    net, x = Net(lambda net, x: net.head(net.body(x)), **pair()).eval(), torch.randn(20, 12)
    layers = [net.head, *net.body]
    assert bonds(net, layers, (x,)) == [(net.body[0], net.body[1]), (net.body[1], net.head)]
    assert not torch.equal(equalized(net, (x,)).body[0].weight, net.body[0].weight)
    assert_same(net, x)


@pytest.mark.parametrize("spoil", ["hook", "pre-hook", "forward", "tied"])
def test_a_layer_that_does_more_than_its_class_says_has_no_bond(spoil: str) -> None:
    net, x = Net(lambda net, x: net.head(net.body(x)), **pair()).eval(), torch.randn(20, 12)
    first, second = net.body
    if spoil == "hook":
        first.register_forward_hook(lambda _layer, _given, output: output.relu())
    elif spoil == "pre-hook":
        second.register_forward_pre_hook(lambda _layer, given: (given[0].relu(),))
    elif spoil == "forward":
        first.forward = lambda x: nn.functional.linear(x, first.weight, first.bias).relu()
    else:
        second.weight = first.weight
    assert not of_body(net, x)
    assert spoil == "forward" or assert_same(net, x) is None


def test_axes_of_equal_length_are_not_the_same_axis() -> None:
    model = nn.Sequential(nn.Conv1d(5, 12, 1), nn.Linear(12, 3)).eval()
    with torch.no_grad():
        model[0].weight *= torch.logspace(-1.5, 0.5, 12).view(-1, 1, 1)
    assert_same(model, torch.randn(6, 5, 12))


def test_what_changes_an_output_after_all_is_undone_and_the_rest_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = Net(lambda net, x: net.head(net.body[1](net.body[0](x).tanh())), **pair()).eval(), torch.randn(20, 12)
    monkeypatch.setattr(
        "edgecompress.exporting.equalizing.bonds", lambda net, *_: [(net.body[1], net.head), tuple(net.body)]
    )
    changed = equalized(net, (x,))
    assert torch.equal(changed.body[0].weight, net.body[0].weight)
    assert not torch.equal(changed.head.weight, net.head.weight)
    assert_same(net, x)
