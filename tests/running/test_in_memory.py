"""A model in memory, compressed by one line: what comes of it, and that the model stays as it is."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import edgecompress as ec
from edgecompress.errors import DataError

PIXELS = torch.randn(60, 3, 6, 6, generator=torch.Generator().manual_seed(0))
CLASSES = (PIXELS.mean((1, 2, 3)) > 0).long()


class Named(nn.Module):
    """Takes its inputs by name, and gives a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(108, 64), nn.ReLU(), nn.Linear(64, 2))

    def forward(self, pixels: Tensor, scale: Tensor | None = None) -> dict[str, Tensor]:
        given = pixels if scale is None else pixels * scale[:, None, None, None]
        return {"logits": self.body(given.flatten(1))}


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.Flatten(), nn.Linear(128, 2))


@pytest.fixture(scope="module")
def small() -> ec.Compressed:
    return ec.compress(net(), PIXELS[:2], keep=0.5, data=(PIXELS, CLASSES), epochs=1, name="net")


def test_the_model_stays_as_it_is_and_another_comes_out() -> None:
    dense = net().train()
    before = {name: tensor.clone() for name, tensor in dense.state_dict().items()}
    made = ec.compress(dense, PIXELS[:2], keep=0.5, data=PIXELS)
    assert dense.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in dense.state_dict().items())
    assert made.figures.scores is None
    assert made.figures.calibration is not None
    assert made.cost.compressed.macs <= made.cost.dense.macs / 2
    assert made.model(PIXELS).shape == (60, 2)
    assert made.plan.layers[0].name in dict(made.model.named_modules())


def test_labels_train_and_score(small: ec.Compressed) -> None:
    assert small.figures.training is not None
    assert small.figures.scores is not None
    assert small.figures.metric.name == "accuracy"
    shown = small._repr_html_()
    assert "net, compressed" in shown
    assert "accuracy" in shown
    assert "layers replaced" in small.plan._repr_html_()
    assert re.fullmatch(r"<Compressed net: [\d,]+ -> [\d,]+ MACs, [\d,]+ -> [\d,]+ parameters, in .*>", repr(small))


@pytest.mark.slow
@pytest.mark.usefixtures("brief_measuring")
def test_files_profiles_bundles_and_the_report(
    small: ec.Compressed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = small.export("onnx")
    assert file.path == Path("out/net/model.onnx")
    assert small.export("onnx") is file
    verdict = small.profile(seconds=0.05)
    assert isinstance(verdict, ec.Comparison)
    assert "speed-up, wall time" in verdict._repr_html_()
    assert small.bundle("pi").name == "manifest.json"
    report = small.report(seconds=0.05, quantize="int8")
    assert report.model == "net"
    assert report.files.compressed is not None
    assert report.files.dense is not None
    assert (report.files.dense.path, report.files.compressed.path) == ("dense.onnx", "model.int8.onnx")
    assert report.files.compressed.size_bytes < report.files.dense.size_bytes / 2
    assert (small.folder / "report.html").is_file()
    assert "Parity" in report._repr_html_()


def test_inputs_by_name_and_a_loss_of_ones_own() -> None:
    example = {"pixels": PIXELS[:2], "scale": torch.ones(2)}
    data = [{"pixels": PIXELS[i], "scale": 1.0, "labels": int(CLASSES[i])} for i in range(20)]
    made = ec.compress(Named(), example, keep=0.5, data=data, epochs=0)
    assert made.model(**example)["logits"].shape == (2, 2)
    with pytest.raises(DataError, match="the targets are float32, no classes; give loss="):
        ec.compress(net(), PIXELS[:2], keep=0.5, data=(PIXELS, PIXELS.mean((1, 2, 3))[:, None].repeat(1, 2)))
    own: dict[str, Any] = {"loss": nn.functional.mse_loss, "epochs": 0, "keep": 0.5}
    made = ec.compress(net(), PIXELS[:2], data=(PIXELS, PIXELS.mean((1, 2, 3))[:, None].repeat(1, 2)), **own)
    assert made.figures.metric.name == "score"


def test_what_does_not_go_is_refused_by_name() -> None:
    with pytest.raises(DataError, match=r"the example is a str without tensors; give one input batch"):
        ec.compress(net(), "example", keep=0.5)
    with pytest.raises(DataError, match="lenet5: brings its own data"):
        ec.compress("lenet5", keep=0.5, data=PIXELS)
    with pytest.raises(TypeError, match="keeep"):
        ec.compress(net(), PIXELS[:1], keeep=0.5)


def test_a_precision_that_does_not_go_is_refused_before_any_work(tmp_path: Path) -> None:
    sample = replace(ec.resolve("lenet5"), splits=None)
    chosen = {"tuning": ec.FineTuning(epochs=0), "calibrate": 0}
    for more, words in (
        ({"quantize": "int8"}, "has no data, which set the ranges of int8"),
        ({"keep_float": ("fc*",)}, "--keep-float is for --quantize"),
    ):
        with pytest.raises(ec.EdgeCompressError, match=words):
            ec.run(sample, tmp_path / "out", **chosen, **more)
    assert not (tmp_path / "out").exists()


def test_a_model_by_name_without_a_folder() -> None:
    made = ec.compress("lenet5", keep=0.5, calibrate=0, epochs=0)
    assert isinstance(made, ec.Compressed)
    assert made.cost.compressed.macs < made.cost.dense.macs
