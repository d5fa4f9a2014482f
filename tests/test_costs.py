"""Costs against PyTorch's own counter, closed forms and the published numbers of whole networks."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.flop_counter import FlopCounterMode

from edgecompress.costs import (
    chain_cost,
    cost,
    input_shapes,
    layer_macs,
    output_shape,
    param_bytes,
    weight_bytes,
)
from edgecompress.decompositions import DECOMPOSITIONS
from edgecompress.planning.layer_costs import layer_costs
from edgecompress.plans import CompressionPlan, Cost, LayerPlan
from edgecompress.sources import resolve

for_every_method = pytest.mark.parametrize("method", DECOMPOSITIONS.values(), ids=DECOMPOSITIONS)
CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def counted_by_pytorch(module, x):
    """MACs and output shape of one run: PyTorch counts FLOPs, two to a MAC."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        shape = tuple(module(x).shape)
    return counter.get_total_flops() // 2, shape


@st.composite
def convolutions(draw, dimensions=(1, 2, 3), most_groups=4):
    """A convolution on the meta device, and a shape it takes."""
    axes = draw(st.sampled_from(dimensions))
    per_axis = lambda low, high: tuple(draw(st.integers(low, high)) for _ in range(axes))  # noqa: E731
    groups, stride = draw(st.integers(1, most_groups)), per_axis(1, 3)
    padding = draw(st.sampled_from(["numbers", "valid", "same"] if max(stride) == 1 else ["numbers", "valid"]))
    layer = CONVOLUTIONS[axes](
        groups * draw(st.integers(1, 4)),
        groups * draw(st.integers(1, 4)),
        tuple(2 * half + 1 for half in per_axis(0, 2)),
        stride,
        padding=per_axis(0, 2) if padding == "numbers" else padding,
        dilation=per_axis(1, 2),
        groups=groups,
        bias=draw(st.booleans()),
        padding_mode=draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"])),
        device="meta",
    )
    return layer, (draw(st.integers(1, 3)), layer.in_channels, *per_axis(9, 12))


@st.composite
def linears(draw):
    """A Linear on the meta device, and a shape it takes: with or without positions."""
    inputs, outputs = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    positions = draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    return nn.Linear(inputs, outputs, bias=draw(st.booleans()), device="meta"), (*positions, inputs)


@given(convolutions() | linears())
@settings(max_examples=200, deadline=None)
def test_a_layer_costs_what_pytorch_counts(layer_and_shape):
    layer, shape = layer_and_shape
    macs, shape_after = counted_by_pytorch(layer, torch.empty(shape, device="meta"))
    assert output_shape(layer, shape) == shape_after
    assert layer_macs(layer, shape, shape_after) == macs
    assert chain_cost(layer, [shape]).macs == macs


TRANSPOSED = [
    (nn.ConvTranspose1d(4, 6, 3, stride=2, output_padding=1), (2, 4, 7)),
    (nn.ConvTranspose2d(4, 6, (5, 3), stride=(2, 1), padding=(2, 1), dilation=(1, 2)), (1, 4, 5, 6)),
    (nn.ConvTranspose2d(6, 8, 4, stride=2, padding=1, groups=2, bias=False), (2, 6, 5, 6)),
]


@pytest.mark.parametrize(("layer", "shape"), TRANSPOSED, ids=str)
def test_a_transposed_convolution_costs_what_pytorch_counts(layer, shape):
    macs, shape_after = counted_by_pytorch(layer, torch.empty(shape))
    assert output_shape(layer, shape) == shape_after
    assert layer_macs(layer, shape, shape_after) == macs


VIEWS = [
    (nn.Flatten(), (2, 3, 4, 5)),
    (nn.Flatten(-2), (3, 4, 5)),
    (nn.Flatten(0, 1), (2, 3, 4, 5)),
    (nn.Unflatten(-1, (3, 4)), (2, 5, 12)),
    (nn.Unflatten(0, (-1, 4)), (12, 5)),
    (nn.Unflatten(1, (2, -1, 3)), (5, 12, 7)),
]


@pytest.mark.parametrize(("view", "shape"), VIEWS, ids=str)
def test_a_view_costs_nothing(view, shape):
    macs, shape_after = counted_by_pytorch(view, torch.empty(shape, device="meta"))
    assert output_shape(view, shape) == shape_after
    assert layer_macs(view, shape, shape_after) == macs == 0
    assert chain_cost(view, [shape]) == Cost(0, 0, 0)


@for_every_method
@given(st.data())
@settings(max_examples=100, deadline=None)
def test_a_chain_costs_what_pytorch_counts(method, data):
    layer, shape = data.draw(convolutions((1, 2), most_groups=1) | linears())
    if method.supports(layer):
        ranks = tuple(data.draw(st.integers(1, most)) for most in method.max_ranks(layer))
        chain = method.chain(layer, ranks)
        macs, _ = counted_by_pytorch(chain, torch.empty(shape, device="meta"))
        assert chain_cost(chain, [shape]).macs == macs
        assert chain_cost(chain, [shape]).params == sum(p.numel() for p in chain.parameters())


@pytest.mark.parametrize("layer", [nn.ConvTranspose3d(4, 4, 3), nn.Bilinear(4, 4, 4)], ids=repr)
def test_what_has_no_closed_form_is_refused_by_name(layer):
    shape = (1, 4, 8, 8)
    for question in (lambda: layer_macs(layer, shape, shape), lambda: output_shape(layer, shape)):
        with pytest.raises(TypeError, match=type(layer).__name__):
            question()


# Parameters of the chain for C -> T channels, K kernel elements; all of them without bias.
CLOSED_FORMS = {
    "svd": lambda c, t, k, r: r * (c * k + t),
    "tucker2": lambda c, t, k, r_out, r_in: c * r_in + r_in * r_out * k + r_out * t,
}


@pytest.mark.parametrize("method", CLOSED_FORMS)
@pytest.mark.parametrize(("c", "t", "kernel"), [(16, 16, (3, 3)), (8, 24, (5, 3)), (24, 8, (1, 7))], ids=str)
def test_chains_follow_the_closed_forms(method, c, t, kernel):
    layer = nn.Conv2d(c, t, kernel, padding="same", bias=False, device="meta")
    for ranks in [(4,), (7,)] if method == "svd" else [(4, 4), (7, 3)]:
        counted = chain_cost(DECOMPOSITIONS[method].chain(layer, ranks), [(1, c, 10, 12)])
        params = CLOSED_FORMS[method](c, t, kernel[0] * kernel[1], *ranks)
        assert counted == Cost(params, params * 10 * 12, params * 4)  # stride 1: each weight works at every position


def test_a_train_follows_its_closed_form():
    """Over 24 = 6 x 4 inputs; at stride 2 every link works at the smaller size, the first one at six places of it."""
    layer, (outputs, r1, r2) = nn.Conv2d(24, 10, 1, stride=2, bias=False, device="meta"), (10, 5, 3)
    counted = chain_cost(DECOMPOSITIONS["tensor_train"].chain(layer, (r1, r2)), [(1, 24, 20, 20)])
    params = 4 * r2 + 6 * r2 * r1 + r1 * outputs
    macs = 10 * 10 * (24 * r2 + 6 * r2 * r1 + r1 * outputs)
    assert counted == Cost(params, macs, 4 * params)


def test_the_stride_is_paid_where_it_acts():
    """SVD strides in its first link, Tucker-2 in its second: the links before it run on the large input."""
    layer = nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False, device="meta")
    large, small = 20 * 20, 10 * 10
    macs = {
        name: chain_cost(DECOMPOSITIONS[name].chain(layer, ranks), [(1, 16, 20, 20)]).macs
        for name, ranks in {"svd": (8,), "tucker2": (8, 4)}.items()
    }
    assert macs == {
        "svd": small * (16 * 9 * 8 + 8 * 32),
        "tucker2": large * 16 * 4 + small * (4 * 9 * 8 + 8 * 32),
    }


BREAK_EVEN = {  # the largest rank at which a 3x3 chain holds no more parameters than the dense layer
    "svd": {16: 14, 32: 28, 64: 57, 128: 115, 256: 230, 512: 460},
    "tucker2": {16: 14, 32: 28, 64: 57, 128: 114, 256: 229, 512: 458},
}


@pytest.mark.parametrize(
    ("method", "channels", "rank"), [(m, c, r) for m, table in BREAK_EVEN.items() for c, r in table.items()]
)
def test_ranks_break_even_where_the_formulas_say(method, channels, rank):
    layer = nn.Conv2d(channels, channels, 3, bias=False, device="meta")
    ranks = len(DECOMPOSITIONS[method].max_ranks(layer))

    def params(tied):
        return chain_cost(DECOMPOSITIONS[method].chain(layer, (tied,) * ranks), []).params

    assert params(rank) <= channels * channels * 9 < params(rank + 1)


SAMPLES = {
    "lenet5": (431_080, 2_293_000),
    "lenet300": (266_610, 784 * 300 + 300 * 100 + 100 * 10),
    "resnet20": (269_722, 40_551_040),
    "resnet56": (853_018, 125_485_696),
}


@pytest.mark.parametrize(("name", "params", "macs"), [(name, *numbers) for name, numbers in SAMPLES.items()])
def test_the_samples_cost_what_is_published(name, params, macs):
    sample = resolve(name)
    model = sample.model()
    counted = cost(model, sample.inputs)
    assert (counted.params, counted.macs, counted.flops) == (params, macs, 2 * macs)
    assert counted.weight_bytes == sum(t.nbytes for t in model.state_dict().values())


def test_the_batch_size_of_the_example_does_not_matter():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 10))
    assert cost(model, (torch.zeros(1, 3, 8, 8),)) == cost(model, (torch.zeros(7, 3, 8, 8),))


def test_weight_bytes_count_buffers_too_and_shared_ones_once():
    norm = nn.BatchNorm2d(8)  # weight, bias, mean, variance: 8 floats each; and a 64-bit count of batches
    assert weight_bytes(nn.Sequential(norm, norm)) == 4 * 8 * 4 + 8


class Twice(nn.Module):
    """Runs one layer twice, on inputs of two shapes."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        return self.conv(self.conv(x)[:, :, ::2])


class WithItsOwn(nn.Module):
    """A net that owns weights itself, as a class token, beside a layer that does, around another."""

    def __init__(self):
        super().__init__()
        self.token, self.embed = nn.Parameter(torch.zeros(1, 1, 8)), nn.Linear(4, 8)
        self.mix, self.norm = nn.MultiheadAttention(8, 2, batch_first=True), weight_norm(nn.Linear(8, 6))

    def forward(self, x):
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), self.embed(x)], 1)
        return self.norm(self.mix(x, x, x)[0])


def test_what_a_layer_owns_is_counted_once():
    """Not also that of the layers inside it: the whole net was a layer of all its parameters."""
    model = WithItsOwn().eval()
    rows = layer_costs(model, (torch.zeros(1, 3, 4),), CompressionPlan(model="m", layers=()))
    own = {row["name"]: row["dense"]["params"] for row in rows}
    assert own[""] == 8
    assert own["norm"] == 6 * 8 + 6 + 6
    assert sum(own.values()) == sum(parameter.numel() for parameter in model.parameters())
    assert sum(row["dense"]["bytes"] for row in rows) == cost(model, (torch.zeros(1, 3, 4),)).weight_bytes


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_bytes_of_a_layer_are_those_of_its_numbers(dtype):
    """Before and after, in every type, with a buffer or a bias and without."""
    model = nn.Sequential(nn.Conv2d(8, 16, 3), nn.Flatten(), nn.Linear(16 * 36, 32, bias=False)).to(dtype)
    layers = [
        LayerPlan("0", "tucker2", (4, 4), (16, 8, 3, 3), 0.1),
        LayerPlan("2", "ada_tucker", (2, 2, 2), (32, 576), 0.1, dims=(32, 24, 24)),
    ]
    made = CompressionPlan(model="m", layers=tuple(layers))
    conv, linear = layer_costs(model, (torch.zeros(1, 8, 8, 8, dtype=dtype),), made)
    size = torch.finfo(dtype).bits // 8
    for role in ("dense", "compressed"):
        assert conv[role]["bytes"] == size * conv[role]["params"]
        assert linear[role]["bytes"] == size * linear[role]["params"]
    assert conv["dense"]["bytes"] == size * (16 * 8 * 9 + 16)
    assert linear["compressed"]["params"] == 8 + 2 * (32 + 24 + 24)


def test_bytes_of_parameters_leave_buffers_out():
    model = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4)).double()
    assert param_bytes(model) == 8 * (12 + 8)
    assert weight_bytes(model) == param_bytes(model) + 8 * 8 + 8


def test_a_layer_that_runs_twice_counts_twice():
    model, x = Twice(), torch.zeros(1, 4, 8, 6)
    assert input_shapes(model, (x,)) == {"conv": [(1, 4, 8, 6), (1, 4, 4, 6)]}
    once = 4 * 4 * 9
    assert cost(model, (x,)).macs == once * (8 * 6 + 4 * 6) == chain_cost(model.conv, [(1, 4, 8, 6), (1, 4, 4, 6)]).macs
    assert cost(model, (x,)).params == 4 * 4 * 9 + 4


class Looking(nn.Module):
    """Decides by the values it sees whether to run its inner model, so shapes alone cannot tell."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x) if x.sum() > 0 else x


class Query(nn.Module):
    """Layers that are given a weight of the model's own."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.query = inner, nn.Parameter(torch.ones(1, 7, 32))

    def forward(self, x):
        return self.inner(self.query) + x.mean()


def test_layers_that_are_given_a_weight_are_counted():
    inner = nn.Sequential(nn.Linear(32, 4, bias=False), nn.Linear(4, 16))
    model, x = Query(inner), torch.ones(2, 7, 32)
    assert cost(model, (x,)).macs == 7 * (32 * 4 + 4 * 16)
    assert model.query.requires_grad


class SelfAttention(nn.MultiheadAttention):
    """Attention of a sequence to itself."""

    def forward(self, x):
        return super().forward(x, x, x)[0]


INNER = {
    "Linear": lambda: nn.Linear(32, 16),
    "attention": lambda: SelfAttention(32, 4, batch_first=True),
    "TransformerEncoderLayer": lambda: nn.TransformerEncoderLayer(32, 4, 64, batch_first=True),
}


@pytest.mark.parametrize("build", INNER.values(), ids=INNER)
def test_a_model_that_looks_at_values_is_counted_like_one_that_does_not(build):
    x = torch.ones(2, 7, 32)
    counted = cost(Looking(build()), (x,))
    assert counted == cost(build(), (x,))
    assert counted.macs > 0


def test_a_model_that_looks_at_values_is_counted_on_the_path_its_example_takes():
    assert cost(Looking(nn.Linear(32, 16)), (-torch.ones(2, 7, 32),)).macs == 0


def test_the_shapes_of_a_model_that_looks_at_values_are_found():
    assert input_shapes(Looking(nn.Linear(32, 16)), (torch.ones(2, 7, 32),)) == {"inner": [(1, 7, 32)]}


def test_a_layer_called_by_keyword_is_seen():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(32, 16)

        def forward(self, x):
            return self.layer(input=x)

    assert input_shapes(Model(), (torch.ones(2, 32),)) == {"layer": [(1, 32)]}


def mixed_model():
    """Parts in train and eval mode, a frozen one, and a norm whose statistics a training run would move."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout(), nn.Conv2d(8, 4, 1)).train()
    model[1].eval()
    model[3].weight.requires_grad_(False)
    return model


@pytest.mark.parametrize("wrap", [nn.Sequential, Looking], ids=["by shape", "by values"])
def test_counting_leaves_the_model_as_it_was(wrap):
    model = wrap(mixed_model())
    before, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    cost(model, (torch.ones(2, 3, 8, 8),))
    input_shapes(model, (torch.ones(2, 3, 8, 8),))
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [p.requires_grad for p in model.parameters()] == [True, True, True, True, False, True]
    assert all(p.grad is None and p.device.type == "cpu" for p in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_counting_leaves_the_weights_of_a_layer_under_two_names():
    layer = nn.Linear(8, 8)
    model, x = nn.Sequential(layer, nn.ReLU(), layer), torch.ones(1, 8)
    before = model(x)
    assert cost(model, (x,)).macs == 2 * 8 * 8
    assert torch.equal(model(x), before)


def test_counting_leaves_nothing_in_a_model_that_remembers():
    class Remembering(nn.Module):
        """Builds a grid of positions once, as detectors and rotary embeddings do."""

        def __init__(self):
            super().__init__()
            self.layer, self.grid = nn.Linear(8, 8), None

        def forward(self, x):
            if self.grid is None:
                self.grid = torch.arange(x.shape[-1], device=x.device)
            return self.layer(x + self.grid)

    model = Remembering()
    cost(model, (torch.zeros(1, 8),))
    assert model(torch.zeros(1, 8)).shape == (1, 8)


def test_costs_round_trip_through_json():
    counted = Cost(12, 34, 48)
    assert counted.to_json()["flops"] == 68
    assert Cost.from_json(counted.to_json()) == counted
