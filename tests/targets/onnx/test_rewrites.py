"""Rewrites of a graph: they compute the same, only where they should, and are kept where the file is no slower."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgecompress.exporting import ExportOptions, export, rewriting
from edgecompress.models import Sample
from edgecompress.targets.base import Job
from edgecompress.targets.onnx import Onnx
from edgecompress.targets.onnx.graphs import small_feed
from edgecompress.targets.onnx.rewrites import REWRITES, rewritten
from edgecompress.targets.onnx.sessions import session

Function = Callable[[Tensor], Tensor]


class Between(nn.Module):
    """A function between two convolutions."""

    def __init__(self, function: Function, channels: int) -> None:
        super().__init__()
        self.first, self.last, self.function = nn.Conv2d(3, 4, 3), nn.Conv2d(channels, 2, 3), function

    def forward(self, x: Tensor) -> Tensor:
        """First, the function, last."""
        made: Tensor = self.last(self.function(F.relu(self.first(x))))
        return made


def graph_of(model: nn.Module) -> onnx.ModelProto:
    torch.manual_seed(0)
    job = Job(model.eval(), (torch.randn(2, 3, 12, 12),))
    return Onnx(simplify=False).graph_of(job.model, job)[0]


def outputs(proto: onnx.ModelProto) -> np.ndarray:
    onnx.checker.check_model(proto, full_check=True)
    made: np.ndarray = session(proto.SerializeToString()).run(None, small_feed(proto))[0]
    return made


def operators(proto: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in proto.graph.node)


def zeros_behind(x: Tensor) -> Tensor:
    return torch.cat([x, x.mul(0)], 1)


SHORTCUTS: dict[str, tuple[Function, int]] = {
    "both sides": (lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 3)), 9),
    "behind, one axis": (lambda x: F.pad(x[:, :, ::2], (0, 0, 0, 0, 0, 4)), 8),
    "pooled": (lambda x: zeros_behind(F.avg_pool2d(x, 1, 2)), 8),
    "stepped, then zeros before": (lambda x: torch.cat([(y := x[:, :, ::3, ::2]).mul(0), y], 1), 8),
}
OTHERS: dict[str, tuple[Function, int]] = {
    "from the second": (lambda x: x[:, :, 1::2, ::2], 4),
    "padded pixels": (lambda x: F.pad(x, (1, 1, 0, 0, 1, 1)), 6),
    "ones": (lambda x: F.pad(x, (0, 0, 0, 0, 1, 1), value=1.0), 6),
    "not zero": (lambda x: torch.cat([x, x.mul(2)], 1), 8),
}


@pytest.mark.parametrize("name", SHORTCUTS)
def test_a_shortcut_without_parameters_is_one_convolution(name: str) -> None:
    proto = graph_of(Between(*SHORTCUTS[name]))
    before = outputs(proto)
    assert rewritten(proto, ("shortcuts",)) == {"shortcuts": 1}
    assert operators(proto) == {"Conv": 3, "Relu": 1}
    np.testing.assert_array_equal(outputs(proto), before)
    assert len({node.name for node in proto.graph.node}) == len(proto.graph.node)


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_such_shortcut_stays(name: str) -> None:
    proto = graph_of(Between(*OTHERS[name]))
    before = proto.SerializeToString()
    assert rewritten(proto, tuple(REWRITES)) == {}
    assert proto.SerializeToString() == before


def test_a_tensor_that_others_read_is_not_stepped_over() -> None:
    def both(x: Tensor) -> Tensor:
        stepped = x[:, :, ::2, ::2]
        return F.pad(stepped, (0, 0, 0, 0, 2, 2)) + stepped.mean(1, keepdim=True)

    proto = graph_of(Between(both, 8))
    before = outputs(proto)
    rewritten(proto, ("shortcuts",))
    assert operators(proto)["Slice"] > 0
    np.testing.assert_array_equal(outputs(proto), before)


def bottleneck(wide: int, *, bias: bool = True) -> nn.Module:
    ends = nn.Conv2d(4, wide, 1, stride=2, bias=bias), nn.Conv2d(wide, 5, 1, bias=bias)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), *ends, nn.ReLU(), nn.Conv2d(5, 2, 3))


@pytest.mark.parametrize("bias", [True, False])
def test_two_pointwise_convolutions_are_one_where_that_is_smaller(bias: bool) -> None:
    proto = graph_of(bottleneck(32, bias=bias))
    before = outputs(proto)
    assert rewritten(proto, ("pointwise",)) == {"pointwise": 1}
    assert operators(proto) == {"Conv": 3, "Relu": 2}
    np.testing.assert_allclose(outputs(proto), before, rtol=1e-4, atol=1e-6)
    assert rewritten(graph_of(bottleneck(2)), ("pointwise",)) == {}
    assert rewritten(graph_of(bottleneck(32)), ("pointwise",), weights=False) == {}


def sample_of(function: Function, channels: int) -> tuple[nn.Module, Sample]:
    model = Between(function, channels).eval()
    return model, Sample("between", "between", lambda: model, (torch.zeros(2, 3, 12, 12),))


@pytest.mark.parametrize(("slower", "kept"), [(False, True), (True, False)])
def test_a_rewrite_is_kept_where_the_file_is_no_slower(
    slower: bool, kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = [[1.0] * 9, [2.0 if slower else 0.5] * 9]
    monkeypatch.setattr(rewriting, "in_turns", lambda _runs: times)
    made = export(*sample_of(*SHORTCUTS["both sides"]), tmp_path)
    (fact,) = made.graph["rewritten"]
    assert (fact["kept"], fact["places"], fact["speedup"]) == (kept, 1, 0.5 if slower else 2.0)
    assert ("Pad" in made.graph["operators"]) is not kept
    assert any("shortcuts without parameters made convolutions: " in notice for notice in made.notices)


@pytest.mark.parametrize("mode", ["on", "off"])
def test_without_measuring_all_or_nothing_is_rewritten(mode: str, tmp_path: Path) -> None:
    options = ExportOptions(rewrite=mode)  # type: ignore[arg-type]
    made = export(*sample_of(*SHORTCUTS["pooled"]), tmp_path, options=options)
    assert ("rewritten" in made.graph) is (mode == "on")
    assert made.graph["operators"]["Conv"] == (3 if mode == "on" else 2)
