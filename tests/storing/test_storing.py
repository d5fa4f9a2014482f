"""Stored models: the whole line on a small net, the decoded model, and an .onnx that stays small."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import onnxsim
import pytest
import torch
from torch import nn

from edgecompress.calibrating import calibration_of
from edgecompress.codecs.ada_tucker import attach_roundings, factors_of, install, refresh, stored_layers
from edgecompress.codecs.payload import from_bytes, to_bytes
from edgecompress.decomposing import decompose
from edgecompress.decomposing.refitting import refit
from edgecompress.decompositions.kernels import weight_of
from edgecompress.errors import BudgetError, ExportError, ModelError, PlanError
from edgecompress.exporting import export
from edgecompress.finetuning import FineTuning, state_digest
from edgecompress.models import Sample, copied
from edgecompress.plans import LayerPlan
from edgecompress.running.options import Options
from edgecompress.running.pipeline import Pipeline
from edgecompress.running.preflight import check
from edgecompress.scoring import score
from edgecompress.settings import Storage
from edgecompress.sources import resolve
from edgecompress.storing import decoded, stored_of, train_codes, without_dropped
from edgecompress.storing.planning import plan_storage
from edgecompress.targets import Job
from edgecompress.targets.onnx import Onnx
from edgecompress.targets.onnx.codes import check_folded
from tests.covering import slow
from tests.processes import command

SCADA = Storage("scada_tucker", rank=4, levels=15, core_levels=15, epochs=2, rate=0.5)
TUNING = FineTuning(epochs=2, optimizer="adam", lr=0.02, weight_decay=0.0, distill=0.0, batch_size=32)


@pytest.fixture(scope="module")
def sample(tiny_file: Path) -> Sample:
    return resolve(str(tiny_file))


@pytest.fixture(scope="module")
def dense_bytes(sample: Sample, tmp_path_factory: pytest.TempPathFactory) -> int:
    """The size of the dense model's .onnx."""
    return export(sample.model(), sample, tmp_path_factory.mktemp("dense")).size_bytes


def coded(dense: nn.Module, storage: Storage, sample: Sample) -> nn.Module:
    """A model whose factors are codes, without any training."""
    made = plan_storage(dense, sample.inputs, storage)
    model = decompose(dense, made, fill=False)
    refresh(model, 0)
    attach_roundings(model, storage.core_levels, storage.levels)
    return decoded(dense, from_bytes(to_bytes(stored_of(model))))


def run_json(*arguments: str) -> Any:
    answer = command(*arguments, "--json")
    assert answer.code == 0, answer.err
    return json.loads(answer.out)


def test_the_line_ends_in_a_small_file_that_scores(tiny_file: Path, tmp_path: Path) -> None:
    folder, target = tmp_path / "small", tmp_path / "onnx"
    options = ["--method", "scada_tucker", "--rank", "4", "--epochs", "3", "--round-epochs", "3", "--batch-size", "16"]
    made = run_json("compress", str(tiny_file), *options, "--bias-levels", "7", "--trust", "-o", str(folder))
    storage, cost = made["storage"], made["cost"]
    assert storage["payload_bytes"] == (folder / "model.ectk").stat().st_size
    assert storage["ratio"] == pytest.approx(4 * cost["dense"]["params"] / storage["payload_bytes"])
    assert storage["ratio"] > 100
    assert cost["compressed"]["macs"] == cost["dense"]["macs"]
    assert made["accuracy"]["finetuned"] > 85
    exported = run_json("export", str(folder), "--target", "onnx", "-o", str(target), "--trust")
    file = target / "model.onnx"
    assert file.stat().st_size == storage["onnx_bytes"] < 12_000
    assert exported["artifacts"][0]["score"]["artifact"] == made["accuracy"]["finetuned"]
    again = run_json("compress", str(tiny_file), *options, "--bias-levels", "7", "--trust", "-o", str(folder))
    assert again == made


def test_a_stopped_storing_goes_on_to_the_same_codes(sample: Sample, tmp_path: Path) -> None:
    class Stop(Exception):
        """Stands for Ctrl-C."""

    def listen(name: str, *_: object) -> None:
        if "epoch 2 " in name:
            raise Stop

    model = decompose(sample.model(), plan_storage(sample.model(), sample.inputs, SCADA), fill=False)
    refresh(model, 0)
    whole, _ = train_codes(model, sample, SCADA, TUNING)
    checkpoint = tmp_path / "checkpoint.pt"
    with pytest.raises(Stop):
        train_codes(model, sample, SCADA, TUNING, checkpoint=checkpoint, progress=listen)
    resumed, _ = train_codes(model, sample, SCADA, TUNING, checkpoint=checkpoint)
    assert to_bytes(resumed) == to_bytes(whole)
    assert to_bytes(whole) != to_bytes(train_codes(model, sample, replace(SCADA, rate=5.0), TUNING)[0])


@pytest.mark.parametrize("biases", [0, *slow([15])])
def test_what_is_stored_scores_as_what_was_trained(
    sample: Sample, tiny_file: Path, tmp_path: Path, biases: int
) -> None:
    options = ["--method", "ada_tucker", "--rank", "3", "--epochs", "1", "--round-epochs", "1", "--batch-size", "16"]
    kept = ["--bias-levels", str(biases)] if biases else []
    run_json("compress", str(tiny_file), *options, *kept, "--trust", "-o", str(tmp_path))
    last = json.loads((tmp_path / "stages" / "store.json").read_text())["result"]["history"][-1]["score"]
    assert score(resolve(str(tmp_path), trust=True).model(), sample, "validation") == last
    trained = resolve(str(tmp_path / "trained"), trust=True).model()
    assert all(
        bool(layer.bias.any()) == bool(biases) for _, layer, _ in stored_layers(trained) if layer.bias is not None
    )


@pytest.mark.slow
def test_a_higher_rate_makes_a_shorter_file(sample: Sample) -> None:
    model = decompose(sample.model(), plan_storage(sample.model(), sample.inputs, SCADA), fill=False)
    refresh(model, 0)
    sizes = [
        len(to_bytes(train_codes(model, sample, replace(SCADA, rate=r, epochs=6, lr=0.1), TUNING)[0]))
        for r in (0.0, 30.0)
    ]
    assert sizes[1] < 0.9 * sizes[0]


@pytest.mark.parametrize("codec", ["ada_tucker", "scada_tucker"])
def test_the_decoded_model_is_the_rounded_one(sample: Sample, codec: str) -> None:
    storage = Storage(codec, rank=3, levels=7, core_levels=15)
    model = decompose(sample.model(), plan_storage(sample.model(), sample.inputs, storage), fill=True)
    without_dropped(model, storage)
    attach_roundings(model, 15, 7)
    back = decoded(sample.model(), from_bytes(to_bytes(stored_of(model))))
    assert torch.allclose(back.eval()(*sample.inputs), model.eval()(*sample.inputs), atol=2e-3)
    for _, layer, weight in stored_layers(back):
        assert weight.largest is not None
        assert all(torch.equal(factor, factor.round()) for factor in factors_of(layer))


def test_codes_of_another_model_are_refused(sample: Sample) -> None:
    model = coded(sample.model(), SCADA, sample)
    attach_roundings(model, 15, 15)
    stored = stored_of(model)
    with pytest.raises(ModelError, match="the model has no such weight"):
        decoded(nn.Sequential(nn.Linear(3, 3)), stored)
    with pytest.raises(ModelError, match="does not fit"):
        decoded(sample.model(), replace(stored, others={}))


@pytest.mark.parametrize(
    ("codec", "levels"),
    [
        ("ada_tucker", 3),
        pytest.param("ada_tucker", 15, marks=pytest.mark.slow),
        pytest.param("scada_tucker", 7, marks=pytest.mark.slow),
        ("scada_tucker", 255),
    ],
)
def test_the_onnx_computes_the_model_from_codes_that_fold(
    sample: Sample, dense_bytes: int, tmp_path: Path, codec: str, levels: int
) -> None:
    storage = Storage(codec, rank=4, levels=levels, core_levels=15, pad=True)
    model = coded(sample.model(), storage, sample)
    artifact = export(model, sample, tmp_path)
    assert artifact.max_abs_error < 1e-4 * max(parity.scale for parity in artifact.parity)
    assert artifact.size_bytes < dense_bytes / 8
    codes = artifact.graph["codes"]
    assert sum(codes["operators_when_loaded"].values()) <= sum(artifact.graph["operators"].values())
    assert not {"Einsum", "Mod", "Div", "Split"} & set(codes["operators_when_loaded"])


def test_writing_it_again_simplifying_without_folding_and_exporting_again_keep_it_small(
    sample: Sample, tmp_path: Path
) -> None:
    model = coded(sample.model(), SCADA, sample)
    path = export(model, sample, tmp_path).path
    size, again = path.stat().st_size, tmp_path / "again.onnx"
    onnx.save_model(onnx.load_model(path), again)
    assert again.stat().st_size == size
    kept, _ = onnxsim.simplify(onnx.load_model(path), skip_constant_folding=True)
    constants = [sum(tensor.ByteSize() for tensor in m.graph.initializer) for m in (onnx.load_model(path), kept)]
    assert constants[1] <= constants[0]  # it adds the shapes of all values, but no weights
    assert Onnx(simplify=True).export(Job(model, sample.inputs), again)["codes"]["layers"] == 4
    assert again.stat().st_size == size
    folded, _ = onnxsim.simplify(onnx.load_model(path))
    assert folded.ByteSize() > 5 * size  # why the exporter simplifies before it puts the codes in


def test_what_a_session_does_not_fold_is_an_export_error() -> None:
    helper = onnx.helper
    values = helper.make_tensor_value_info("x", 1, ["n", 2])
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Mod", ["h", "h"], ["y"], fmod=1)]
    weight = onnx.numpy_helper.from_array(np.ones((2, 2), np.float32), "w")
    graph = helper.make_graph(nodes, "g", [values], [helper.make_tensor_value_info("y", 1, ["n", 2])], [weight])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    with pytest.raises(ExportError, match=r"does not fold the codes.*Mod"):
        check_folded(proto, Counter({"MatMul": 1}))


def test_a_folded_batch_norm_becomes_a_scale_a_row(sample: Sample, tmp_path: Path) -> None:
    dense = nn.Sequential(nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(800, 4))
    norm = dense[1]
    norm.weight.data = torch.linspace(0.5, 2, 8)
    norm.running_mean, norm.running_var = torch.randn(8), torch.rand(8) + 0.5  # type: ignore[assignment]
    model = copied(dense).eval()
    plans = [
        LayerPlan("0", "ada_tucker", (2, 3, 3), (8, 1, 3, 3), 0.0),
        LayerPlan("4", "ada_tucker", (4,) * 3, (4, 800), 0.0),
    ]
    install(model, plans, shared=False, fill=True)
    attach_roundings(model, 15, 15)
    small = decoded(dense.eval(), stored_of(model))
    path = tmp_path / "norm.onnx"
    Onnx().export(Job(small, sample.inputs), path)
    inputs = sample.inputs[0]
    found = onnxruntime.InferenceSession(path).run(None, {"input": inputs.numpy()})[0]
    assert np.allclose(found, small(inputs).detach().numpy(), atol=1e-4)


def test_plans_store_what_gets_smaller_within_the_share_asked_for(sample: Sample) -> None:
    dense = sample.model()
    params = sum(p.numel() for p in dense.parameters())
    made = plan_storage(dense, sample.inputs, Storage("ada_tucker", keep=0.05))
    assert made.compressed.params <= 0.05 * params
    assert made.compressed.macs == made.dense.macs
    larger = plan_storage(dense, sample.inputs, Storage("ada_tucker", rank=made.layers[-1].ranks[0] + 1))
    assert larger.compressed.params > 0.05 * params
    assert {skip.name for skip in made.skipped} | {layer.name for layer in made.layers} == {"0", "4", "7", "10"}
    with pytest.raises(BudgetError, match="a core of edge 1 keeps"):
        plan_storage(dense, sample.inputs, Storage("ada_tucker", keep=1e-6))
    assert all(0 < layer.error <= 1 for layer in made.layers)
    with pytest.raises(PlanError, match="no layer becomes smaller at --rank 400"):
        plan_storage(dense, sample.inputs, Storage("ada_tucker", rank=400))
    with pytest.raises(PlanError, match="no layer matches"):
        plan_storage(dense, sample.inputs, SCADA, include=("conv*",))


def test_sizes_follow_the_weights_axes_unless_they_may_mix() -> None:
    """Taps and channels of a convolution stay apart, and so do the maps that a Linear reads flattened."""
    lenet = resolve("lenet5")
    kept, mixed = (
        {
            layer.name: layer.dims
            for layer in plan_storage(lenet.model(), lenet.inputs, replace(SCADA, mix_axes=mix)).layers
        }
        for mix in (False, True)
    )
    assert kept == {"conv1": (10, 10, 5), "conv2": (25, 40, 25), "fc1": (50, 100, 80), "fc2": (10, 20, 25)}
    assert mixed == {"conv1": (5, 10, 10), "conv2": (25, 25, 40), "fc1": (50, 80, 100), "fc2": (10, 20, 25)}


def test_a_plan_for_a_codec_goes_nowhere_without_its_training(sample: Sample, tmp_path: Path) -> None:
    made, dense = plan_storage(sample.model(), sample.inputs, SCADA), sample.model()
    with pytest.raises(PlanError, match=r"the plan is for scada_tucker: say how .* Options\(storage="):
        check(Pipeline(sample, tmp_path, Options(given=made)))
    with pytest.raises(PlanError, match="scada_tucker: has no chains to fit"):
        refit(dense, made, calibration_of(sample, 8, 0))


@pytest.mark.slow
def test_another_rounding_trains_no_factors_anew(tiny_file: Path, tmp_path: Path) -> None:
    short = ("compress", tiny_file, "--method", "ada_tucker", "--rank", "3", "--epochs", "1", "--round-epochs", "1")
    first = command(*short, "-o", tmp_path / "small", "--trust")
    assert "fine-tune, epoch 1 of 1" in first.err
    again = command(*short, "-o", tmp_path / "small", "--rate", "0.5", "--levels", "7", "--trust")
    assert again.code == 0
    assert "fine-tune" not in again.err
    assert "round, epoch 1 of 1" in again.err
    assert (tmp_path / "small" / "model.ectk").stat().st_size
    with_biases = command(*short, "-o", tmp_path / "small", "--bias-levels", "7", "--trust")
    assert "fine-tune, epoch 1 of 1" in with_biases.err


@pytest.mark.slow
def test_a_weight_with_rows_of_zeros_has_one_scale(sample: Sample, tmp_path: Path) -> None:
    model = coded(sample.model(), SCADA, sample)
    first = export(model, sample, tmp_path / "first")
    _, layer, _ = list(stored_layers(model))[-2]
    with torch.no_grad():
        factors_of(layer)[1][0] = 0  # rows of the matrix of outputs, as far as the reshape goes
    assert (weight_of(layer).flatten(1) == 0).all(1).any()
    second = export(model, sample, tmp_path / "second")
    assert second.size_bytes < first.size_bytes + 100


@pytest.mark.slow
def test_a_trained_folder_is_a_model_too(tiny_file: Path, sample: Sample, tmp_path: Path) -> None:
    folder = tmp_path / "small"
    run_json(
        "compress", str(tiny_file), "--method", "ada_tucker", "--rank", "3", "--start", "dense", "--epochs", "1",
        "--round-epochs", "1", "-o", str(folder), "--trust",
    )  # fmt: skip
    merged = command("export", folder, "--merge", "4", "-o", tmp_path / "merged", "--trust")
    assert merged.code == 2
    assert "no decomposed layer matches '4'" in merged.err
    trained, stored = (resolve(str(path), trust=True).model() for path in (folder / "trained", folder))
    assert all(weight.largest is None for _, _, weight in stored_layers(trained))
    assert all(weight.largest is not None for _, _, weight in stored_layers(stored))
    assert state_digest(trained) != state_digest(stored)


@pytest.mark.slow
def test_a_plan_for_a_codec_is_followed_to_its_sizes(tiny_file: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    run_json("plan", str(tiny_file), "--method", "ada_tucker", "--rank", "3", "-o", str(plan), "--trust")
    document = json.loads(plan.read_text())
    first = document["layers"][0]
    first["dims"] = list(reversed(first["dims"]))
    plan.write_text(json.dumps(document))
    short = ("compress", str(tiny_file), "--plan", str(plan), "--epochs", "1", "--trust", "-o", str(tmp_path / "small"))
    made = run_json(*short, "--round-epochs", "1", "--temperature", "2", "--weight-decay", "1e-4")
    assert made["storage"]["payload_bytes"] == (tmp_path / "small" / "model.ectk").stat().st_size
    stored = from_bytes((tmp_path / "small" / "model.ectk").read_bytes())
    assert list(stored.layers[0].dims) == first["dims"]
    refused = command(*short, "--rank", "4")
    assert refused.code == 2
    assert "--plan already holds the choice; drop --rank" in refused.err
    document["layers"][1]["method"] = "svd"
    plan.write_text(json.dumps(document))
    mixed = command(*short)
    assert mixed.code == 2
    assert "the plan mixes ada_tucker, svd; ada_tucker goes without other methods" in mixed.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--rank", "4"], "--rank belongs to --method ada_tucker or scada_tucker"),
        (["--preset", "smallest"], "no preset 'smallest'"),
        (["--method", "ada_tucker", "--method", "svd"], "give it without other methods"),
        (["--method", "ada_tucker", "--rank", "4", "--keep", "0.1"], "drop one of them"),
        (["--method", "ada_tucker", "--keep", "0.1", "--of", "macs"], "saves no macs"),
        (["--method", "ada_tucker", "--levels", "8"], "8 is even"),
        (["--method", "ada_tucker", "--recipe", "ordered"], "--recipe does not go with --method ada_tucker"),
        (["--method", "ada_tucker", "--calibrate", "64"], "--calibrate does not go with"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options_that_do_not_go_together(tiny_file: Path, tmp_path: Path, options: list[str], said: str) -> None:
    answer = command("compress", str(tiny_file), *options, "-o", tmp_path / "out")
    assert answer.code == 2
    assert said in " ".join(answer.err.split())
    assert not (tmp_path / "out").exists()
