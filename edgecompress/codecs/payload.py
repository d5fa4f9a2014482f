"""One file with everything a stored model needs to be decoded: names, sizes, scales, codes, other tensors, checksum.

::

    "ECTK" version(1)   layers others shared(0 or 1)
    each layer:  name, shape, dims, ranks, scale(f32), largest code of core, matrices and bias, step of the bias(f32)
    each other:  name, type (0: f16, 1: f32, 2: i64), shape, numbers
    codes by ``codecs.coding``: core, matrices and bias of each layer in turn; a shared core once
    crc32 of all before (4 bytes)

Whole numbers are LEB128, names UTF-8 with their length before, sizes are written after their number, other numbers
little-endian. No ranks: those of the layer before. A largest code of 0 says that there is no bias, and no step is
written. Of layers that share a core the first one's ``largest`` counts for it. A second decoder, in plain Python, is
``tests/codecs/plain_decoder.py``.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from edgecompress.codecs.coding import LARGEST, Codes, decode, encode
from edgecompress.errors import FileError
from edgecompress.files import reason, written_aside
from edgecompress.plans import Ranks

MAGIC, VERSION = b"ECTK", 1
SUFFIX = ".ectk"
MOST_NUMBERS = 1 << 28
"""Of a layer, and of all codes: more is taken for a broken or hostile file."""
TYPES = (np.dtype("<f2"), np.dtype("<f4"), np.dtype("<i8"))

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class StoredLayer:
    """A weight as codes: ``scale * core x_1 matrix_1 ... x_n matrix_n``, all whole numbers, reshaped to ``shape``.

    ``codes`` are of the core and the matrices, flat; ``largest`` are the largest codes of the core, the matrices and
    the bias, ``bias`` the bias as codes (empty: none) of which one is worth ``step``.
    """

    name: str
    shape: tuple[int, ...]
    dims: tuple[int, ...]
    ranks: Ranks
    scale: float
    largest: tuple[int, int, int]
    codes: tuple[Codes, ...]
    bias: Codes = field(default_factory=lambda: np.zeros(0, np.int32))
    step: float = 0.0


@dataclass(frozen=True, slots=True)
class Stored:
    """A model's coded layers, and every other tensor of its ``state_dict``; ``shared``: all layers have one core."""

    layers: tuple[StoredLayer, ...]
    others: dict[str, Array]
    shared: bool

    @property
    def numbers(self) -> int:
        """Codes, the shared core's once, scales, and the numbers of all others."""
        codes = sum(len(part) for part, _ in sequences_of(self))
        return codes + len(self.layers) + sum(other.size for other in self.others.values())


def to_bytes(stored: Stored) -> bytes:
    """The file."""
    head = [MAGIC, bytes([VERSION]), *map(_number, (len(stored.layers), len(stored.others), int(stored.shared)))]
    head += heads_of(stored)
    head += [_other(name, array) for name, array in stored.others.items()]
    body = b"".join(head) + encode(sequences_of(stored))
    return body + zlib.crc32(body).to_bytes(4, "little")


def heads_of(stored: Stored) -> list[bytes]:
    """What is written of each layer beside its codes."""
    before: list[Ranks] = [(), *(layer.ranks for layer in stored.layers)]
    return [_layer(layer, ranks) for layer, ranks in zip(stored.layers, before, strict=False)]


def sequences_of(stored: Stored) -> list[tuple[Codes, int]]:
    """All codes in the order they are written in, each sequence with its largest code."""
    sequences: list[tuple[Codes, int]] = []
    for at, layer in enumerate(stored.layers):
        core, *matrices = layer.codes
        sequences += [] if stored.shared and at else [(core, layer.largest[0])]
        sequences += [(matrix, layer.largest[1]) for matrix in matrices]
        sequences += [(layer.bias, layer.largest[2])] if len(layer.bias) else []
    return sequences


def _layer(layer: StoredLayer, before: Ranks) -> bytes:
    ranks = () if layer.ranks == before else layer.ranks
    parts = [_text(layer.name), *map(_sizes, (layer.shape, layer.dims, ranks)), _float(layer.scale)]
    return b"".join([*parts, bytes(layer.largest), *([_float(layer.step)] if layer.largest[2] else [])])


def _other(name: str, array: Array) -> bytes:
    kind = TYPES.index(array.dtype.newbyteorder("<"))
    return _text(name) + bytes([kind]) + _sizes(array.shape) + array.astype(TYPES[kind]).tobytes()


def _number(value: int) -> bytes:
    low, rest = value & 127, value >> 7
    return bytes([low | 128]) + _number(rest) if rest else bytes([low])


def _sizes(values: tuple[int, ...]) -> bytes:
    return b"".join(map(_number, (len(values), *values)))


def _text(text: str) -> bytes:
    data = text.encode()
    return _number(len(data)) + data


def _float(value: float) -> bytes:
    return np.array(value, "<f4").tobytes()


class _Reader:
    """Takes numbers off the front of a file's bytes."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            raise ValueError("it ends too early")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self) -> int:
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value, shift = value | (byte & 127) << shift, shift + 7
            if byte < 128:
                return value
            if shift > 56:
                raise ValueError("a number is out of range")

    def sizes(self) -> tuple[int, ...]:
        values = tuple(self.number() for _ in range(self.number()))
        if prod(values) > MOST_NUMBERS:
            raise ValueError(f"sizes {values} are out of range")
        return values

    def text(self) -> str:
        return self.take(self.number()).decode()

    def float(self) -> float:
        return float(np.frombuffer(self.take(4), "<f4")[0])


def from_bytes(data: bytes) -> Stored:
    """The inverse of :func:`to_bytes`.

    Raises:
        FileError: not such a file, of another version, or damaged.
    """
    if data[:4] != MAGIC:
        raise FileError("not a file of stored weights: it does not begin with ECTK")
    if data[4:5] != bytes([VERSION]):
        raise FileError(f"stored weights of version {data[4:5].hex() or 'none'}: this release reads {VERSION}")
    if zlib.crc32(data[:-4]).to_bytes(4, "little") != data[-4:]:
        raise FileError("its checksum is wrong: damaged or not whole; copy or make it again")
    try:
        return _read(_Reader(data[5:-4]))
    except (ValueError, IndexError, UnicodeDecodeError, RecursionError) as error:
        raise FileError(f"stored weights are malformed: {error}") from None


def _read(reader: _Reader) -> Stored:
    layers, others, shared = reader.number(), reader.number(), bool(reader.number())
    heads: list[tuple[StoredLayer, int]] = []
    for _ in range(layers):
        heads.append(_read_layer(reader, heads[-1][0].ranks if heads else ()))
    others_read = dict(_read_other(reader) for _ in range(others))
    sequences = [
        part
        for at, (layer, biases) in enumerate(heads)
        for part in _sequences(layer, biases, with_core=not (shared and at))
    ]
    if sum(length for length, _ in sequences) > MOST_NUMBERS:
        raise ValueError("more codes than a model can have")
    codes = iter(_decoded(reader.data[reader.at :], sequences))
    filled: list[StoredLayer] = []
    for at, (layer, biases) in enumerate(heads):
        core = filled[0].codes[0] if shared and at else next(codes)
        matrices = [next(codes) for _ in layer.dims]
        bias = next(codes) if biases else layer.bias
        filled.append(replace(layer, codes=(core, *matrices), bias=bias))
    return Stored(tuple(filled), others_read, shared)


def _decoded(data: bytes, sequences: list[tuple[int, int]]) -> list[Codes]:
    try:
        return decode(data, sequences)
    except Exception as error:  # the coder's own, for data that no encoder wrote
        raise ValueError(f"its codes are damaged ({type(error).__name__})") from None


def _read_layer(reader: _Reader, before: Ranks) -> tuple[StoredLayer, int]:
    """A layer without its codes, and the length of its bias."""
    name, shape, dims, ranks = reader.text(), reader.sizes(), reader.sizes(), reader.sizes() or before
    scale, sizes = reader.float(), reader.take(3)
    largest = (sizes[0], sizes[1], sizes[2])
    step = reader.float() if largest[2] else 0.0
    if not np.isfinite((scale, step)).all():
        raise ValueError(f"{name}: a scale or a step is no number")
    if len(dims) != len(ranks) or not shape or prod(dims) < prod(shape) or max(largest) > LARGEST:
        raise ValueError(f"{name}: sizes {shape}, {dims}, {ranks} or largest codes {largest} do not fit")
    return StoredLayer(name, shape, dims, ranks, scale, largest, (), step=step), shape[0] if largest[2] else 0


def _sequences(layer: StoredLayer, biases: int, *, with_core: bool) -> list[tuple[int, int]]:
    """(length, largest code) of each sequence of a layer."""
    sequences = [(prod(layer.ranks), layer.largest[0])] if with_core else []
    sequences += [(d * r, layer.largest[1]) for d, r in zip(layer.dims, layer.ranks, strict=True)]
    return sequences + ([(biases, layer.largest[2])] if biases else [])


def _read_other(reader: _Reader) -> tuple[str, Array]:
    name, kind, shape = reader.text(), reader.take(1)[0], reader.sizes()
    data = reader.take(prod(shape) * TYPES[kind].itemsize)
    return name, np.frombuffer(data, TYPES[kind]).reshape(shape)


def save(stored: Stored, path: Path) -> int:
    """Write the file and return its size in bytes."""
    data = to_bytes(stored)
    with written_aside(path) as partial:
        partial.write_bytes(data)
    return len(data)


def load(path: Path) -> Stored:
    """Read a file written by :func:`save`.

    Raises:
        FileError: missing, damaged, or not such a file.
    """
    try:
        return from_bytes(path.read_bytes())
    except FileNotFoundError:
        raise FileError(f"{path}: no such file") from None
    except OSError as error:
        raise FileError(f"{path}: {reason(error)}") from error
    except FileError as error:
        raise FileError(f"{path}: {error}") from None
