"""What a model takes and gives: odd inputs and outputs, code that fixes the batch, tensors that lie oddly in memory."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from edgecompress.artifacts import Artifact, TensorSpec
from edgecompress.bundling import bundle
from edgecompress.cli import run_command_line
from edgecompress.devices import Local
from edgecompress.errors import BatchError, DataError, ExportError, FileError, MissingExtra, ModelError, ParityError
from edgecompress.exporting import ExportOptions, export, export_each
from edgecompress.exporting.equalizing import equalized
from edgecompress.exporting.outputs import as_feed, compare, run_rows
from edgecompress.exporting.preparing import prepared
from edgecompress.exporting.verifying import check_parity, verify
from edgecompress.models import Sample, copied
from edgecompress.profiling import profile
from edgecompress.targets import TARGETS
from edgecompress.targets.refusing import refusing
from edgecompress.targets.runtimes import refuse_crashing


def sample_of(model: nn.Module, *inputs: Tensor, **more) -> Sample:
    model.eval()
    return Sample("odd", "odd", lambda: model, inputs, **more)


class Odd(nn.Module):
    """Outputs of every odd kind."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 10, 3)
        self.register_buffer("anchors", torch.randn(5, 4))

    def forward(self, x: Tensor, unused: Tensor) -> tuple[Tensor, ...]:
        y = self.conv(x)
        forbidden = y.masked_fill(torch.arange(10).view(-1, 1, 1) % 3 == 0, -torch.inf)
        return y, y, unused, self.anchors, y.argmax(1), y.amax(1) > 0.5, forbidden, y.relu()


def test_an_output_may_be_an_input_a_constant_another_output_whole_numbers_or_infinite(tmp_path: Path) -> None:
    sample = sample_of(Odd(), torch.randn(2, 3, 8, 8), torch.randn(2, 7))
    artifact = export(sample.model(), sample, tmp_path)
    assert [spec.name for spec in artifact.outputs] == [f"output_{index}" for index in range(8)]
    assert [spec.dtype for spec in artifact.outputs][4:6] == ["int64", "bool"]
    assert [spec.name for spec in artifact.inputs] == ["input_0", "input_1"]
    assert artifact.notices == ()
    assert verify(Artifact.load(artifact.path), sample).parity == artifact.parity
    assert artifact.golden()[1]["output_3"].shape == (5, 4)


class Detector(nn.Module):
    """Any number of inputs; no masks, as it was not asked for them."""

    def __init__(self) -> None:
        super().__init__()
        self.classes, self.boxes = nn.Linear(6, 3), nn.Linear(6, 4)

    def forward(self, *images: Tensor) -> tuple[Tensor | None, ...]:
        return self.classes(images[0]), None, self.boxes(images[0] + images[1])


def detector_score(outputs: tuple[Tensor | None, ...], targets: Tensor) -> float:
    classes, masks, boxes = outputs
    assert masks is None
    assert boxes is not None
    return float((classes.argmax(1) == targets).float().mean() + boxes.sign().mean())


def test_any_number_of_inputs_and_outputs_that_are_none(tmp_path: Path) -> None:
    first, second = torch.randn(40, 6), torch.randn(40, 6)
    data = TensorDataset(first, second, torch.randint(0, 3, (40,)))
    sample = sample_of(Detector(), first[:2], second[:2], splits=lambda _: data, score=detector_score)
    artifact = export(sample.model(), sample, tmp_path)
    assert [spec.name for spec in artifact.inputs] == ["input_0", "input_1"]
    assert [spec.name for spec in artifact.outputs] == ["output_0", "output_1"]
    assert artifact.notices == (
        "of the model's 3 outputs 1 is None and left out; those in the file are 0, 2, in order",
    )
    assert artifact.score.artifact == pytest.approx(artifact.score.torch, abs=1e-3)
    assert verify(Artifact.load(artifact.path), sample).score is not None


def test_a_prepared_copy_runs_itself_and_not_what_it_was_copied_from() -> None:
    model = Detector().eval()
    given = prepared(model, (torch.ones(2, 6), torch.ones(2, 6))).model
    other = copied(given)
    with torch.no_grad():
        other.boxes.weight.zero_()
        other.boxes.bias.zero_()
    _, boxes = other(torch.ones(2, 6), torch.ones(2, 6))
    assert not boxes.any()
    assert model(torch.ones(2, 6), torch.ones(2, 6))[1] is None
    equalized(given, (torch.ones(2, 6), torch.ones(2, 6)))


def test_tensors_of_a_prepared_model_lie_in_the_order_of_their_axes() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1)).to(memory_format=torch.channels_last)
    model[1].weight = nn.Parameter(torch.randn(8, 1, 8, 1).permute(0, 2, 1, 3))
    model.register_buffer("wide", torch.randn(1, 8, 1, 1).expand(1, 8, 6, 6))
    model.loose = torch.randn(4, 6).T
    made = prepared(model, (torch.randn(2, 3, 8, 8),))
    given, said = made.model, list(made.notices)
    for tensor in (*given.parameters(), given.wide, given.loose):
        assert tensor.stride() == torch.empty(tensor.shape).stride()
    for name, tensor in model.state_dict().items():
        assert torch.equal(given.state_dict()[name], tensor)
    assert model[0].weight.stride() != given[0].weight.stride()
    assert said == []


class Baked(nn.Module):
    """Takes the batch size as a number, as older code does."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.values = nn.Parameter(torch.randn(3, 8)), nn.Linear(12, 8)

    def forward(self, x: Tensor) -> Tensor:
        size = int(x.shape[0])
        return self.query.unsqueeze(0).repeat(size, 1, 1) * self.values(x).view(size, 1, 8)


@pytest.mark.usefixtures("brief_measuring")
def test_code_that_fixes_the_batch_gets_a_file_for_one_item_and_all_that_follows_works(tmp_path: Path) -> None:
    sample = sample_of(Baked(), torch.randn(2, 12))
    artifact = export(sample.model(), sample, tmp_path)
    assert artifact.inputs[0].shape == (1, 12)
    assert [parity.batch for parity in artifact.parity] == [1]
    words = "takes batches of 1 only: the model's code fixes the batch size, as len(x) does and x.shape[0] does not"
    assert artifact.notices == (words,)
    assert Artifact.load(artifact.path) == artifact
    assert verify(artifact, sample).parity == artifact.parity
    assert profile(artifact.path, Local(), runs=5, seconds=0.01).batch == 1


@pytest.mark.usefixtures("brief_measuring")
def test_a_batch_of_ones_own_is_proved_measured_and_bundled(tmp_path: Path) -> None:
    data = TensorDataset(torch.randn(10, 12), torch.zeros(10))
    sample = sample_of(
        Baked(), torch.randn(2, 12), splits=lambda _: data, score=lambda outputs, _: float(outputs.abs().mean())
    )
    artifact = export(sample.model(), sample, tmp_path / "made", options=ExportOptions(batch=4))
    assert artifact.inputs[0].shape == (4, 12)
    assert [parity.batch for parity in artifact.parity] == [4]
    assert artifact.notices == ("takes batches of 4 only: as requested with --batch-size",)
    assert artifact.golden()[0]["input"].shape == (4, 12)
    assert artifact.score.artifact == pytest.approx(artifact.score.torch, rel=1e-4)  # 10 items: the last part is short
    assert verify(Artifact.load(artifact.path), sample).parity == artifact.parity
    assert profile(artifact.path, Local(), runs=5, seconds=0.01).batch == 4
    manifest = json.loads(bundle(artifact.path, tmp_path / "app", platform="pi").read_text())
    assert manifest["inputs"][0]["shape"] == [4, 12]


class OnlyTwo(nn.Module):
    """A number of the author's own batch in the code."""

    def forward(self, x: Tensor) -> Tensor:
        return x.view(2, 12) * 2


def test_a_model_that_runs_on_its_examples_batch_alone(tmp_path: Path) -> None:
    sample = sample_of(OnlyTwo(), torch.randn(2, 12))
    artifact = export(sample.model(), sample, tmp_path)
    assert artifact.inputs[0].shape == (2, 12)
    assert artifact.notices[0].startswith("takes batches of 2 only: PyTorch runs the model on its example of so many")
    with pytest.raises(ModelError, match="does not run on a batch of 5 of shape"):
        export(sample.model(), sample, tmp_path / "five", options=ExportOptions(batch=5))
    with pytest.raises(ExportError, match="ncnn: takes one item at a time; drop --batch-size"):
        export(sample.model(), sample, tmp_path / "other", target="ncnn")


class Raised(nn.Module):
    """Transposed convolutions in groups with a batch norm behind each; the second's output is seen by others too."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.norm = nn.ConvTranspose2d(6, 9, 3, groups=3, bias=False), nn.BatchNorm2d(9)
        self.on, self.other = nn.ConvTranspose2d(9, 6, 2, groups=3), nn.BatchNorm2d(6, affine=False)
        for norm in (self.norm, self.other):
            norm.running_mean.uniform_(-1, 1)
            norm.running_var.uniform_(0.1, 2)
        nn.init.uniform_(self.norm.weight)
        nn.init.uniform_(self.norm.bias)

    def forward(self, x: Tensor) -> Tensor:
        y = self.on(self.norm(self.up(x)).relu())
        return self.other(y) + y


def test_a_batch_norm_is_folded_into_a_transposed_convolution_in_groups_that_nobody_else_sees() -> None:
    model, x = Raised().double().eval(), torch.randn(2, 6, 5, 5).double()
    made = prepared(model, (x,))
    given, said = made.model, list(made.notices)
    assert said == []
    assert [type(layer).__name__ for layer in given.children()][1::2] == ["Identity", "BatchNorm2d"]
    assert torch.allclose(given(x), model(x), atol=1e-12)
    assert isinstance(model.norm, nn.BatchNorm2d)


class Short(nn.Module):
    """Multiplies in bfloat16, for which ONNX Runtime has no kernel on processors."""

    def forward(self, x: Tensor) -> Tensor:
        return (x.bfloat16() * x[:, :1].bfloat16()).float()


def test_a_target_whose_runtime_cannot_run_the_model_takes_no_other_along(tmp_path: Path) -> None:
    sample = sample_of(Short(), torch.randn(2, 6))
    first, second = export_each(sample.model(), sample, tmp_path, ["onnx", "ncnn"])
    for outcome in (first, second):
        assert isinstance(outcome.error, ExportError | MissingExtra)
        assert str(outcome.error).startswith(f"{outcome.target}: ")
        assert str(tmp_path) not in str(outcome.error) or ".log" in str(outcome.error)


def test_what_any_target_raises_is_that_targets_outcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = sample_of(nn.Linear(3, 2), torch.randn(2, 3))
    raised = iter(
        [ValueError("no such axis"), MemoryError(), FileError("/tmp/x: not whole"), RuntimeError("bad_alloc")]
    )

    def refuse(*_: object) -> None:
        raise next(raised)

    monkeypatch.setattr("edgecompress.targets.onnx.Onnx.export", refuse)
    said = [str(o.error) for _ in range(4) for o in export_each(sample.model(), sample, tmp_path, ["onnx"])]
    assert said[0] == "onnx: the converter failed: ValueError: no such axis; try another target"
    assert "onnx: the converter ran out of memory (MemoryError" in said[1]
    assert said[2].startswith("onnx: the converter /tmp/x: not whole")
    assert "ran out of memory" in said[3]
    assert not list(tmp_path.glob("model*"))


def test_errors_of_ours_and_of_the_disk_stay_what_they_are() -> None:
    for error in (ParityErrorOf("x"), MissingExtra("y"), DataError("z"), OSError("disk")):
        with pytest.raises(type(error)), refusing("onnx", "anything"):
            raise error


class ParityErrorOf(ParityError):
    def __init__(self, message: str) -> None:
        super().__init__(message, target="", max_abs_error=0, sqnr_db=0, tolerance=0)


def parity_of(expected, found):
    return compare(3, [np.asarray(expected)], [np.asarray(found)])


def test_infinities_and_nan_are_equal_to_themselves_and_to_nothing_else() -> None:
    inf, nan = np.inf, np.nan
    assert parity_of([1.0, -inf, nan], [1.0, -inf, nan]).max_abs_error == 0
    assert parity_of([1.0, -inf, nan], [1.5, -inf, nan]) == parity_of([1.0, 0, 0], [1.5, 0, 0])
    for wrong in ([1.0, inf, nan], [1.0, -1e30, nan], [1.0, -inf, 0.0], [nan, -inf, nan]):
        assert parity_of([1.0, -inf, nan], wrong).max_abs_error == inf
    assert parity_of([nan, nan], [nan, nan]).max_abs_error == inf


def test_whole_numbers_are_compared_by_value_and_in_any_dtype() -> None:
    labels = np.array([3, 50_000, 7, 9])
    for kind in (np.int32, np.int64, np.float32):
        assert parity_of(labels, labels.astype(kind)).max_abs_error == 0
    assert parity_of(labels, labels + np.array([0, 1, 0, 0])).max_abs_error == 0.25
    assert parity_of([True, False], np.array([1, 0], np.uint8)).max_abs_error == 0
    assert parity_of(np.zeros(3, np.float32), np.zeros(3, np.int32)).max_abs_error == np.inf
    assert parity_of(np.zeros(3, np.float32), np.zeros(3)).max_abs_error == np.inf


def test_whole_numbers_are_fed_in_the_dtype_that_the_file_takes() -> None:
    spec = (TensorSpec("ids", "int32", (1, 3)),)
    assert as_feed(spec, (torch.tensor([[1, 2, 3]]),))["ids"].dtype == np.int32
    with pytest.raises(ExportError, match="ids: the file takes int32, which cannot hold 4294967296"):
        as_feed(spec, (torch.tensor([[1, 2**32, 3]]),))


@pytest.mark.parametrize("size", [1, 4, 9])
def test_rows_go_through_a_file_of_one_batch_size(size: int) -> None:
    specs = (TensorSpec("x", "float32", (size, 2)),)
    given = np.arange(18, dtype=np.float32).reshape(9, 2)

    def run(feed):
        assert feed["x"].shape == (size, 2)
        return {"twice": 2 * feed["x"], "constant": np.ones((5, 4))}

    found = run_rows(run, specs, {"x": given})
    assert np.array_equal(found["twice"], 2 * given)
    assert found["constant"].shape == (5, 4)


class Holding:
    """A target whose file is right at some batch sizes."""

    name = "holding"

    def __init__(self, wrong: dict[int, float]) -> None:
        self.wrong = wrong

    def load(self, _path: Path):
        return lambda feed: {"y": feed["x"] * (1 + self.wrong.get(len(feed["x"]), 0.0))}


def test_numbers_of_one_batch_in_a_graph_are_told_from_a_file_that_is_wrong() -> None:
    specs, given = (TensorSpec("x", "float32", ("batch", 4)),), (torch.randn(2, 4),)

    def checked(wrong):
        return check_parity(Holding(wrong), Path("m"), specs, nn.Identity(), given)

    assert len(checked({})) == 2
    with pytest.raises(BatchError, match="holding: the file holds at batch 1 only: holding: m differs") as one:
        checked({3: 0.5})
    assert one.value.batch == 1
    for wrong in ({3: 2e-4}, {1: 0.5, 3: 0.5}):
        with pytest.raises(ParityError):
            checked(wrong)


LINEAR = """
import torch


def model():
    torch.manual_seed(0)
    return torch.nn.Linear(6, 3)


def example():
    return torch.randn(2, 6)
"""


def test_the_command_line_takes_a_batch(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.py").write_text(LINEAR)
    assert run_command_line(["export", str(tmp_path / "net.py"), "--batch", "3", "-o", str(tmp_path / "o")]) == 0
    assert "model.onnx: takes batches of 3 only: as requested with --batch-size" in capfd.readouterr().out
    assert run_command_line(["verify", str(tmp_path / "o"), "--trust"]) == 0
    assert "at batch 3" in capfd.readouterr().out
    assert TARGETS["onnx"].signature(tmp_path / "o" / "model.onnx")[0][0].shape == (3, 6)


def test_int8_of_transposed_convolutions_in_groups(tmp_path: Path) -> None:
    net = nn.Sequential(
        nn.ConvTranspose2d(4, 6, 4, stride=2, padding=1), nn.ReLU(), nn.ConvTranspose2d(6, 4, 3, groups=2)
    )
    with torch.no_grad():
        net[0].weight *= torch.logspace(-1, 0, 6).view(1, -1, 1, 1)
        net[2].bias += torch.randn(4)
    images = torch.randn(32, 4, 6, 6)
    data = TensorDataset(images, images)
    sample = sample_of(net, images[:2], splits=lambda _: data, score=lambda outputs, _: float(outputs.mean()))
    artifact = export(net, sample, tmp_path, options=ExportOptions("int8", calibration=16))
    assert artifact.sqnr_db > 30
    proto = onnx.load_model(artifact.path)
    scales = {tensor.name: onnx.numpy_helper.to_array(tensor).size for tensor in proto.graph.initializer}
    weights = [node for node in proto.graph.node if node.op_type == "DequantizeLinear" and "weight" in node.input[0]]
    assert sorted(scales[node.input[1]] for node in weights) == [1, 6]


class Cached(nn.Module):
    """A buffer made for the batch of the last call."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.ones = nn.Linear(12, 8), None

    def forward(self, x: Tensor) -> Tensor:
        if self.ones is None or len(self.ones) != len(x):
            self.ones = torch.ones(len(x), 8)
        return self.linear(x) + self.ones


@pytest.mark.slow
@pytest.mark.parametrize("target", ["ort", "openvino"])
@pytest.mark.parametrize("kind", [Baked, Cached, OnlyTwo])
def test_code_that_fixes_the_batch_in_the_other_formats(kind: type[nn.Module], target: str, tmp_path: Path) -> None:
    sample = sample_of(kind(), torch.randn(2, 12))
    artifact = export(sample.model(), sample, tmp_path, target=target)
    assert artifact.inputs[0].shape == (2 if kind is OnlyTwo else 1, 12)
    assert verify(Artifact.load(artifact.path), sample).parity == artifact.parity


class InPlace(nn.Module):
    """Writes into its input; gives a single number too."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.linear(x.mul_(2).add_(1))
        return y, y.new_ones(()) * 3


def test_a_model_may_write_into_its_input_and_give_a_number(tmp_path: Path) -> None:
    given = torch.randn(2, 6)
    sample, before = sample_of(InPlace(), given), given.clone()
    artifact = export(sample.model(), sample, tmp_path)
    assert artifact.outputs[1].shape == ()
    assert verify(Artifact.load(artifact.path), sample).parity == artifact.parity
    assert torch.equal(given, before)


@pytest.mark.parametrize(
    ("script", "said"), [("os.kill(os.getpid(), 11)", r"crashed \(SIGSEGV\)"), ("time.sleep(9)", "hangs")]
)
def test_a_runtime_that_crashes_or_hangs_takes_nothing_along(
    script: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "bench.py"
    fake.write_text(f"import os, time\n{script}\n")
    monkeypatch.setattr("edgecompress.targets.runtimes.bench_script", lambda: fake)
    monkeypatch.setattr("edgecompress.targets.runtimes.RUN_TIMEOUT_S", 2.0)
    with pytest.raises(ExportError, match=f"ncnn: its runtime {said} on the file; try another target"):
        refuse_crashing("ncnn", tmp_path / "model.ncnn.param", 1)
    assert TARGETS["ncnn"].may_crash
    assert not TARGETS["onnx"].may_crash  # it refuses what it cannot run


def test_weights_that_no_onnx_can_hold_are_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgecompress.targets.onnx.LARGEST_BYTES", 1000)
    sample = sample_of(nn.Linear(64, 64), torch.randn(2, 64))
    with pytest.raises(ExportError, match=r"onnx: the weights take .* GB, one \.onnx holds .*; compress more"):
        export(sample.model(), sample, tmp_path)
