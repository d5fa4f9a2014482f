"""Whole numbers as packed constants of an ONNX graph, and the nodes that unpack them.

Digits: numbers from ``-largest`` to ``largest`` are digits in base ``2 largest + 1``, as many in one int32 or int64 as
it holds, which wastes next to nothing whatever the base::

    packed (n, 1, columns) --Div powers--Mod base--Sub largest--Cast--Reshape--> (rows, columns)

Unary: a number is as many zero bits as its size and a one; the signs of all but zeros stand before. That is the best
code of numbers half of which are zero, a quarter +-1 and so on::

    bytes --Div powers--Mod 2--Reshape--Split--> signs, codes
    1 - codes --ScatterElements, adding up at CumSum(codes)--> sizes;  signs --Gather at CumSum(Sign sizes)--> of each

Rice (R. F. Rice and J. R. Plaunt 1971, with one low bit): whether a number is above zero, a bit each, then in unary its
size, one less where it is above. Best where 0 and 1 are a quarter each, -1 and 2 an eighth and so on. A training for
short codes ends near one or the other::

    bytes --as above--> above, codes --as above--> sizes;  numbers = sizes (2 above - 1) + above

Gaps: of the first numbers, most of which are zero as a large core's are, the places of +-1 alone (twice for +-2), as
their distances, in Rice code with one to four low bits more; then the others in Rice code::

    2 sizes + low --CumSum--> places;  2 above - 1 --ScatterElements, adding up there--> first numbers

All nodes have constants for inputs: ONNX Runtime computes them once, when a session starts (NonZero, which would find
the ones directly, it runs on every call).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import partial
from itertools import count, product
from math import floor, log2
from string import ascii_letters
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx

Array = np.ndarray[Any, Any]
Decoder = Callable[["Graph", Array, Array], str]
"""Adds nodes that make numbers of packed bits."""
WHOLE = ((np.dtype(np.int32), 31), (np.dtype(np.int64), 63))
UNARY_NODES, RICE_NODES, GAPS_NODES, LOW_NODES = 393, 356, 569, 37
"""Bytes that the nodes of unary and Rice codes and of gaps take more than those of digits; for each low bit, too."""
LOWS = range(1, 5)
"""How many low bits of a gap may be kept apart."""
FLOAT, INT64 = 1, 7


def short_names() -> Iterator[str]:
    """All identifiers of letters, the shortest first."""
    for length in count(1):
        yield from map("".join, product(ascii_letters, repeat=length))


@dataclass(slots=True)
class Graph:
    """Nodes and constants that are added to a graph."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)
    taken: AbstractSet[str] = frozenset()
    """Names that are in the graph already."""
    names: Iterator[str] = field(default_factory=short_names)

    def constant(self, array: Array) -> str:
        """The name of a constant; equal ones are kept once."""
        key = f"{array.dtype}{array.shape}{array.tobytes()!r}"
        if key not in self.constants:
            self.constants[key] = _shortest(array, self.fresh())
        return self.constants[key].name

    def whole(self, values: int | Sequence[int]) -> str:
        """The name of an int64 constant."""
        return self.constant(np.array(values, np.int64))

    def fresh(self) -> str:
        """A short name that nothing in the graph has."""
        return next(name for name in self.names if name not in self.taken)

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """A nameless node (none is left when a session runs) with one output, whose name comes back."""
        from onnx import helper

        name = self.fresh()
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def split(self, whole: str, sizes: Sequence[int]) -> list[str]:
        """Names of the parts of ``whole`` along its first axis; itself where there is one."""
        from onnx import helper

        if len(sizes) == 1:
            return [whole]
        names = [self.fresh() for _ in sizes]
        self.nodes.append(helper.make_node("Split", [whole, self.whole(sizes)], names))
        return names


def _shortest(array: Array, name: str) -> onnx.TensorProto:
    """A tensor; small whole numbers take a byte or two each as varints, eight in the raw form."""
    from onnx import helper, numpy_helper

    raw = numpy_helper.from_array(array, name)
    if array.dtype != np.int64:
        return raw
    return min(raw, helper.make_tensor(name, INT64, array.shape, array.ravel().tolist()), key=lambda of: of.ByteSize())


def unpacked(graph: Graph, tables: Sequence[Sequence[Array]], largest: int) -> list[list[str]]:
    """Names of all matrices (rows, columns) of numbers up to ``largest``; those of one table have equal columns.

    Of digits, unary and Rice codes and gaps the shortest are written.
    """
    stacked = [np.concatenate(table) for table in tables]
    numbers = np.concatenate([stack.ravel() for stack in stacked])
    packings = [packing(stack + largest, 2 * largest + 1) for stack in stacked]
    bits, more, decoded = min(_codes(numbers, tables), key=lambda of: of[0].nbytes + of[1])
    if bits.nbytes + more < sum(part.nbytes for packed in packings for part in packed):
        flat = graph.split(decoded(graph, numbers, bits), [stack.size for stack in stacked])
        rows = [len(stack) for stack in stacked]
    else:
        flat = [_from_digits(graph, *packed, largest) for packed in packings]
        rows = [len(packed) * len(powers) for packed, powers in packings]
    return [_matrices(graph, *of) for of in zip(flat, tables, rows, strict=True)]


def _codes(numbers: Array, tables: Sequence[Sequence[Array]]) -> Iterator[tuple[Array, int, Decoder]]:
    """Bits of all numbers in each code, the bytes of its nodes, and what adds those."""
    yield unary(numbers), UNARY_NODES, _from_unary
    yield rice(numbers), RICE_NODES, _from_rice
    if numbers.any():
        first, low = best_in_gaps(numbers, np.cumsum([matrix.size for table in tables for matrix in table]))
        yield gaps(numbers, first, low), GAPS_NODES + low * LOW_NODES, partial(_from_gaps, first, low)


def _matrices(graph: Graph, numbers: str, table: Sequence[Array], rows: int) -> list[str]:
    """The matrices of a table that lie one after the other in ``numbers``, of so many rows with the padding."""
    sizes = [len(matrix) for matrix in table]
    whole = graph.add("Reshape", numbers, graph.whole([-1, table[0].shape[1]]))
    rest = rows - sum(sizes)
    return graph.split(whole, [*sizes, rest] if rest else sizes)[: len(sizes)]


def _from_digits(graph: Graph, packed: Array, powers: Array, largest: int) -> str:
    """Numbers, a column each, out of digits packed down the rows; padding comes after them."""
    kind = packed.dtype
    # (n, 1, columns) / (k, 1) -> (n, k, columns): every digit shifted to the lowest place
    whole = graph.add("Div", graph.constant(packed), graph.constant(powers))
    digits = graph.add("Mod", whole, graph.constant(np.array(2 * largest + 1, kind)))
    centred = graph.add("Sub", digits, graph.constant(np.array(largest, kind)))
    return graph.add("Cast", centred, to=FLOAT)


def _from_unary(graph: Graph, numbers: Array, packed: Array) -> str:
    """Numbers, flat, out of ``packed``, their bits by :func:`unary`."""
    lengths = [1 + int(np.count_nonzero(numbers)), int(np.abs(numbers).sum()) + len(numbers)]
    negative, codes = _bits(graph, packed, lengths)
    sizes = _sizes(graph, codes, len(numbers))
    # the k-th number that is not zero has the k-th sign; zeros before the first take the idle bit at place 0
    below = graph.add("Gather", negative, graph.add("CumSum", graph.add("Sign", sizes), graph.whole(0)))
    signed = graph.add("Mul", sizes, graph.add("Sub", graph.whole(1), graph.add("Add", below, below)))  # 1 - 2 below
    return graph.add("Cast", signed, to=FLOAT)


def _from_rice(graph: Graph, numbers: Array, packed: Array) -> str:
    """Numbers, flat, out of ``packed``, their bits by :func:`rice`."""
    lengths = [len(numbers), int(_beyond(numbers).sum()) + len(numbers)]
    above, codes = _bits(graph, packed, lengths)
    # a size s stands for s + 1 above zero and for -s elsewhere: s (2 above - 1) + above
    signed = graph.add("Mul", _sizes(graph, codes, len(numbers)), _signs(graph, above))
    return graph.add("Cast", graph.add("Add", signed, above), to=FLOAT)


def _from_gaps(first: int, low: int, graph: Graph, numbers: Array, packed: Array) -> str:
    """Numbers, flat, out of ``packed``, their bits by :func:`gaps`."""
    distances, others = _distances(numbers[:first]), numbers[first:]
    # both kinds share one unary code and its signs: the gaps' high bits first, then the other numbers' sizes
    kinds = [count for count in (len(distances), len(others)) if count]
    ended = int((distances >> low).sum() + _beyond(others).sum()) + sum(kinds)
    above, *lows, codes = _bits(graph, packed, [sum(kinds), *[len(distances)] * low, ended])
    sizes, signs = _sizes(graph, codes, sum(kinds)), _signs(graph, above)
    distance, side = (graph.split(of, kinds)[0] for of in (sizes, signs))
    for bits in lows:  # the highest low bit first: distance = 2 distance + bit
        distance = graph.add("Add", graph.add("Add", distance, distance), bits)
    places = graph.add("CumSum", distance, graph.whole(0))
    # a number of size n is n ones at one place, which add up
    whole = graph.add("ScatterElements", _zeros(graph, first), places, side, reduction="add")
    if len(others):
        rest = graph.split(graph.add("Add", graph.add("Mul", sizes, signs), above), kinds)[1]
        whole = graph.add("Concat", whole, rest, axis=0)
    return graph.add("Cast", whole, to=FLOAT)


def _signs(graph: Graph, above: str) -> str:
    """1 above zero, -1 elsewhere."""
    return graph.add("Sub", graph.add("Add", above, above), graph.whole(1))


def _bits(graph: Graph, packed: Array, lengths: list[int]) -> list[str]:
    """The bits of ``packed`` bytes, the lowest first, in parts of the given lengths."""
    powers = 1 << np.arange(8, dtype=np.uint8)  # (bytes, 1) / (8,) -> (bytes, 8)
    shifted = graph.add("Div", graph.constant(packed[:, None]), graph.constant(powers))
    bits = graph.add("Cast", graph.add("Mod", shifted, graph.constant(np.array(2, np.uint8))), to=INT64)
    flat = graph.add("Reshape", bits, graph.whole([-1]))
    rest = 8 * len(packed) - sum(lengths)
    return graph.split(flat, [*lengths, rest])[: len(lengths)]


def _sizes(graph: Graph, codes: str, count: int) -> str:
    """How many zeros stand before each of ``count`` ones."""
    # each zero adds one to the number that the next one ends: as many ones as were before it say which that is
    owners, ended = graph.add("CumSum", codes, graph.whole(0), exclusive=1), graph.add("Sub", graph.whole(1), codes)
    return graph.add("ScatterElements", _zeros(graph, count), owners, ended, reduction="add")


def _zeros(graph: Graph, count: int) -> str:
    """So many, int64."""
    return graph.add("Expand", graph.whole(0), graph.whole([count]))


def unary(numbers: Array) -> Array:
    """Bytes, first bit lowest: an idle bit, the signs of all but zeros, then of each number size zeros and a one."""
    signs = (numbers[numbers != 0] < 0).astype(np.uint8)
    return np.packbits(np.concatenate([[0], signs, _ended(np.abs(numbers))]).astype(np.uint8), bitorder="little")


def rice(numbers: Array) -> Array:
    """Bytes, first bit lowest: which numbers are above zero, then their sizes in unary, one less where they are."""
    return np.packbits(np.concatenate([numbers > 0, _ended(_beyond(numbers))]).astype(np.uint8), bitorder="little")


def gaps(numbers: Array, first: int, low: int) -> Array:
    """Bytes, first bit lowest, of the first so many numbers as the places of ones, and of the others as by Rice.

    What is above zero, of each one and each other number; the distances' ``low`` low bits, all highest ones first; the
    rest of both in unary.
    """
    distances, others = _distances(numbers[:first]), numbers[first:]
    above = np.concatenate([np.repeat(numbers[:first], np.abs(numbers[:first])) > 0, others > 0])
    lows = [distances >> at & 1 for at in reversed(range(low))]
    ended = _ended(np.concatenate([distances >> low, _beyond(others)]))
    return np.packbits(np.concatenate([above, *lows, ended]).astype(np.uint8), bitorder="little")


def best_in_gaps(numbers: Array, ends: Array) -> tuple[int, int]:
    """How many first numbers (one of ``ends``, not zeros only) and low bits make the fewest bytes, nodes and all."""
    ones = np.cumsum(np.abs(numbers))[ends - 1]
    ends, ones = ends[ones > 0], ones[ones > 0]
    # of every end at once, the bits of its gaps (a high part in unary, its end, a sign, the low bits) beyond those that
    # the same numbers take by Rice, and the nodes of the low bits
    distances, elsewise = _distances(numbers), np.cumsum(_beyond(numbers) + 2)[ends - 1]
    bits = [np.cumsum((distances >> low) + 2 + low)[ones - 1] - elsewise + 8 * low * LOW_NODES for low in LOWS]
    low, place = np.unravel_index(np.argmin(bits), (len(LOWS), len(ends)))
    return int(ends[place]), LOWS[low]


def _distances(numbers: Array) -> Array:
    """From each one to the next, a number of size n being n ones at the same place; from the start to the first."""
    places = np.repeat(np.arange(len(numbers)), np.abs(numbers))
    return np.diff(places, prepend=0)


def _beyond(numbers: Array) -> Array:
    """What Rice's code writes in unary: n - 1 for n above zero, else -n."""
    return np.where(numbers > 0, numbers - 1, -numbers)


def _ended(sizes: Array) -> Array:
    """Bits: of each size so many zeros and a one."""
    codes = np.zeros(int(sizes.sum()) + len(sizes), np.uint8)
    codes[np.cumsum(sizes + 1) - 1] = 1
    return codes


def packing(digits: Array, base: int) -> tuple[Array, Array]:
    """``packed`` (n, 1, columns) and ``powers`` (k, 1) with ``digits`` (rows, columns) = packed / powers mod base.

    Of int32 and int64 and of all numbers of digits in one of them, the smallest; rows are padded with zeros.
    """
    best = min(
        (-(-len(digits) // count) * digits.shape[1] * kind.itemsize + count * kind.itemsize, kind.itemsize, count)
        for kind, bits in WHOLE
        for count in range(1, floor(bits / log2(base)) + 1)
    )
    kind, count = np.dtype(f"<i{best[1]}"), best[2]
    groups = -(-len(digits) // count)
    padded = np.zeros((groups * count, digits.shape[1]), np.int64)
    padded[: len(digits)] = digits
    powers = np.array([base**at for at in range(count)], np.int64)
    packed = (padded.reshape(groups, count, -1) * powers[:, None]).sum(1, keepdims=True)
    return packed.astype(kind), powers[:, None].astype(kind)
