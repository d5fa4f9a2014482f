"""fp16: what leaves half precision is found by operator and layer, kept in float32 where it can be, else refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from edgecompress.errors import ExportError
from edgecompress.exporting import ExportOptions, export
from edgecompress.exporting.outputs import run_model
from edgecompress.models import Sample
from edgecompress.targets.half_precision import beyond_half
from tests.nets import Net

INPUTS = (torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(0)),)


def masked(mask: float) -> nn.Module:
    """Attention scores of which later positions are masked by an addition."""

    def run(_net: nn.Module, x: Tensor) -> Tensor:
        rows = x.flatten(2).transpose(1, 2)
        return (rows @ rows.transpose(1, 2) + torch.ones(16, 16).triu(1) * mask).softmax(-1) @ rows

    return Net(run)


def over_norm(net: nn.Module, x: Tensor) -> Tensor:
    del net
    return x / (x.norm(dim=1, keepdim=True) + 1e-12)


def mean_square(net: nn.Module, x: Tensor) -> Tensor:
    return net.scale(x * 500).pow(2).mean((2, 3)).sqrt()


def weighted(value: float, size: int = 3) -> nn.Module:
    net = Net(lambda net, x: (x * 1e-6 * net.weight.view(-1, 1, 1)).tanh())
    net.weight = nn.Parameter(torch.full((size,), value))
    return net


BEYOND = {
    "norm": (Net(over_norm), "add of the model: its constant 1e-12 is 0"),
    "normalize": (Net(lambda _net, x: nn.functional.normalize(x)), "clamp_min of the model: its constant 1e-12 is 0"),
    "log": (Net(lambda _net, x: (x.abs() + 1e-10).log()), "add of the model: its constant 1e-10 is 0"),
    "layer norm": (Net(lambda n, x: n.norm(x), norm=nn.LayerNorm(4, eps=1e-12)), "layer_norm of norm: its constant"),
    "instance norm": (nn.Sequential(nn.InstanceNorm2d(3, eps=1e-12)), "batch_norm of 0: its constant 1e-12 is 0"),
    "squares": (Net(mean_square, scale=nn.Identity()), "pow of the model reaches"),
    "deviations": (Net(lambda n, x: n.norm(x * 500), norm=nn.LayerNorm(4)), "layer_norm of norm, where it squares,"),
    "activation": (nn.Sequential(nn.Conv2d(3, 3, 1)), "convolution of 0 reaches"),
    "mask": (masked(-1e9), "add of the model reaches 1e+09"),
    "lowest mask": (masked(torch.finfo(torch.float32).min), "reaches 3.4e+38, half precision ends at 65,504"),
    "weight": (weighted(1e6), "the weight weight reaches 1e+06"),
    "small weight": (weighted(1e-9), "the weight weight is at most 1e-09, which is 0 in half precision"),
}
with torch.no_grad():
    BEYOND["activation"][0][0].weight.mul_(1e6)  # type: ignore[index, union-attr, operator]


def run_own(net: nn.Module, x: Tensor) -> Tensor:
    return net.norm(net.conv(x)).clamp(max=1e9).masked_fill(x > 1, -torch.inf).softmax(1)


WITHIN = {
    "usual": Net(run_own, conv=nn.Conv2d(3, 3, 1), norm=nn.BatchNorm2d(3)),
    "encoder": nn.Sequential(nn.Flatten(2), nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)),
    "layer norm": Net(lambda n, x: n.norm(x), norm=nn.LayerNorm(4)),
    "small mask": masked(-1e4),
}


@pytest.mark.parametrize("name", BEYOND)
def test_what_half_precision_cannot_hold_is_named(name: str) -> None:
    model, expected = BEYOND[name]
    assert any(expected in said for said in beyond_half(model.eval(), [INPUTS])), beyond_half(model, [INPUTS])


@pytest.mark.parametrize("name", WITHIN)
def test_what_half_precision_holds_is_not(name: str) -> None:
    assert beyond_half(WITHIN[name].eval(), [INPUTS, INPUTS]) == []


def sample_of(model: nn.Module) -> Sample:
    return Sample("net", "net", lambda: model, INPUTS)


FP16 = ExportOptions("fp16")


@pytest.mark.parametrize("name", ["normalize", "squares", "deviations", "lowest mask"])
def test_a_onnx_is_right_in_true_half_arithmetic(name: str, tmp_path: Path) -> None:
    """Run by numpy, which computes in float16 what the file says is float16; zeros, too, whose norm is nothing."""
    model = BEYOND[name][0].eval()
    artifact = export(model, sample_of(model), tmp_path, options=FP16)
    fed = torch.cat([INPUTS[0], torch.zeros(1, 3, 4, 4)])
    (expected,) = run_model(model, (fed,))
    with np.errstate(all="ignore"):
        (found,) = ReferenceEvaluator(onnx.load(artifact.path)).run(None, {"input": fed.numpy()})
    assert np.abs(found - expected).max() < 5e-3 * np.abs(expected).max()
    assert artifact.graph["kept_float"]
    assert all("half precision" in why for why in artifact.graph["kept_float"])


def test_a_mask_that_two_layers_share_stays_in_float32_once(tmp_path: Path) -> None:
    def run(_net: nn.Module, x: Tensor) -> Tensor:
        mask = x.amax(1).clamp(0, 1).flatten(1).unsqueeze(1) * -1e9
        return ((x.flatten(2) + mask).softmax(-1) + (x.flatten(2) * 2 + mask).softmax(-1)) * x.flatten(2)

    model = Net(run).eval()
    artifact = export(model, sample_of(model), tmp_path, options=FP16)
    assert artifact.sqnr_db is not None
    assert artifact.sqnr_db > 40


@pytest.mark.parametrize("target", ["openvino", "ncnn", "litert", "coreml"])
def test_formats_that_cannot_keep_it_refuse_before_any_work_and_say_how(target: str, tmp_path: Path) -> None:
    model = BEYOND["norm"][0].eval()
    way = rf"{target}: fp16: add of the model: its constant 1e-12 is 0 in half precision.*an eps of 1e-6.*--target onnx"
    with pytest.raises(ExportError, match=way):
        export(model, sample_of(model), tmp_path, target=target, options=FP16)
    assert list(tmp_path.iterdir()) == []


def test_layers_of_ones_choice_stay_in_float32(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    artifact = export(model, sample_of(model), tmp_path, options=ExportOptions("fp16", keep_float=("2",)))
    assert artifact.graph["kept_float"] == {"--keep-float 2": ["2/Conv"]}
    weights = {tensor.name: tensor.data_type for tensor in onnx.load(artifact.path).graph.initializer}
    assert weights["0.weight"] == onnx.TensorProto.FLOAT16
    assert weights["2.weight"] == onnx.TensorProto.FLOAT
    with pytest.raises(ExportError, match="ncnn: fp16 is for all operators there"):
        export(model, sample_of(model), tmp_path, target="ncnn", options=ExportOptions("fp16", keep_float=("2",)))
