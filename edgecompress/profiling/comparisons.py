"""Comparison: two exported files taking turns on one device, with the ratio of their times and its interval."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from edgecompress._notebook import paragraph, table
from edgecompress.files import Json, check_version, reading_fields
from edgecompress.profiling.facts import LENGTHS, VERSION, DeviceFacts, common_values
from edgecompress.profiling.latencies import Latency, LatencyStatistics, Sustained, quantiles
from edgecompress.profiling.ratios import Ratio

COMPARISON_KIND = "edgecompress.comparison"

Verdict = Literal["faster", "slower", "no claim"]


@dataclass(frozen=True, slots=True)
class FilePair:
    """What every comparison holds: both files, and where they ran.

    ``length`` are the positions of a sequence, ``past`` those before it in a KV cache.
    """

    baseline: str
    candidate: str
    baseline_sha256: str
    candidate_sha256: str
    device: DeviceFacts
    runtime: Mapping[str, str]
    threads: int
    batch: int
    length: int | None = field(default=None, kw_only=True)
    past: int | None = field(default=None, kw_only=True)

    def common_fields(self) -> Json:
        """Its fields as JSON values, and the provenance of the figures."""
        return {
            **common_values(self, FilePair.__dataclass_fields__),
            "runtime": dict(self.runtime),
            "device": asdict(self.device),
            "provenance": self.device.provenance,
        }

    @staticmethod
    def common_from(document: Json) -> dict[str, Any]:
        """The fields from :meth:`common_fields`; KeyError or TypeError where one is missing or malformed."""
        fields = {name: {**LENGTHS, **document}[name] for name in FilePair.__dataclass_fields__}
        return fields | {"device": DeviceFacts(**fields["device"])}


@dataclass(frozen=True)
class TimedPair(FilePair, ABC):
    """Two models measured in interleaved blocks of one process on one device, with or without every run.

    ``cpu`` is None where a runner of the user's does not report CPU time. ``sustained`` are both models' minutes under
    load, taking turns; ``unstable`` are reasons not to trust the times. ``ablations`` are, of layers that seemed
    slower, the time of the candidate with the baseline's layer over that of the candidate, taking turns: below 1 it is.
    """

    wall: Ratio
    cpu: Ratio | None
    baseline_latency: Latency | LatencyStatistics
    candidate_latency: Latency | LatencyStatistics
    unstable: tuple[str, ...] = ()
    sustained: Mapping[str, Sustained] = field(default_factory=dict)
    conditions: Mapping[str, Any] = field(default_factory=dict)
    ablations: Mapping[str, Ratio] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        """Say faster or slower only if wall and CPU time agree and both intervals lie clear of 1.0.

        The times of an emulator carry no claim at all.
        """
        ratios = [ratio for ratio in (self.wall, self.cpu) if ratio]
        if self.device.provenance != "measured" or not all(ratio.resolved for ratio in ratios):
            return "no claim"
        if len({ratio.value > 1 for ratio in ratios}) > 1:
            return "no claim"
        return "faster" if self.wall.value > 1 else "slower"

    @property
    def verified_on_arm(self) -> bool:
        """Whether a gain was measured on an ARM device, with times that can be trusted: nothing else is called that."""
        return self.verdict == "faster" and self.device.is_arm and not self.unstable

    @abstractmethod
    def quantiles(self) -> Mapping[str, Ratio | None]:
        """Candidate over baseline wall time at p50, p90 and p99, with the 95 % interval; None of too few runs."""

    def _repr_html_(self) -> str:
        """For notebooks."""
        pairs = {"wall time": self.wall, "CPU time": self.cpu}
        ratios = [(f"speed-up, {name}", f"{one.value:.2f}x", f"95 % interval {one.low:.2f} to {one.high:.2f}")
                  for name, one in pairs.items() if one]  # fmt: skip
        latencies = ((self.baseline, self.baseline_latency), (self.candidate, self.candidate_latency))
        medians = [(file, f"{one.statistics.wall.p50:.3f} ms", f"p50 of {one.statistics.runs:,} runs")
                   for file, one in latencies]  # fmt: skip
        place = f"{self.device.name}, {self.device.processor or self.device.machine}, {self.threads} thread(s)"
        lines = "".join(paragraph(f"unstable: {reason}") for reason in self.unstable)
        return table(f"{self.verdict} ({self.device.provenance} on {place})", ("", "", ""), [*ratios, *medians]) + lines

    @property
    @abstractmethod
    def repetitions(self) -> tuple[int, int]:
        """Blocks of each model, and loads of each file."""

    def summary(self) -> Json:
        """A JSON object with kind and version, without the single runs; ``speedup`` and ``ci95`` are of wall time."""
        blocks, loads = self.repetitions
        return {
            "kind": COMPARISON_KIND,
            "version": VERSION,
            **self.common_fields(),
            "speedup": self.wall.value,
            "ci95": self.wall.ci95,
            "cpu_speedup": self.cpu.value if self.cpu else None,
            "cpu_ci95": self.cpu.ci95 if self.cpu else None,
            "verdict": self.verdict,
            "unit": "milliseconds",
            "verified_on_arm": self.verified_on_arm,
            "unstable": list(self.unstable),
            "quantiles": {name: one.to_json() if one else None for name, one in self.quantiles().items()},
            "ablations": {name: asdict(ratio) for name, ratio in self.ablations.items()},
            "conditions": dict(self.conditions),
            "sustained": {role: sustained.to_json() for role, sustained in self.sustained.items()},
            "blocks": blocks,
            "loads": loads,
            "baseline_latency": self.baseline_latency.summary(),
            "candidate_latency": self.candidate_latency.summary(),
        }

    @classmethod
    def timed_from(cls, document: Json) -> dict[str, Any]:
        """The fields but the latencies; KeyError, TypeError or ValueError where one is missing or malformed."""
        check_version(document, COMPARISON_KIND, VERSION)
        cpu = document["cpu_ci95"]
        return {
            **cls.common_from(document),
            "wall": Ratio(document["speedup"], *document["ci95"]),
            "cpu": Ratio(document["cpu_speedup"], *cpu) if cpu else None,
            "unstable": tuple(document["unstable"]),
            "sustained": {role: Sustained.from_json(columns) for role, columns in document["sustained"].items()},
            "conditions": document["conditions"],
            "ablations": {name: Ratio(**ratio) for name, ratio in document.get("ablations", {}).items()},
        }


@dataclass(frozen=True)
class Comparison(TimedPair):
    """Two models measured in interleaved blocks of one process on one device, with every run.

    Args:
        baseline: the name of the file that is compared with.
        candidate: that of the file in question.
        baseline_sha256: the digest of the one.
        candidate_sha256: and of the other.
        device: where both ran.
        runtime: name, version and settings of what ran them.
        threads: how many it was given.
        batch: inputs a run.
        wall: baseline over candidate wall time, with its 95 % interval.
        cpu: the same of process CPU time; None where it was not reported.
        unstable: reasons not to trust the times.
        sustained: minutes under load of ``baseline`` and ``candidate``.
        conditions: clock, temperature and load, before and after.
        ablations: by layer, time with the baseline's layer over time without.
        baseline_latency: of the file that is compared with, in milliseconds.
        candidate_latency: of the file in question, by blocks of the same rounds.
    """

    baseline_latency: Latency
    candidate_latency: Latency

    def quantiles(self) -> Mapping[str, Ratio | None]:
        """Candidate over baseline wall time at p50, p90 and p99, with the 95 % interval; None of too few runs."""
        return quantiles(self.candidate_latency.series, self.baseline_latency.series)

    @property
    def repetitions(self) -> tuple[int, int]:
        """Blocks of each model, and loads of each file."""
        return len(self.candidate_latency.wall_ms), len(set(self.candidate_latency.loads))

    def to_json(self) -> Json:
        """A JSON object with kind and version; ``speedup`` and ``ci95`` are of wall time."""
        latencies = {"baseline_latency": self.baseline_latency, "candidate_latency": self.candidate_latency}
        return {**self.summary(), **{name: latency.to_json() for name, latency in latencies.items()}}

    @classmethod
    def from_json(cls, document: Json) -> Comparison:
        """The inverse of :meth:`to_json`.

        Raises:
            FileError: another kind or version, or a field is missing or malformed.
        """
        with reading_fields("comparison"):
            ours, theirs = (Latency.from_json(document[key]) for key in ("candidate_latency", "baseline_latency"))
            return cls(**cls.timed_from(document), baseline_latency=theirs, candidate_latency=ours)


@dataclass(frozen=True)
class ComparisonSummary(TimedPair):
    """What remains of a comparison without its runs, as :meth:`Comparison.summary` gives it."""

    baseline_latency: LatencyStatistics
    candidate_latency: LatencyStatistics
    ratios: Mapping[str, Ratio | None] = field(default_factory=dict)
    blocks: int = 0
    loads: int = 0

    def quantiles(self) -> Mapping[str, Ratio | None]:
        """Candidate over baseline wall time at p50, p90 and p99, as they are on record."""
        return self.ratios

    @property
    def repetitions(self) -> tuple[int, int]:
        """Blocks of each model, and loads of each file."""
        return self.blocks, self.loads

    @classmethod
    def from_json(cls, document: Json) -> ComparisonSummary:
        """The inverse of :meth:`summary`.

        Raises:
            FileError: another kind or version, or a field is missing or malformed.
        """
        with reading_fields("comparison"):
            ratios = document.get("quantiles", {}).items()
            return cls(
                **cls.timed_from(document),
                baseline_latency=LatencyStatistics.from_json(document["baseline_latency"]),
                candidate_latency=LatencyStatistics.from_json(document["candidate_latency"]),
                ratios={name: Ratio(one["value"], *one["ci95"]) if one else None for name, one in ratios},
                blocks=int(document["blocks"]),
                loads=int(document["loads"]),
            )
