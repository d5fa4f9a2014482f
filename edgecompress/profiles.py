"""What was measured: Latency, Profile, Comparison. Milliseconds and bytes; every run is kept."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any, Literal

from edgecompress.errors import FileError
from edgecompress.files import Json, check_version, read_json, write_json

VERSION = 1
PROFILE_KIND = "edgecompress.profile"
COMPARISON_KIND = "edgecompress.comparison"
RESAMPLES = 4_000
RESOLUTION = 0.02
"""Two sessions of the same file differ by up to 1 %, repeatably: memory is laid out differently each time."""

Provenance = Literal["measured", "emulated", "predicted"]
Verdict = Literal["faster", "slower", "no claim"]
Blocks = tuple[tuple[float, ...], ...]


def quantile(values: Sequence[float], fraction: float) -> float:
    """Linear interpolation between order statistics, as numpy's default."""
    ordered = sorted(values)
    place = fraction * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def statistics(values: Sequence[float]) -> dict[str, float]:
    """p50, p90, p99, min, mean and stdev of runs, in their unit."""
    spread = stdev(values) if len(values) > 1 else 0.0
    marks = {f"p{percent}": quantile(values, percent / 100) for percent in (50, 90, 99)}
    return {**marks, "min": min(values), "mean": fmean(values), "stdev": spread}


@dataclass(frozen=True, slots=True)
class Latency:
    """Every run of one model, in blocks: wall and process CPU time in milliseconds."""

    wall_ms: Blocks
    cpu_ms: Blocks

    def all_wall_ms(self) -> list[float]:
        """Wall time of every run, in order."""
        return [run for block in self.wall_ms for run in block]

    def all_cpu_ms(self) -> list[float]:
        """Process CPU time of every run, in order."""
        return [run for block in self.cpu_ms for run in block]

    def summary(self) -> Json:
        """The statistics alone."""
        return {
            "runs": len(self.all_wall_ms()),
            "wall": statistics(self.all_wall_ms()),
            "cpu": statistics(self.all_cpu_ms()),
        }

    def to_json(self) -> Json:
        """Statistics first, then every run."""
        return {
            **self.summary(),
            "wall_ms": [list(block) for block in self.wall_ms],
            "cpu_ms": [list(block) for block in self.cpu_ms],
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Latency:
        """From :meth:`to_json` or a runner's answer: only the runs are read."""
        wall, cpu = (
            tuple(tuple(float(run) for run in block) for block in document[key]) for key in ("wall_ms", "cpu_ms")
        )
        if not wall or not all(wall) or [len(block) for block in wall] != [len(block) for block in cpu]:
            raise ValueError("latency without runs, or wall and CPU runs that do not match")
        return cls(wall, cpu)


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """Where a measurement was taken."""

    name: str
    provenance: Provenance
    machine: str
    processor: str
    cores: int
    system: str
    python: str


@dataclass(frozen=True, slots=True)
class Profile:
    """One model on one device: storage, work, memory, latency.

    ``zipped_bytes`` is after DEFLATE; ``params`` and ``macs`` are None for a file of unknown origin;
    ``peak_rss_bytes`` is the runner process with the runtime, of which ``runtime_rss_bytes`` were there before
    the model was loaded.
    """

    file: str
    sha256: str
    target: str
    device: DeviceFacts
    runtime: Mapping[str, str]
    threads: int
    batch: int
    size_bytes: int
    zipped_bytes: int
    weight_bytes: int
    params: int | None
    macs: int | None
    load_ms: float
    first_run_ms: float
    peak_rss_bytes: int
    runtime_rss_bytes: int
    latency: Latency

    def to_json(self) -> Json:
        """A JSON object with kind and version; FLOPs are 2 x MACs."""
        simple = {key: getattr(self, key) for key in self.__dataclass_fields__ if key not in ("device", "latency")}
        return {
            "kind": PROFILE_KIND,
            "version": VERSION,
            **simple,
            "runtime": dict(self.runtime),
            "flops": 2 * self.macs if self.macs is not None else None,
            "device": asdict(self.device),
            "latency": self.latency.to_json(),
        }

    def summary(self) -> Json:
        """:meth:`to_json` without the single runs."""
        return {**self.to_json(), "latency": self.latency.summary()}

    @classmethod
    def from_json(cls, document: Json) -> Profile:
        """The inverse of :meth:`to_json`.

        Raises:
            FileError: another kind or version, or a field is missing or malformed.
        """
        check_version(document, PROFILE_KIND, VERSION)
        try:
            fields = {key: document[key] for key in cls.__dataclass_fields__}
            fields |= {"device": DeviceFacts(**fields["device"]), "latency": Latency.from_json(fields["latency"])}
            return cls(**fields)
        except (KeyError, TypeError, ValueError) as error:
            raise FileError(f"profile: field missing or malformed: {error}") from None

    def save(self, path: Path) -> None:
        """Write the profile as JSON."""
        write_json(path, self.to_json())

    @classmethod
    def load(cls, path: Path) -> Profile:
        """Read a profile written by :meth:`save`."""
        return cls.from_json(read_json(path))


@dataclass(frozen=True, slots=True)
class Ratio:
    """Baseline time over candidate time: the median over paired blocks and its bootstrap 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def resolved(self) -> bool:
        """Whether the interval lies clear of 1.0 by more than two loads of one file differ."""
        return self.low > 1 + RESOLUTION or self.high < 1 - RESOLUTION


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models measured in interleaved blocks of one process on one device."""

    baseline: str
    candidate: str
    device: DeviceFacts
    runtime: Mapping[str, str]
    threads: int
    batch: int
    wall: Ratio
    cpu: Ratio
    baseline_latency: Latency
    candidate_latency: Latency

    @property
    def verdict(self) -> Verdict:
        """Say faster or slower only if wall and CPU time agree and both intervals lie clear of 1.0."""
        if not (self.wall.resolved and self.cpu.resolved) or (self.wall.value > 1) != (self.cpu.value > 1):
            return "no claim"
        return "faster" if self.wall.value > 1 else "slower"

    def to_json(self) -> Json:
        """A JSON object with kind and version; ``speedup`` and ``ci95`` are of wall time."""
        return {
            "kind": COMPARISON_KIND,
            "version": VERSION,
            "baseline": self.baseline,
            "candidate": self.candidate,
            "speedup": self.wall.value,
            "ci95": [self.wall.low, self.wall.high],
            "cpu_speedup": self.cpu.value,
            "cpu_ci95": [self.cpu.low, self.cpu.high],
            "verdict": self.verdict,
            "provenance": self.device.provenance,
            "threads": self.threads,
            "batch": self.batch,
            "blocks": len(self.candidate_latency.wall_ms),
            "runtime": dict(self.runtime),
            "device": asdict(self.device),
            "baseline_latency": self.baseline_latency.to_json(),
            "candidate_latency": self.candidate_latency.to_json(),
        }

    def summary(self) -> Json:
        """:meth:`to_json` without the single runs."""
        latencies = {"baseline_latency": self.baseline_latency, "candidate_latency": self.candidate_latency}
        return {**self.to_json(), **{name: latency.summary() for name, latency in latencies.items()}}

    @classmethod
    def from_json(cls, document: Json) -> Comparison:
        """The inverse of :meth:`to_json`.

        Raises:
            FileError: another kind or version, or a field is missing or malformed.
        """
        check_version(document, COMPARISON_KIND, VERSION)
        try:
            return cls(
                document["baseline"],
                document["candidate"],
                DeviceFacts(**document["device"]),
                document["runtime"],
                document["threads"],
                document["batch"],
                Ratio(document["speedup"], *document["ci95"]),
                Ratio(document["cpu_speedup"], *document["cpu_ci95"]),
                Latency.from_json(document["baseline_latency"]),
                Latency.from_json(document["candidate_latency"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise FileError(f"comparison: field missing or malformed: {error}") from None


def paired_ratio(baseline: Blocks, candidate: Blocks, seed: int = 0) -> Ratio:
    """Median over block pairs of (baseline block median / candidate block median), with its 95 % interval.

    Blocks that stand beside each other in time saw the same machine, so what disturbs both cancels; the
    interval is the percentile bootstrap over pairs.
    """
    import numpy as np

    ratios = np.array([median(b) / median(c) for b, c in zip(baseline, candidate, strict=True)])
    draws = np.random.default_rng(seed).integers(0, len(ratios), (RESAMPLES, len(ratios)))
    medians = np.median(ratios[draws], axis=1)
    low, high = np.quantile(medians, (0.025, 0.975))
    return Ratio(float(np.median(ratios)), float(low), float(high))
