"""An .onnx file as MODEL: layers with their names, numbers of ONNX Runtime, refusals that say what to do."""

from __future__ import annotations

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


def test_the_network_can_be_exported_again_for_any_batch(exported: Path, tmp_path: Path) -> None:
    model, given = resolve(str(exported)).model(), torch.randn(2, 3, 32, 32)
    program = torch.export.export(model, (given,), dynamic_shapes=(({0: torch.export.Dim.DYNAMIC},),))
    wider = torch.randn(7, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(wider), model(wider))
