"""Operators as runtimes name them lead back to the model's layers."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgecompress.devices import Local
from edgecompress.errors import FileError
from edgecompress.exporting import export
from edgecompress.models import copied
from edgecompress.profiling import layers_of, measure
from edgecompress.profiling.ablation import with_dense_layer
from edgecompress.profiling.comparisons import Comparison
from edgecompress.profiling.operators import (
    FileTimes,
    compared_layers,
    is_slower,
    source_layer,
    suspects,
    with_layers,
    with_second_round,
)
from edgecompress.profiling.profiles import Operator, Profile
from edgecompress.profiling.ratios import Ratio
from edgecompress.settings import Effort, ExportOptions
from edgecompress.sources import resolve
from edgecompress.targets import TARGETS, Job
from tests.nets import Net

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


@pytest.mark.usefixtures("brief_measuring")
@pytest.mark.slow
def test_a_product_that_was_fused_with_what_follows_belongs_to_its_own_layer(tmp_path: Path) -> None:
    sample = resolve("resnet20")
    path = export(sample.model(), replace(sample, splits=None), tmp_path, options=ExportOptions(rewrite="off")).path
    found = measure(path, None, Local(), Effort(seconds=0.01), threads=[]).profile
    assert isinstance(found, Profile)
    products = [operator for operator in found.operators if operator.kind.endswith(("Conv", "Gemm"))]
    weighted = {name for name, layer in sample.model().named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)}
    assert {operator.layer for operator in products} == weighted
    assert len(products) == len(weighted)


def operator(
    kind: str, wall_ms: float, layer: str | None, again_ms: float | None = None, added: float = 0.0
) -> Operator:
    return Operator(kind, kind, wall_ms, layer, again_ms, wall_ms + added)


def test_times_of_a_layer_are_added_up_and_the_rest_is_told_apart() -> None:
    fc = operator("Gemm", 0.1, "fc")
    dense = FileTimes((operator("Conv", 0.2, "conv1"), fc, operator("Pool", 0.05, None)), (0.5,))
    chain = [operator("Conv", 0.06, "conv1.reduce"), operator("Conv", 0.05, "conv1.expand")]
    links = [operator("Gemm", 0.1, "fc.reduce"), operator("Gemm", 0.1, "fc.expand")]
    rows = compared_layers(dense, FileTimes((*chain, *links), (0.5,)), ["conv1", "fc", "unseen"])
    assert [(row.name, row.dense, row.slower) for row in rows] == [
        ("conv1", 0.2, False),
        ("fc", 0.1, True),
        ("unseen", None, None),
        (None, 0.05, None),
    ]
    assert rows[0].compressed == pytest.approx(0.11)


def test_layers_add_up_to_the_latency_of_their_file() -> None:
    """Whatever the machine did in either round: times are brought to those of the file when it took turns."""
    both = (operator("Conv", 0.3, "conv1", 0.6), operator("Gemm", 0.1, "fc", 0.2))
    file = FileTimes(both, (0.5, 1.0), 0.25)
    (conv, fc, _) = compared_layers(file, file, ["conv1", "fc"])
    assert conv.dense == pytest.approx(0.15)
    assert fc.dense == pytest.approx(0.05)
    assert file.outside_ms() == pytest.approx(0.05)
    assert FileTimes(both).outside_ms() is None


def test_a_layer_seems_slower_only_if_it_is_in_both_rounds_of_both_files() -> None:
    before = FileTimes((operator("Conv", 0.2, "fc", 0.3),), (1.0,))
    quiet, busy = (FileTimes((operator("Conv", first, "fc.reduce", 0.4),), (1.0,)) for first in (0.25, 0.5))
    assert compared_layers(before, quiet, ["fc"])[0].slower is False
    assert suspects(before, quiet, ["fc"]) == []
    assert compared_layers(before, busy, ["fc"])[0].slower is True
    assert suspects(before, busy, ["fc"]) == ["fc"]
    assert with_second_round(busy.operators, [Operator("a", "Conv", 0.1, "other")]) == busy.operators


def test_what_the_profiler_adds_makes_no_chain_slower() -> None:
    """Three links of 5 us each beside a layer of 20 us, each with 3.5 us more by the profiler: 25.5 beside 23.5 us."""
    dense = FileTimes((operator("Conv", 0.020, "conv1", added=0.0035),), (0.05,))
    links = tuple(operator("Conv", 0.005, f"conv1.{link}", added=0.0035) for link in ("reduce", "core", "expand"))
    assert sum(link.profiled_ms or 0 for link in links) > 0.0235
    assert compared_layers(dense, FileTimes(links, (0.05,)), ["conv1"])[0].slower is False
    doubtful = tuple(replace(link, wall_ms=0.008, profiled_ms=0.0115) for link in links)
    assert compared_layers(dense, FileTimes(doubtful, (0.05,)), ["conv1"])[0].slower is None
    assert suspects(dense, FileTimes(doubtful, (0.05,)), ["conv1"]) == ["conv1"]
    unknown = [replace(file, whole_ms=()) for file in (dense, FileTimes(doubtful))]
    assert compared_layers(unknown[0], unknown[1], ["conv1"])[0].slower is None


def test_a_layer_that_stayed_as_it_was_is_not_called_slower() -> None:
    before, after = (FileTimes((operator("Conv", ms, "conv1"),), (1.0,)) for ms in (0.2, 0.4))
    assert compared_layers(before, after, ["conv1"])[0].slower is None
    assert suspects(before, after, ["conv1"]) == []


@pytest.mark.parametrize(
    ("ratio", "slower"),
    [(Ratio(0.9, 0.85, 0.95), True), (Ratio(0.97, 0.9, 1.02), False), (Ratio(1.2, 1.1, 1.3), False)],
)
def test_the_whole_file_decides_where_it_was_asked(ratio: Ratio, slower: bool) -> None:
    before, after = (FileTimes((operator("Conv", ms, name),), (1.0,)) for ms, name in ((0.2, "a"), (0.4, "a.b")))
    row, _ = compared_layers(before, after, ["a"], {"a": ratio})
    assert row.slower is slower
    assert row.ablation == ratio


def test_a_layer_seems_slower_only_by_more_than_times_waver() -> None:
    assert is_slower(1.0, 1.2)
    assert not is_slower(1.0, 1.03)
    assert not is_slower(0.003, 0.004)


# -- one layer put back ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, nn.Module, Path, Path]:
    """A small net, the same with three chains, one of which is much slower than its layer, and both files."""
    torch.manual_seed(0)

    def run(net: Any, x: Tensor) -> Any:
        return net.fc(torch.relu(net.wide(torch.relu(net.conv(x)))).flatten(1))

    def chain(**links: nn.Module) -> nn.Module:
        return nn.Sequential(OrderedDict(links))

    conv, wide, fc = nn.Conv2d(8, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1), nn.Linear(512, 64)
    net = Net(run, conv=conv, wide=wide, fc=fc).eval()
    small = Net(
        run,
        conv=chain(reduce=nn.Conv2d(8, 8, 3, padding=1, bias=False), expand=nn.Conv2d(8, 32, 1)),
        wide=chain(
            vertical=nn.Conv2d(32, 8, (3, 1), padding=(1, 0)), horizontal=nn.Conv2d(8, 32, (1, 3), padding=(0, 1))
        ),
        fc=chain(reduce=nn.Linear(512, 1024, bias=False), core=nn.Linear(1024, 1024), expand=nn.Linear(1024, 64)),
    ).eval()
    folder, inputs = tmp_path_factory.mktemp("files"), (torch.randn(2, 8, 4, 4),)
    paths = [folder / "dense.onnx", folder / "small.onnx"]
    for model, path in zip((net, small), paths, strict=True):
        TARGETS["onnx"].export(Job(model, inputs), path)
    return net, small, *paths


def test_a_layer_put_back_is_the_layer_and_nothing_else_changes(
    files: tuple[nn.Module, nn.Module, Path, Path], tmp_path: Path
) -> None:
    net, small, dense, compressed = files
    x, names = torch.randn(3, 8, 4, 4), ("conv", "wide", "fc")
    for name in names:
        with_dense_layer(compressed, dense, name, names, tmp_path / "one.onnx")
        mixed = copied(small)
        setattr(mixed, name, net.get_submodule(name))
        (found,) = TARGETS["onnx"].load(tmp_path / "one.onnx")({"input": x.numpy()}).values()
        with torch.no_grad():
            assert torch.allclose(torch.from_numpy(found), mixed(x), atol=1e-4)
    with pytest.raises(FileError, match="other: has not one way in and one way out"):
        with_dense_layer(compressed, dense, "other", names, tmp_path / "none.onnx")


@pytest.mark.usefixtures("brief_measuring")
@pytest.mark.slow
def test_a_chain_that_is_truly_slower_is_called_so_and_no_other(
    files: tuple[nn.Module, nn.Module, Path, Path],
) -> None:
    _, _, dense, compressed = files
    found = measure(compressed, dense, Local(), Effort(seconds=0.1), threads=[])
    rows = {row.name: row for row in layers_of(found)}
    assert rows["fc"].slower is True
    assert rows["fc"].ablation.high < 1
    assert not rows["conv"].slower
    assert not rows["wide"].slower
    assert isinstance(found.comparison, Comparison)
    again = Comparison.from_json(found.comparison.to_json())
    assert again.ablations == found.comparison.ablations
    older = {key: value for key, value in found.comparison.to_json().items() if key not in ("ablations", "quantiles")}
    assert Comparison.from_json(older).ablations == {}
    for role, latency in (("dense", "baseline_latency"), ("compressed", "candidate_latency")):
        whole = getattr(found.comparison, latency).summary()["wall"]["p50"]
        assert sum(getattr(row, role) or 0 for row in rows.values()) == pytest.approx(whole, rel=0.02)
