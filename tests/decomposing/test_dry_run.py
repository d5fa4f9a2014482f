"""Layers at which a model looks stay dense, with the reason; all others are replaced as before."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from edgecompress.calibrating import Calibration
from edgecompress.decomposing import decompose
from edgecompress.decomposing.dry_run import noticed
from edgecompress.decomposing.refitting import refit
from edgecompress.errors import BudgetError, ModelError, PlanError
from edgecompress.layers import weighted_layers
from edgecompress.models import same
from edgecompress.planning import plan
from edgecompress.plans import CompressionPlan, LayerPlan, Skipped
from edgecompress.selectors import Budget, Energy
from edgecompress.settings import Storage
from edgecompress.storing.planning import plan_storage
from tests.nets import Net


def by_kind(net, x):
    for layer in (net.fc, net.free):
        x = layer(x) * 0.5 if isinstance(layer, nn.Linear) and layer is net.fc else layer(x)
    return x


def by_walk(net, x):
    linears = [module for module in net.modules() if isinstance(module, nn.Linear)]
    return net.free(net.fc(x)) / len(linears)


def while_training(net, x):
    return net.free(net.fc(x) + (net.fc.weight.sum() if net.training else 0))


def by_state(net, x):
    return net.free(net.fc(x) + net.state_dict()["fc.bias"])


def called_by(layer, x):
    return F.linear(x, layer.weight, layer.bias)


LOOKS = {
    "weight": (lambda net, x: net.free(net.fc(x)) * net.fc.weight.sum(), r"the model reads its weight \(test_dry_run"),
    "bias": (lambda net, x: net.free(net.fc(x) - net.fc.bias), "reads its bias"),
    "dtype": (lambda net, x: net.free(net.fc(x.to(net.fc.weight.dtype))), "reads its weight"),
    "own product": (lambda net, x: net.free(called_by(net.fc, x)) + 0 * net.fc(x)[:, :1], "reads its weight"),
    "isinstance": (by_kind, "looks at its type or its attributes"),
    "name of its type": (lambda net, x: net.free(net.fc(x)) + len(type(net.fc).__name__), "looks at its type"),
    "hasattr": (lambda net, x: net.free(net.fc(x)) * (2 if hasattr(net.fc, "weight") else 1), "looks at its type"),
    "all modules": (by_walk, "looks at its type"),
    "state": (by_state, "KeyError"),
    "while it trains": (while_training, r"reads its weight .* while it trains"),
    "an index": (lambda net, x: net.free(net.fc(x)) * net.fc.weight[0, 0], "reads its weight"),
    "an assertion": (lambda net, x: net.free(net.fc(x)) if type(net.fc) is nn.Linear else 1 / 0, "ZeroDivisionError"),
}


def net_that(run):
    return Net(run, fc=nn.Linear(32, 32), free=nn.Linear(32, 32)).eval()


@pytest.mark.parametrize(("run", "reason"), LOOKS.values(), ids=LOOKS)
def test_a_layer_that_the_model_looks_at_stays_dense_with_the_reason(run, reason):
    model, inputs = net_that(run), (torch.randn(3, 32),)
    made = plan(model, inputs, Energy(0.2), multiple=1)
    assert [layer.name for layer in made.layers] == ([] if run is by_walk else ["free"])
    assert made.skipped[0].name == "fc"
    assert re.search(reason, made.skipped[0].reason)
    small = decompose(model, made)
    assert small(*inputs).shape == (3, 32)
    assert small.train()(*inputs).shape == (3, 32)


def test_sizes_and_strides_may_be_asked_for():
    def padded(net, x):
        missing = (net.free.kernel_size[0] - net.free.stride[0]) // 2
        return net.free(F.pad(net.fc(x).view(-1, net.fc.out_features // 16, 16), (missing, missing)))

    net = Net(padded, fc=nn.Linear(32, 128), free=nn.Conv1d(8, 48, 5)).eval()
    made = plan(net, (x := torch.randn(3, 32),), Energy(0.2), multiple=1)
    assert [layer.name for layer in made.layers] == ["fc", "free"]
    assert decompose(net, made)(x).shape == net(x).shape


def whole(model):
    """A plan, made by hand, of every layer at full rank."""
    layers = tuple(
        LayerPlan(item.name, "svd", (min(item.layer.weight.shape),), tuple(item.layer.weight.shape), 0.0)
        for item in weighted_layers(model)
    )
    return CompressionPlan(model="by hand", layers=layers)


@pytest.mark.parametrize("name", ["isinstance", "weight", "all modules"])
def test_a_plan_made_by_hand_cannot_change_what_a_model_computes(name):
    model, x = net_that(LOOKS[name][0]), torch.randn(8, 32)
    with pytest.raises(PlanError, match=r"^f.*the model (looks|reads).*leave it dense"):
        decompose(model, whole(model))
    with pytest.raises(PlanError, match=r"^f.*the model (looks|reads).*leave it dense"):
        refit(model, whole(model), Calibration((x,), classes=False))


def test_a_plan_made_by_hand_for_a_model_that_does_not_look_is_exact_at_full_rank():
    model, x = net_that(lambda net, x: net.free(net.fc(x).relu()) if x.mean() > -9 else x), torch.randn(8, 32)
    assert torch.allclose(decompose(model, whole(model))(x), model(x), atol=1e-5)


def test_a_layer_kept_in_a_list_as_well_stays_dense():
    class Listed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(32, 32), nn.Linear(32, 32)
            self.order = [[self.a]]

        def forward(self, x):
            return self.b(self.order[0][0](x))

    made = plan(Listed().eval(), (torch.randn(2, 32),), Energy(0.2), multiple=1)
    assert [layer.name for layer in made.layers] == ["b"]
    assert "another way than its name" in made.skipped[0].reason


def test_layers_that_are_noticed_only_together_are_found():
    def run(net, x):
        if type(net.a) is not nn.Linear and type(net.d) is not nn.Linear:
            raise TypeError("one of them has to be a Linear")
        return net.d(net.c(net.b(net.a(x))))

    model = Net(run, **{name: nn.Linear(16, 16) for name in "abcd"}).eval()
    found = noticed(model, (torch.randn(2, 16),), list("abcd"))
    assert list(found) == ["d"]
    assert "TypeError: one of them" in found["d"]


def test_a_look_that_no_output_shows_is_found_in_the_trace():
    model = net_that(by_kind)
    nn.init.zeros_(model.free.weight)
    found = noticed(model, (torch.randn(2, 32),), ["fc", "free"])
    assert found == {"fc": "the model looks at its type or its attributes"}


def test_few_runs_find_few_layers_among_many():
    runs = []

    def run(net, x):
        runs.append(1)
        for name, layer in net.named_children():
            x = layer(x) + (layer.weight[0, 0] if name in {"l7", "l30"} else 0)
        return x

    model = Net(run, **{f"l{index}": nn.Linear(4, 4) for index in range(40)}).eval()
    assert list(noticed(model, (torch.randn(1, 4),), [f"l{index}" for index in range(40)])) == ["l7", "l30"]
    assert len(runs) < 40


def test_what_nothing_notices_costs_one_more_run_in_each_mode_and_traces():
    runs = []

    def run(net, x):
        runs.append((net.training, isinstance(x, torch.Tensor)))
        return net.b(F.dropout(net.norm(net.a(x)), 0.5, net.training))

    model = Net(run, a=nn.Linear(8, 8), norm=nn.BatchNorm1d(8), b=nn.Linear(8, 8)).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.get_rng_state()
    assert noticed(model, (torch.randn(4, 8, generator=torch.Generator().manual_seed(0)),), ["a", "b"]) == {}
    assert runs == [(False, True), (False, True), (True, True), (True, True), (False, False), (False, False)]
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    assert not model.training


def test_a_model_that_cannot_train_on_its_example_is_looked_at_in_eval_mode_alone():
    model = Net(lambda net, x: net.b(net.norm(net.a(x))), a=nn.Linear(8, 8), norm=nn.BatchNorm1d(8), b=nn.Linear(8, 8))
    assert noticed(model.eval(), (torch.randn(1, 8),), ["a", "b"]) == {}


def test_a_model_that_counts_its_calls_is_refused():
    def run(net, x):
        runs.append(1)
        return net.a(x) * len(runs)

    runs = []
    with pytest.raises(ModelError, match="other outputs each time"):
        noticed(Net(run, a=nn.Linear(8, 8)).eval(), (torch.randn(1, 8),), ["a"])


def test_a_codec_keeps_the_layer_and_so_stores_what_a_model_looks_at():
    model, inputs = net_that(LOOKS["weight"][0]), (torch.randn(3, 32),)
    made = plan_storage(model, inputs, Storage("ada_tucker", rank=8))
    assert {layer.name for layer in made.layers} == {"fc", "free"}
    assert decompose(model, made)(*inputs).shape == (3, 32)


def test_a_budget_out_of_reach_says_what_stays_dense():
    model = net_that(LOOKS["weight"][0])
    with pytest.raises(BudgetError, match=r"left dense: fc: the model reads its weight .*; free: excl"):
        plan(model, (torch.randn(3, 32),), Budget(0.5), exclude=["free"])


def test_plans_remember_the_dry_run_and_older_ones_load():
    made = plan(net_that(LOOKS["dtype"][0]), (torch.randn(3, 32),), Energy(0.2), multiple=1)
    assert CompressionPlan.from_json(made.to_json()) == made
    assert made.rehearsed
    older = made.to_json()
    del older["rehearsed"]
    assert CompressionPlan.from_json(older) == replace(made, rehearsed=False)
    assert Skipped("fc", made.skipped[0].reason) in made.skipped


@pytest.mark.parametrize(
    ("ours", "theirs", "equal"),
    [
        (torch.tensor([1.0, torch.nan, torch.inf]), torch.tensor([1.0, torch.nan, torch.inf]), True),
        (torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.0001]), False),
        (torch.tensor([1, 2]), torch.tensor([1, 3]), False),
        (torch.tensor([1.0]), torch.tensor([1.0], dtype=torch.float64), False),
        (torch.zeros(0), torch.zeros(0), True),
        (torch.tensor([True]), torch.tensor([False]), False),
    ],
)
def test_outputs_are_the_same_but_for_rounding(ours, theirs, equal):
    assert same(ours, theirs) is equal
