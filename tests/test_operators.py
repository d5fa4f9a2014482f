"""Operators as runtimes name them lead back to the model's layers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn

from edgecompress.benching import Effort
from edgecompress.devices import Local
from edgecompress.exporting import export
from edgecompress.operators import compared_layers, is_slower, source_layer, with_layers, with_second_round
from edgecompress.profiles import Operator, Profile
from edgecompress.profiling import measure
from edgecompress.resolving import resolve

NAMES = ("conv1", "conv10", "layer1.0.conv1", "fc")


@pytest.mark.parametrize(
    ("layer", "source"),
    [
        ("conv1", "conv1"),
        ("conv1.reduce", "conv1"),
        ("conv10.expand", "conv10"),
        ("layer1.0.conv1.core", "layer1.0.conv1"),
        ("fc/MatMul", "fc"),
        ("pool", None),
        (None, None),
    ],
)
def test_a_link_belongs_to_its_layer(layer: str | None, source: str | None) -> None:
    assert source_layer(layer, NAMES) == source


def test_names_that_a_runtime_changed_are_recognised(tmp_path: Path) -> None:
    sample = resolve("lenet5")
    path = export(sample.model(), sample, tmp_path).path
    names = ("conv2d_nchwc", "conv2d_1_nchwc", "fused fc1/Gemm", "pool1/MaxPool", "ReorderOutput_token_14", "fc2/Gemm")
    found = with_layers(path, [Operator(name, "any", 1.0) for name in names])
    assert [operator.layer for operator in found] == ["conv1", "conv2", "fc1", "pool1", None, "fc2"]


def test_a_product_that_was_fused_with_what_follows_belongs_to_its_own_layer(tmp_path: Path) -> None:
    sample = resolve("resnet20")
    path = export(sample.model(), replace(sample, splits=None), tmp_path).path
    found = measure(path, None, Local(), Effort(seconds=0.01), threads=[]).profile
    assert isinstance(found, Profile)
    products = [operator for operator in found.operators if operator.kind.endswith(("Conv", "Gemm"))]
    weighted = {name for name, layer in sample.model().named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)}
    assert {operator.layer for operator in products} == weighted
    assert len(products) == len(weighted)


def test_times_of_a_layer_are_added_up_and_the_rest_is_told_apart() -> None:
    dense = [Operator("a", "Conv", 0.2, "conv1"), Operator("b", "Conv", 0.1, "fc"), Operator("c", "Pool", 0.05, None)]
    chain = [Operator("d", "Conv", 0.06, "conv1.reduce"), Operator("e", "Conv", 0.05, "conv1.expand")]
    rows = compared_layers(dense, [*chain, Operator("b", "Conv", 0.2, "fc")], ["conv1", "fc", "unseen"])
    assert [(row["name"], row["dense"], row["slower"]) for row in rows] == [
        ("conv1", 0.2, False),
        ("fc", 0.1, True),
        ("unseen", None, None),
        (None, 0.05, None),
    ]
    assert rows[0]["compressed"] == pytest.approx(0.11)


def test_a_layer_is_slower_only_if_it_is_in_both_rounds_of_both_files() -> None:
    quiet, busy = [Operator("a", "Conv", 0.2, "fc")], [Operator("a", "Conv", 0.4, "fc")]
    before = with_second_round(quiet, [Operator("a", "Conv", 0.3, "fc")])
    row, _ = compared_layers(before, with_second_round(busy, [Operator("a", "Conv", 0.25, "fc")]), ["fc"])
    assert (row["dense"], row["compressed"], row["slower"]) == (0.2, 0.25, False)
    row, _ = compared_layers(before, with_second_round(busy, busy), ["fc"])
    assert (row["dense"], row["compressed"], row["slower"]) == (0.2, 0.4, True)
    assert with_second_round(quiet, [Operator("a", "Conv", 0.1, "other")]) == tuple(quiet)


def test_a_layer_is_slower_only_by_more_than_times_waver() -> None:
    assert is_slower(1.0, 1.2)
    assert not is_slower(1.0, 1.03)
    assert not is_slower(0.003, 0.004)
    assert is_slower(None, 1.0) is None
