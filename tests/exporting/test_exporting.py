"""An exported file is one file, has the chain and nothing else, and computes what PyTorch does, or is not there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from edgecompress import exporting
from edgecompress.artifacts import Artifact, golden_path
from edgecompress.decomposing import decompose
from edgecompress.decompositions import DECOMPOSITIONS
from edgecompress.errors import ExportError, FileError, ParityError
from edgecompress.exporting import ExportOptions, export, export_each
from edgecompress.exporting.inputs import probe
from edgecompress.exporting.outputs import compare, run_model
from edgecompress.exporting.score_checks import predict_with_file
from edgecompress.exporting.verifying import verify
from edgecompress.models import Sample
from edgecompress.planning import plan
from edgecompress.plans import CompressionPlan, LayerPlan
from edgecompress.scoring import split_score
from edgecompress.selectors import Budget
from edgecompress.sources import resolve
from edgecompress.targets import TARGETS, Job, Precision
from edgecompress.targets.onnx import Onnx
from tests.nets import Net


def compressed(sample: Sample, keep: float = 0.3) -> tuple[nn.Module, Sample]:
    """The sample's model at a fraction of its MACs, and the sample with the plan and model."""
    dense = sample.model()
    chosen = plan(dense, sample.inputs, Budget(keep), name=sample.name)
    small = decompose(dense, chosen)
    return small, replace(sample, plan=chosen, build=lambda: small)


@pytest.fixture(scope="module")
def lenet(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Sample, Artifact]:
    small, sample = compressed(resolve("lenet5"))
    return small, sample, export(small, sample, str(tmp_path_factory.mktemp("lenet")))


def test_the_file_is_alone_and_says_its_opset(lenet: tuple[nn.Module, Sample, Artifact]) -> None:
    _, _, artifact = lenet
    names = sorted(file.name for file in artifact.path.parent.iterdir())
    assert names == ["model.onnx", "model.onnx.golden.npz", "model.onnx.json"]
    proto = onnx.load(artifact.path, load_external_data=False)
    assert proto.opset_import[0].version == Onnx().opset == 20
    assert proto.ir_version == Onnx().ir_version == 10
    assert [spec.shape[0] for spec in (*artifact.inputs, *artifact.outputs)] == ["batch", "batch"]
    text = proto.SerializeToString()
    assert b"/site-packages/" not in text
    assert not any(node.metadata_props for node in proto.graph.node)


def test_the_chain_is_there_under_its_names_and_nothing_else(lenet: tuple[nn.Module, Sample, Artifact]) -> None:
    _, sample, artifact = lenet
    names = [node.name for node in onnx.load(artifact.path).graph.node]
    assert sample.plan is not None
    for layer in sample.plan.layers:
        operator = "Gemm" if layer.name.startswith("fc") else "Conv"
        ours = [name for name in names if name.startswith(f"{layer.name}.")]
        assert ours == [f"{layer.name}.{link}/{operator}" for link in DECOMPOSITIONS[layer.method].links]
    assert len(names) == len(set(names))


Exported = tuple[nn.Module, Sample, Artifact]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Exported]:
    """A shipped sample compressed and exported, once."""

    @cache
    def of(name: str) -> Exported:
        small, sample = compressed(replace(resolve(name), splits=None))
        return small, sample, export(small, sample, tmp_path_factory.mktemp(name))

    return of


@pytest.mark.parametrize("name", ["lenet5", "lenet300", pytest.param("resnet20", marks=pytest.mark.slow)])
def test_exporting_again_is_byte_identical(name: str, exported: Callable[[str], Exported], tmp_path: Path) -> None:
    small, sample, one = exported(name)
    two = export(small, sample, tmp_path)
    assert one.path.read_bytes() == two.path.read_bytes()
    assert golden_path(one.path).read_bytes() == golden_path(two.path).read_bytes()


def test_batch_norm_is_folded_and_shortcuts_are_convolutions(tmp_path: Path) -> None:
    resnet = resolve("resnet20")
    torch.manual_seed(0)
    one_block_each = type(resnet.model())(1).eval()  # in three stages, as the whole
    _, sample = compressed(replace(resnet, splits=None, build=lambda: one_block_each))
    operators = export(sample.model(), sample, tmp_path, options=ExportOptions(rewrite="on")).graph["operators"]
    assert sample.plan is not None
    links = sum(len(DECOMPOSITIONS[layer.method].links) for layer in sample.plan.layers)
    dense = sum(layer.name != "linear" for layer in sample.plan.skipped)
    shortcuts = 2
    assert operators["Conv"] == links + dense + shortcuts
    assert set(operators) == {"Add", "Conv", "Gemm", "ReduceMean", "Relu"}


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_the_file_agrees_with_pytorch_at_any_batch(lenet: tuple[nn.Module, Sample, Artifact], batch: int) -> None:
    small, sample, artifact = lenet
    inputs = probe(sample.inputs, batch)
    parity = compare(
        batch,
        run_model(small, inputs),
        [predict_with_file(artifact.path, TARGETS["onnx"], artifact.inputs)(inputs[0]).numpy()],
    )
    assert parity.max_abs_error < 1e-4 * parity.scale
    assert parity.sqnr_db > 100


def test_verify_scores_through_the_file(lenet: tuple[nn.Module, Sample, Artifact]) -> None:
    _, sample, artifact = lenet
    found = verify(Artifact.load(artifact.path), sample)
    assert found.score is not None
    assert found.score.artifact == pytest.approx(found.score.torch, abs=0.05)
    assert found.score.torch > 90
    assert found.score == artifact.score


def test_facts_round_trip(lenet: tuple[nn.Module, Sample, Artifact]) -> None:
    artifact = lenet[2]
    assert Artifact.load(artifact.path) == artifact
    inputs, outputs = artifact.golden()
    assert inputs["input"].shape == (3, 1, 28, 28)
    assert outputs["output"].shape == (3, 10)


@dataclass(frozen=True)
class Lossy(Onnx):
    """A target that writes another model than it was given: what a faulty exporter does."""

    factor: float = 1.001

    def export(self, job: Job, path: Path) -> dict[str, object]:
        with torch.no_grad():
            next(job.model.parameters()).mul_(self.factor)
        return Onnx.export(self, job, path)


class Reshaped(nn.Module):
    """Its code takes a batch of two alone."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        """(2, 4)."""
        return self.layer(x.reshape(2, 6)) * 2


def _counted(monkeypatch: pytest.MonkeyPatch, holder: object, name: str) -> list[int]:
    """Grows by one with each call of a function."""
    calls, real = [], getattr(holder, name)

    def counted(*given: object, **options: object) -> object:
        calls.append(1)
        return real(*given, **options)

    monkeypatch.setattr(holder, name, counted)
    return calls


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_an_export_to_several_targets_traces_once(
    precision: Precision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4)).eval()
    data = TensorDataset(torch.randn(32, 6), torch.randint(4, (32,)))
    sample = Sample("mine", "mine.py", lambda: model, (torch.randn(2, 6),), splits=lambda _: data)
    options = ExportOptions(precision, calibration=16)
    alone = export(model, sample, tmp_path / "alone", options=options)
    traced = _counted(monkeypatch, torch.onnx, "export")
    ranged = _counted(monkeypatch, exporting.jobs, "equalized")
    onnx_file, ort_file = export_each(model, sample, tmp_path, ["onnx", "ort"], options=options)
    assert ort_file.error is None
    assert onnx_file.artifact is not None
    assert onnx_file.artifact.sha256 == alone.sha256
    assert len(traced) == 1
    assert len(ranged) == (precision == "int8")


def test_what_fixes_the_batch_is_seen_once_and_every_target_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Reshaped().eval()
    sample = Sample("mine", "mine.py", lambda: model, (torch.randn(2, 6),))
    traced = _counted(monkeypatch, torch.onnx, "export")
    for outcome in export_each(model, sample, tmp_path, ["onnx", "ort"]):
        assert outcome.artifact is not None
        assert outcome.artifact.notices[-1].startswith("takes batches of 2 only: PyTorch runs the model on its example")
    assert len(traced) == 1


def test_attention_whose_layout_the_exporter_takes_for_another_is_exported(tmp_path: Path) -> None:
    """With a mask for each group of items, as windows have: the traced strides are not those that are computed."""

    def run(net: Net, x: Tensor) -> Tensor:
        query, key, value = net.mixed(x).view(x.shape[0], 16, 3, 2, 16).permute(2, 0, 3, 1, 4)
        seen = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=net.near[None])
        return net.out(seen.transpose(1, 2).contiguous().reshape(x.shape[0], 16, 32))

    model = Net(run, mixed=nn.Linear(32, 96), out=nn.Linear(32, 4)).eval()
    model.near = nn.Parameter(torch.randn(2, 16, 16))
    with pytest.raises(torch.onnx.errors.OnnxExporterError):
        torch.onnx.export(model, (torch.randn(4, 16, 32),), dynamo=True, verbose=False)
    sample = Sample("windows", "windows", lambda: model, (torch.randn(4, 16, 32),))
    artifact = export(model, sample, tmp_path)
    assert artifact.inputs[0].shape[0] == "batch"
    assert artifact.max_abs_error < 1e-4


def test_a_refusal_is_remembered_with_its_reason_and_named_for_each_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = resolve("lenet300")

    def refuse(*_given: object, **_options: object) -> None:
        refused.append(1)
        raise RuntimeError("no such operator")

    refused: list[int] = []
    monkeypatch.setattr(torch.onnx, "export", refuse)
    first, second = (str(outcome.error) for outcome in export_each(sample.model(), sample, tmp_path, ["onnx", "ort"]))
    assert first == "onnx: PyTorch's exporter refused the model: RuntimeError: no such operator"
    assert second == f"ort: {first}"
    assert len(refused) == 2  # with a free batch, then at one


def test_a_mismatch_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = resolve("lenet300")
    export(sample.model(), sample, tmp_path)
    monkeypatch.setitem(TARGETS, "onnx", Lossy())
    monkeypatch.setattr("edgecompress.exporting.verifying.run_model", honest := _of_the_original(sample))
    with pytest.raises(ParityError, match=r"differs from PyTorch at batch 1") as caught:
        export(sample.model(), sample, tmp_path)
    assert honest
    assert caught.value.max_abs_error > caught.value.tolerance
    assert list(tmp_path.iterdir()) == []


def _of_the_original(sample: Sample) -> object:
    original = sample.model()
    return lambda _model, inputs: run_model(original, inputs)


def test_verify_refuses_a_file_of_another_model(tmp_path: Path) -> None:
    sample = resolve("lenet300")
    artifact = export(sample.model(), sample, tmp_path)
    other = sample.model()
    with torch.no_grad():
        next(other.parameters()).mul_(1.01)
    with pytest.raises(ParityError):
        verify(artifact, replace(sample, build=lambda: other))


class Branching(nn.Module):
    """What no graph can hold: a Python branch on a value."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x.exp()


@pytest.mark.parametrize("name", ["onnx", "named_otherwise"])
def test_what_the_exporter_refuses_is_an_export_error_with_its_cause(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TARGETS, "onnx", Onnx(name=name))
    sample = Sample("branch", "branch", Branching, (torch.ones(2, 3),))
    with pytest.raises(ExportError, match=f"^{name}: PyTorch's exporter refused the model") as caught:
        export(Branching(), sample, tmp_path)
    assert caught.value.__cause__ is not None
    assert list(tmp_path.iterdir()) == []


def test_a_changed_or_truncated_file_is_refused(tmp_path: Path) -> None:
    sample = resolve("lenet300")
    artifact = export(sample.model(), sample, tmp_path)
    artifact.path.write_bytes(artifact.path.read_bytes()[:5000])
    with pytest.raises(FileError, match="changed or truncated after its export"):
        Artifact.load(artifact.path)
    with pytest.raises(FileError, match="not a whole ONNX model"):
        Onnx().signature(artifact.path)
    (tmp_path / "model.onnx.json").unlink()
    with pytest.raises(FileError, match="is not beside it"):
        Artifact.load(artifact.path)


class TwoInputs(nn.Module):
    """Two inputs, one of integers, and two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.linear = nn.Embedding(7, 6), nn.Linear(6, 5)

    def forward(self, tokens: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.linear(self.table(tokens) + x)
        return hidden, hidden.mean(1)


def test_several_inputs_and_outputs(tmp_path: Path) -> None:
    inputs = (torch.randint(0, 7, (2, 4)), torch.randn(2, 4, 6))
    model = TwoInputs().eval()
    artifact = export(model, Sample("two", "two", lambda: model, inputs), tmp_path)
    assert [spec.name for spec in artifact.inputs] == ["input_0", "input_1"]
    assert [spec.name for spec in artifact.outputs] == ["output_0", "output_1"]


class TwoScales(nn.Module):
    """Outputs ten thousand times apart."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.linear(x)
        return 1e4 * y, y.softmax(1)


def test_each_output_is_judged_on_its_own_scale() -> None:
    large, small = run_model(TwoScales().eval(), (torch.randn(3, 6),))
    assert compare(3, [large, small], [large, small]).max_abs_error == 0
    wrong = compare(3, [large, small], [large, small + np.float32(0.01)])
    assert wrong.max_abs_error > 1e-3 * wrong.scale
    assert compare(3, [large, small], [large, small.astype(np.float64)]).max_abs_error == np.inf


def names_of(artifact: Artifact) -> list[str]:
    return [node.name for node in onnx.load(artifact.path).graph.node]


def test_layers_with_equal_weights_keep_their_own_names(tmp_path: Path) -> None:
    first = nn.Conv2d(16, 16, 3, padding=1)
    second = nn.Conv2d(16, 16, 3, padding=1)
    second.load_state_dict(first.state_dict())
    model = nn.Sequential(first, nn.ReLU(), second).eval()
    small, sample = compressed(Sample("twins", "twins", lambda: model, (torch.randn(2, 16, 8, 8),)), 0.6)
    names = names_of(export(small, sample, tmp_path))
    assert {name.split(".")[0] for name in names if name.endswith("/Conv")} == {"0", "2"}


def test_a_linear_on_three_dimensions_is_a_chain_of_products(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32)).eval()
    small, sample = compressed(Sample("tokens", "tokens", lambda: model, (torch.randn(2, 7, 32),)), 0.6)
    artifact = export(small, sample, tmp_path)
    assert set(artifact.graph["operators"]) <= {"Gemm", "MatMul", "Add", "Relu"}
    assert all(
        name.split("/")[0] in {"0.reduce", "0.expand", "1", "2.reduce", "2.expand"} for name in names_of(artifact)
    )


class Matrices(nn.Module):
    """What a tensor train replaces: strided and plain 1x1 convolutions, a Linear on tokens and one on a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.conv1d = nn.Conv2d(12, 24, 1, stride=2), nn.Conv1d(24, 16, 1)
        self.tokens, self.head = nn.Linear(16, 12), nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        positions: Tensor = self.conv1d(self.conv(x).flatten(2)).transpose(1, 2)
        scores: Tensor = self.head(self.tokens(positions).mean(1))
        return scores


def test_a_train_is_its_links_with_one_reshape_for_each_change_of_axes(tmp_path: Path) -> None:
    model, method = Matrices().eval(), DECOMPOSITIONS["tensor_train"]
    layers = {name: getattr(model, name) for name in ("conv", "conv1d", "tokens", "head")}
    plans = (LayerPlan(n, method.name, method.max_ranks(m), tuple(m.weight.shape), 0.0) for n, m in layers.items())
    chosen = CompressionPlan(model="matrices", layers=tuple(plans))
    small = decompose(model, chosen)
    sample = Sample("matrices", "matrices", lambda: small, (torch.randn(2, 12, 8, 6),), plan=chosen)
    artifact = export(small, sample, tmp_path, options=ExportOptions(rewrite="off"))  # parity, or nothing
    by_layer = {
        layer: [name.removeprefix(f"{layer}.") for name in names_of(artifact) if name.startswith(f"{layer}.")]
        for layer in layers
    }
    convolutions = ["fold/Reshape", "reduce/Conv", "merge/Reshape", "core/Conv", "expand/Conv"]
    ends = ["split/Reshape", "reduce/MatMul", "merge/Reshape"]
    assert by_layer == {
        "conv": convolutions,
        "conv1d": convolutions,
        "tokens": [*ends, "core/MatMul", "expand/MatMul", "expand/Add"],
        "head": [*ends, "core/Gemm", "expand/Gemm"],
    }


def test_a_model_that_is_a_single_layer(tmp_path: Path) -> None:
    model = nn.Linear(64, 64).eval()
    small, sample = compressed(Sample("single", "single", lambda: model, (torch.randn(2, 64),)), 0.5)
    assert names_of(export(small, sample, tmp_path)) == ["reduce/Gemm", "expand/Gemm"]


def test_weights_called_input_or_output_do_not_collide(tmp_path: Path) -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.input, self.output = (nn.Parameter(torch.ones(1, 4)) for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.input + self.output.exp()

    model = Named().eval()
    artifact = export(model, Sample("named", "named", lambda: model, (torch.randn(2, 4),)), tmp_path)
    assert artifact.sqnr_db > 100


def test_a_file_of_the_users_own_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_text("mine")
    sample = resolve("lenet300")
    with pytest.raises(FileError, match="is there and is no file that edgecompress wrote"):
        export(sample.model(), sample, tmp_path)
    assert (tmp_path / "model.onnx").read_text() == "mine"


def test_a_score_that_differs_leaves_no_file(tmp_path: Path) -> None:
    sample = resolve("lenet300")
    own = split_score(sample.model(), sample)
    perfect = replace(own, value=100.0, right=b"\xff" * (own.items // 8))
    with pytest.raises(ParityError, match=r"scores 9\d.* on the [\d,]+ items of the test split, PyTorch 100: "):
        export(sample.model(), sample, tmp_path, known_score=perfect)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", ["reflect", "circular"])
def test_other_padding_modes_and_conv1d_export(tmp_path: Path, mode: str) -> None:
    model = nn.Sequential(nn.Conv1d(16, 24, 5, padding=2, padding_mode=mode), nn.ReLU(), nn.Conv1d(24, 32, 3)).eval()
    sample = Sample("one", "one", lambda: model, (torch.randn(2, 16, 20),))
    small, with_plan = compressed(sample, 0.6)
    artifact = export(small, with_plan, tmp_path)
    assert artifact.sqnr_db > 100


def test_parity_is_judged_by_max_error_and_sqnr() -> None:
    ones = [np.ones((3, 2), np.float32)]
    assert compare(3, ones, ones).sqnr_db == 300
    assert compare(3, ones, [1.1 * ones[0]]).sqnr_db == pytest.approx(20, abs=0.01)
    assert compare(3, ones, [1.1 * ones[0]]).max_abs_error == pytest.approx(0.1, abs=1e-6)
    assert compare(3, ones, [ones[0][:2]]).max_abs_error == np.inf
    assert compare(3, ones, [ones[0] * np.nan]).max_abs_error == np.inf
