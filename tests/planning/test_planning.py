"""Plans: their JSON, the models they fit, and the costs they promise."""

import copy
import itertools
import json
import re
from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrize, prune

from edgecompress.calibrating import Calibration
from edgecompress.costs import cost
from edgecompress.decomposing import check_plan, decompose, merge_back, merged
from edgecompress.decompositions import DECOMPOSITIONS
from edgecompress.errors import FileError, ModelError, PlanError
from edgecompress.files import dump_json
from edgecompress.models.adapting import adapted
from edgecompress.planning import plan
from edgecompress.plans import Alternative, CompressionPlan, Cost, LayerPlan, Skipped
from edgecompress.selectors import SELECTORS, Budget, Energy
from edgecompress.sources import resolve
from tests.nets import Net

# ---------------------------------------------------------------------------------------------------- JSON

positive = st.integers(1, 10**12)
costs = st.builds(Cost, params=positive, macs=positive, weight_bytes=st.just(0))
some_plans = st.builds(
    CompressionPlan,
    model=st.text(),
    layers=st.lists(
        st.builds(
            LayerPlan,
            name=st.text(),
            method=st.sampled_from(list(DECOMPOSITIONS)),
            ranks=st.lists(positive, min_size=1).map(tuple),
            shape=st.lists(positive, min_size=2).map(tuple),
            error=st.floats(0, 1),
        )
    ).map(tuple),
    skipped=st.lists(st.builds(Skipped, name=st.text(), reason=st.text())).map(tuple),
    dense=st.none() | costs,
    compressed=st.none() | costs,
    rejected=st.lists(
        st.builds(
            Alternative,
            layer=st.text(),
            method=st.text(),
            why=st.text(),
            ranks=st.lists(positive).map(tuple),
            cost=st.none() | costs,
        )
    ).map(tuple),
)


@given(some_plans)
@settings(deadline=None, max_examples=50)
def test_a_plan_round_trips_through_json(made):
    assert CompressionPlan.from_json(json.loads(dump_json(made.to_json()))) == made


def test_a_plan_round_trips_through_a_file(tmp_path):
    made = plan_of("a chain of layers")
    made.save(tmp_path / "plan.json")
    assert CompressionPlan.load(tmp_path / "plan.json") == made


def document():
    """A valid plan as JSON, to be spoilt."""
    layer = LayerPlan("conv", "svd", (2,), (4, 3, 3, 3), 0.1)
    return CompressionPlan(
        model="m", layers=(layer,), skipped=(Skipped("fc", "too small"),), dense=Cost(9, 9), compressed=Cost(5, 5)
    ).to_json()


@pytest.mark.parametrize(
    ("key", "value"), [("version", 2), ("version", "1"), ("version", None), ("kind", "edgecompress.profile")]
)
def test_an_unknown_version_or_kind_is_refused(key, value):
    with pytest.raises(FileError, match=str(value)):
        CompressionPlan.from_json(document() | {key: value})


def missing_fields():
    """Every field at every depth of a plan, as the path that leads to it."""
    full = document()
    yield from ((key,) for key in full if key not in ("kind", "version"))
    yield from ((part, key) for part in ("dense", "planned") for key in full[part])
    yield from ((part, 0, key) for part in ("layers", "skipped") for key in full[part][0])


@pytest.mark.parametrize("path", list(missing_fields()), ids=lambda path: ".".join(map(str, path)))
def test_a_missing_field_is_named(path):
    spoilt = part = document()
    *way, key = path
    for step in way:
        part = part[step]
    del part[key]
    with pytest.raises(FileError, match=f"missing.*'{key}'"):
        CompressionPlan.from_json(spoilt)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("ranks", None),
        ("ranks", ["many"]),
        ("shape", 3),
        ("error", "small"),
        ("ranks", [float("inf")]),
        ("ranks", [2.5]),
        ("ranks", "24"),
        ("error", float("nan")),
    ],
)
def test_a_malformed_field_is_refused(key, value):
    spoilt = document()
    spoilt["layers"][0][key] = value
    with pytest.raises(FileError, match="malformed"):
        CompressionPlan.from_json(spoilt)


@pytest.mark.parametrize("text", [None, "", "{", "[]", "{}"], ids=["no file", "empty", "cut off", "a list", "no plan"])
def test_a_file_that_is_no_plan_is_named(tmp_path, text):
    path = tmp_path / "plan.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(FileError, match=r"plan\.json"):
        CompressionPlan.load(path)


# -------------------------------------------------------------------------------------------------- models


def chain_of_layers():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, padding=1, padding_mode="reflect", bias=False),
        nn.BatchNorm2d(16),
        nn.Conv2d(16, 24, (5, 3), padding="same"),
        nn.Flatten(2),
        nn.Conv1d(24, 16, 5, dilation=2),
        nn.Flatten(),
        nn.Linear(16 * 17, 32),
        nn.Linear(32, 10),
    )


def odd_convolutions():
    return nn.Sequential(
        nn.Conv2d(3, 24, 3),
        nn.Conv2d(24, 24, 3, groups=4),
        nn.Conv2d(24, 24, 3, groups=24),
        nn.ConvTranspose2d(24, 24, 2, stride=2),
        nn.Conv2d(24, 24, 3),
        nn.Conv2d(24, 32, 3),
    )


def tied_weights():
    """One weight in two layers, one layer under two names, one bias in two layers; and two plain layers."""
    a, b, c, d = (nn.Linear(24, 24) for _ in range(4))
    b.weight, d.bias = a.weight, c.bias
    layers = {"a": a, "b": b, "c": c, "d": d, "again": c, "wide": nn.Linear(24, 96), "narrow": nn.Linear(96, 24)}
    return Net(lambda net, x: net.narrow(net.wide(net.again(net.d(net.c(net.b(net.a(x))))))), **layers)


def transformer():
    encoder = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    return nn.Sequential(nn.Linear(24, 160), nn.Linear(160, 16), encoder, nn.Linear(16, 160), nn.Linear(160, 24))


def attention():
    layers = {
        "into": nn.Linear(24, 16),
        "attend": nn.MultiheadAttention(16, 2, batch_first=True),
        "out": nn.Linear(16, 96),
    }
    return Net(lambda net, x: net.out(net.attend(*[net.into(x)] * 3)[0]), **layers)


def never_run():
    return Net(
        lambda net, x: net.used(x), used=nn.Linear(24, 32), spare=nn.Linear(24, 32), spare_conv=nn.Conv2d(8, 8, 3)
    )


def run_twice():
    layers = {"shared": nn.Conv2d(3, 3, 5, padding=2), "conv": nn.Conv2d(3, 32, 3)}
    return Net(lambda net, x: net.conv(net.shared(net.shared(x)[..., ::2])), **layers)


def looking_at_values():
    return Net(lambda net, x: net.layer(x if x.mean() > 0 else -x), layer=nn.Linear(24, 32))


IMAGE, SEQUENCE = (2, 3, 10, 10), (2, 5, 24)
MODELS = {
    "a chain of layers": (chain_of_layers, IMAGE),
    "odd convolutions": (odd_convolutions, IMAGE),
    "tied weights": (tied_weights, SEQUENCE),
    "transformer": (transformer, SEQUENCE),
    "attention": (attention, SEQUENCE),
    "never run": (never_run, SEQUENCE),
    "run twice": (run_twice, IMAGE),
    "looking at values": (looking_at_values, SEQUENCE),
}
SELECTIONS = {
    "0.7 of macs": Budget(0.7),
    "0.9 of params": Budget(0.9, "params"),
    "1.0 of macs": Budget(1.0),
    **{f"energy {energy}": Energy(energy) for energy in (0.3, 0.9)},
}
SMALLER = SELECTIONS["0.7 of macs"]


def model_and_inputs(name):
    torch.manual_seed(0)
    build, shape = MODELS[name]
    return build(), (torch.randn(shape),)


@cache
def plan_of(name, selector=SMALLER):
    return plan(*model_and_inputs(name), selector, multiple=2, name=name)


for_every_model = pytest.mark.parametrize("name", MODELS)

# ------------------------------------------------------------------------------------------------ planning


@for_every_model
@pytest.mark.parametrize("selector", SELECTIONS.values(), ids=SELECTIONS)
@pytest.mark.covering(1)
def test_the_built_model_costs_exactly_what_the_plan_says(name, selector):
    (model, inputs), made = model_and_inputs(name), plan_of(name, selector)
    built, dense = cost(decompose(model, made), inputs), cost(model, inputs)
    assert (made.compressed.macs, made.compressed.params) == (built.macs, built.params)
    assert (made.dense.macs, made.dense.params) == (dense.macs, dense.params)


LARGE = {"lenet5": ("fc1",), "resnet20": ("layer1.[12]*", "layer2*", "layer3*")}
"""Layers that take seconds each."""
BRIEFLY = {**SELECTORS, "continuous": replace(SELECTORS["continuous"], iterations=10, warm_up=2)}
"""How long ranks are searched for changes which are found, and no cost of them."""


@pytest.mark.parametrize("name", ["lenet300", "lenet5", pytest.param("resnet20", marks=pytest.mark.slow)])
@pytest.mark.parametrize("selector", BRIEFLY.values(), ids=BRIEFLY)
@pytest.mark.covering(1)
def test_a_compressed_sample_costs_exactly_what_its_plan_says(name, selector):
    sample = resolve(name)
    model = sample.model()
    searched = LARGE.get(name, ()) if selector.name == "continuous" else ()
    made = plan(model, sample.inputs, selector, exclude=searched)
    built = cost(decompose(model, made), sample.inputs)
    assert (made.compressed.macs, made.compressed.params) == (built.macs, built.params)
    assert made.compressed.macs < made.dense.macs
    assert made.compressed.params < made.dense.params


@for_every_model
def test_a_smaller_plan_is_found_for_every_model(name):
    """Else the costs above would be those of dense models."""
    assert plan_of(name).layers


@for_every_model
def test_every_layer_with_a_weight_is_planned_or_skipped_with_a_reason(name):
    made = plan_of(name)
    model = adapted(model_and_inputs(name)[0], made.adapters)
    modules = model.named_modules(remove_duplicate=False)
    weighted = [path for path, module in modules if any(p.dim() > 1 for p in module.parameters(recurse=False))]
    assert sorted(entry.name for entry in (*made.layers, *made.skipped)) == sorted(weighted)
    assert all(skip.reason for skip in made.skipped)


@for_every_model
def test_planning_is_deterministic(name):
    assert plan_of.__wrapped__(name) == plan_of(name)


@for_every_model
def test_planning_and_decomposing_leave_the_model_as_it_was(name):
    model, inputs = model_and_inputs(name)
    model.train()
    untouched = copy.deepcopy(model)
    for parameter in decompose(model, plan(model, inputs, SMALLER, multiple=2)).parameters():
        parameter.data.zero_()
    assert str(model) == str(untouched)
    assert all(module.training for module in model.modules())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    state = untouched.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


@for_every_model
def test_a_compressed_model_runs_in_both_modes_and_gives_the_same_shape(name):
    model, inputs = model_and_inputs(name)
    small = decompose(model, plan_of(name))
    for training in (True, False):
        assert small.train(training)(*inputs).shape == model.train(training)(*inputs).shape


def test_a_transformer_runs_through_its_fast_path_after_decompose():
    """In eval mode without gradients PyTorch reads the weights of linear1 and linear2 itself."""
    model, inputs = model_and_inputs("transformer")
    small = decompose(model, plan(model, inputs, SMALLER, multiple=2)).eval()
    with torch.no_grad():
        fast = small(*inputs)
    torch.testing.assert_close(fast, small(*inputs).detach(), rtol=1e-4, atol=1e-5)


def test_a_model_that_is_a_single_layer_is_replaced():
    torch.manual_seed(0)
    model, inputs = nn.Linear(24, 32), (torch.randn(2, 24),)
    made = plan(model, inputs, SMALLER, multiple=2)
    built = cost(decompose(model, made), inputs)
    assert (made.compressed.macs, made.compressed.params) == (built.macs, built.params)


def test_the_plan_keeps_the_order_of_the_model():
    model, inputs = model_and_inputs("a chain of layers")
    made = plan(model, inputs, Budget(0.9), multiple=2)
    order = [name for name, _ in model.named_modules()]
    for entries in (made.layers, made.skipped):
        assert [entry.name for entry in entries] == sorted((entry.name for entry in entries), key=order.index)


def test_the_predicted_error_bounds_the_true_one():
    model, inputs = model_and_inputs("a chain of layers")
    for layer in plan(model, inputs, SMALLER, multiple=2).layers:
        weight, method = model.get_submodule(layer.name).weight.detach(), DECOMPOSITIONS[layer.method]
        left = weight - method.reconstruct(method.factors(weight, layer.ranks))
        assert float(left.pow(2).sum() / weight.pow(2).sum()) <= layer.error + 1e-6
        assert layer.shape == tuple(weight.shape)


@pytest.mark.parametrize("method", DECOMPOSITIONS)
def test_only_the_methods_asked_for_are_used(method):
    model, inputs = model_and_inputs("a chain of layers")
    made = plan(model, inputs, Energy(0.5), methods=[method], multiple=2)
    assert {layer.method for layer in made.layers} == {method}


@pytest.mark.parametrize("options", [{"methods": ["svg"]}, {"multiple": 0}], ids=str)
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(PlanError, match=r"svg.*svd|multiple of 0"):
        plan(*model_and_inputs("never run"), SMALLER, **options)


def test_progress_names_every_layer():
    model, inputs = model_and_inputs("a chain of layers")
    seen = []
    made = plan(model, inputs, SMALLER, multiple=2, progress=lambda *step: seen.append(step))
    assert seen == [("plan", n, 5, name) for n, name in enumerate(["0", "2", "4", "6", "7"], start=1)]
    seen.clear()
    decompose(model, made, progress=lambda *step: seen.append(step))
    count = len(made.layers)
    assert seen == [("decompose", n, count, layer.name) for n, layer in enumerate(made.layers, start=1)]


# -------------------------------------------------------------------------------------------- with calibration


TWICE = {"lenet5": ("vbmf",), "resnet20": ("bytes", "energy")}
"""What the other sample shows as well."""
CALIBRATED = {"budget": Budget(0.9), "bytes": Budget(0.99, "bytes"), "energy": Energy(0.8), "vbmf": SELECTORS["vbmf"]}


@cache
def small_calibration(name):
    """A few inputs as noise: enough to have moments, gradients and losses of."""
    shape = resolve(name).inputs[0].shape[1:]
    return Calibration((torch.randn(24, *shape, generator=torch.Generator().manual_seed(0)),))


@cache
def calibrated_plan(name, selector):
    sample = resolve(name)
    model = sample.model()
    made = plan(model, sample.inputs, selector, exclude=LARGE[name], calibration=small_calibration(name))
    return model, sample.inputs, made


@pytest.mark.parametrize(
    ("name", "selector"),
    [
        pytest.param(name, selector, id=f"{by}-{name}", marks=[pytest.mark.slow] if by in TWICE[name] else [])
        for name in LARGE
        for by, selector in CALIBRATED.items()
    ],
)
@pytest.mark.covering(1)
def test_a_calibrated_plan_costs_exactly_what_it_says(name, selector):
    model, inputs, made = calibrated_plan(name, selector)
    built = cost(decompose(model, made), inputs)
    assert made.layers
    assert (made.compressed.macs, made.compressed.params) == (built.macs, built.params)


@pytest.mark.parametrize("name", ["lenet5", pytest.param("resnet20", marks=pytest.mark.slow)])
def test_planning_with_calibration_is_deterministic(name):
    again = calibrated_plan.__wrapped__(name, CALIBRATED["budget"])
    assert again[2] == calibrated_plan(name, CALIBRATED["budget"])[2]


@for_every_model
def test_every_model_is_planned_with_calibration_and_left_as_it_was(name):
    model, inputs = model_and_inputs(name)
    model.train()
    untouched = copy.deepcopy(model.state_dict())
    calibration = Calibration((torch.randn(8, *inputs[0].shape[1:]),), classes=False)
    made = plan(model, inputs, SMALLER, multiple=2, calibration=calibration)
    built = cost(decompose(model, made), inputs)
    assert made.layers
    assert (made.compressed.macs, made.compressed.params) == (built.macs, built.params)
    assert all(torch.equal(value, untouched[key]) for key, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_calibration_spares_what_the_inputs_need():
    """Two equal layers of equal weights; one is given inputs of two directions alone, which few ranks keep."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(24, 24), nn.Linear(24, 24))
    model[1].weight.data.copy_(model[0].weight)
    flat = torch.randn(64, 2) @ torch.randn(2, 24)
    calibration = Calibration((flat,), classes=False)
    made = plan(model, (flat,), Budget(0.9), methods=["svd"], multiple=2, calibration=calibration)
    error = {layer.name: layer.error for layer in made.layers}
    assert max(error.values()) < 0.05
    assert min(layer.error for layer in plan(model, (flat,), Budget(0.9), methods=["svd"], multiple=2).layers) > 0.05


def test_calibration_inputs_of_a_wrong_shape_are_refused():
    model, inputs = model_and_inputs("a chain of layers")
    model.train()
    with pytest.raises(ModelError, match=r"^Sequential: does not run on calibration inputs of shape \(1, 4, 10, 10\)"):
        plan(model, inputs, SMALLER, calibration=Calibration((torch.randn(8, 4, 10, 10),)))
    assert all(module.training for module in model.modules())


def test_calibration_inputs_that_are_not_finite_are_refused():
    model, inputs = model_and_inputs("a chain of layers")
    x = torch.randn(8, 3, 10, 10)
    x[3, 0, 5, 5] = torch.nan
    with pytest.raises(ModelError, match=r"^0: is given NaN or infinity on the calibration inputs"):
        plan(model, inputs, SMALLER, calibration=Calibration((x,)))


# --------------------------------------------------------------------------------------- included and excluded

PATTERNS = {
    "one name": (("4",), (), {"4"}),
    "several": (("0", "4"), (), {"0", "4"}),
    "a star": (("*",), (), {"0", "2", "4", "6", "7"}),
    "letters in brackets": (("[2-4]",), (), {"2", "4"}),
    "excluded": ((), ("0", "7"), {"2", "4", "6"}),
    "excluded wins": (("[0-4]",), ("0",), {"2", "4"}),
    "everything excluded": ((), ("*",), set()),
}


@pytest.mark.parametrize(("include", "exclude", "within"), PATTERNS.values(), ids=PATTERNS)
def test_only_layers_within_the_scope_are_planned_and_the_others_say_why(include, exclude, within):
    model, inputs = model_and_inputs("a chain of layers")
    made = plan(model, inputs, Energy(0.2), multiple=2, include=include, exclude=exclude)
    assert {layer.name for layer in made.layers} == within
    for skip in made.skipped:
        asked = [pattern for pattern in exclude if repr(pattern) in skip.reason] or list(include)
        assert asked
        assert skip.reason.startswith(("excluded by", "not included by"))
        assert all(repr(pattern) in skip.reason for pattern in asked)
    decompose(model, made)


@pytest.mark.parametrize("option", ["include", "exclude"])
def test_patterns_are_of_dotted_names(option):
    sample = resolve("resnet20")
    quick = {"include": (), "exclude": ("layer[23]*",)}  # those take seconds
    patterns = ("layer1.*.conv1", *quick[option])
    made = plan(sample.model(), sample.inputs, Energy(0.5), **{option: patterns})
    matched = {f"layer1.{block}.conv1" for block in range(3)}
    planned = {layer.name for layer in made.layers}
    assert planned == matched if option == "include" else planned and not planned & matched


@pytest.mark.parametrize("option", ["include", "exclude"])
@pytest.mark.parametrize(
    ("pattern", "near"), [("layer1.0.con1", "layer1.0.conv1"), ("cnv1", "conv1"), ("?", "conv1|linear|fc")]
)
@pytest.mark.covering(1)
def test_a_pattern_that_matches_nothing_is_a_typing_error(option, pattern, near):
    sample = resolve("resnet20")
    with pytest.raises(PlanError, match=rf"no layer matches '{re.escape(pattern)}'; the nearest names are .*({near})"):
        plan(sample.model(), sample.inputs, SMALLER, **{option: (pattern,)})


def test_a_refused_layer_can_be_excluded():
    """A pattern may name layers that no method could replace."""
    model, inputs = model_and_inputs("odd convolutions")
    assert "depthwise" in {s.name: s.reason for s in plan(model, inputs, Energy(0.2), exclude=("2",)).skipped}["2"]


def test_a_budget_is_of_the_whole_model_whatever_is_excluded():
    model, inputs = model_and_inputs("a chain of layers")
    made = plan(model, inputs, Budget(0.8), multiple=2, exclude=("0", "7"))
    assert made.compressed.macs <= 0.8 * made.dense.macs


# --------------------------------------------------------------------------------------------------- and back

DENSE = [
    nn.Linear(20, 12),
    nn.Linear(12, 20, bias=False),
    nn.Conv1d(8, 12, 5),
    nn.Conv2d(12, 16, 3, padding=1, padding_mode="reflect"),
    nn.Conv2d(16, 8, 3, groups=2),
    nn.ConvTranspose2d(10, 12, 4, stride=2, groups=2),
    nn.Conv2d(8, 8, 1, dtype=torch.float64),
]


@pytest.mark.parametrize(
    ("method", "layer"),
    [
        pytest.param(name, layer, id=f"{name} {layer}")
        for name, layer in itertools.product(DECOMPOSITIONS, DENSE)
        if DECOMPOSITIONS[name].supports(layer)
    ],
)
def test_a_chain_at_the_largest_ranks_is_merged_into_the_layer_it_came_from(method, layer):
    ranks = DECOMPOSITIONS[method].max_ranks(layer)
    planned = LayerPlan("", method, ranks, tuple(layer.weight.shape), 0.0)
    chain = decompose(layer, CompressionPlan(layers=(planned,)))
    back = merged(chain, layer, planned)
    assert (type(back), str(back), back.weight.dtype) == (type(layer), str(layer), layer.weight.dtype)
    torch.testing.assert_close(back.state_dict(), layer.state_dict(), rtol=1e-4, atol=1e-5)
    assert back.weight.data_ptr() != layer.weight.data_ptr()


def test_what_a_chain_has_learned_since_is_merged_too():
    torch.manual_seed(0)
    layer, planned = nn.Conv2d(8, 12, 3), LayerPlan("", "tucker2", (5, 4), (12, 8, 3, 3), 0.0)
    chain = decompose(layer, CompressionPlan(layers=(planned,)))
    with torch.no_grad():
        for parameter in chain.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    x = torch.randn(2, 8, 6, 6)
    torch.testing.assert_close(merged(chain, layer, planned)(x), chain(x), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(chain(x), layer(x), atol=0.1)


# ------------------------------------------------------------------------------------------- left as it is


def doubled(layer):
    """A layer whose ``forward`` was replaced on the instance, as offloading and adapter libraries do."""
    layer.forward = lambda x: 2 * nn.Linear.forward(layer, x)
    return layer


def hooked(register):
    layer = nn.Linear(24, 32)
    getattr(layer, register)(lambda *_: None)
    return layer


def pruned():
    layer = nn.Linear(24, 32)
    prune.random_unstructured(layer, "weight", 0.5)
    return layer


def old_weight_norm():
    with pytest.warns(FutureWarning, match="weight_norm"):
        return nn.utils.weight_norm(nn.Linear(24, 32))


class Twice(nn.Module):
    def forward(self, weight):
        return 2 * weight


def parametrized(layer):
    parametrize.register_parametrization(layer, "weight", Twice())
    return layer


UNTOUCHABLE = {
    "forward hook": (lambda: hooked("register_forward_hook"), "hooks"),
    "forward pre-hook": (lambda: hooked("register_forward_pre_hook"), "hooks"),
    "parametrized": (lambda: parametrized(nn.Linear(24, 32)), "parametrized"),
    "own forward": (lambda: doubled(nn.Linear(24, 32)), "forward"),
}


@pytest.mark.parametrize(("build", "word"), UNTOUCHABLE.values(), ids=UNTOUCHABLE)
def test_a_layer_with_more_than_a_weight_is_left_dense_with_the_reason(build, word):
    model = nn.Sequential(build(), nn.Linear(32, 32))
    made = plan(model, (torch.randn(2, 24),), Energy(0.2), multiple=2)
    assert [layer.name for layer in made.layers] == ["1"]
    assert word in {skip.name: skip.reason for skip in made.skipped}["0"]
    assert decompose(model, made)(torch.randn(2, 24)).shape == (2, 32)


@pytest.mark.parametrize("build", [old_weight_norm, pruned])
def test_a_plan_is_applied_to_a_fresh_model_with_computed_weights(build):
    made = plan(nn.Sequential(build(), nn.Linear(32, 32)), (torch.randn(2, 24),), Energy(0.2), multiple=2)
    fresh = nn.Sequential(build(), nn.Linear(32, 32))
    assert decompose(fresh, made)(torch.randn(2, 24)).shape == (2, 32)


REASONS = {
    "tied weights": {"a": "shares", "b": "shares", "c": "several names", "again": "several names", "d": "shares"},
    "odd convolutions": {"2": "depthwise"},
    "never run": {"spare": "does not run", "spare_conv": "does not run"},
}


@pytest.mark.parametrize("name", REASONS)
def test_a_layer_that_cannot_be_replaced_is_skipped_with_the_reason(name):
    reasons = {skip.name: skip.reason for skip in plan_of(name, Energy(0.2)).skipped}
    assert all(word in reasons[layer] for layer, word in REASONS[name].items())


@pytest.mark.parametrize(
    ("name", "layer"), [(name, layer) for name in REASONS if name != "never run" for layer in REASONS[name]]
)
def test_a_plan_cannot_force_what_planning_would_refuse(name, layer):
    model, _ = model_and_inputs(name)
    made = plan_of(name, Budget(1.0))
    shape = next(p.shape for p in model.get_submodule(layer).parameters() if p.dim() > 1)
    skipped = tuple(skip for skip in made.skipped if skip.name != layer)
    forced = LayerPlan(layer, "svd", (1,), tuple(shape), 0.5)
    with pytest.raises(PlanError, match=f"^{layer}: .*{REASONS[name][layer]}"):
        decompose(model, CompressionPlan(layers=(forced,), skipped=skipped))


@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=["NaN", "infinity"])
def test_a_weight_that_is_not_finite_is_named(value):
    model, inputs = model_and_inputs("a chain of layers")
    made = plan(model, inputs, Energy(0.2), multiple=2)
    assert "2" in {layer.name for layer in made.layers}
    with torch.no_grad():
        model[2].weight.mul_(0).add_(value)
    for stage in (lambda: plan(model, inputs, SMALLER), lambda: decompose(model, made)):
        with pytest.raises(PlanError, match=r"^2: its weight"):
            stage()


def test_one_bad_number_is_enough():
    model, inputs = model_and_inputs("never run")
    with torch.no_grad():
        model.used.weight[3, 5] = torch.nan
    with pytest.raises(PlanError, match=r"^used: .*NaN"):
        plan(model, inputs, SMALLER)


# ------------------------------------------------------------------------------- a plan and its own model


@cache
def sample_plan(name):
    """Of a few layers; the others are named as left out."""
    sample = resolve(name)
    return plan(sample.model(), sample.inputs, Energy(0.5), exclude=("layer[23]*",), name=name)


@pytest.mark.parametrize("other", ["resnet56", "lenet5", "lenet300"])
def test_a_plan_for_another_model_is_refused(other):
    with pytest.raises(PlanError, match=r"another model \(resnet20\)"):
        decompose(resolve(other).model(), sample_plan("resnet20"))


def test_a_plan_for_fewer_layers_is_refused():
    with pytest.raises(PlanError, match=r"another model \(resnet20\): it says nothing about 'layer1\.3\.conv1'"):
        decompose(resolve("resnet56").model(), sample_plan("resnet20"))


@pytest.mark.parametrize("fill", [True, False])
def test_a_plan_for_other_widths_is_refused(fill):
    made = plan(nn.Sequential(nn.Linear(24, 32)), (torch.randn(1, 24),), SMALLER, multiple=2)
    with pytest.raises(PlanError, match=r"^0: its weight is \(32, 48\), the plan was made for \(32, 24\)"):
        decompose(nn.Sequential(nn.Linear(48, 32)), made, fill=fill)


SPOILT = {
    "unknown method": (LayerPlan("0", "svg", (2,), (32, 24), 0.1), "no method 'svg'.*svd"),
    "method of another kind of layer": (LayerPlan("0", "tucker2", (2, 2), (32, 24), 0.1), "tucker2 cannot replace it"),
    "rank 0": (LayerPlan("0", "svd", (0,), (32, 24), 0.1), r"ranks \(0,\) outside \(1\)\.\.\(24,\)"),
    "negative rank": (LayerPlan("0", "svd", (-1,), (32, 24), 0.1), "outside"),
    "rank too large": (LayerPlan("0", "svd", (25,), (32, 24), 0.1), r"ranks \(25,\) outside"),
    "too many ranks": (LayerPlan("0", "svd", (2, 2), (32, 24), 0.1), "outside"),
    "no ranks": (LayerPlan("0", "svd", (), (32, 24), 0.1), "outside"),
}


@pytest.mark.parametrize("fill", [True, False])
@pytest.mark.parametrize(("spoilt", "words"), SPOILT.values(), ids=SPOILT)
def test_what_does_not_fit_the_layer_is_named(spoilt, words, fill):
    with pytest.raises(PlanError, match=f"^0: .*{words}"):
        decompose(nn.Sequential(nn.Linear(24, 32)), CompressionPlan(layers=(spoilt,)), fill=fill)


@pytest.mark.parametrize("ranks", [(9, 2), (2, 9), (0, 2), (2,)], ids=str)
def test_each_rank_of_tucker2_has_its_own_limit(ranks):
    made = CompressionPlan(layers=(LayerPlan("0", "tucker2", ranks, (8, 8, 3, 3), 0.1),))
    with pytest.raises(PlanError, match=r"^0: ranks .* outside \(1, 1\)\.\.\(8, 8\) of tucker2"):
        decompose(nn.Sequential(nn.Conv2d(8, 8, 3)), made)


LAYER, SKIP = LayerPlan("0", "svd", (2,), (32, 24), 0.1), Skipped("0", "left")


@pytest.mark.parametrize(
    ("layers", "skipped"),
    [((LAYER, LAYER), ()), ((LAYER,), (SKIP,)), ((), (SKIP, SKIP))],
    ids=["planned twice", "planned and skipped", "skipped twice"],
)
def test_a_layer_named_twice_is_refused(layers, skipped):
    with pytest.raises(PlanError, match=r"^0: named twice"):
        decompose(nn.Sequential(nn.Linear(24, 32)), CompressionPlan(layers=layers, skipped=skipped))


def test_named_chains_become_dense_layers_again_and_compute_the_same():
    sample = resolve("lenet5")
    dense = sample.model()
    chosen = plan(dense, sample.inputs, Budget(0.25), name=sample.name)
    small = decompose(dense, chosen)
    names = [layer.name for layer in chosen.layers]

    back, left = merge_back(small, chosen, dense, sample.inputs, ["conv*"])

    assert {"conv1", "conv2"} & set(names)
    assert [layer.name for layer in left.layers] == [name for name in names if not name.startswith("conv")]
    assert all(type(back.get_submodule(name)) is nn.Conv2d for name in names if name.startswith("conv"))
    assert cost(back, sample.inputs).macs == left.compressed.macs
    assert cost(back, sample.inputs).params == left.compressed.params
    torch.testing.assert_close(back(*sample.inputs), small(*sample.inputs), rtol=1e-4, atol=1e-5)
    check_plan(dense, left)


def test_merging_back_what_is_not_decomposed_names_what_is():
    sample = resolve("lenet5")
    dense = sample.model()
    chosen = plan(dense, sample.inputs, Budget(0.25), name=sample.name)
    with pytest.raises(PlanError, match=r"no decomposed layer matches 'convolution'.*conv"):
        merge_back(decompose(dense, chosen), chosen, dense, sample.inputs, ["convolution"])


def test_a_layer_of_zeros_stays_dense_and_stops_nothing():
    model, inputs = model_and_inputs("a chain of layers")
    with torch.no_grad():
        model[2].weight.zero_()
    made = plan(model, inputs, Energy(0.2), multiple=2)
    assert "its weight is all zeros" in {skip.name: skip.reason for skip in made.skipped}["2"]
    assert made.layers
    assert decompose(model, made)(*inputs).isfinite().all()
