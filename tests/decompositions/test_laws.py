"""What holds for every decomposition and every geometry it supports."""

from itertools import product
from math import ceil

import pytest
import torch
from torch import nn

from edgecompress.decomposing import decompose, merged, replacement
from edgecompress.decompositions import DECOMPOSITIONS
from edgecompress.decompositions.kernels import kernels, weight_from
from edgecompress.files import load_weights, save_weights
from edgecompress.layers import weighted_layers
from edgecompress.plans import CompressionPlan, LayerPlan, Skipped
from tests.geometries import (
    CHANNELS,
    DILATIONS,
    GEOMETRIES,
    GROUPED,
    KERNELS,
    PADDINGS,
    STRIDES,
    build,
    everywhere,
    input_for,
    label,
)


def supported(geometry):
    """Name and method of all that can decompose the layer."""
    return [(name, method) for name, method in DECOMPOSITIONS.items() if method.supports(build(geometry))]


def pairs(all_geometries):
    """(method, geometry) for every method and every geometry it supports."""
    return [
        pytest.param(method, geometry, id=f"{name} {label(geometry)}")
        for geometry in all_geometries
        for name, method in supported(geometry)
    ]


SIZES = [
    ("Linear", (20, 12), {}),
    ("Conv1d", (8, 12), {"kernel_size": 5}),
    ("Conv2d", (12, 16), {"kernel_size": 3}),
    ("Conv2d", (24, 6), {"kernel_size": (5, 3), "bias": False}),
    ("Conv2d", (1, 12), {"kernel_size": (1, 7)}),
    ("Conv2d", (16, 10), {"kernel_size": 1}),
    ("Conv2d", (16, 8), {"kernel_size": 3, "groups": 2}),
    ("ConvTranspose2d", (10, 12), {"kernel_size": 4, "stride": 2, "groups": 2}),
]

SPECTRAL = ("svd", "spatial_svd")
"""What is cut off a spectrum is known exactly; the other methods alternate, and predict a bound."""

UNEVEN = (0.3, 0.7, 0.5, 0.9)
"""Of the largest ranks, mode by mode: none at the share of another."""

at_all_sizes = pytest.mark.parametrize(("method", "geometry"), pairs(SIZES))
for_every_method = pytest.mark.parametrize("method", DECOMPOSITIONS.values(), ids=DECOMPOSITIONS)


def part_of(largest, *fractions):
    """Ranks at fractions of the largest ones, mode by mode."""
    return tuple(ceil(fraction * rank) for fraction, rank in zip(fractions, largest, strict=True))


def ranks_between(method, layer, steps=(0.25, 0.5, 0.75, 1)):
    """All combinations of a few ranks per mode, from small to exact."""
    largest = method.max_ranks(layer)
    return sorted({part_of(largest, *fractions) for fractions in product(steps, repeat=len(largest))})


def links_of(chain):
    """The layers of a chain that have a weight, in order; the others are views."""
    return [link for link in chain if hasattr(link, "weight")]


def filled(method, layer, ranks):
    """The chain that takes the layer's place in a model."""
    return replacement(layer, LayerPlan("layer", method.name, ranks, tuple(layer.weight.shape), 0.0))


def factors(method, layer, ranks):
    """The factors of each group of a layer."""
    return [method.factors(kernel, ranks) for kernel in kernels(layer)]


_FACTORS = {}


def known_factors(method, geometry, ranks):
    """The same of the layer of a geometry: they are what several laws are about, and take the time."""
    key = method.name, label(geometry), ranks
    if key not in _FACTORS:
        _FACTORS[key] = factors(method, build(geometry), ranks)
    return _FACTORS[key]


def approximation(method, layer, of_groups):
    """The weight, in the layer's own layout, that factors stand for."""
    return weight_from(layer, torch.stack([method.reconstruct(group) for group in of_groups]))


def predictions(method, layer, grid):
    """The predicted error of the whole layer: that of its groups, by their share of the squared weights."""
    stacked = kernels(layer)
    share = stacked.flatten(1).pow(2).sum(1) / stacked.pow(2).sum()
    of_groups = torch.tensor([method.errors(kernel, grid) for kernel in stacked], dtype=torch.float64)
    return (share @ of_groups).tolist()


def relative_error(weight, other):
    weight = weight.detach()
    return float((weight - other).pow(2).sum() / weight.pow(2).sum())


def assert_equal(found, expected, what):
    """Within double precision; ``what`` is said in front of the difference."""
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10, msg=lambda difference: f"{what}: {difference}")


@everywhere
def test_every_chain_is_the_layer_at_the_largest_ranks(geometry):
    layer, x = build(geometry), input_for(geometry)
    out, methods = layer(x), supported(geometry)
    assert methods
    for name, method in methods:
        assert_equal(filled(method, layer, method.max_ranks(layer))(x), out, name)


@everywhere
def test_every_chain_is_the_dense_layer_with_the_reconstructed_weight(geometry):
    """Whatever the factors are: here those that PyTorch starts a chain with."""
    layer, x = build(geometry), input_for(geometry)
    for name, method in supported(geometry):
        largest = method.max_ranks(layer)
        for fractions in (UNEVEN, UNEVEN[::-1]):
            ranks = part_of(largest, *fractions[: len(largest)])
            chain = method.chain(layer, ranks)
            dense = merged(chain, layer, LayerPlan("layer", method.name, ranks, tuple(layer.weight.shape), 0.0))
            assert type(dense) is type(layer), (name, ranks)
            assert_equal(chain(x), dense(x), f"{name} at {ranks}")


@at_all_sizes
@pytest.mark.covering(1)
def test_the_error_never_grows_with_any_rank(method, geometry):
    layer = build(geometry)
    error = {
        ranks: relative_error(layer.weight, approximation(method, layer, known_factors(method, geometry, ranks)))
        for ranks in ranks_between(method, layer)
    }
    for smaller, larger in product(error, error):
        if all(a <= b for a, b in zip(smaller, larger, strict=True)):
            assert error[larger] <= error[smaller] * (1 + 1e-6) + 1e-14, (smaller, larger)


@at_all_sizes
@pytest.mark.covering(1)
def test_the_predicted_error_bounds_the_true_one(method, geometry):
    layer = build(geometry)
    grid = ranks_between(method, layer)
    predicted = predictions(method, layer, grid)
    known = [approximation(method, layer, known_factors(method, geometry, ranks)) for ranks in grid]
    true = [relative_error(layer.weight, weight) for weight in known]
    assert all(bound >= error - 1e-12 for bound, error in zip(predicted, true, strict=True))
    assert predicted[-1] == pytest.approx(0, abs=1e-12)
    if method.name in SPECTRAL:
        assert predicted == pytest.approx(true, rel=1e-9, abs=1e-12)


@for_every_method
def test_no_candidates_have_no_errors(method):
    layer = next(filter(method.supports, map(build, SIZES)))
    assert method.errors(kernels(layer)[0], []) == []


@at_all_sizes
@pytest.mark.covering(1)
def test_the_chain_has_the_dtype_of_the_layer(method, geometry):
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        layer = build(geometry, dtype)
        chain = filled(method, layer, method.max_ranks(layer))
        assert {parameter.dtype for parameter in chain.parameters()} == {dtype}
        assert chain(input_for(geometry, dtype)).dtype == dtype


@at_all_sizes
@pytest.mark.covering(1)
def test_the_chain_in_float32_is_the_layer_within_single_precision(method, geometry):
    layer, x = build(geometry, torch.float32), input_for(geometry, torch.float32)
    chain = filled(method, layer, method.max_ranks(layer))
    torch.testing.assert_close(chain(x), layer(x), rtol=1e-4, atol=1e-5)


@at_all_sizes
@pytest.mark.covering(1)
def test_the_chain_is_in_the_mode_of_the_layer(method, geometry):
    for training in (True, False):
        layer = build(geometry).train(training)
        chain = filled(method, layer, method.max_ranks(layer))
        assert {module.training for module in chain.modules()} == {training}


@at_all_sizes
@pytest.mark.covering(1)
def test_frozen_stays_frozen(method, geometry):
    for weight, bias in product((True, False), repeat=2):
        layer = build(geometry)
        layer.weight.requires_grad_(weight)
        if layer.bias is not None:
            layer.bias.requires_grad_(bias)
        chain = filled(method, layer, method.max_ranks(layer))
        for name, parameter in chain.named_parameters():
            assert parameter.requires_grad == (bias if name.endswith("bias") else weight), (name, weight, bias)


@at_all_sizes
@pytest.mark.covering(1)
def test_the_layer_is_left_as_it_was(method, geometry):
    layer, untouched = build(geometry), build(geometry)
    chain = filled(method, layer, method.max_ranks(layer))
    for parameter in chain.parameters():
        parameter.data.zero_()
    torch.testing.assert_close(layer.state_dict(), untouched.state_dict(), rtol=0, atol=0)


@at_all_sizes
@pytest.mark.covering(1)
def test_equal_weights_give_equal_factors(method, geometry):
    layer = build(geometry)
    for ranks in ranks_between(method, layer, (0.5, 1)):
        for once, again in zip(known_factors(method, geometry, ranks), factors(method, layer, ranks), strict=True):
            assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


@at_all_sizes
@pytest.mark.covering(1)
def test_the_structure_needs_no_numbers(method, geometry):
    layer = build(geometry)
    for ranks in ranks_between(method, layer):
        with torch.device("meta"):
            structure = method.chain(layer, ranks)
        weights = [torch.stack(link) for link in zip(*known_factors(method, geometry, ranks), strict=True)]
        assert all(parameter.is_meta for parameter in structure.parameters())
        filled = [weight_from(link, factor) for link, factor in zip(links_of(structure), weights, strict=True)]
        assert [link.weight.shape for link in links_of(structure)] == [weight.shape for weight in filled]
        assert shapes(structure) == shapes(method.chain(layer, ranks))


def shapes(module):
    return {name: tensor.shape for name, tensor in module.state_dict().items()}


@at_all_sizes
@pytest.mark.covering(1)
def test_the_links_are_the_names_of_the_chain(method, geometry):
    layer = build(geometry)
    chain = method.chain(layer, method.max_ranks(layer))
    views = (nn.Flatten, nn.Unflatten)
    links = tuple(name for name, child in chain.named_children() if not isinstance(child, views))
    assert links == method.links


@at_all_sizes
@pytest.mark.covering(1)
def test_only_the_last_link_has_a_bias_and_only_if_the_layer_has_one(method, geometry):
    layer = build(geometry)
    *inner, last = links_of(method.chain(layer, method.max_ranks(layer)))
    assert all(link.bias is None for link in inner)
    assert (last.bias is None) == (layer.bias is None)


@for_every_method
def test_the_memory_format_of_the_weight_does_not_matter(method):
    layer = next(filter(method.supports, (build(("Conv2d", (8, 6), {"kernel_size": k})) for k in (3, 1))), None)
    if layer is None:
        pytest.skip("replaces no convolution")
    ranks = ranks_between(method, layer)[0]
    plain = approximation(method, layer, factors(method, layer, ranks))
    layer = layer.to(memory_format=torch.channels_last)
    torch.testing.assert_close(approximation(method, layer, factors(method, layer, ranks)), plain)


def network(seed):
    """One layer of every kind a method may meet."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 12, (5, 3), 2, padding=1, padding_mode="circular", bias=False),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Conv2d(12, 8, 1),
        nn.Flatten(2),
        nn.Conv1d(8, 6, 3, dilation=2),
        nn.Flatten(),
        nn.Linear(6 * 21, 10),
    ).eval()


def halved(model, method):
    """A plan that gives every layer the method supports half of its largest ranks."""
    layers, skipped = [], []
    for name, layer in ((item.name, item.layer) for item in weighted_layers(model)):
        if support := method.supports(layer):
            ranks = part_of(method.max_ranks(layer), *(0.5 for _ in method.max_ranks(layer)))
            layers.append(LayerPlan(name, method.name, ranks, tuple(layer.weight.shape), 0.1))
        else:
            skipped.append(Skipped(name, support.reason))
    return CompressionPlan(model="network", layers=tuple(layers), skipped=tuple(skipped))


@for_every_method
def test_plan_and_state_dict_rebuild_the_model_bit_for_bit(method, tmp_path):
    plan = halved(network(0), method)
    small = decompose(network(0), plan)
    plan.save(tmp_path / "plan.json")
    save_weights(tmp_path / "small.safetensors", small.state_dict())

    rebuilt = decompose(network(1), CompressionPlan.load(tmp_path / "plan.json"), fill=False)
    rebuilt.load_state_dict(load_weights(tmp_path / "small.safetensors"))

    assert plan.layers
    x = torch.randn(2, 3, 12, 10)
    assert torch.equal(rebuilt(x), small(x))
    assert list(rebuilt.state_dict()) == list(small.state_dict())
    assert all(torch.equal(value, small.state_dict()[name]) for name, value in rebuilt.state_dict().items())


ODD_LAYERS = {
    "depthwise": (nn.Conv2d(8, 8, 3, groups=8), "depthwise"),
    "depthwise with a multiplier": (nn.Conv2d(8, 16, 3, groups=8), "depthwise"),
    "transposed, three-dimensional": (nn.ConvTranspose3d(8, 8, 3), "ConvTranspose3d"),
    "subclass of Linear": (nn.MultiheadAttention(8, 2).out_proj, "NonDynamicallyQuantizableLinear"),
    "attention": (nn.MultiheadAttention(8, 2), "MultiheadAttention"),
    "table of limited norm": (nn.Embedding(8, 8, max_norm=1.0), "Embedding"),
    "recurrent": (nn.LSTM(8, 8), "LSTM"),
    "complex": (nn.Conv2d(8, 8, 3, dtype=torch.complex64), "complex"),
}


@for_every_method
@pytest.mark.parametrize(("layer", "word"), ODD_LAYERS.values(), ids=ODD_LAYERS)
def test_layers_that_no_chain_can_stand_for_are_refused_in_words(method, layer, word):
    support = method.supports(layer)
    assert not support
    assert word in support.reason
    assert len(support.reason.split()) > 2


@pytest.mark.parametrize("layer", [nn.Linear(8, 8), nn.Conv2d(8, 8, 1), nn.Conv1d(8, 8, 1)], ids=repr)
def test_tucker2_leaves_matrices_to_svd(layer):
    support = DECOMPOSITIONS["tucker2"].supports(layer)
    assert not support
    assert "use svd" in support.reason
    assert DECOMPOSITIONS["svd"].supports(layer)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (nn.Conv2d(8, 8, 3), "use tucker2"),
        (nn.Conv1d(8, 8, 5), "use tucker2"),
        (nn.Linear(11, 8), "11 inputs"),
        (nn.Conv2d(1, 8, 1), "1 inputs"),
    ],
    ids=repr,
)
def test_tensor_train_wants_a_matrix_whose_inputs_are_a_product(layer, words):
    support = DECOMPOSITIONS["tensor_train"].supports(layer)
    assert not support
    assert words in support.reason


@pytest.mark.parametrize("leading", [(), (3,), (2, 5), (2, 3, 4)], ids=str)
def test_a_train_takes_a_linear_s_inputs_of_any_dimensions(leading):
    layer, train = build(("Linear", (20, 12), {})), DECOMPOSITIONS["tensor_train"]
    x = torch.randn(*leading, 20, dtype=torch.float64)
    torch.testing.assert_close(filled(train, layer, train.max_ranks(layer))(x), layer(x))


def test_a_train_takes_a_convolution_s_inputs_of_any_size_and_batch():
    layer, train = build(("Conv2d", (12, 10), {"kernel_size": 1, "stride": 2})), DECOMPOSITIONS["tensor_train"]
    chain = filled(train, layer, train.max_ranks(layer))
    for shape in ((1, 12, 5, 7), (3, 12, 8, 4)):
        x = torch.randn(shape, dtype=torch.float64)
        torch.testing.assert_close(chain(x), layer(x))


def test_the_grid_holds_every_value_of_every_option():
    """The grid draws at random: a value it never drew would not be tested."""
    for option, values in {
        "kernel_size": KERNELS,
        "stride": STRIDES,
        "padding": PADDINGS,
        "dilation": DILATIONS,
    }.items():
        assert {options[option] for kind, _, options in GEOMETRIES if kind == "Conv2d"} == set(values)
    plain = {channels for kind, channels, options in GEOMETRIES if kind == "Conv2d" and "groups" not in options}
    grouped = {(channels, options["groups"]) for _, channels, options in GEOMETRIES if options.get("groups", 1) > 1}
    assert plain == set(CHANNELS)
    assert grouped == set(GROUPED)
