"""The task score: its name and unit, what it is taken on, and its value after each stage; what needs no labels.

``from_json`` raises KeyError, TypeError or ValueError where a field is missing or malformed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from edgecompress.fields import number, optional, text, whole
from edgecompress.files import Json


@dataclass(frozen=True, slots=True)
class TaskMetric:
    """Name and unit of the task score; the unit is empty, or `` %``."""

    name: str = "accuracy"
    unit: str = " %"

    @property
    def title(self) -> str:
        """The name at the start of a sentence."""
        return self.name.capitalize()

    @classmethod
    def from_json(cls, document: Mapping[str, Any] | None) -> TaskMetric:
        """From an object with both; accuracy in percent of nothing."""
        return cls(text(document["name"]), text(document["unit"])) if document else cls()


@dataclass(frozen=True, slots=True)
class Scores:
    """The task score on the whole test split after each stage, None of what was not scored.

    ``stored`` is that of the weights stored as codes, ``artifact`` that through the exported file.
    """

    dense: float | None = None
    decomposed: float | None = None
    finetuned: float | None = None
    stored: float | None = None
    artifact: float | None = None

    @property
    def before_and_after(self) -> tuple[float | None, float | None]:
        """Of the dense model and of the last stage that was scored, the exported file if possible."""
        after = (self.artifact, self.stored, self.finetuned, self.decomposed)
        return self.dense, next((score for score in after if score is not None), None)

    def to_json(self) -> Json:
        """A JSON object, but of ``artifact``; ``factors`` is the score before rounding to codes."""
        if self.stored is None:
            trained: Json = {"finetuned": self.finetuned}
        else:
            trained = {"factors": self.finetuned, "finetuned": self.stored}
        return {"dense": self.dense, "decomposed": self.decomposed, **trained}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Scores:
        """The inverse of :meth:`to_json`, with ``artifact``; stages may be missing."""
        dense, decomposed, factors, finetuned, artifact = (
            optional(number, document.get(key)) for key in ("dense", "decomposed", "factors", "finetuned", "artifact")
        )
        if factors is None:
            return cls(dense, decomposed, finetuned, None, artifact)
        return cls(dense, decomposed, factors, finetuned, artifact)


@dataclass(frozen=True, slots=True)
class Split:
    """A split of the data: how many items, and where they come from."""

    items: int
    origin: str

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Split:
        """The inverse of ``asdict``."""
        return cls(whole(document["items"]), text(document["origin"]))


SeenAs = Literal["fresh", "fitted", "made"]
"""Inputs that nothing was fitted to; calibration inputs; the example with noise."""
LOST_DB, LOST_AGREEMENT, STILL_AGREE = 3.0, 0.5, 0.9
"""Outputs are lost below this share of equal answers, or below this SQNR unless nearly all answers are the same."""


@dataclass(frozen=True, slots=True)
class Nearness:
    """How near the compressed model's outputs are to the dense one's, both in PyTorch; no labels are needed.

    Args:
        inputs: how many they were compared on.
        seen: what these inputs are.
        sqnr_db: energy of the dense outputs over that of their change, of the worst output; 300 where they are equal.
        agreement: share in [0, 1] of answers (the largest class score) that stay the same; None without classes.
    """

    inputs: int
    seen: SeenAs
    sqnr_db: float
    agreement: float | None = None

    @property
    def lost(self) -> bool:
        """Whether little is left of the dense outputs."""
        if self.agreement is None:
            return self.sqnr_db < LOST_DB
        return self.agreement < LOST_AGREEMENT or (self.sqnr_db < LOST_DB and self.agreement < STILL_AGREE)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Nearness:
        """The inverse of ``asdict``."""
        seen = text(document["seen"])
        if seen not in get_args(SeenAs):
            raise ValueError(f"{seen!r} are no inputs")
        inputs, sqnr_db = whole(document["inputs"]), number(document["sqnr_db"])
        return cls(inputs, cast("SeenAs", seen), sqnr_db, optional(number, document["agreement"]))
