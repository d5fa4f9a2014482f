"""A dense graph with chains grafted into it is what a compressed model is exported as, but for the numbers."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from edgecompress.decomposing import decompose
from edgecompress.planning import plan, survey
from edgecompress.plans import Ranks
from edgecompress.selectors import Budget
from edgecompress.settings import Scope
from edgecompress.targets.base import Job
from edgecompress.targets.onnx import Onnx
from edgecompress.targets.onnx.graphs import small_feed
from edgecompress.targets.onnx.sessions import session
from edgecompress.timing.geometries import geometries_of, geometry_key
from edgecompress.timing.grafting import chain_of, grafted, places_of


def net() -> nn.Sequential:
    torch.manual_seed(0)
    middle = [nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    again = [nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    last = [nn.Flatten(), nn.Linear(16 * 36, 32), nn.ReLU(), nn.Linear(32, 4)]
    return nn.Sequential(nn.Conv2d(3, 16, 3, stride=2, padding=1), *middle, *again, *last).eval()


DEFAULTS = ("auto_pad", "alpha", "beta", "transA")
EXAMPLE = (torch.zeros(1, 3, 12, 12),)


def graph_of(model: nn.Module) -> onnx.ModelProto:
    return Onnx().graph_of(model, Job(model, EXAMPLE))[0]


def shapes_of(graph: onnx.ModelProto) -> Counter[tuple[object, ...]]:
    """Operators with their attributes, but for what is so anyway, and the shapes of their weights."""
    weights = {tensor.name: tuple(tensor.dims) for tensor in graph.graph.initializer}
    return Counter(
        (
            node.op_type,
            *sorted(str(one) for one in node.attribute if one.name not in DEFAULTS),
            *(weights.get(name) for name in node.input[1:2]),
        )
        for node in graph.graph.node
    )


@pytest.fixture(scope="module")
def dense() -> onnx.ModelProto:
    return graph_of(net())


def test_grafted_is_what_is_exported(dense: onnx.ModelProto) -> None:
    model = net()
    made = plan(model, EXAMPLE, Budget(keep=0.3, of="params"), Scope(methods=("tucker2", "svd", "cp4")))
    chosen = {one.name: (one.method, one.ranks) for one in made.layers}
    assert len(chosen) >= 3
    layers = {name: layer for name, layer in model.named_modules() if name in chosen}
    before = dense.SerializeToString()
    file = grafted(dense, layers, chosen)
    assert shapes_of(file) == shapes_of(graph_of(decompose(model, made).eval()))
    outputs = session(file.SerializeToString()).run(None, small_feed(file))[0]
    assert outputs.shape[1:] == (4,)
    assert np.isfinite(outputs).all()
    assert dense.SerializeToString() == before


def test_without_chains_nothing_changes(dense: onnx.ModelProto) -> None:
    assert shapes_of(grafted(dense, {}, {})) == shapes_of(dense)


@pytest.mark.parametrize(
    ("layer", "method", "ranks"),
    [
        (nn.Conv2d(16, 16, 3, padding=1, padding_mode="circular"), "svd", (8,)),
        (nn.Conv2d(16, 16, 3, padding="same"), "tucker2", (8, 8)),
        (nn.Embedding(100, 16), "svd", (8,)),
    ],
)
def test_what_is_exported_as_something_else_is_not_grafted(layer: nn.Module, method: str, ranks: Ranks) -> None:
    assert chain_of(layer, method, ranks) is None


def test_layers_are_found_by_their_names(dense: onnx.ModelProto) -> None:
    places = places_of(dense, {**dict(net().named_modules()), "8x": nn.Linear(1, 1)})
    assert [len(places[name]) for name in ("0", "1", "4", "8", "10", "8x")] == [1, 1, 1, 1, 1, 0]


def test_layers_of_one_geometry_are_one() -> None:
    items = survey(net(), EXAMPLE, Scope()).items
    found = geometries_of(items)
    assert [[item.name for item in one.items] for one in found] == [["0"], ["1", "4"], ["8"], ["10"]]
    assert geometry_key(items[1]) == "Conv2d(16, 16, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1)) of 1x16x6x6"
    few = found[1].timed(("spatial_svd", "tucker2"), 4)
    assert 2 <= len(few) <= 16
    costs = found[1].costs(("spatial_svd", "tucker2"), 4)
    assert all(costs[chain].macs < found[1].dense.macs for chain in few)
