"""Equal ranges inside chains: the same function, whatever the links are."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgecompress.decomposing import decompose
from edgecompress.decompositions import DECOMPOSITIONS
from edgecompress.equalizing import Ranges, equalized, noise
from edgecompress.plans import CompressionPlan, LayerPlan

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
    plan = CompressionPlan("", (layer,), (), 1, 1, 1, 1)
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
