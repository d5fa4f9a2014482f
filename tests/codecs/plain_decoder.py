"""A second decoder of ``model.ectk`` files, of NumPy and plain Python alone: it shares no code with the package.

It reads the file, undoes the range coder (constriction's default: 64 bit state, 32 bit words, 24 bit precision) under
the same learned counts, and multiplies the factors out.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
WORD, STATE, PRECISION = 32, (1 << 64) - 1, 24


class Bytes:
    """A file's bytes, taken from the front."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes."""
        taken, self.data = self.data[:count], self.data[count:]
        return taken

    def whole(self) -> int:
        """A LEB128 number."""
        byte = self.take(1)[0]
        return byte if byte < 128 else (byte & 127) + 128 * self.whole()

    def sizes(self) -> list[int]:
        """As many numbers as the first says."""
        return [self.whole() for _ in range(self.whole())]

    def real(self) -> float:
        """A float32."""
        return float(np.frombuffer(self.take(4), "<f4")[0])


class RangeCoder:
    """Reads symbols back, each under its own probabilities."""

    def __init__(self, data: bytes) -> None:
        self.words = [int(word) for word in np.frombuffer(data + bytes(-len(data) % 4), "<u4")]
        self.lower, self.range, self.point = 0, STATE, 0
        self.shift()
        self.shift()

    def shift(self) -> None:
        """Take one word in."""
        self.point = (self.point << WORD | (self.words.pop(0) if self.words else 0)) & STATE

    def symbol(self, lefts: list[int]) -> int:
        """The symbol whose share, from its left border to the next, the point lies in."""
        scale = self.range >> PRECISION
        place = ((self.point - self.lower) & STATE) // scale
        found = max(at for at, left in enumerate(lefts[:-1]) if left <= place)
        self.lower = (self.lower + scale * lefts[found]) & STATE
        self.range = scale * (lefts[found + 1] - lefts[found])
        if self.range < 1 << WORD:
            self.lower, self.range = self.lower << WORD & STATE, self.range << WORD
            self.shift()
        return found


def borders(counts: list[int]) -> list[int]:
    """Left borders of the symbols -n ... n in units of 2^-24, from counts of the sizes 0 ... n; in float32."""
    sided = [*counts[:0:-1], 2 * counts[0], *counts[1:]]
    chances = [np.float32(count / sum(sided)) for count in sided]
    total = np.float32(0)
    for chance in chances:
        total = np.float32(total + chance)
    scale, below, lefts = np.float32(np.float32((1 << PRECISION) - len(chances)) / total), np.float32(0), []
    for at, chance in enumerate(chances):
        lefts.append(int(np.float32(below * scale)) + at)
        below = np.float32(below + chance)
    return [*lefts, 1 << PRECISION]


class Learned:
    """The counts that every sequence starts with and goes on learning."""

    def __init__(self, coder: RangeCoder) -> None:
        self.coder, self.past = coder, [0] * 128

    def sequence(self, length: int, largest: int) -> Array:
        """The next ``length`` codes from ``-largest`` to ``largest``."""
        known = sum(self.past[: largest + 1]) or 1
        counts = [2 + 120 * seen // known for seen in self.past[: largest + 1]]
        codes: list[int] = []
        while len(codes) < length:
            lefts, block = borders(counts), min(max(1, len(codes) // 20), length - len(codes))
            new = [self.coder.symbol(lefts) - largest for _ in range(block)]
            for code in new:
                counts[abs(code)] += 5
            codes += new
        for code in codes:
            self.past[abs(code)] += 1
        return np.array(codes, np.int64)


@dataclass
class Decoded:
    """Weights and biases by layer, and every other tensor."""

    weights: dict[str, Array]
    biases: dict[str, Array]
    others: dict[str, Array]


def decode(data: bytes) -> Decoded:
    """Everything in a file, in float64."""
    assert data[:5] == b"ECTK\1"
    assert zlib.crc32(data[:-4]) == int.from_bytes(data[-4:], "little")
    head = Bytes(data[5:-4])
    layers, others, shared = head.whole(), head.whole(), head.whole()
    heads: list[dict[str, Any]] = []
    for _ in range(layers):
        layer: dict[str, Any] = {"name": head.take(head.whole()).decode(), "shape": head.sizes(), "dims": head.sizes()}
        layer["ranks"] = head.sizes() or heads[-1]["ranks"]
        layer["scale"], layer["largest"] = head.real(), head.take(3)
        layer["step"] = head.real() if layer["largest"][2] else 0.0
        heads.append(layer)
    plain = {}
    for _ in range(others):
        name, kind, sizes = head.take(head.whole()).decode(), ["f2", "f4", "i8"][head.take(1)[0]], head.sizes()
        count = int(np.prod(sizes, dtype=np.int64))
        plain[name] = np.frombuffer(head.take(count * int(kind[1])), f"<{kind}").reshape(sizes)
    learned, found, core = Learned(RangeCoder(head.data)), Decoded({}, {}, plain), np.zeros(0)
    for at, layer in enumerate(heads):
        ranks, largest = layer["ranks"], layer["largest"]
        if not (shared and at):
            core = learned.sequence(int(np.prod(ranks)), largest[0]).reshape(ranks)
        full = core.astype(float)
        for mode, (size, rank) in enumerate(zip(layer["dims"], ranks, strict=True)):
            matrix = learned.sequence(size * rank, largest[1]).reshape(size, rank)
            full = np.moveaxis(np.tensordot(matrix, full, (1, mode)), 0, mode)
        count = int(np.prod(layer["shape"]))
        found.weights[layer["name"]] = layer["scale"] * full.reshape(-1)[:count].reshape(layer["shape"])
        if largest[2]:
            found.biases[layer["name"]] = layer["step"] * learned.sequence(layer["shape"][0], largest[2])
    return found
