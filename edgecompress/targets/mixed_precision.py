"""What stays in float where the rest becomes int8: operators that were requested, masks, and what feeds an output.

One scale for a whole tensor cannot hold two kinds of numbers. Each format's graph is looked at as a list of
:class:`Operator`, so that all of them choose alike.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from edgecompress.errors import ExportError
from edgecompress.files import Json

ALIASES = {
    "cat": "concat", "concatenation": "concat", "logistic": "sigmoid", "conv1d": "conv", "conv2d": "conv",
    "conv3d": "conv", "depthwiseconv2d": "conv", "convolution": "conv", "fullyconnected": "linear", "gemm": "linear",
    "addmm": "linear", "batchmatmul": "matmul", "bmm": "matmul", "mm": "matmul", "selectv2": "where",
}  # fmt: skip
"""One name for what formats call differently, in lower case without underscores."""
MASKED = "a mask, or numbers far from all others, would set its range"
WATCHED = 8
"""Calibration inputs on which tensors are searched for numbers far from all others."""


@dataclass(frozen=True, slots=True)
class KeepFloat:
    """What stays in float: layers and kinds of operators by ``patterns``, and what feeds ``outputs`` (their numbers).

    Of the latter the operators behind the last convolutions and matrix products, and as many of those in a row as
    ``depth`` says; ``why`` in words.
    """

    patterns: tuple[str, ...] = ()
    outputs: tuple[int, ...] = ()
    depth: int = 0
    why: str = ""

    def before(self, outputs: Collection[int], depth: int, why: str) -> KeepFloat:
        """The same patterns, and what feeds these outputs."""
        return replace(self, outputs=tuple(sorted(outputs)), depth=depth, why=why)

    def to_json(self) -> Json:
        """A JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Json) -> KeepFloat:
        """The inverse of :meth:`to_json`."""
        return cls(tuple(document["patterns"]), tuple(document["outputs"]), document["depth"], document["why"])


@dataclass(frozen=True, slots=True)
class Operator:
    """An operator of a format's graph: its own name there, its kind, the layers it comes from, and its tensors.

    ``label`` is for people, as ``head.score/Sigmoid``.
    """

    name: str
    kind: str
    layers: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    label: str
    product: bool = False

    def answers_to(self, pattern: str) -> bool:
        """Whether a pattern, as in a shell, is its kind, its layer or one that this lies in."""
        around = [above for layer in self.layers for above in with_parents(layer)]
        named = [*around, self.name, self.label]
        return any(fnmatchcase(name, pattern) for name in named) or fnmatchcase(
            common_kind(self.kind), common_kind(pattern)
        )


def with_parents(layer: str) -> list[str]:
    """``a``, ``a.b`` and ``a.b.c`` for the last."""
    parts = layer.split(".")
    return [".".join(parts[: count + 1]) for count in range(len(parts))] if layer else []


def common_kind(kind: str) -> str:
    """What an operator is called in all formats, in lower case."""
    bare = kind.lower().replace("_", "")
    return ALIASES.get(bare, bare)


def float_operators(
    operators: Sequence[Operator], outputs: Sequence[str], keep: KeepFloat, wide: Collection[str] = ()
) -> dict[str, str]:
    """Names of the operators that stay in float, each with the reason.

    ``outputs`` are the names of the graph's; ``wide`` are tensors that are neither made nor read in int8.

    Raises:
        ExportError: a pattern fits nothing.
    """
    chosen: dict[str, str] = {}
    for pattern in keep.patterns:
        chosen |= dict.fromkeys(_matching(operators, pattern), f"--keep-float {pattern}")
    tail = _feeding(operators, {outputs[index] for index in keep.outputs if index < len(outputs)}, keep.depth)
    masked = [operator.name for operator in operators if not {*operator.inputs, *operator.outputs}.isdisjoint(wide)]
    return dict.fromkeys(masked, MASKED) | dict.fromkeys(tail, keep.why) | chosen


def float_facts(operators: Sequence[Operator], reasons: dict[str, str]) -> Json:
    """Facts about what stayed in float: reason to operators."""
    facts: dict[str, list[str]] = {}
    for operator in operators:
        if operator.name in reasons:
            facts.setdefault(reasons[operator.name], []).append(operator.label)
    return {"kept_float": facts} if facts else {}


def _matching(operators: Sequence[Operator], pattern: str) -> list[str]:
    names = [operator.name for operator in operators if operator.answers_to(pattern)]
    if not names:
        layers = sorted({layer for operator in operators for layer in operator.layers if layer})
        kinds = sorted({operator.kind for operator in operators})
        raise ExportError(
            f"--keep-float {pattern!r} fits no layer and no kind of operator; layers are {_some(layers)}, "
            f"operators {_some(kinds)}"
        )
    return names


def _some(names: list[str], most: int = 12) -> str:
    return (
        ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "") if names else "none"
    )


def _feeding(operators: Sequence[Operator], tensors: Collection[str], depth: int) -> list[str]:
    """Operators on the way back from ``tensors``, up to the products that ``depth`` does not reach."""
    makers = {tensor: operator for operator in operators for tensor in operator.outputs}
    best: dict[str, int] = {}
    waiting = [(tensor, depth) for tensor in tensors]
    while waiting:
        tensor, left = waiting.pop()
        operator = makers.get(tensor)
        if operator is None or (left := left - operator.product) < 0 or best.get(operator.name, -1) >= left:
            continue
        best[operator.name] = left
        waiting += [(tensor, left) for tensor in operator.inputs]
    return list(best)


@dataclass(slots=True)
class Magnitudes:
    """How a tensor's numbers are spread over powers of two, and whether some are infinite."""

    OCTAVES = 6
    LARGE = 16.0
    SHARE = 0.05
    counts: Any = field(default_factory=lambda: np.zeros(320, np.int64))
    infinite: bool = False

    def add(self, values: np.ndarray[Any, Any]) -> None:
        """Count some more."""
        finite = values[np.isfinite(values)]
        self.infinite |= finite.size < values.size
        exponents = np.frexp(finite[finite != 0])[1] + 160
        self.counts += np.bincount(exponents, minlength=320)

    def wide(self) -> bool:
        """Whether the largest would leave the others fewer than four of an int8's steps: a gap lies between them.

        Softmax and other outputs of about one have small numbers that do not matter beside it; zeros fit any scale.
        """
        return self.infinite or any(self._split(octave) for octave in self._gaps())

    def _gaps(self) -> Iterator[int]:
        filled = np.flatnonzero(self.counts)
        yield from filled[:-1][np.diff(filled) >= self.OCTAVES]

    def _split(self, octave: int) -> bool:
        below, above = int(self.counts[: octave + 1].sum()), np.flatnonzero(self.counts)[-1] - 160
        return below >= max(8, self.SHARE * self.counts.sum()) and 2.0 ** int(above) > self.LARGE
