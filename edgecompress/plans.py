"""CompressionPlan: which layer gets which method and ranks, and why every other layer stays dense.

A plan and a ``state_dict`` are a compressed model: ``decompose(model, plan, fill=False)`` has the structure the
``state_dict`` fits, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecompress.errors import FileError
from edgecompress.files import Json, check_version, read_json, write_json

VERSION = 1
KIND = "edgecompress.plan"
Ranks = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LayerPlan:
    """One layer to replace.

    ``name`` is its dotted path in ``model.named_modules()``, ``method`` a key of ``DECOMPOSITIONS``, ``shape``
    its weight's shape; ``error`` is the predicted relative squared error of the weight.
    """

    name: str
    method: str
    ranks: Ranks
    shape: tuple[int, ...]
    error: float

    def to_json(self) -> Json:
        """A JSON object."""
        return {
            "name": self.name,
            "method": self.method,
            "ranks": list(self.ranks),
            "shape": list(self.shape),
            "error": self.error,
        }

    @classmethod
    def from_json(cls, document: Json) -> LayerPlan:
        """The inverse of :meth:`to_json`; raises KeyError, TypeError or ValueError on nonsense."""
        ranks, shape = (tuple(_whole(value) for value in document[key]) for key in ("ranks", "shape"))
        error = float(document["error"])
        if not math.isfinite(error):
            raise ValueError(f"error {error} is not finite")
        return cls(str(document["name"]), str(document["method"]), ranks, shape, error)


def _whole(value: object) -> int:
    if type(value) is not int:
        raise TypeError(f"{value!r} is not a whole number")
    return value


@dataclass(frozen=True, slots=True)
class Skipped:
    """A layer left dense, and the reason in words."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class CompressionPlan:
    """What to do with every layer of ``model`` that has a weight: replaced, or skipped with a reason.

    ``dense_macs`` and ``macs`` (of one input), ``dense_params`` and ``params`` are of the whole model.
    """

    model: str
    layers: tuple[LayerPlan, ...]
    skipped: tuple[Skipped, ...]
    dense_macs: int
    dense_params: int
    macs: int
    params: int

    def to_json(self) -> Json:
        """A JSON object with kind and version."""
        return {
            "kind": KIND,
            "version": VERSION,
            "model": self.model,
            "dense": {"macs": self.dense_macs, "params": self.dense_params},
            "planned": {"macs": self.macs, "params": self.params},
            "layers": [layer.to_json() for layer in self.layers],
            "skipped": [{"name": skip.name, "reason": skip.reason} for skip in self.skipped],
        }

    @classmethod
    def from_json(cls, document: Json) -> CompressionPlan:
        """The inverse of :meth:`to_json`.

        Raises:
            FileError: another kind or version, or a field is missing or of the wrong type.
        """
        check_version(document, KIND, VERSION)
        try:
            return cls._from(document)
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise FileError(f"plan: field missing or malformed: {error}") from None

    @classmethod
    def _from(cls, document: Mapping[str, Any]) -> CompressionPlan:
        dense, planned = document["dense"], document["planned"]
        return cls(
            str(document["model"]),
            tuple(LayerPlan.from_json(layer) for layer in document["layers"]),
            tuple(Skipped(str(skip["name"]), str(skip["reason"])) for skip in document["skipped"]),
            int(dense["macs"]),
            int(dense["params"]),
            int(planned["macs"]),
            int(planned["params"]),
        )

    def save(self, path: Path) -> None:
        """Write the plan as JSON."""
        write_json(path, self.to_json())

    @classmethod
    def load(cls, path: Path) -> CompressionPlan:
        """Read a plan written by :meth:`save`; the file is named in every error."""
        try:
            return cls.from_json(read_json(path))
        except FileError as error:
            message = str(error)
            raise FileError(message if str(path) in message else f"{path}: {message}") from None
