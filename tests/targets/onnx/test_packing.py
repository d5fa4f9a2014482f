"""Whole numbers in an ONNX graph: all codes come out again in ONNX Runtime, folded, at about the bits they promise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import product

import numpy as np
import onnx
import onnxruntime
import pytest

from edgecompress.targets.onnx import packing as module
from edgecompress.targets.onnx.packing import (
    LOW_NODES,
    LOWS,
    Array,
    Graph,
    best_in_gaps,
    gaps,
    packing,
    rice,
    unary,
    unpacked,
)
from edgecompress.targets.onnx.sessions import operators_when_loaded


def numbers(kind: str, rows: int, columns: int) -> Array:
    """Of size up to 7: even (every value as often), falling off by half from size to size, as Rice codes expect, or
    sparse: most of them zero."""
    generator = np.random.default_rng(rows * columns)
    if kind == "sparse":
        return generator.choice([0, -1, 1, -2, 2], (rows, columns), p=[0.8, 0.095, 0.095, 0.005, 0.005])
    if kind == "even":
        return generator.integers(-7, 8, (rows, columns))
    sizes = np.minimum(generator.geometric(0.5, (rows, columns)) - 1, 6 if kind == "flatter" else 7)
    if kind == "flatter":
        return np.where(generator.random((rows, columns)) < 0.5, sizes + 1, -sizes)
    return sizes * generator.choice([-1, 1], (rows, columns))


def model_of(tables: list[list[Array]], largest: int) -> onnx.ModelProto:
    """A model whose outputs are all unpacked matrices, each added to a number that only a call knows."""
    helper, graph = onnx.helper, Graph(taken={"x"})
    names = [name for table in unpacked(graph, tables, largest) for name in table]
    value = helper.make_tensor_value_info
    outputs = [value(f"out{at}", 1, None) for at in range(len(names))]
    sums = [helper.make_node("Add", ["x", name], [out.name]) for name, out in zip(names, outputs, strict=True)]
    made = helper.make_graph([*graph.nodes, *sums], "g", [value("x", 1, [])], outputs, list(graph.constants.values()))
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def computed(model: onnx.ModelProto) -> list[Array]:
    """What ONNX Runtime makes of the unpacked matrices of :func:`model_of`."""
    found: list[Array] = onnxruntime.InferenceSession(model.SerializeToString()).run(
        None, {"x": np.zeros((), np.float32)}
    )
    return found


def sparse_and_flat() -> list[Array]:
    """A core and a matrix for which gaps are worth their nodes."""
    return [numbers("sparse", 1000, 10), numbers("flatter", 190, 10)]


SHAPES = [[[(7, 5)]], [[(64, 16), (33, 16), (1, 16)]], [[(100, 9), (9, 9)], [(40, 30)]], [[(729, 9), (40, 9)]]]


@pytest.mark.parametrize("kind", ["even", "falling", "flatter", "sparse"])
@pytest.mark.parametrize("others", ["as the first", "even", "zero"])
@pytest.mark.parametrize("shapes", SHAPES)
def test_matrices_come_out_again_and_fold(kind: str, others: str, shapes: list[list[tuple[int, int]]]) -> None:
    tables = [[numbers(kind, *shape) for shape in table] for table in shapes]
    for table in tables:
        for matrix in table[1:]:
            matrix[:] = {"even": numbers("even", *matrix.shape), "zero": np.zeros_like(matrix)}.get(others, matrix)
    model = model_of(tables, 7)
    wanted = [matrix for table in tables for matrix in table]
    assert all(np.array_equal(got, matrix) for got, matrix in zip(computed(model), wanted, strict=True))
    assert set(operators_when_loaded(model.SerializeToString())) == {"Add"}


@pytest.mark.parametrize(
    ("kind", "scattered", "signs_apart"), [("even", 0, 0), ("falling", 1, 1), ("flatter", 1, 0), ("sparse", 2, 0)]
)
def test_the_shortest_code_is_written(kind: str, scattered: int, signs_apart: int) -> None:
    model = model_of([[numbers(kind, 800, 16)]], 7)
    operators = Counter(node.op_type for node in model.graph.node)
    assert operators["Div"] == 1
    assert operators["ScatterElements"] == scattered
    assert operators["Gather"] == signs_apart


def come_out_of_gaps(matrices: list[Array]) -> onnx.ModelProto:
    """The model of one table of matrices, once it is proved to hold them in gaps and to give them again."""
    model = model_of([matrices], 7)
    assert Counter(node.op_type for node in model.graph.node)["ScatterElements"] == 2
    assert all(np.array_equal(got, matrix) for got, matrix in zip(computed(model), matrices, strict=True))
    return model


def test_gaps_of_a_sparse_core_make_a_shorter_file(monkeypatch: pytest.MonkeyPatch) -> None:
    model = come_out_of_gaps(sparse_and_flat())
    monkeypatch.setattr(module, "GAPS_NODES", 1_000_000)
    assert model.ByteSize() < model_of([sparse_and_flat()], 7).ByteSize()


def test_nodes_take_the_bytes_that_codes_are_chosen_by(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.concatenate([matrix.ravel() for matrix in sparse_and_flat()])
    digits = packing(np.concatenate(sparse_and_flat()) + 7, 15)
    kinds = {"": sum(part.nbytes for part in digits), "UNARY_NODES": unary(values).nbytes}
    kinds |= {"RICE_NODES": rice(values).nbytes, "GAPS_NODES": gaps(values, 10_000, LOWS[0]).nbytes}
    monkeypatch.setattr(module, "LOWS", LOWS[:1])
    asked = {name: getattr(module, name) for name in kinds if name}
    taken = {}
    for kind, packed in kinds.items():
        for name in asked:
            monkeypatch.setattr(module, name, -1_000_000 if name == kind else 1_000_000)
        taken[kind] = model_of([sparse_and_flat()], 7).ByteSize() - packed
    found = {name: taken[name] - taken[""] for name in asked}
    asked["GAPS_NODES"] += LOWS[0] * LOW_NODES
    assert found == pytest.approx(asked, abs=8)


def test_numbers_of_any_size_are_ones_at_the_same_place() -> None:
    values = np.array([0, 0, 3, -2, 0, 1, 7, -7])
    unpacked_bits = np.unpackbits(gaps(values, 6, 1), bitorder="little")
    assert unpacked_bits[:8].tolist() == [1, 1, 1, 0, 0, 1, 1, 0]  # three, minus two, one; above zero: 7, -7
    assert unpacked_bits[8:14].tolist() == [0, 0, 0, 1, 0, 0]  # low bits of the distances 2 0 0 1 0 2
    assert unpacked_bits[14:22].tolist() == [0, 1, 1, 1, 1, 1, 0, 1]  # their halves: 1 0 0 0 0 1


@pytest.mark.parametrize("kinds", ["zero sparse flatter even", "sparse even sparse", "even", "flatter zero sparse"])
def test_as_many_numbers_are_in_gaps_as_make_the_fewest_bytes(kinds: str) -> None:
    zero = np.zeros((90, 10), np.int64)
    parts = [zero if kind == "zero" else numbers(kind, 90 + at, 10) for at, kind in enumerate(kinds.split())]
    values, ends = np.concatenate(parts).ravel(), np.cumsum([part.size for part in parts])
    fewest = min(
        gaps(values, end, low).nbytes + low * LOW_NODES for end, low in product(ends, LOWS) if values[:end].any()
    )
    first, low = best_in_gaps(values, ends)
    assert gaps(values, first, low).nbytes + low * LOW_NODES <= fewest + 1  # whole bytes


def test_rarer_ones_get_more_low_bits() -> None:
    generator, ends = np.random.default_rng(0), np.array([20_000])
    found = [best_in_gaps((generator.random(20_000) < rare).astype(np.int64), ends)[1] for rare in (0.3, 0.12, 0.05)]
    assert found == [1, 2, 3]


@pytest.mark.parametrize("low", LOWS)
def test_low_bits_of_gaps_come_out_again(low: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOWS", range(low, low + 1))
    monkeypatch.setattr(module, "GAPS_NODES", -1_000_000)  # gaps in any case
    come_out_of_gaps(sparse_and_flat())


def test_numbers_that_are_all_zero_take_a_bit_each() -> None:
    zeros = np.zeros((640, 10), np.int64)
    assert unary(zeros.ravel()).nbytes == 801
    model = model_of([[zeros]], 7)
    assert not computed(model)[0].any()


@pytest.mark.parametrize(("kind", "code"), [("falling", unary), ("flatter", rice)])
def test_codes_take_the_bits_that_the_entropy_asks_for(kind: str, code: Callable[[Array], Array]) -> None:
    values = numbers(kind, 2000, 16).ravel()
    shares = np.unique(values, return_counts=True)[1] / values.size
    entropy = -(shares * np.log2(shares)).sum() * values.size / 8
    assert entropy < code(values).nbytes < 1.02 * entropy


def test_gaps_take_little_more_than_the_entropy() -> None:
    values = numbers("sparse", 2000, 16).ravel()
    shares = np.unique(values, return_counts=True)[1] / values.size
    entropy = -(shares * np.log2(shares)).sum() * values.size / 8
    assert entropy < gaps(values, values.size, 1).nbytes < 1.1 * entropy


@pytest.mark.parametrize("levels", [3, 5, 7, 15, 31, 255])
@pytest.mark.parametrize("rows", [1, 7, 64, 411])
def test_packed_digits_come_out_again_at_little_more_than_their_bits(levels: int, rows: int) -> None:
    digits = np.random.default_rng(rows).integers(0, levels, (rows, 5))
    packed, powers = packing(digits, levels)
    back = (packed.astype(np.int64) // powers % levels).reshape(-1, 5)[:rows]
    assert np.array_equal(back, digits)
    if rows == 411:
        assert packed.nbytes < 1.15 * digits.size * np.log2(levels) / 8 + powers.nbytes
