"""Every target that is installed, on one compressed model with real data; and what happens when a target fails.

`make test-all` installs all extras and sets EDGECOMPRESS_ALL_TARGETS, with which a missing one is a failure.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from edgecompress.artifacts import Artifact
from edgecompress.cli import run_command_line
from edgecompress.decomposing import decompose
from edgecompress.devices.local import Local
from edgecompress.errors import ExportError, FileError, MissingExtra, ParityError
from edgecompress.exporting import ExportOptions, Outcome, export, export_each, fatal
from edgecompress.exporting.tolerances import TOLERANCES
from edgecompress.exporting.verifying import verify
from edgecompress.models import Sample
from edgecompress.plans import CompressionPlan, LayerPlan, Skipped
from edgecompress.profiling import compare, profile
from edgecompress.sources import resolve
from edgecompress.sources.compressed_folder import save_compressed
from edgecompress.targets import TARGETS, target_of
from edgecompress.targets.base import Job
from edgecompress.targets.child_converter import missing
from edgecompress.targets.litert import LiteRT
from edgecompress.targets.ncnn import refuse_dimensions, strides_as_pooling
from edgecompress.targets.onnx.sessions import session
from edgecompress.targets.products import product_notices
from tests.covering import slow

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),  # of the runtimes
]

ALL = "EDGECOMPRESS_ALL_TARGETS" in os.environ
NAMES = list(TARGETS)
INT8 = [name for name in NAMES if "int8" in TARGETS[name].precisions]
FP16 = [name for name in NAMES if "fp16" in TARGETS[name].precisions]
GRAPH_BYTES = {"onnx": 8_000, "ort": 16_000, "litert": 12_000, "executorch": 16_000, "openvino": 24_000}


def with_slow(names: list[str]) -> list[Any]:
    """OpenVINO's are slow: it is half of each test's time."""
    return [*(name for name in names if name != "openvino"), *slow(name for name in names if name == "openvino")]


def there(name: str) -> str:
    """The name of a target that is installed; skips the test where it is not, and `make test-all` fails."""
    if lacking := missing(TARGETS[name]):
        assert not ALL, f"{name}: {lacking} should be installed"
        pytest.skip(f"{name}: {', '.join(lacking)} not installed")
    return name


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """LeNet-5 with a Tucker-2 chain and an SVD chain, as a compressed-model folder; scored on the shipped images."""
    with pytest.MonkeyPatch.context() as patched:
        patched.delenv("EDGECOMPRESS_DATA", raising=False)
        dense = resolve("lenet5")
        layers = (
            LayerPlan("conv2", "tucker2", (24, 12), (50, 20, 5, 5), 0.0, None),
            LayerPlan("fc1", "svd", (60,), (500, 800), 0.0, None),
        )
        skipped = (Skipped("conv1", "small"), Skipped("fc2", "small"))
        plan = CompressionPlan(model="lenet5", layers=layers, skipped=skipped)
        folder = tmp_path_factory.mktemp("small")
        save_compressed(folder, decompose(dense.model(), plan), plan, dense)
        return resolve(str(folder))


@pytest.fixture(autouse=True)
def _shipped_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGECOMPRESS_DATA", raising=False)


@pytest.fixture(scope="module")
def made(small: Sample, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Artifact]:
    """The model in every installed format, in one folder."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patched:
        patched.delenv("EDGECOMPRESS_DATA", raising=False)
        outcomes = export_each(small.model(), small, folder, [name for name in NAMES if not missing(TARGETS[name])])
    assert [str(outcome.error) for outcome in outcomes if outcome.error] == []
    return {outcome.target: outcome.artifact for outcome in outcomes if outcome.artifact}


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_proved_by_its_own_runtime_and_holds_little_but_weights(name: str, made: dict[str, Artifact]) -> None:
    artifact = made[there(name)]
    weights = artifact.cost.weight_bytes
    assert weights <= artifact.size_bytes < 1.1 * (weights + GRAPH_BYTES.get(name, 16_000))
    assert artifact.approximation is not None
    assert artifact.approximation.parity.sqnr_db < 60
    if not TARGETS[name].runs_here:
        assert not artifact.parity
        assert artifact.summary()["status"] == "not run here"
        return
    assert artifact.max_abs_error < 1e-4 * artifact.parity[0].scale
    assert artifact.score is not None
    assert artifact.score.artifact == pytest.approx(artifact.score.torch, abs=0.05)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_verifies_and_a_change_to_any_part_is_seen(
    name: str, made: dict[str, Artifact], small: Sample, tmp_path: Path
) -> None:
    artifact = made[there(name)]
    found = verify(Artifact.load(artifact.path), small)
    assert [parity.batch for parity in found.parity] == ([1, 3] if TARGETS[name].runs_here else [])
    shutil.copytree(artifact.path.parent, tmp_path / "copy")
    for file in artifact.files:
        copy = tmp_path / "copy" / file.name
        inside = next(path for path in sorted(copy.rglob("*")) if path.is_file()) if copy.is_dir() else copy
        kept = inside.read_bytes()
        inside.write_bytes(kept[:-1])
        with pytest.raises(FileError, match="changed or truncated"):
            Artifact.load(tmp_path / "copy" / artifact.path.name)
        inside.write_bytes(kept)
    assert Artifact.load(tmp_path / "copy" / artifact.path.name).sha256 == artifact.sha256


@pytest.mark.usefixtures("brief_measuring")
@pytest.mark.parametrize("name", with_slow(NAMES))
def test_a_file_is_measured_in_its_own_runtime(name: str, made: dict[str, Artifact]) -> None:
    artifact = made[there(name)]
    assert target_of(artifact.path).name == name
    if not TARGETS[name].runs_here:
        with pytest.raises(FileError, match="no runtime for this machine"):
            profile(artifact.path, Local())
        return
    found = profile(artifact.path, Local(), runs=5, seconds=0.05)
    assert found.size_bytes == artifact.size_bytes
    assert found.params == artifact.cost.params
    assert 0 < found.latency.summary()["wall"]["p50"] < 1000
    assert found.runtime["version"]


@pytest.mark.parametrize("name", with_slow(INT8))
def test_int8_keeps_the_score_and_is_a_quarter(
    name: str, small: Sample, made: dict[str, Artifact], tmp_path: Path
) -> None:
    options = ExportOptions("int8", calibration=64)
    artifact = export(small.model(), small, tmp_path, target=there(name), options=options)
    assert artifact.path.name == f"model.int8{TARGETS[name].suffix}"
    assert artifact.precision == "int8"
    graph = made[name].size_bytes - made[name].cost.weight_bytes
    assert artifact.size_bytes < 0.3 * made[name].cost.weight_bytes + 4 * max(graph, 10_000)
    assert artifact.score is not None
    assert abs(artifact.score.artifact - artifact.score.torch) <= TOLERANCES["int8"].points
    assert 15 < artifact.sqnr_db < 60
    assert verify(Artifact.load(artifact.path), small).score == artifact.score


@pytest.mark.parametrize("name", with_slow(FP16))
def test_fp16_halves_the_file(name: str, small: Sample, made: dict[str, Artifact], tmp_path: Path) -> None:
    options = ExportOptions("fp16")
    artifact = export(small.model(), small, tmp_path, target=there(name), options=options)
    weights, graph = artifact.cost.weight_bytes, made[name].size_bytes - artifact.cost.weight_bytes
    assert artifact.size_bytes < 0.5 * weights + 2 * max(graph, 5_000)
    if TARGETS[name].runs_here:
        assert 45 < artifact.sqnr_db < 100


def test_litert_takes_images_with_channels_last(small: Sample, made: dict[str, Artifact], tmp_path: Path) -> None:
    options = ExportOptions(channels_last=True)
    artifact = export(small.model(), small, tmp_path, target=there("litert"), options=options)
    (spec,) = artifact.inputs
    assert (spec.shape, spec.layout) == ((1, 28, 28, 1), "NHWC")
    assert artifact.graph["transposes"] <= made["litert"].graph["transposes"]
    assert artifact.golden()[0][spec.name].shape == (1, 28, 28, 1)
    assert verify(Artifact.load(artifact.path), small).score == artifact.score
    with pytest.raises(ExportError, match="onnx: --channels-last is for litert only"):
        export(small.model(), small, tmp_path / "other", options=options)


LINKS = ("conv1", "conv2.reduce", "conv2.core", "conv2.expand", "fc1.reduce", "fc1.expand", "fc2")


def test_names_in_an_openvino_file_lead_back_to_the_layers(made: dict[str, Artifact]) -> None:
    artifact = made[there("openvino")]
    import openvino

    names = {op.get_friendly_name().split("/")[0] for op in openvino.Core().read_model(str(artifact.path)).get_ops()}
    assert set(LINKS) <= names


def test_openvino_reports_nothing_to_its_vendor() -> None:
    there("openvino")
    code = (
        "from edgecompress.targets.openvino import without_telemetry; without_telemetry();"
        "from openvino.tools.ovc import telemetry_utils; print(telemetry_utils.tm.__name__)"
    )
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert said.strip() == "openvino.tools.ovc.telemetry_stub"


def test_a_converter_of_a_onnx_imports_no_pytorch() -> None:
    """It would take the child seconds; the tools of ONNX Runtime do so unless they are kept from it."""
    code = (
        "import sys; from edgecompress.targets.ort import without_pytorch; without_pytorch();"
        "import onnxruntime.tools.convert_onnx_models_to_ort; print('torch' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert said.strip() == "False"


def test_names_in_a_litert_file_lead_back_to_the_layers(made: dict[str, Artifact]) -> None:
    artifact = made[there("litert")]
    from ai_edge_litert.tools import flatbuffer_utils

    (graph,) = flatbuffer_utils.read_model(str(artifact.path)).subgraphs
    names = " ".join(tensor.name.decode() for tensor in graph.tensors)
    for link in LINKS:
        assert link.rpartition(".")[2] in names


def test_ort_writes_both_styles_and_the_operators_a_reduced_build_needs(made: dict[str, Artifact]) -> None:
    folder = made["ort"].path.parent
    assert (folder / "model.with_runtime_opt.ort").is_file()
    said = (folder / "model.required_operators_and_types.config").read_text()
    assert said.splitlines() == made["ort"].graph["required_operators"]
    assert any("Conv" in line for line in made["ort"].graph["required_operators"])


def test_executorch_delegates_every_product(made: dict[str, Artifact]) -> None:
    graph = made[there("executorch")].graph
    assert graph["delegated_share"] > 0.8
    assert not [name for name in graph["not_delegated"] if "conv" in name or "linear" in name]


@pytest.mark.usefixtures("brief_measuring")
def test_two_models_of_one_target_are_compared_in_their_runtime(
    small: Sample, made: dict[str, Artifact], tmp_path: Path
) -> None:
    name = next((name for name in ("ncnn", "openvino", "litert") if name in made), "ort")
    dense = export(resolve("lenet5").model(), resolve("lenet5"), tmp_path, target=name, stem="dense")
    pair = compare(made[name].path, dense.path, Local(), runs=5, seconds=0.1)
    assert pair.wall.value > 1
    with pytest.raises(FileError, match="different targets"):
        compare(made[name].path, made["onnx"].path, Local())


class Sliced(nn.Module):
    """A residual shortcut as in CIFAR ResNets: every second pixel, more channels of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.conv(x) + nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 3))).mean((2, 3))


def sliced() -> Sample:
    torch.manual_seed(0)
    model = Sliced().eval()
    return Sample("sliced", "sliced.py", lambda: model, (torch.randn(4, 3, 12, 12),))


def test_a_slice_with_steps_is_a_pooling(tmp_path: Path) -> None:
    sample = sliced()
    TARGETS["onnx"].export(Job(sample.model(), sample.inputs), tmp_path / "m.onnx")
    proto = onnx.load_model(tmp_path / "m.onnx")
    before = session(proto.SerializeToString()).run(None, {"input": sample.inputs[0].numpy()})
    assert Counter(node.op_type for node in proto.graph.node)["Slice"] >= 1
    strides_as_pooling(proto)
    onnx.checker.check_model(proto, full_check=True)
    kinds = Counter(node.op_type for node in proto.graph.node)
    assert (kinds["Slice"], kinds["MaxPool"]) == (0, 1) or kinds["MaxPool"] >= 1
    after = session(proto.SerializeToString()).run(None, {"input": sample.inputs[0].numpy()})
    np.testing.assert_array_equal(before[0], after[0])


@pytest.mark.parametrize("name", ["ncnn", "litert", pytest.param("openvino", marks=pytest.mark.slow)])
def test_a_strided_shortcut_arrives(name: str, tmp_path: Path) -> None:
    sample = sliced()
    artifact = export(sample.model(), sample, tmp_path, target=there(name))
    assert artifact.max_abs_error < 1e-5


UNTRACEABLE = """
import torch
from torch import nn
from torch.utils.data import TensorDataset


class Branch(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        y = self.conv(x)
        return y.mean((2, 3)) if y.sum() > 0 else y.amax((2, 3))


def model():
    return Branch()


def example():
    return torch.randn(2, 3, 16, 16)
"""


def test_a_model_no_target_can_take_ends_in_a_line_for_each(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "branch.py").write_text(UNTRACEABLE)
    targets = [name for name in NAMES if not missing(TARGETS[name])]
    given = [part for name in targets for part in ("--target", name)]
    assert run_command_line(["export", str(tmp_path / "branch.py"), *given, "-o", str(tmp_path / "out"), "--json"]) == 1
    document = json.loads(capfd.readouterr().out)
    assert [item["target"] for item in document["artifacts"]] == targets
    assert {item["status"] for item in document["artifacts"]} == {"failed"}
    for item in document["artifacts"]:
        assert item["reason"].startswith(f"{item['target']}: ")
        assert "\n" not in item["reason"]
        assert "data-dependent" in item["reason"]
    assert not [file for file in (tmp_path / "out").glob("*") if file.suffix != ".log"]


def test_one_target_may_fail_unless_it_is_required(
    small: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("edgecompress.targets.child_converter.installed", lambda name: "" if "litert" in name else "1")
    arguments = ["export", small.source, "--target", "onnx", "--target", "litert", "-o", str(tmp_path / "o")]
    assert run_command_line(arguments) == 0
    said = capfd.readouterr()
    assert "error: litert: needs litert-torch, ai-edge-litert; pip install 'edgecompress[litert]'\n" in said.err
    assert run_command_line([*arguments, "--require", "litert", "--json"]) == 3
    statuses = [item["status"] for item in json.loads(capfd.readouterr().out)["artifacts"]]
    assert statuses == ["missing"]  # before any work
    assert run_command_line([*arguments, "--require", "ncnn"]) == 2
    assert "--require ncnn: is not among the targets" in capfd.readouterr().err


def test_what_makes_an_export_a_failure() -> None:
    bad, lacking = ExportError("onnx: no"), MissingExtra("litert: none")
    good = Outcome("ort", artifact=object())  # type: ignore[arg-type]
    assert fatal([good, Outcome("onnx", error=bad)]) is None
    assert fatal([good, Outcome("onnx", error=bad)], ["onnx"]) is bad
    assert fatal([Outcome("litert", error=lacking), Outcome("onnx", error=bad)]) is lacking


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("kill -SEGV $$", r"ort: the converter crashed \(SIGSEGV\); its output is in .*model\.ort\.log"),
        ("echo noise; exit 7", r"ort: the converter ended with 7; its output is in"),
        ("sleep 30", r"ort: the converter did not end within 1 s"),
    ],
)
def test_a_converter_that_crashes_or_hangs_is_an_export_error(
    script: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    fake = tmp_path / "python"
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    monkeypatch.setattr("edgecompress.targets.child_converter.TIMEOUT_S", 1.0)
    sample = sliced()
    with pytest.raises(ExportError, match=reason):
        export(sample.model(), sample, tmp_path / "o", target="ort")
    assert [file.name for file in (tmp_path / "o").iterdir()] == ["model.ort.log"]
    assert capfd.readouterr().out == ""


def test_a_precision_a_target_does_not_have_is_refused(small: Sample, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="ort: has no fp16; it has fp32, int8"):
        export(small.model(), small, tmp_path, target="ort", options=ExportOptions("fp16"))


def test_int8_that_computes_something_else_is_a_parity_error(
    small: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgecompress.exporting.jobs.calibration_of", lambda *_, **__: Tiny(small))
    with pytest.raises(ParityError, match=r"onnx: model\.int8\.onnx differs from PyTorch"):
        export(small.model(), small, tmp_path, options=ExportOptions("int8", equalize=False))
    assert not list(tmp_path.glob("model*"))


class Tiny:
    """Calibration inputs of the wrong range."""

    def __init__(self, sample: Sample) -> None:
        self.inputs = tuple(1e-3 * tensor for tensor in sample.inputs)


def test_another_number_of_products_is_told_and_refused_only_where_no_number_can_be_had() -> None:
    files = {"CONV_2D": 2, "ADD": 3}
    assert product_notices("litert", files, 2, proved=True) == []
    assert product_notices("litert", files, 3, proved=True) == [
        "the model has 3 convolutions and matrix products, the file 2: the converter merged or split some"
    ]
    assert len(product_notices("coreml", {"conv": 3}, 2, proved=False)) == 1
    with pytest.raises(ExportError, match=r"coreml: the model has 3 .* the file 1: .* lost some"):
        product_notices("coreml", {"conv": 1, "relu": 2}, 3, proved=False)
    assert product_notices("ncnn", {"MultiHeadAttention": 1, "InnerProduct": 1}, 7, proved=True) == []


class Attending(nn.Module):
    """What ncnn has as one layer: a whole attention; and a 1-D transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.attention = nn.ConvTranspose1d(8, 8, 4, 2, 1), nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.up(x).transpose(1, 2)
        return y + self.attention(y, y, y, need_weights=False)[0]


def test_layers_that_hold_several_products_arrive_in_ncnn(tmp_path: Path) -> None:
    model = Attending().eval()
    sample = Sample("attending", "attending", lambda: model, (torch.randn(2, 8, 6),))
    artifact = export(model, sample, tmp_path, target=there("ncnn"))
    assert artifact.graph["operators"]["MultiHeadAttention"] == 1
    assert artifact.graph["operators"]["Deconvolution1D"] == 1
    assert artifact.sqnr_db > 90


@pytest.mark.parametrize("shape", [(2, 1, 6, 8), (2, 4, 12)], ids=["image", "sequence"])
def test_a_net_without_convolutions_arrives_in_ncnn_without_its_batch_axis(
    shape: tuple[int, ...], tmp_path: Path
) -> None:
    """No layer says which axis is the batch."""
    torch.manual_seed(0)
    layers = (nn.Linear(shape[-1], 6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * math.prod(shape[1:-1]), 5), nn.Softmax(1))
    model = nn.Sequential(*layers).eval()
    artifact = export(model, Sample("net", "net", lambda: model, (torch.randn(shape),)), tmp_path, target=there("ncnn"))
    assert artifact.max_abs_error < 1e-5
    assert not any(kind.startswith("Pooling") for kind in artifact.graph["operators"])
    given = np.ascontiguousarray(torch.randn(1, *shape[1:]).numpy())
    (found,) = TARGETS["ncnn"].load(artifact.path)({artifact.inputs[0].name: given}).values()
    assert found.shape == (1, 5)


def test_channels_last_needs_an_image(tmp_path: Path) -> None:
    if not missing(TARGETS["litert"]):
        with pytest.raises(ExportError, match="the model has none"):
            LiteRT().export(Job(nn.Linear(3, 2), (torch.randn(1, 3),), channels_last=True), tmp_path / "m.tflite")


class Ids(nn.Module):
    """Token ids in, the likeliest class and whether it is likely out."""

    def __init__(self, labels: bool) -> None:
        super().__init__()
        self.labels = labels
        self.table, self.hidden, self.head = nn.Embedding(50, 16), nn.Linear(16, 16), nn.Linear(16, 5)

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = self.head(torch.relu(self.hidden(self.table(ids))).mean(1))
        return (y, y.argmax(1), y.amax(1) > 0.1) if self.labels else (y,)


def ids_score(outputs: tuple[torch.Tensor, ...], targets: torch.Tensor) -> float:
    if len(outputs) == 3:
        assert [output.dtype for output in outputs] == [torch.float32, torch.int64, torch.bool]
    return 100 * float((outputs[0].argmax(1) == targets).float().mean())


@pytest.mark.parametrize(
    ("name", "precision"), [("litert", "fp32"), ("litert", "int8"), ("openvino", "fp32"), ("executorch", "fp32")]
)
def test_whole_numbers_in_and_out(name: str, precision: str, tmp_path: Path) -> None:
    if not ALL:
        pytest.skip("in `make test-all`")
    model, ids = Ids(precision == "fp32").eval(), torch.randint(0, 50, (64, 7))
    with torch.no_grad():
        data = TensorDataset(ids, model(ids)[0].argmax(1))
    sample = Sample("ids", "ids", lambda: model, (ids[:2],), splits=lambda _: data, score=ids_score)
    options = ExportOptions(precision, calibration=32)
    artifact = export(model, sample, tmp_path, target=there(name), options=options)
    assert artifact.inputs[0].dtype in ("int32", "int64")
    assert artifact.score.artifact > (95 if precision == "fp32" else 80)
    assert verify(Artifact.load(artifact.path), sample).parity == artifact.parity


class Strided(nn.Module):
    """Weights and buffers that lie oddly in memory, and a transposed convolution in groups before a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1).to(memory_format=torch.channels_last)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.second.weight = nn.Parameter(torch.randn(8, 3, 8, 3).permute(0, 2, 1, 3) * 0.1)
        self.up, self.norm = nn.ConvTranspose2d(8, 8, 2, stride=2, groups=2), nn.BatchNorm2d(8)
        self.register_buffer("wide", torch.randn(1, 8, 1, 1).expand(1, 8, 12, 18))
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.norm(self.up(self.second(torch.relu(self.first(x))))) + self.wide).mean((2, 3))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "coreml"])
def test_tensors_may_lie_oddly_in_memory(name: str, tmp_path: Path) -> None:
    if not ALL and name != "onnx":
        pytest.skip("in `make test-all`")
    model = Strided().eval()
    sample = Sample("strided", "strided", lambda: model, (torch.randn(2, 3, 6, 9),))
    assert export(model, sample, tmp_path, target=there(name)).sqnr_db > 90


def test_inputs_that_ncnn_has_no_tensors_for_are_refused_by_shape() -> None:
    """Volumes were a KeyError of the converter."""
    refuse_dimensions([[1, 3, 8, 8], [1, 8], [1, 3, 8]])
    for shape in ([1, 3, 8, 8, 8], [1]):
        with pytest.raises(ExportError, match=r"takes inputs of 1 to 3 dimensions beside the batch, one is \[1"):
            refuse_dimensions([[1, 8], shape])
