"""A layer is cut out with what lies around it: the part computes what the whole does there, and is small."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from edgecompress.devices import device_named
from edgecompress.devices.emulated.spec import is_installed
from edgecompress.planning import survey
from edgecompress.settings import Scope
from edgecompress.sources import resolve
from edgecompress.targets import target_named
from edgecompress.targets.onnx.sessions import every_tensor, session
from edgecompress.timing import bench_of
from edgecompress.timing.grafting import places_of
from edgecompress.timing.neighbourhoods import neighbourhood

FEED = {"x": np.random.default_rng(0).standard_normal((1, 4, 6, 6)).astype(np.float32)}


@pytest.fixture(scope="module")
def whole() -> onnx.ModelProto:
    """Eight blocks, each a convolution whose output is added to its input, of any batch."""
    text = "".join(f"s{at} = Conv(t{at}, w)  r{at} = Relu(s{at})  t{at + 1} = Add(r{at}, t{at})\n" for at in range(8))
    proto = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 18]> net (float[N,4,6,6] x) => (float[N,4,6,6] y)'
        f"{{ t0 = Identity(x)\n{text} y = Relu(t8) }}"
    )
    weight = np.random.default_rng(1).standard_normal((4, 4, 1, 1)).astype(np.float32) / 2
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    for at, node in enumerate(proto.graph.node):
        node.name = f"layer{at}/{node.op_type}"
    return proto


@pytest.mark.parametrize("at", [1, 10, 22])
def test_a_part_computes_what_the_whole_does(whole: onnx.ModelProto, at: int) -> None:
    assert whole.graph.node[at].op_type == "Conv"
    part = neighbourhood(whole, [at], FEED)
    onnx.checker.check_model(part, full_check=True)
    assert whole.graph.node[at].name in {node.name for node in part.graph.node}
    assert len(part.graph.node) < len(whole.graph.node) / 2
    tensors = dict(every_tensor(whole, [FEED]))
    names = [value.name for value in part.graph.output]
    found = session(part.SerializeToString()).run(names, {one.name: tensors[one.name] for one in part.graph.input})
    for name, array in zip(names, found, strict=True):
        np.testing.assert_allclose(array, tensors[name], rtol=1e-5)


def test_whole_numbers_that_would_be_cut_leave_it_whole() -> None:
    """Sizes and places: not any would do."""
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18]> net (float[N,4] x) => (float[M,K] y)'
        "{ a = Shape(x)  b = Identity(a)  c = Identity(b)  d = Identity(c)  e = Identity(d)"
        "  f = Reshape(x, e)  y = Relu(f) }"
    )
    assert neighbourhood(proto, [5], {"x": np.zeros((2, 4), np.float32)}) is proto


def test_another_batch_that_would_be_cut_leaves_it_whole() -> None:
    """As of windows of an image, which are counted like items."""
    chain = "".join(f"t{at + 1} = Relu(t{at})  " for at in range(8))
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18]> net (float[N,4] x) => (float[M,2] y)'
        f"<int64[2] s = {{-1, 2}}> {{ t0 = Reshape(x, s)  {chain} y = Relu(t8) }}"
    )
    assert neighbourhood(proto, [6], {"x": np.zeros((1, 4), np.float32)}) is proto


def test_a_layer_is_found_in_its_part(whole: onnx.ModelProto) -> None:
    part = neighbourhood(whole, [10], FEED)
    layer = {"layer10": torch.nn.Conv2d(4, 4, 1)}
    assert [part.graph.node[at].name for at in places_of(part, layer)["layer10"]] == ["layer10/Conv"]


@pytest.mark.slow
def test_what_is_counted_around_one_layer_is_what_the_whole_file_takes_more() -> None:
    if not is_installed():
        pytest.skip("needs the emulated device: edgecompress doctor --setup emulated")
    sample, layers, chain = resolve("resnet20"), [f"layer2.{at}.conv2" for at in range(3)], ("tucker2", (8, 8))
    seen = survey(sample.model(), sample.inputs, Scope())
    with bench_of(sample, seen, target_named("onnx"), device_named("emulated:cortex-a53")) as bench:
        (dense,), (whole,) = bench.compared([dict.fromkeys(layers, chain)], turns=1)
        around, replaced = bench.counted(layers[1], [chain])
    assert around < dense / 4
    assert (whole - dense) / len(layers) == pytest.approx(replaced - around, rel=0.01)
