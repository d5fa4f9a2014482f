"""Subclasses of convolutions: those that compute as their base, and those that pad first."""

import math
from itertools import product

import pytest
import torch
from torch import nn
from torch.nn import functional

from edgecompress.adapters import ADAPTERS, Unadaptable
from edgecompress.adapters.same_padding import SamePad
from edgecompress.layers import weighted_layers
from edgecompress.models.adapting import adapted, adapted_for, adapters_of

SAME = ADAPTERS["same_padding"]


class Dynamic(nn.Conv2d):
    """As in nets that were ported from TensorFlow: the zeros by the size of the input."""

    def forward(self, x):
        missing = []
        for axis in (1, 0):
            size, stride = x.shape[2 + axis], self.stride[axis]
            reach = (self.kernel_size[axis] - 1) * self.dilation[axis] + 1
            total = max((math.ceil(size / stride) - 1) * stride + reach - size, 0)
            missing += [total // 2, total - total // 2]
        x = functional.pad(x, missing)
        return functional.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Static(nn.Conv2d):
    """The zeros by a size it is made for."""

    def __init__(self, *args, zeros, **options):
        super().__init__(*args, **options)
        self.static_padding = nn.ZeroPad2d(zeros)

    def forward(self, x):
        return super().forward(self.static_padding(x))


class Named(nn.Conv2d):
    """Only another name and an attribute."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.note = "ours"


class Standardized(nn.Conv2d):
    """Its weight is computed."""

    def forward(self, x):
        weight = self.weight - self.weight.mean()
        return functional.conv2d(x, weight, self.bias, self.stride, self.padding)


class Scaled(nn.Conv2d):
    """More than a convolution."""

    def forward(self, x):
        return 2 * super().forward(x)


class Reflecting(nn.Conv2d):
    """Other numbers than zeros around."""

    def forward(self, x):
        return super().forward(functional.pad(x, (1, 1, 1, 1), mode="reflect"))


class Rounding(nn.Conv2d):
    """Padded to a multiple of a size that is not its stride."""

    def forward(self, x):
        return super().forward(functional.pad(x, (0, -x.shape[3] % 8, 0, -x.shape[2] % 8)))


class Noisy(nn.Conv2d):
    """Another forward while it trains."""

    def forward(self, x):
        return super().forward(functional.pad(x, (1, 1, 1, 1)) + self.training)


def assert_same_everywhere(made, layer, sizes=((7, 9), (12, 8), (16, 16), (33, 5))):
    for height, width in sizes:
        given = torch.randn(2, layer.in_channels, height, width)
        for training in (False, True):
            torch.testing.assert_close(made.train(training)(given), layer.train(training)(given), rtol=0, atol=1e-6)


GRID = list(product((1, 3, 4, (5, 3)), (1, 2, 3, (2, 1)), (1, 2), (1, 2)))


@pytest.mark.parametrize(("kernel", "stride", "dilation", "groups"), GRID)
@pytest.mark.covering(2)
def test_same_padding_by_size_is_a_pad_and_a_convolution(kernel, stride, dilation, groups):
    layer = Dynamic(4, 6, kernel, stride=stride, dilation=dilation, groups=groups, bias=groups == 1)
    assert SAME.recognizes(layer)
    made = SAME.adapt(layer)
    assert_same_everywhere(made, layer)
    conv = made if isinstance(made, nn.Conv2d) else made.conv
    assert type(conv) is nn.Conv2d
    assert conv.weight is layer.weight
    assert conv.bias is layer.bias
    assert (conv.kernel_size, conv.stride, conv.groups) == (layer.kernel_size, layer.stride, layer.groups)


def test_same_padding_of_any_size_stays_a_layer_of_that_name_where_both_sides_are_the_same():
    assert type(SAME.adapt(Dynamic(3, 4, 3))) is nn.Conv2d
    assert SAME.adapt(Dynamic(3, 4, 3)).padding == (1, 1)
    strided = SAME.adapt(Dynamic(3, 4, 3, stride=2))
    assert isinstance(strided.pad, SamePad)


@pytest.mark.parametrize("zeros", [(0, 0, 0, 0), (1, 1, 2, 2), (0, 1, 0, 1), (2, 0, 1, 3)], ids=str)
@pytest.mark.parametrize("stride", [1, 2])
def test_fixed_zeros_are_a_pad_or_the_convolution_s_own(zeros, stride):
    layer = Static(3, 4, 3, zeros=zeros, stride=stride, padding=1)
    made = SAME.adapt(layer)
    assert_same_everywhere(made, layer)
    even = zeros[0] == zeros[1] and zeros[2] == zeros[3]
    assert isinstance(made, nn.Conv2d) == even
    assert sorted(name for name, _ in made.named_parameters()) == (
        ["bias", "weight"] if even else ["conv.bias", "conv.weight"]
    )


@pytest.mark.parametrize("kind", [Standardized, Scaled, Reflecting, Rounding, Noisy])
def test_another_forward_is_refused_with_the_reason(kind):
    layer = kind(3, 4, 3)
    assert SAME.recognizes(layer)
    with pytest.raises(Unadaptable, match=f"{kind.__name__}: its forward does more than pad"):
        SAME.adapt(layer)
    (found,) = weighted_layers(adapted(nn.Sequential(layer), list(ADAPTERS)))
    assert found.refused.startswith(kind.__name__)
    assert found.layer.weight is layer.weight


@pytest.mark.parametrize("kind", ["Linear", "Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d"])
def test_a_subclass_with_an_unchanged_forward_is_its_base(kind):
    base = getattr(nn, kind)
    layer = type("Ours", (base,), {})(4, 4, **({} if kind == "Linear" else {"kernel_size": 1}))
    layer.note = "ours"
    (made,) = adapted(nn.Sequential(layer), ["subclass"])
    assert type(made) is base
    assert made.weight is layer.weight
    assert made.note == "ours"
    assert type(layer) is not base


@pytest.mark.parametrize("name", ["forward", "_conv_forward", "weight", "__call__"])
def test_what_a_subclass_computes_otherwise_is_not_taken_for_its_base(name):
    layer = Named(3, 4, 1)
    layer.__class__ = type("Ours", (nn.Conv2d,), {name: property(lambda self: None)})
    assert not ADAPTERS["subclass"].recognizes(layer)


def test_a_model_that_notices_is_left_as_it_is(capsys):
    class Picky(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = Named(3, 4, 1)

        def forward(self, x):
            return self.conv(x) if isinstance(self.conv, Named) else 0 * x

    class Asking(Picky):
        def forward(self, x):
            assert isinstance(self.conv, Named), "a Named is wanted"
            return self.conv(x)

    for kind, words in ((Picky, "gives other outputs"), (Asking, "a Named is wanted")):
        model = kind().eval()
        assert adapted_for(model, (torch.randn(2, 3, 4, 4),), kind.__name__) is model
        assert words in capsys.readouterr().err


def test_hooks_and_ties_keep_a_layer_as_it_is():
    hooked, tied, other = Dynamic(3, 3, 3, stride=2), Dynamic(3, 3, 3, stride=2), nn.Conv2d(3, 3, 3)
    hooked.register_forward_hook(lambda *_: None)
    other.weight = tied.weight
    made = adapted(nn.Sequential(hooked, tied, other), ["same_padding"])
    reasons = [found.refused for found in weighted_layers(made)]
    assert "hooks" in reasons[0]
    assert "tied" in reasons[2]
    assert adapters_of(made) == ("same_padding",)


def test_a_layer_that_runs_twice_is_one_layer_still():
    layer = Dynamic(3, 3, 3, stride=2)
    made = adapted(nn.Sequential(layer, nn.Sequential(layer)), ["same_padding"])
    assert made[0] is made[1][0]
    assert made[0].conv.weight is layer.weight
