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
class BesideInt8:
    """The dense model in int8 in the same runtime: how many times as fast it is, with the interval, and its bytes.

    ``as_fast`` says that it is about as fast as the plan, or faster.
    """

    speedup: float
    low: float
    high: float
    size_bytes: int
    as_fast: bool

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> BesideInt8:
        """The inverse of ``asdict``."""
        speedup, low, high = (number(document[name]) for name in ("speedup", "low", "high"))
        return cls(speedup, low, high, whole(document["size_bytes"]), flag(document["as_fast"]))


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
    int8: BesideInt8 | None = None

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
            optional(BesideInt8.from_json, document.get("int8")),
        )


def front_from(measured: Mapping[str, Any], made: Mapping[int, tuple[str, float | None]]) -> Front:
    """Out of what a plan records as measured; ``made`` has the folder and the score of plans that were exported."""
    latency, int8 = measured["latency"], measured.get("int8")
    threads = f"{latency['threads']} thread{'s' if latency['threads'] != 1 else ''}"
    place = f"{latency['machine']}, {threads}, {latency['runtime']}"
    plans = (_plan(one, *made.get(at, ("", None))) for at, one in enumerate(latency["measured"]))
    return Front(place, latency["unit"], latency["dense"], latency["keep"], latency["busy"], tuple(plans), _int8(int8))


def _int8(found: Mapping[str, Any] | None) -> BesideInt8 | None:
    """None where it was not measured, or by a version that compared it otherwise."""
    if found is None or "speedup" not in found:
        return None
    low, high = found["ci95"]
    return BesideInt8(found["speedup"], low, high, found["size_bytes"], found["as_fast"])


def _plan(one: Mapping[str, Any], folder: str, score: float | None) -> FrontPlan:
    low, high = one["ci95"]
    chosen = one.get("chosen", False)
    kept, least, most = (1 / ratio for ratio in (one["speedup"], high, low))
    chains, loads = len(one["chains"]), one.get("loads", 1)
    return FrontPlan(one["rule"], one["loss"], kept, least, most, chains, loads, one["front"], chosen, score, folder)
