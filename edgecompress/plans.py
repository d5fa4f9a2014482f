"""CompressionPlan: which layer gets which method and ranks, and why every other layer stays dense.

A plan and a ``state_dict`` are a compressed model: ``decompose(model, plan, fill=False)`` has the structure the
``state_dict`` fits, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgecompress.errors import FileError
from edgecompress.files import Json, check_version, read_json, write_json

VERSION = 1
KIND = "edgecompress.plan"
Ranks = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Cost:
    """Parameters, MACs of one input, and bytes of all parameters and buffers."""

    params: int
    macs: int
    weight_bytes: int

    @property
    def flops(self) -> int:
        """2 x MACs."""
        return 2 * self.macs

    def to_json(self) -> Json:
        """A JSON object; ``flops`` is 2 x ``macs``."""
        return {"params": self.params, "macs": self.macs, "flops": self.flops, "weight_bytes": self.weight_bytes}

    @classmethod
    def from_json(cls, document: Mapping[str, int]) -> Cost:
        """The inverse of :meth:`to_json`."""
        return cls(int(document["params"]), int(document["macs"]), int(document["weight_bytes"]))


@dataclass(frozen=True, slots=True)
class LayerPlan:
    """One layer to replace.

    ``name`` is its dotted path in ``model.named_modules()``, ``method`` a key of ``DECOMPOSITIONS`` or ``CODECS``,
    ``shape`` its weight's shape, ``dims`` the sizes a codec reshapes it to (empty: balanced ones); ``error`` is the
    predicted relative squared error of the weight or, where the plan was made with calibration inputs, of the outputs,
    and ``loss`` then what the model's output is expected to lose. ``note`` says what was out of the ordinary.
    """

    name: str
    method: str
    ranks: Ranks
    shape: tuple[int, ...]
    error: float
    loss: float | None = None
    dims: tuple[int, ...] = ()
    note: str = ""

    def to_json(self) -> Json:
        """A JSON object."""
        return {
            "name": self.name,
            "method": self.method,
            "ranks": list(self.ranks),
            "shape": list(self.shape),
            "error": self.error,
            "loss": self.loss,
            **({"dims": list(self.dims)} if self.dims else {}),
            **({"note": self.note} if self.note else {}),
        }

    @classmethod
    def from_json(cls, document: Json) -> LayerPlan:
        """The inverse of :meth:`to_json`; raises KeyError, TypeError or ValueError on nonsense."""
        ranks, shape = (tuple(_whole(value) for value in document[key]) for key in ("ranks", "shape"))
        error, loss = _finite(document["error"]), document["loss"]
        known = None if loss is None else _finite(loss)
        dims = tuple(_whole(value) for value in document.get("dims", ()))
        note = str(document.get("note", ""))
        return cls(str(document["name"]), str(document["method"]), ranks, shape, error, known, dims, note)


def _finite(value: object) -> float:
    number = float(value)  # type: ignore[arg-type]
    if not math.isfinite(number):
        raise ValueError(f"{number} is not finite")
    return number


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
class Rival:
    """What a method would have done for a layer that got another method, or stayed dense; and why it lost.

    No ranks and costs where the method cannot replace the layer or never makes it smaller.
    """

    layer: str
    method: str
    why: str
    ranks: Ranks = ()
    macs: int | None = None
    params: int | None = None
    error: float | None = None
    loss: float | None = None

    def to_json(self) -> Json:
        """A JSON object."""
        return {**asdict(self), "ranks": list(self.ranks)}

    @classmethod
    def from_json(cls, document: Json) -> Rival:
        """The inverse of :meth:`to_json`; raises KeyError, TypeError or ValueError on nonsense."""
        layer, method, why = (str(document[key]) for key in ("layer", "method", "why"))
        macs, params = (None if document[key] is None else _whole(document[key]) for key in ("macs", "params"))
        error, loss = (None if document[key] is None else _finite(document[key]) for key in ("error", "loss"))
        return cls(layer, method, why, tuple(map(_whole, document["ranks"])), macs, params, error, loss)


@dataclass(frozen=True, slots=True)
class CompressionPlan:
    """What to do with every layer of ``model`` that has a weight: replaced, or skipped with a reason.

    ``dense_macs`` and ``macs`` (of one input), ``dense_params`` and ``params`` are of the whole model; ``rivals`` are
    the choices that were not made; ``rehearsed`` that the model was seen to run with stand-ins for these layers.
    """

    model: str
    layers: tuple[LayerPlan, ...]
    skipped: tuple[Skipped, ...]
    dense_macs: int
    dense_params: int
    macs: int
    params: int
    rivals: tuple[Rival, ...] = ()
    rehearsed: bool = False

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
            "rivals": [rival.to_json() for rival in self.rivals],
            **({"rehearsed": True} if self.rehearsed else {}),
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
            tuple(Rival.from_json(rival) for rival in document["rivals"]),
            document.get("rehearsed") is True,
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
