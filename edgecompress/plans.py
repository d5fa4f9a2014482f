"""CompressionPlan: which layer gets which method and ranks, and why every other layer stays dense.

A plan and a ``state_dict`` are a compressed model: ``decompose(model, plan, fill=False)`` has the structure the
``state_dict`` fits, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgecompress._notebook import table
from edgecompress.errors import FileError
from edgecompress.files import Json, check_version, read_json, reading_fields, write_json

VERSION = 1
KIND = "edgecompress.plan"
Ranks = tuple[int, ...]
Outlook = tuple[tuple[float, float], ...]
"""Budgets, each with the loss that its best plan was predicted to have."""

NO_FASTER, SMALLER, ROOM = 0.97, 0.95, 0.7
"""Of the MACs, above which a plan is no faster; of parameters, below which it is smaller; of MACs, in advice."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a model, or a layer, takes.

    Args:
        params: parameters, shared ones once.
        macs: multiply-accumulates of one input.
        weight_bytes: of all parameters and buffers; 0 in a plan, which does not record them.
        time: of one run on the device that it is planned for, in nanoseconds or instructions; 0: not known. That of a
            layer counts from where the layer's fastest candidate has 0.
    """

    params: int
    macs: int
    weight_bytes: int = 0
    time: int = 0

    @property
    def flops(self) -> int:
        """2 x MACs."""
        return 2 * self.macs

    @property
    def without_bytes(self) -> Cost:
        """The same as a plan records it."""
        return replace(self, weight_bytes=0, time=0)

    def is_only_smaller(self, dense: Cost) -> bool:
        """Are parameters saved, and no MACs to speak of?"""
        return self.params <= SMALLER * dense.params and self.macs > NO_FASTER * dense.macs

    @property
    def faster_too(self) -> str:
        """The option that limits the MACs of a plan for a model of this cost as well."""
        return f"--max-macs {ROOM * self.macs:.3g}"

    def saves_over(self, other: Cost) -> bool:
        """Is this both fewer MACs and fewer parameters than ``other``? Of what has no MACs, fewer parameters."""
        return self.params < other.params and (self.macs < other.macs or not other.macs)

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.params + other.params,
            self.macs + other.macs,
            self.weight_bytes + other.weight_bytes,
            self.time + other.time,
        )

    def __sub__(self, other: Cost) -> Cost:
        return Cost(
            self.params - other.params,
            self.macs - other.macs,
            self.weight_bytes - other.weight_bytes,
            self.time - other.time,
        )

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

    Args:
        name: its dotted path in ``model.named_modules()``.
        method: a key of ``DECOMPOSITIONS`` or ``CODECS``.
        ranks: the widths between the links of its chain.
        shape: of its weight.
        error: the predicted relative squared error of the weight or, where the plan was made with calibration inputs,
            of the outputs; in [0, 1].
        loss: what the model's output is expected to lose, where the plan was made with calibration inputs.
        dims: the sizes a codec reshapes the weight to; empty: balanced ones.
        note: what was out of the ordinary, in words.
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
class Alternative:
    """What a method would have done for a layer that got another method, or stayed dense; and why it lost.

    No ranks and no cost where the method cannot replace the layer or never makes it smaller.
    """

    layer: str
    method: str
    why: str
    ranks: Ranks = ()
    cost: Cost | None = None
    error: float | None = None
    loss: float | None = None

    def to_json(self) -> Json:
        """A JSON object."""
        return {
            "layer": self.layer,
            "method": self.method,
            "why": self.why,
            "ranks": list(self.ranks),
            "macs": self.cost.macs if self.cost else None,
            "params": self.cost.params if self.cost else None,
            "error": self.error,
            "loss": self.loss,
        }

    @classmethod
    def from_json(cls, document: Json) -> Alternative:
        """The inverse of :meth:`to_json`; raises KeyError, TypeError or ValueError on nonsense."""
        layer, method, why = (str(document[key]) for key in ("layer", "method", "why"))
        macs, params = (None if document[key] is None else _whole(document[key]) for key in ("macs", "params"))
        error, loss = (None if document[key] is None else _finite(document[key]) for key in ("error", "loss"))
        cost = None if macs is None or params is None else Cost(params, macs)
        return cls(layer, method, why, tuple(map(_whole, document["ranks"])), cost, error, loss)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressionPlan:
    """What to do with every layer of a model that has a weight: replaced, or skipped with a reason.

    A plan is a value: it can be saved, read, changed by ``dataclasses.replace`` and used again. It knows no weights.

    Args:
        model: the model's name, for people.
        layers: the layers to replace.
        skipped: the layers that stay dense, each with the reason.
        dense: parameters and MACs of the whole model as it was; None where they were not counted.
        compressed: those it will have.
        rejected: the methods that were not chosen, each with what it would have done.
        rehearsed: was the model seen to run with stand-ins for ``layers``?
        outlook: what this budget and larger ones were predicted to cost; empty where that is not known.
        adapters: those that rewrote the model before it was planned; its layers are then called as they made them.
        measured: what was measured while it was made: its ``latency`` with its rivals', its ``score``; None: nothing.
    """

    model: str = ""
    layers: tuple[LayerPlan, ...]
    skipped: tuple[Skipped, ...] = ()
    dense: Cost | None = None
    compressed: Cost | None = None
    rejected: tuple[Alternative, ...] = ()
    rehearsed: bool = False
    outlook: Outlook = ()
    adapters: tuple[str, ...] = ()
    measured: Json | None = None

    def __post_init__(self) -> None:
        """Costs without bytes, which depend on how weights are stored."""
        for name, cost in (("dense", self.dense), ("compressed", self.compressed)):
            object.__setattr__(self, name, cost and cost.without_bytes)

    def _repr_html_(self) -> str:
        """For notebooks."""
        costs = self.dense and self.compressed and (self.dense.macs, self.compressed.macs)
        kept = f", {100 * costs[1] / costs[0]:.1f} % of the MACs kept" if costs and costs[0] else ""
        rows = [(one.name, one.method, "x".join(map(str, one.ranks)), f"{one.error:.3g}") for one in self.layers]
        dense = [(one.name, "stays dense", "", one.reason) for one in self.skipped]
        caption = f"Plan of {self.model or 'a model'}: {len(rows)} layers replaced{kept}"
        return table(caption, ("layer", "method", "ranks", "error, or why"), [*rows, *dense])

    def to_json(self) -> Json:
        """A JSON object with kind and version."""
        return {
            "kind": KIND,
            "version": VERSION,
            "model": self.model,
            "dense": _counts(self.dense),
            "planned": _counts(self.compressed),
            "layers": [layer.to_json() for layer in self.layers],
            "skipped": [{"name": skip.name, "reason": skip.reason} for skip in self.skipped],
            "rivals": [other.to_json() for other in self.rejected],
            **({"rehearsed": True} if self.rehearsed else {}),
            **({"outlook": [list(one) for one in self.outlook]} if self.outlook else {}),
            **({"adapters": list(self.adapters)} if self.adapters else {}),
            **({"measured": self.measured} if self.measured else {}),
        }

    @classmethod
    def from_json(cls, document: Json) -> CompressionPlan:
        """The inverse of :meth:`to_json`.

        Raises:
            FileError: another kind or version, or a field is missing or of the wrong type.
        """
        check_version(document, KIND, VERSION)
        with reading_fields("plan"):
            return cls._from(document)

    @classmethod
    def _from(cls, document: Mapping[str, Any]) -> CompressionPlan:
        return cls(
            model=str(document["model"]),
            layers=tuple(LayerPlan.from_json(layer) for layer in document["layers"]),
            skipped=tuple(Skipped(str(skip["name"]), str(skip["reason"])) for skip in document["skipped"]),
            dense=_counted(document["dense"]),
            compressed=_counted(document["planned"]),
            rejected=tuple(Alternative.from_json(other) for other in document["rivals"]),
            rehearsed=document.get("rehearsed") is True,
            outlook=tuple((_finite(keep), _finite(loss)) for keep, loss in document.get("outlook", ())),
            adapters=tuple(map(str, document.get("adapters", ()))),
            measured=dict(document["measured"]) if document.get("measured") else None,
        )

    def save(self, path: str | Path) -> None:
        """Write the plan as JSON."""
        write_json(Path(path), self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> CompressionPlan:
        """Read a plan written by :meth:`save`; the file is named in every error."""
        try:
            return cls.from_json(read_json(Path(path)))
        except FileError as error:
            message = str(error)
            raise FileError(message if str(path) in message else f"{path}: {message}") from None


def _counts(cost: Cost | None) -> Json:
    """Of a cost that was not counted, zeros."""
    return {"macs": cost.macs if cost else 0, "params": cost.params if cost else 0}


def _counted(document: Mapping[str, Any]) -> Cost | None:
    """The inverse of :func:`_counts`."""
    cost = Cost(int(document["params"]), int(document["macs"]))
    return None if cost == Cost(0, 0) else cost
