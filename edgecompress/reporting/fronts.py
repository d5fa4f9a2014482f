"""All plans that were measured as whole files for a latency, and which of them no other beats: as a report holds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from edgecompress.fields import flag, number, optional, text, whole
from edgecompress.files import Json


@dataclass(frozen=True, slots=True)
class FrontPlan:
    """A plan: the rule that made it, its expected loss, its time as a share of the dense file's with the 95 % interval.

    ``front`` says that no other beats it; ``score`` is that on the test split and ``folder`` where it is, if it was
    compressed and exported.
    """

    rule: str
    loss: float
    kept: float
    low: float
    high: float
    chains: int
    loads: int = 1
    front: bool = False
    chosen: bool = False
    score: float | None = None
    folder: str = ""

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> FrontPlan:
        """The inverse of ``asdict``."""
        return cls(
            text(document["rule"]),
            number(document["loss"]),
            number(document["kept"]),
            number(document["low"]),
            number(document["high"]),
            whole(document["chains"]),
            whole(document["loads"]),
            flag(document["front"]),
            flag(document["chosen"]),
            optional(number, document["score"]),
            text(document["folder"]),
        )


@dataclass(frozen=True, slots=True)
class Front:
    """Plans for a latency, and where they were measured.

    ``dense`` is the dense file's time in ``unit``, ``keep`` the share of it that was allowed.
    """

    place: str
    unit: str
    dense: float
    keep: float
    busy: bool
    plans: tuple[FrontPlan, ...]

    def to_json(self) -> Json:
        """A JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Front:
        """The inverse of :meth:`to_json`."""
        return cls(
            text(document["place"]),
            text(document["unit"]),
            number(document["dense"]),
            number(document["keep"]),
            flag(document["busy"]),
            tuple(map(FrontPlan.from_json, document["plans"])),
        )


def front_from(latency: Mapping[str, Any], made: Mapping[int, tuple[str, float | None]]) -> Front:
    """Out of what a plan records of its latency; ``made`` has the folder and the score of those that were exported."""
    threads = f"{latency['threads']} thread{'s' if latency['threads'] != 1 else ''}"
    place = f"{latency['machine']}, {threads}, {latency['runtime']}"
    plans = (_plan(one, *made.get(at, ("", None))) for at, one in enumerate(latency["measured"]))
    return Front(place, latency["unit"], latency["dense"], latency["keep"], latency["busy"], tuple(plans))


def _plan(one: Mapping[str, Any], folder: str, score: float | None) -> FrontPlan:
    low, high = one["ci95"]
    chosen = one.get("chosen", False)
    kept, least, most = (1 / ratio for ratio in (one["speedup"], high, low))
    chains, loads = len(one["chains"]), one.get("loads", 1)
    return FrontPlan(one["rule"], one["loss"], kept, least, most, chains, loads, one["front"], chosen, score, folder)
