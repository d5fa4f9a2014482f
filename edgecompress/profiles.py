"""What was measured: Latency, Profile, Comparison. Milliseconds and bytes; every run is kept."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median, stdev
from typing import TYPE_CHECKING, Any, Literal

from edgecompress.errors import FileError
from edgecompress.files import Json, check_version, read_json, write_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

VERSION = 1
PROFILE_KIND = "edgecompress.profile"
COMPARISON_KIND = "edgecompress.comparison"
RESAMPLES = 4_000
RESOLUTION = 0.01
"""A ratio nearer to 1 than this is no claim, however narrow its interval: loads of one file differ by as much."""

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
    """Every run of one model, in blocks: wall and process CPU time in milliseconds.

    ``loads`` says of each block which load of the file it was measured on: the model is loaded several times.
    """

    wall_ms: Blocks
    cpu_ms: Blocks
    loads: tuple[int, ...]

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
            "loads": list(self.loads),
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
        loads = tuple(int(load) for load in document["loads"])
        if len(loads) != len(wall):
            raise ValueError("latency with blocks of unknown loads")
        return cls(wall, cpu, loads)


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
    weight_bytes: int | None
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
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
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
    """Baseline time over candidate time and its bootstrap 95 % interval, see :func:`paired_ratio`."""

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
    baseline_sha256: str
    candidate_sha256: str
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
            "baseline_sha256": self.baseline_sha256,
            "candidate_sha256": self.candidate_sha256,
            "speedup": self.wall.value,
            "ci95": [self.wall.low, self.wall.high],
            "cpu_speedup": self.cpu.value,
            "cpu_ci95": [self.cpu.low, self.cpu.high],
            "verdict": self.verdict,
            "provenance": self.device.provenance,
            "threads": self.threads,
            "batch": self.batch,
            "blocks": len(self.candidate_latency.wall_ms),
            "loads": len(set(self.candidate_latency.loads)),
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
                document["baseline_sha256"],
                document["candidate_sha256"],
                DeviceFacts(**document["device"]),
                document["runtime"],
                document["threads"],
                document["batch"],
                Ratio(document["speedup"], *document["ci95"]),
                Ratio(document["cpu_speedup"], *document["cpu_ci95"]),
                Latency.from_json(document["baseline_latency"]),
                Latency.from_json(document["candidate_latency"]),
            )
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise FileError(f"comparison: field missing or malformed: {error}") from None


def paired_ratio(baseline: Blocks, candidate: Blocks, loads: Sequence[int], seed: int = 0) -> Ratio:
    """Baseline over candidate time with its 95 % interval.

    Blocks that stand beside each other in time saw the same machine, so what disturbs both cancels in the ratio of
    their medians. Each load of the two files lays memory out anew and shifts that ratio for all its blocks; so the
    value is the mean over loads of each load's median, and the interval is the percentile bootstrap that draws
    loads, and blocks within them, widened for the small number of loads.
    """
    import numpy as np

    ratios: dict[int, list[float]] = {}
    for before, after, load in zip(baseline, candidate, loads, strict=True):
        ratios.setdefault(load, []).append(median(before) / median(after))
    generator = np.random.default_rng(seed)
    resampled = np.stack([_bootstrap_medians(np.array(group), generator) for group in ratios.values()])
    chosen = generator.integers(0, len(resampled), (RESAMPLES, len(resampled)))
    means = resampled[chosen, generator.integers(0, RESAMPLES, chosen.shape)].mean(1)
    value = fmean(median(group) for group in ratios.values())
    widening = math.sqrt(len(resampled) / max(1, len(resampled) - 1))
    low, high = (value + widening * (float(mark) - value) for mark in np.quantile(means, (0.025, 0.975)))
    return Ratio(value, min(low, value), max(high, value))


def _bootstrap_medians(values: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.float64]:
    """The medians of ``RESAMPLES`` resamples."""
    import numpy as np

    draws = generator.integers(0, len(values), (RESAMPLES, len(values)))
    medians: NDArray[np.float64] = np.median(values[draws], axis=1)
    return medians
