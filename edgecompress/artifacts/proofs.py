"""What is known of an exported file: its inputs and outputs, how near it is to PyTorch, what it scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgecompress.files import Json
from edgecompress.split_scores import Difference, SplitScore


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, numpy dtype and shape of an input or output; a string in the shape is a free dimension.

    ``layout`` is NHWC where the file takes an image's channels last; the file itself does not record it.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    layout: str = field(default="", compare=False)

    def to_json(self) -> Json:
        """A JSON object."""
        return {"name": self.name, "dtype": self.dtype, "shape": list(self.shape), "layout": self.layout}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> TensorSpec:
        """The inverse of :meth:`to_json`."""
        return cls(document["name"], document["dtype"], tuple(document["shape"]), document["layout"])


@dataclass(frozen=True, slots=True)
class Parity:
    """How far a runtime is from PyTorch on the same inputs, at one batch size and, where a file takes any, one length.

    ``scale`` is PyTorch's largest absolute output; ``sqnr_db`` is signal over error energy in dB, 300 where the
    two are equal; ``length`` are the positions of a sequence.
    """

    batch: int
    max_abs_error: float
    sqnr_db: float
    scale: float
    length: int | None = None

    def to_json(self) -> Json:
        """A JSON object."""
        return {
            "batch": self.batch,
            "max_abs_error": self.max_abs_error,
            "sqnr_db": self.sqnr_db,
            "scale": self.scale,
            **({} if self.length is None else {"length": self.length}),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Parity:
        """The inverse of :meth:`to_json`."""
        known = {name: document[name] for name in ("batch", "max_abs_error", "sqnr_db", "scale")}
        return cls(**known, length=document.get("length"))


@dataclass(frozen=True, slots=True)
class Scored:
    """The task score on the whole test split: PyTorch's, and through the file in its runtime.

    ``difference`` is the file's minus PyTorch's on the same items (None in older facts). ``pair`` are
    both scores as they can be paired with others, where they were just taken; it stays in memory.
    """

    items: int
    origin: str
    torch: float
    artifact: float
    difference: Difference | None = None
    pair: tuple[SplitScore, SplitScore] | None = field(default=None, compare=False, repr=False)

    def to_json(self) -> Json:
        """A JSON object."""
        return {
            "items": self.items,
            "origin": self.origin,
            "torch": self.torch,
            "artifact": self.artifact,
            "difference": self.difference.to_json() if self.difference else None,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Scored:
        """The inverse of :meth:`to_json`."""
        known = document.get("difference")
        fields = {name: document[name] for name in ("items", "origin", "torch", "artifact")}
        return cls(**fields, difference=Difference.from_json(known) if known else None)


@dataclass(frozen=True, slots=True)
class Approximation:
    """How far the compressed model is from the dense one, both in PyTorch; scores are on the whole test split.

    ``difference`` is the compressed model's score minus the dense one's, on the same items.
    """

    parity: Parity
    dense_score: float | None = None
    score: float | None = None
    difference: Difference | None = None

    def to_json(self) -> Json:
        """A JSON object."""
        difference = self.difference.to_json() if self.difference else None
        scores = {"dense_score": self.dense_score, "score": self.score, "difference": difference}
        return {**self.parity.to_json(), **scores}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Approximation:
        """The inverse of :meth:`to_json`."""
        known = document.get("difference")
        scores = document["dense_score"], document["score"]
        return cls(Parity.from_json(document), *scores, Difference.from_json(known) if known else None)
