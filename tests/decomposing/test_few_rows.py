"""Layers with more inputs than patches are fitted by the patches, to the same numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from edgecompress.calibrating import Calibration
from edgecompress.calibrating.sensitivity import Metric
from edgecompress.decomposing import few_rows
from edgecompress.decomposing.few_rows import FewRows, fittable, sums_of
from edgecompress.decomposing.least_squares import Parts
from edgecompress.decomposing.refitting import refit
from edgecompress.plans import CompressionPlan, LayerPlan, Skipped


def given_and_wanted(count: int, size: int) -> tuple[nn.Linear, Tensor, Tensor]:
    """A layer of few outputs, correlated inputs with a mean, and targets that are not quite its outputs."""
    drawn = torch.Generator().manual_seed(0)
    layer = nn.Linear(size, 6)
    inputs = torch.randn(count, 8, generator=drawn) @ torch.randn(8, size, generator=drawn) + 0.5
    inputs += 0.3 * torch.randn(count, size, generator=drawn)
    return layer, inputs, layer(inputs).detach() * 1.2 + 0.1 * torch.randn(count, 6, generator=drawn)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("centred", [False, True])
def test_patches_give_what_their_moments_give(*, own: bool, centred: bool) -> None:
    layer, inputs, wanted = given_and_wanted(32, 48)
    root = torch.randn(6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    metric = Metric((root @ root.T + torch.eye(6))[None])
    by_rows, by_moments = FewRows(layer, 1, own=own), Parts(layer, 32, own=own)
    for sums in (by_rows, by_moments):
        for start in (0, 16):
            sums.add(start, 16, inputs[start : start + 16], wanted[start : start + 16])
    ours, theirs = (sums.solution(metric, centred=centred) for sums in (by_rows, by_moments))
    assert torch.allclose(ours.weight.double(), theirs.weight.double(), rtol=1e-3, atol=1e-5)
    (sketch,) = ours.second
    second = sketch.rows.T @ sketch.rows + sketch.level * torch.eye(48)
    assert torch.allclose(second.double(), theirs.second[0].double(), rtol=1e-3, atol=1e-4)
    assert torch.allclose(ours.mean.double(), theirs.mean.double(), atol=1e-6)
    assert torch.allclose(ours.mean_rows.double(), theirs.mean_rows.double(), atol=1e-6)


def test_it_is_the_patches_where_they_are_fewer_or_their_moments_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    wide, convolution = nn.Linear(3000, 4, device="meta"), nn.Conv2d(800, 4, 3, device="meta")
    with torch.device("meta"):
        assert isinstance(sums_of(wide, "svd", 8, 8, own=True), FewRows)
        assert isinstance(sums_of(wide, "svd", 8, 3000, own=True), Parts)
        assert isinstance(sums_of(wide, "another", 8, 8, own=True), Parts)
        monkeypatch.setattr(few_rows, "MOST_MATRIX_BYTES", 1 << 24)
        sketched = sums_of(wide, "svd", 4096, 4096, own=True)
    assert isinstance(sketched, FewRows)
    assert sketched.apart == 2
    assert fittable(wide, "svd")
    assert not fittable(wide, "another")
    assert not fittable(convolution, "svd")


@pytest.mark.parametrize("asymmetric", [False, True])
def test_a_wide_layer_of_full_rank_keeps_its_outputs(*, asymmetric: bool) -> None:
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(2100, 8), nn.Tanh(), nn.Linear(8, 4)).eval()
    layers, rest = (LayerPlan("0", "svd", (8,), (8, 2100), 0.0),), (Skipped("2", "small"),)
    plan = CompressionPlan(model="", layers=layers, skipped=rest, rehearsed=True)
    inputs = torch.randn(24, 2100)
    made = refit(dense, plan, Calibration((inputs,), classes=False), asymmetric=asymmetric)
    torch.testing.assert_close(made(inputs), dense(inputs), rtol=1e-3, atol=1e-4)
