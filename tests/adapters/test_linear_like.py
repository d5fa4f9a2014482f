"""Modules that compute a Linear themselves."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from edgecompress.adapters import ADAPTERS, Unadaptable
from edgecompress.models.adapting import adapted
from edgecompress.planning import plan
from edgecompress.selectors import Budget

LIKE = ADAPTERS["linear_like"]


class Conv1D(nn.Module):
    """As GPT-2 has it: the weight is (in, out)."""

    def __init__(self, width, given, bias=True):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(given, width))
        self.bias = nn.Parameter(torch.randn(width)) if bias else None

    def forward(self, x):
        rows = x.view(-1, x.size(-1)) @ self.weight
        return (rows if self.bias is None else rows + self.bias).view(*x.shape[:-1], -1)


class Dense(Conv1D):
    """The weight is (out, in)."""

    def forward(self, x):
        return functional.linear(x, self.weight, self.bias)


class Clipped(Conv1D):
    """Linear only near zero."""

    def forward(self, x):
        return super().forward(x).clamp(-50, 50)


class Doubled(nn.Linear):
    """A subclass with a forward of its own."""

    def forward(self, x):
        return super().forward(2 * x)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("width", "given"), [(6, 4), (5, 5)], ids=str)
@pytest.mark.parametrize("kind", [Conv1D, Dense])
def test_it_becomes_a_linear(kind, width, given, bias):
    torch.manual_seed(0)
    layer = kind(width, given, bias=bias) if kind is Conv1D or width == given else kind(given, width, bias=False)
    assert LIKE.recognizes(layer)
    made = LIKE.adapt(layer)
    assert type(made) is nn.Linear
    x = torch.randn(3, 2, made.in_features)
    torch.testing.assert_close(made(x), layer(x))
    if kind is Dense:
        assert made.weight is layer.weight


@pytest.mark.parametrize("layer", [Clipped(6, 4), Doubled(4, 4), Doubled(3, 4)], ids=repr)
def test_another_forward_is_refused_with_the_reason(layer):
    assert LIKE.recognizes(layer)
    with pytest.raises(Unadaptable, match=r"(Clipped|Doubled): its forward is its own"):
        LIKE.adapt(layer)


@pytest.mark.parametrize("layer", [nn.Linear(3, 4), nn.Embedding(3, 4), nn.Bilinear(2, 2, 2), nn.LSTM(3, 4)], ids=repr)
def test_layers_of_pytorch_are_what_they_are(layer):
    assert not LIKE.recognizes(layer)


def test_a_functional_call_on_a_layer_s_own_weight_is_found_and_named():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.fc, self.turned = nn.Linear(64, 64), nn.Linear(64, 64), Conv1D(64, 64)

        def forward(self, x):
            return functional.linear(self.first(x), self.fc.weight) + functional.linear(x, self.turned.weight)

    torch.manual_seed(0)
    made = plan(Net().eval(), (torch.randn(4, 64),), Budget(keep=0.9, of="params"))
    assert [layer.name for layer in made.layers] == ["first"]
    reasons = {skip.name: skip.reason for skip in made.skipped}
    assert "its weight is used past its forward" in reasons["fc"]
    assert made.adapters == ()


def test_the_model_itself_may_be_one():
    layer = Conv1D(6, 4)
    made = adapted(layer, ["linear_like"])
    assert type(made) is nn.Linear
    assert made.weight.shape == (6, 4)
