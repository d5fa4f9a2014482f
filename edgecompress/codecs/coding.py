"""Entropy coding of whole numbers by a range coder (constriction) under counts that both sides learn as they go.

The chance of a code depends on its size only, the sign is even: a distribution of few numbers, learned quickly. Each
sequence starts from what the ones before it had, so that nothing but the codes themselves is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

Codes = np.ndarray[Any, np.dtype[np.int32]]
"""Whole numbers from ``-largest`` to ``largest``, flat."""
LARGEST = 127

UNIT = 5
"""What one code seen counts for; counts are whole numbers, so that every machine gets the same chances."""
FRESH = 2
"""What every size counts for before anything was seen."""
INHERITED = 24 * UNIT
"""What all sequences before together count for at the start of the next."""
GROWTH = 20
"""Counts are brought up to date whenever one part in so many of the sequence is new."""

Numbers = np.ndarray[Any, np.dtype[np.int64]]


class Counts:
    """How often each size was seen in the sequences that are finished."""

    def __init__(self) -> None:
        self.past = np.zeros(LARGEST + 1, np.int64)

    def start(self, largest: int) -> Numbers:
        """Counts of the sizes 0 to ``largest`` that a new sequence starts with."""
        known = self.past[: largest + 1]
        return FRESH + INHERITED * known // max(1, int(known.sum()))

    def end(self, codes: Codes) -> None:
        """Remember a finished sequence."""
        self.past += np.bincount(np.abs(codes), minlength=LARGEST + 1)


def blocks(length: int) -> Iterator[slice]:
    """The parts of a sequence that are coded under the same counts."""
    start = 0
    while start < length:
        stop = min(length, start + max(1, start // GROWTH))
        yield slice(start, stop)
        start = stop


def chances(counts: Numbers) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Of the codes from ``-largest`` to ``largest``."""
    sided = np.concatenate([counts[:0:-1], 2 * counts[:1], counts[1:]])
    shares: np.ndarray[Any, np.dtype[np.float32]] = (sided / sided.sum()).astype(np.float32)
    return shares


def encode(sequences: Sequence[tuple[Codes, int]]) -> bytes:
    """Bytes for sequences of (codes, largest)."""
    from constriction import stream

    coder, learned = stream.queue.RangeEncoder(), Counts()
    for codes, largest in sequences:
        counts = learned.start(largest)
        for block in blocks(len(codes)):
            coder.encode(codes[block] + largest, _model(counts))
            counts += UNIT * np.bincount(np.abs(codes[block]), minlength=largest + 1)
        learned.end(codes)
    return bytes(coder.get_compressed().astype("<u4").tobytes().rstrip(b"\0"))


def code_bits(sequences: Sequence[tuple[Codes, int]]) -> list[float]:
    """The length of each sequence in what :func:`encode` gives, in bits; together they are that but for its end."""
    learned, found = Counts(), []
    for codes, largest in sequences:
        counts, bits = learned.start(largest), 0.0
        for block in blocks(len(codes)):
            bits -= float(np.log2(chances(counts)[codes[block] + largest]).sum())
            counts += UNIT * np.bincount(np.abs(codes[block]), minlength=largest + 1)
        learned.end(codes)
        found.append(bits)
    return found


def decode(data: bytes, sequences: Sequence[tuple[int, int]]) -> list[Codes]:
    """The inverse of :func:`encode`; ``sequences`` are (length, largest) of each sequence."""
    from constriction import stream

    words = np.frombuffer(data + b"\0" * (-len(data) % 4), "<u4").astype(np.uint32)
    coder, learned, decoded = stream.queue.RangeDecoder(words), Counts(), []
    for length, largest in sequences:
        counts, codes = learned.start(largest), np.zeros(length, np.int32)
        for block in blocks(length):
            codes[block] = coder.decode(_model(counts), block.stop - block.start) - largest
            counts += UNIT * np.bincount(np.abs(codes[block]), minlength=largest + 1)
        learned.end(codes)
        decoded.append(codes)
    return decoded


def _model(counts: Numbers) -> Any:
    from constriction import stream

    return stream.model.Categorical(chances(counts), perfect=False)
