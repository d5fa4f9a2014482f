"""Every method, of every kind of layer that it replaces, in every format.

The fast suite has the .onnx, from which three others are made; `make test-all` has them all.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from edgecompress.decomposing import decompose
from edgecompress.decompositions import DECOMPOSITIONS
from edgecompress.exporting import export
from edgecompress.models import Sample
from edgecompress.plans import CompressionPlan, LayerPlan
from edgecompress.settings import ExportOptions
from edgecompress.targets import TARGETS
from edgecompress.targets.child_converter import missing

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),  # of the runtimes
]

ALL = "EDGECOMPRESS_ALL_TARGETS" in os.environ

KINDS = {
    "conv2d": lambda: nn.Conv2d(8, 8, 3, stride=2, padding=1),
    "conv2d grouped": lambda: nn.Conv2d(8, 8, 3, padding=1, groups=2),
    "conv2d pointwise": lambda: nn.Conv2d(8, 8, 1, stride=2),
    "conv transposed 2d": lambda: nn.ConvTranspose2d(8, 8, 4, stride=2, padding=1),
    "conv transposed 2d grouped": lambda: nn.ConvTranspose2d(8, 8, 3, stride=2, groups=2),
    "conv1d": lambda: nn.Conv1d(8, 8, 3, stride=2, padding=1),
    "conv1d grouped": lambda: nn.Conv1d(8, 8, 3, padding=1, groups=2),
    "conv1d without bias": lambda: nn.Conv1d(8, 8, 3, bias=False),
    "conv transposed 1d": lambda: nn.ConvTranspose1d(8, 8, 4, stride=2, padding=1),
    "conv transposed 1d grouped": lambda: nn.ConvTranspose1d(8, 8, 3, stride=2, groups=2),
    "linear": lambda: nn.Linear(8, 8),
}


class Rows(nn.Module):
    """(N, C, H, W) as (N, C, H W)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2)


def dimensions(layer: nn.Module) -> int:
    return 0 if isinstance(layer, nn.Linear) else len(layer.kernel_size)


def compressed(method: str) -> tuple[nn.Module, Sample]:
    """One net of all kinds of layers that the method replaces, 2-D before 1-D before matrices; all replaced."""
    torch.manual_seed(0)
    layers = [layer for made in KINDS.values() if DECOMPOSITIONS[method].supports(layer := made())]
    x = torch.randn((2, 8, 12, 8) if dimensions(layers[0]) == 2 else (2, 8, 24))
    inputs, steps = (x,), []
    for layer in layers:
        if dimensions(layer) < x.dim() - 2:
            steps.append(Rows() if dimensions(layer) else nn.Flatten())
            x = steps[-1](x)
        steps.append(layer if dimensions(layer) else nn.Linear(x.shape[1], 8))
        x = steps[-1](x)
        steps.append(nn.ReLU())
    model = nn.Sequential(*steps[:-1]).eval()
    planned = [
        LayerPlan(name, method, ranks_of(method, layer), tuple(layer.weight.shape), 0.0, None)
        for name, layer in model.named_children()
        if not isinstance(layer, Rows | nn.Flatten | nn.ReLU)
    ]
    plan = CompressionPlan(model=method, layers=tuple(planned))
    small = decompose(model, plan).eval()
    return small, Sample(method, method, lambda: small, inputs, plan=plan)


def ranks_of(method: str, layer: nn.Module) -> tuple[int, ...]:
    return tuple(max(1, min(4, rank // 2)) for rank in DECOMPOSITIONS[method].max_ranks(layer))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("method", DECOMPOSITIONS)
def test_every_kind_of_layer_arrives(method: str, target: str, tmp_path: Path) -> None:
    lacking = missing(TARGETS[target])
    if not ALL and (target != "onnx" or lacking):
        pytest.skip("in `make test-all`")
    assert not lacking, f"{target}: {lacking} should be installed"
    model, sample = compressed(method)
    artifact = export(model, sample, tmp_path, target=target, options=ExportOptions(rewrite="off"))
    if target == "onnx":
        assert artifact.notices == ()  # every link is one product
    if TARGETS[target].runs_here:
        assert artifact.sqnr_db > 90
