"""int8 files whose outputs hold two kinds of numbers, or whose scores are masked, are right or are not there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from edgecompress.artifacts import Artifact
from edgecompress.errors import ExportError, ParityError
from edgecompress.exporting import ExportOptions, export, proving
from edgecompress.exporting.outputs import as_feed, run_model, run_rows
from edgecompress.exporting.verifying import verify
from edgecompress.models import Sample
from edgecompress.targets import TARGETS
from edgecompress.targets.child_converter import missing
from edgecompress.targets.mixed_precision import MASKED, KeepFloat, common_kind
from edgecompress.targets.onnx import Onnx
from tests.nets import Net

IMAGES = torch.randn(64, 2, 8, 8, generator=torch.Generator().manual_seed(0))
INT8 = ExportOptions("int8", calibration=64)


def detector(scale: float) -> nn.Module:
    """Boxes of 0 to ``scale`` beside scores of 0 to 1 in one tensor (N, 5, 16)."""

    def run(net: nn.Module, x: Tensor) -> Tensor:
        seen = net.stem(x).relu()
        return torch.cat([net.box(seen).sigmoid() * scale, (net.score(seen) - 1).sigmoid()], 1).flatten(2)

    torch.manual_seed(0)
    return Net(run, stem=nn.Conv2d(2, 8, 3, 2, 1), box=nn.Conv2d(8, 3, 1), score=nn.Conv2d(8, 2, 1))


def sample_of(model: nn.Module) -> Sample:
    data = TensorDataset(IMAGES, torch.zeros(64))
    return Sample("net", "net", lambda: model, (IMAGES[:2],), lambda _: data, score=lambda _outputs, _targets: 100.0)


def correlations(artifact: Artifact, model: nn.Module) -> np.ndarray:
    """Of each channel of the file's output with PyTorch's."""
    (ours,) = run_model(model, (IMAGES,))
    run = TARGETS[artifact.target].load(artifact.path)
    (theirs,) = run_rows(run, artifact.inputs, as_feed(artifact.inputs, (IMAGES,))).values()
    pairs = zip(np.moveaxis(ours, 1, 0), np.moveaxis(theirs, 1, 0), strict=True)
    return np.array([np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in pairs])


@pytest.mark.parametrize("scale", [24.0, 640.0])
def test_scores_beside_boxes_survive_int8_and_it_is_told_how(scale: float, tmp_path: Path) -> None:
    model = detector(scale).eval()
    artifact = export(model, sample_of(model), tmp_path, options=INT8)
    assert correlations(artifact, model).min() > 0.95
    (names,) = Artifact.load(artifact.path).graph["kept_float"].values()
    assert any("Concat" in name for name in names)
    assert not any("Conv" in name for name in names)
    assert verify(artifact, sample_of(model)).parity == artifact.parity


def test_a_file_whose_scores_are_lost_is_refused_by_verify_and_export(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    model = detector(640.0).eval()
    made = export(model, sample_of(model), tmp_path, options=INT8)
    monkeypatch.setattr("edgecompress.targets.onnx.quantization.wide_tensors", lambda *_: set())
    monkeypatch.setattr("edgecompress.exporting.proving.DEPTHS", ())
    lost = r"output\[:, 3:5\] is constant in the file, 0\.\d+\.\.0\.\d+ in PyTorch"
    with pytest.raises(
        ParityError, match=rf"onnx: model\.int8\.onnx differs from PyTorch: {lost}.*--keep-float"
    ) as told:
        export(model, sample_of(model), tmp_path / "other", options=INT8)
    assert told.value.outputs == (0,)
    assert not (tmp_path / "other").exists()
    kept = export(model, sample_of(model), tmp_path / "kept", options=replace(INT8, keep_float=("Concat",)))
    assert correlations(kept, model).min() > 0.95
    assert kept.graph["kept_float"] == {"--keep-float Concat": ["Concat"]}
    job = proving.Job(model, (IMAGES[:2],), precision="int8", calibration=(IMAGES[:16],), keep=KeepFloat())
    Onnx().export(job, made.path)
    with pytest.raises(ParityError, match=lost):
        verify(made, sample_of(model))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of the runtimes
@pytest.mark.parametrize("name", ["openvino", "litert", "executorch"])
def test_every_format_keeps_in_float_what_it_is_told_and_what_would_set_a_range(name: str, tmp_path: Path) -> None:
    if lacking := missing(TARGETS[name]):
        pytest.skip(f"needs {', '.join(lacking)}")
    model = detector(640.0).eval()
    options = ExportOptions("int8", calibration=32, keep_float=("score",))
    artifact = export(model, sample_of(model), tmp_path, target=name, options=options)
    assert correlations(artifact, model).min() > 0.95
    kept = {
        why: [common_kind(n.rpartition("/")[2]) for n in names] for why, names in artifact.graph["kept_float"].items()
    }
    assert "concat" in kept[MASKED]
    assert kept["--keep-float score"][-1:] == ["conv"]


def attention(mask: float) -> nn.Module:
    """One head over 8 positions that see only earlier ones."""

    def run(net: nn.Module, x: Tensor) -> Tensor:
        rows = x.flatten(2).transpose(1, 2).reshape(-1, 8, 16)
        scores = net.query(rows) @ net.key(rows).transpose(1, 2) / 4
        later = torch.ones(8, 8).triu(1)
        scores = scores.masked_fill(later > 0, mask) if mask == -np.inf else scores + later * mask
        return net.out(scores.softmax(-1) @ net.value(rows))

    torch.manual_seed(0)
    layers = {name: nn.Linear(16, 16) for name in ("query", "key", "value", "out")}
    return Net(run, **layers)


@pytest.mark.parametrize("mask", [torch.finfo(torch.float32).min, -1e4, -np.inf])
def test_a_mask_does_not_set_the_range_of_attention_scores(mask: float, tmp_path: Path) -> None:
    model = attention(mask).eval()
    artifact = export(model, sample_of(model), tmp_path, options=INT8)
    assert artifact.sqnr_db is not None
    assert artifact.sqnr_db > 18
    names = artifact.graph["kept_float"][MASKED]
    assert any("Softmax" in name for name in names)
    assert not any("MatMul" in name for name in names)
    assert any("Softmax" in notice and MASKED in notice for notice in artifact.notices)


def test_keep_float_is_refused_where_it_means_nothing(tmp_path: Path) -> None:
    model = detector(1.0).eval()
    with pytest.raises(ExportError, match="--keep-float is for --quantize int8 and fp16"):
        export(model, sample_of(model), tmp_path, options=ExportOptions(keep_float=("box",)))
    with pytest.raises(ExportError, match="onnx: --keep-float 'head' fits no layer"):
        export(model, sample_of(model), tmp_path, options=replace(INT8, keep_float=("head",)))
