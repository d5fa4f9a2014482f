"""Equal ranges inside chains: the same function, whatever the links are."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgecompress.decomposing import decompose
from edgecompress.decompositions import DECOMPOSITIONS
from edgecompress.equalizing import equalized
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


def test_ranges_become_more_equal_and_the_model_given_stays() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(16, 16, 3), nn.ReLU()).eval()
    inputs = torch.randn(8, 16, 8, 8) * torch.logspace(-2, 1, 16).view(-1, 1, 1)
    small = decomposed(model, "tucker2")
    small = small.float()
    before = {name: tensor.clone() for name, tensor in small.state_dict().items()}
    changed = equalized(small, (inputs,), balance=1.0)
    assert spread(changed, inputs) < 1.01 < 2 < spread(small, inputs)
    assert spread(equalized(small, (inputs,)), inputs) < spread(small, inputs)
    for name, tensor in small.state_dict().items():
        assert torch.equal(tensor, before[name])


def spread(model: nn.Module, inputs: torch.Tensor) -> float:
    """The widest over the narrowest channel of what the first link gives."""
    first = next(layer for layer in model.modules() if isinstance(layer, nn.Conv2d))
    ranges = first(inputs).abs().amax((0, 2, 3))
    return float((ranges.max() / ranges.min()).detach())


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
