"""Operators of ONNX by the tests that come with the standard (``onnx.backend.test``)."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor

from edgecompress.sources.onnx_graphs.building import Building
from edgecompress.sources.onnx_graphs.reading import BODIES, OLDEST, QUANTIZED, QUANTIZED_LAYERS, graph_of
from edgecompress.sources.onnx_operators import OPERATORS
from edgecompress.sources.onnx_operators.base import DTYPES

CLAIMED = 150
"""Operators with tests that all pass, at least."""

QUICK = (
    "averagepool batch_normalization clip concat conv convtranspose einsum flatten gather gemm gru "
    "layernormalization lstm matmul maxpool pad reducemean reshape resize rnn scatternd slice softmax split squeeze "
    "topk transpose unsqueeze where"
)
"""Files of tests that are run each time; the others take a marker."""

LEFT_OUT = {
    "test_training_dropout": "drops at random",
    "test_attention_4d_causal_fp16_expanded": "half precision, rounded in another order",
    "test_dft_inverse": "expects rounding noise of 1.9e-7, beyond its own tolerance, where the number is 0",
    "test_if": "a branch by an input",
    "test_affine_grid_3d_align_corners_expanded": "a branch by an input",
}
"""Beginnings of names, with the reason."""


def left_out(case: Any, model: onnx.ModelProto) -> str:
    """Why a case is not run, or an empty string."""
    kinds = {node.op_type for node in model.graph.node}
    version = next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), 0)
    reasons = {
        "operators that are refused by name": kinds & {*QUANTIZED, *QUANTIZED_LAYERS, *BODIES},
        "of another domain": any(node.domain not in ("", "ai.onnx") for node in model.graph.node) or not version,
        f"opset below {OLDEST}": version < OLDEST,
        "strings, sequences, and numbers that PyTorch does not hold": not all(map(is_held, types(model))),
        "bfloat16, which the standard's tests round in another order": TensorProto.BFLOAT16 in types(model),
        "operators that are not claimed": kinds - OPERATORS.keys() - {"If"},
    }
    named = next((reason for name, reason in LEFT_OUT.items() if case.name.startswith(name)), "")
    return named or next((reason for reason, is_so in reasons.items() if is_so), "")


def types(model: onnx.ModelProto) -> list[int]:
    """Of inputs and outputs, 0 for what is no tensor."""
    given = [*model.graph.input, *model.graph.output]
    return [item.type.tensor_type.elem_type if item.type.HasField("tensor_type") else 0 for item in given]


def is_held(kind: int) -> bool:
    return kind in DTYPES


def cases(names: Iterable[str] = ()) -> Iterator[tuple[Any, onnx.ModelProto]]:
    """All cases, or those of some files."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        node = importlib.import_module("onnx.backend.test.case.node")
        for name in names:
            importlib.import_module(f"onnx.backend.test.case.node.{name}")
        found = list(node._NodeTestCases) if names else node.collect_testcases()
    yield from ((case, case.model) for case in found)


def array(given: Any) -> np.ndarray[Any, Any]:
    return numpy_helper.to_array(given) if isinstance(given, TensorProto) else np.asarray(given)


def assert_passes(case: Any, model: onnx.ModelProto) -> None:
    """The network of a case gives the numbers that it expects, of their shapes and types."""
    graph = graph_of(model)
    for given, expected in case.data_sets:
        inputs = tuple(torch.from_numpy(np.array(array(item))) for item in given)
        network = Building(graph, [inputs]).built()
        with torch.no_grad():
            found = network(*inputs)
        outputs: tuple[Tensor, ...] = found if isinstance(found, tuple) else (found,)
        for ours, theirs in zip(outputs, map(array, expected), strict=True):
            mine = ours.detach().numpy()
            assert (mine.shape, mine.dtype) == (theirs.shape, theirs.dtype), case.name
            np.testing.assert_allclose(mine, theirs, rtol=case.rtol, atol=case.atol, err_msg=case.name)


def passed(found: Iterable[tuple[Any, onnx.ModelProto]]) -> tuple[dict[str, int], list[str]]:
    """How many cases of each operator pass, and what fails."""
    counts, failures = dict.fromkeys(OPERATORS, 0), []
    for case, model in found:
        if left_out(case, model):
            continue
        try:
            assert_passes(case, model)
        except Exception as error:
            failures.append(f"{case.name}: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
        for kind in {node.op_type for node in model.graph.node} & counts.keys():
            counts[kind] += 1
    return counts, failures


def test_operators_pass_the_tests_of_the_standard() -> None:
    counts, failures = passed(cases(QUICK.split()))
    assert failures == []
    assert sum(count > 0 for count in counts.values()) > 40
    assert counts["Conv"] > 3
    assert counts["LSTM"] > 3


@pytest.mark.slow
def test_all_operators_pass_the_tests_of_the_standard() -> None:
    counts, failures = passed(cases())
    assert failures == []
    assert sum(count > 0 for count in counts.values()) >= CLAIMED
    assert sorted(kind for kind, count in counts.items() if not count) == UNTESTED


UNTESTED = ["GlobalLpPool", "Scatter", "Shrink", "Xor"]
"""Operators that have no tests there for opset 11 and newer."""
