"""An .onnx file as MODEL: layers with their names, numbers of ONNX Runtime, refusals that say what to do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from edgecompress.decomposing import decompose
from edgecompress.errors import FileError, ModelError
from edgecompress.exporting import export
from edgecompress.layers import weighted_layers
from edgecompress.planning import plan
from edgecompress.selectors import Budget
from edgecompress.sources import resolve
from edgecompress.sources.compressed_folder import load_compressed, save_compressed
from edgecompress.targets.quieting import quiet


class Block(nn.Module):
    """Convolutions with a shortcut, as in ResNets."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, groups=2)

    def forward(self, given: Tensor) -> Tensor:
        return torch.relu(given + self.conv2(torch.relu(self.bn1(self.conv1(given)))))


class Net(nn.Module):
    """What classifiers are made of, with a shape that is computed from the input's."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.blocks = nn.Sequential(Block(8), Block(8))
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.fc = nn.Linear(4 * 16 * 16, 10)

    def forward(self, given: Tensor) -> Tensor:
        found = self.up(nn.functional.max_pool2d(self.blocks(self.stem(given)), 2))
        return torch.softmax(self.fc(found.view(found.shape[0], -1)), 1)


def save(path: Path, nodes: list[Any], constants: dict[str, Any], shape: list[Any], **more: Any) -> Path:
    """A file of these nodes from ``x`` to ``y``."""
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", more.pop("dtype", TensorProto.FLOAT), shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opset = [helper.make_opsetid("", more.pop("version", 17)), *more.pop("domains", [])]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8, **more), path)
    return path


def assert_exact(path: Path, model: nn.Module, *inputs: Tensor) -> None:
    """A network gives what ONNX Runtime gives for its file."""
    session = onnxruntime.InferenceSession(str(path))
    names = [item.name for item in session.get_inputs()]
    expected = session.run(None, {name: given.numpy() for name, given in zip(names, inputs, strict=True)})
    with torch.no_grad():
        outputs = model(*inputs)
    for ours, theirs in zip(outputs if isinstance(outputs, tuple) else (outputs,), expected, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The net, exported with a free batch."""
    path = tmp_path_factory.mktemp("exported") / "net.onnx"
    net, given = Net().eval(), torch.randn(2, 3, 32, 32)
    batch = ({0: torch.export.Dim.DYNAMIC},)
    with quiet():
        torch.onnx.export(net, (given,), path, dynamo=True, dynamic_shapes=batch, verbose=False)
    return path


def test_layers_have_the_names_and_weights_they_had(exported: Path) -> None:
    sample = resolve(str(exported))
    model, net = sample.model(), Net()
    names = {found.name for found in weighted_layers(model)}
    assert names == {found.name for found in weighted_layers(net)}
    assert type(model.get_submodule("blocks.0.conv2")) is nn.Conv2d
    assert torch.equal(model.get_submodule("stem").weight, net.stem.weight)  # type: ignore[arg-type]
    assert isinstance(model.get_submodule("fc"), nn.Linear)
    for batch in (1, 2, 5):
        assert_exact(exported, model, torch.randn(batch, 3, 32, 32))


def test_it_is_planned_compressed_and_loaded_again(exported: Path, tmp_path: Path) -> None:
    sample = resolve(str(exported))
    dense = sample.model()
    made = plan(dense, sample.inputs, Budget(keep=0.7))
    compressed = decompose(dense, made)
    save_compressed(tmp_path / "folder", compressed, made, sample)
    again = load_compressed(tmp_path / "folder").model()
    given = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(again(given), compressed(given))


def test_a_file_that_changed_behind_a_folder_is_refused(exported: Path, tmp_path: Path) -> None:
    file, folder = tmp_path / "net.onnx", tmp_path / "folder"
    for part in exported.parent.glob(f"{exported.name}*"):
        shutil.copy(part, tmp_path / part.name.replace(exported.name, "net.onnx"))
    sample = resolve(str(file))
    made = plan(sample.model(), sample.inputs, Budget(keep=0.7))
    save_compressed(folder, decompose(sample.model(), made), made, sample)
    load_compressed(folder)
    changed = onnx.load(file)
    changed.producer_name = "another"
    onnx.save(changed, file)
    with pytest.raises(FileError, match=r"was made from .*net\.onnx, which has changed since"):
        load_compressed(folder)
    document = json.loads((folder / "model.json").read_text())
    del document["source_sha256"]
    (folder / "model.json").write_text(json.dumps(document))  # as it was written before the digest was
    load_compressed(folder)


def test_what_is_exported_again_has_the_names_of_the_file(tmp_path: Path) -> None:
    nodes = [node("Conv", "x w", "h"), node("Relu", "h", "y")]
    file = save(tmp_path / "net.onnx", nodes, {"w": np.ones((4, 3, 1, 1), np.float32)}, ["n", 3, 8, 8])
    sample = resolve(str(file))
    made = export(sample.model(), sample, tmp_path / "again")
    assert ([spec.name for spec in made.inputs], [spec.name for spec in made.outputs]) == (["x"], ["y"])


def test_the_network_can_be_exported_again_for_any_batch(exported: Path, tmp_path: Path) -> None:
    model, given = resolve(str(exported)).model(), torch.randn(2, 3, 32, 32)
    program = torch.export.export(model, (given,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    wider = torch.randn(7, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(wider), model(wider))


def node(kind: str, inputs: str, outputs: str, **attributes: Any) -> Any:
    return helper.make_node(kind, inputs.split(), outputs.split(), f"{outputs}/{kind}", **attributes)


def test_weights_become_layers_and_shapes_leave_the_batch_free(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    normal = {
        name: random.standard_normal(shape).astype(np.float32)
        for name, shape in {"w": (6, 3, 3), "b": (6,), "m": (24, 5), "c": (5,)}.items()
    }
    nodes = [
        node("Conv", "x w b", "f", pads=[0, 2], strides=[2]),
        node("Shape", "f", "s"),
        node("Gather", "s zero", "n"),
        node("Unsqueeze", "n axis", "u"),
        node("Concat", "u rest", "shape", axis=0),
        node("Reshape", "f shape", "r"),
        node("MatMul", "r m", "p"),
        node("Add", "p c", "y"),
    ]
    whole = {"zero": np.int64(0), "axis": np.array([0]), "rest": np.array([-1])}
    path = save(tmp_path / "net.onnx", nodes, normal | whole, ["n", 3, 8])
    model = resolve(str(path)).model()
    layers = {found.name: type(found.layer) for found in weighted_layers(model)}
    assert layers == {"f": nn.Conv1d, "p": nn.Linear}
    assert sum(parameter.numel() for parameter in model.parameters()) == sum(item.size for item in normal.values())
    for batch in (1, 4):
        assert_exact(path, model, torch.randn(batch, 3, 8))


def test_a_file_for_one_input_takes_any_number(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).standard_normal((12, 5)).astype(np.float32)
    nodes = [node("Reshape", "x shape", "r"), node("Gemm", "r w", "y")]
    path = save(tmp_path / "one.onnx", nodes, {"w": weight, "shape": np.array([1, 12])}, [1, 3, 4])
    model, given = resolve(str(path)).model(), torch.randn(3, 3, 4)
    with torch.no_grad():
        assert model(given).shape == (3, 5)
        torch.testing.assert_close(model(given)[1:2], model(given[1:2]))
    assert_exact(path, model, given[:1])


def test_one_weight_of_two_nodes_stays_one(tmp_path: Path) -> None:
    weight = np.eye(4, dtype=np.float32)
    nodes = [node("MatMul", "x w", "p"), node("Relu", "p", "q"), node("MatMul", "q w", "y")]
    model = resolve(str(save(tmp_path / "tied.onnx", nodes, {"w": weight}, ["n", 4]))).model()
    assert [found.refused for found in weighted_layers(model)] == ["tied: shares its weight with another layer"] * 2


def test_half_precision_is_taken_in_float32(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weight = np.eye(4, dtype=np.float16)
    nodes = [node("Cast", "x", "h", to=10), node("MatMul", "h w", "p"), node("Cast", "p", "y", to=1)]
    path = save(tmp_path / "half.onnx", nodes, {"w": weight}, ["n", 4])
    model = resolve(str(path)).model()
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert "float16 are taken in float32" in capsys.readouterr().err
    assert_exact(path, model, torch.eye(4))


def test_a_known_branch_is_put_in_place_and_others_are_refused(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info("v", TensorProto.FLOAT, None)
    then = helper.make_graph([helper.make_node("Relu", ["x"], ["v"], "r")], "then", [], [value])
    other = helper.make_graph([helper.make_node("Neg", ["x"], ["v"], "n")], "else", [], [value])
    known = [helper.make_node("If", ["c"], ["y"], "if", then_branch=then, else_branch=other)]
    path = save(tmp_path / "known.onnx", known, {"c": np.array(False)}, ["n", 4])
    assert torch.equal(resolve(str(path)).model()(torch.ones(1, 4)), -torch.ones(1, 4))
    computed = [node("ReduceMax", "x", "m", keepdims=0), node("Cast", "m", "c", to=9), *known]
    with pytest.raises(ModelError, match=r"unknown.onnx: If \(node 'if'\): chooses a branch by numbers"):
        resolve(str(save(tmp_path / "unknown.onnx", computed, {}, ["n", 4])))


REFUSED = {
    "operator": ([node("Optional", "x", "y")], {}, {}, r"Optional \(node 'y/Optional', domain 'ai.onnx'\)"),
    "domain": (
        [helper.make_node("Magic", ["x"], ["y"], "m", domain="my.own")],
        {},
        {"domains": [helper.make_opsetid("my.own", 1)]},
        r"Magic \(node 'm', domain 'my.own'\) is not an operator of the ONNX standard",
    ),
    "quantized": (
        [node("DequantizeLinear", "x s", "y")],
        {"s": np.float32(1)},
        {"dtype": TensorProto.INT8},
        "give the float file",
    ),
    "old": ([node("Relu", "x", "y")], {}, {"version": 9}, "opset 9, 11 or newer"),
    "invalid": ([node("Relu", "nothing", "y")], {}, {}, "is not valid"),
    "shape": ([node("MatMul", "x w", "y")], {"w": np.eye(5, dtype=np.float32)}, {}, r"MatMul \(node 'y/MatMul'\)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_made_layers_of_is_refused_by_name(name: str, tmp_path: Path) -> None:
    nodes, constants, more, says = REFUSED[name]
    path = save(tmp_path / f"{name}.onnx", nodes, constants, ["n", 4], **dict(more))  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=says) as caught:
        resolve(str(path))
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_weights_outside_the_folder_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(64))
    (tmp_path / "in").mkdir()
    path = save(tmp_path / "in" / "net.onnx", [node("Add", "x w", "y")], {"w": np.zeros(4, np.float32)}, ["n", 4])
    model = onnx.load(path)
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../secret")
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="not in its folder"):
        resolve(str(path))
    path.write_bytes(b"\x08\x08not a model")
    with pytest.raises(ModelError, match=r"is no .onnx file, or damaged"):
        resolve(str(path))


def test_free_sizes_are_named_after_a_colon(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save(tmp_path / "free.onnx", [node("Relu", "x", "y")], {}, ["n", "length"])
    assert resolve(str(path)).inputs[0].shape == (1, 16)
    assert "free.onnx:1x16 names others" in capsys.readouterr().err
    named = resolve(f"{path}:2x7")
    assert named.inputs[0].shape == (2, 7)
    assert resolve(named.source).inputs[0].shape == (2, 7)
    with pytest.raises(ModelError, match="does not fit"):
        resolve(f"{path}:2x7x3")


def test_the_batch_comes_first_and_a_number_is_settled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nodes = [node("Equal", "rate wanted", "e"), node("Cast", "e", "k", to=1), node("Mul", "state k", "y")]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3]),
        helper.make_tensor_value_info("state", TensorProto.FLOAT, [2, "n", 3]),
        helper.make_tensor_value_info("rate", TensorProto.INT64, []),
    ]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    constant = numpy_helper.from_array(np.int64(16000), "wanted")
    graph = helper.make_graph(nodes, "g", inputs, [output], [constant])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "s.onnx")
    model, state = resolve(str(tmp_path / "s.onnx")).model(), torch.randn(4, 2, 3)
    assert torch.equal(model(torch.randn(4, 3), state), state)
    noted = capsys.readouterr().err
    assert "'rate' is 16000" in noted
    assert "does not in state" in noted
