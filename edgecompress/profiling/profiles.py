"""What was measured: Latency, Profile, Comparison. Milliseconds and bytes; every run is kept.

What was *emulated* is counted in instructions and has its own values, see
:mod:`edgecompress.profiling.instruction_counts`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import Any, Literal

from edgecompress.devices.base import Provenance
from edgecompress.errors import FileError
from edgecompress.files import Json, check_version, read_json, write_json
from edgecompress.profiling.ratios import Blocks, Ratio, Series, quantile_ratios, ratio_of_medians, statistics

VERSION = 2
PROFILE_KIND = "edgecompress.profile"
COMPARISON_KIND = "edgecompress.comparison"

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}

Verdict = Literal["faster", "slower", "no claim"]


@dataclass(frozen=True, slots=True)
class Latency:
    """Every run of one model, in blocks: wall and process CPU time in milliseconds.

    Where a program of the user's measured, a block is one invocation and holds one figure, its median or mean, and CPU
    time is not told (``cpu_ms`` is empty).
    ``loads`` says of each block which load of the file it was measured on: the model is loaded several times.
    """

    wall_ms: Blocks
    cpu_ms: Blocks
    loads: tuple[int, ...]

    @property
    def series(self) -> Series:
        """Wall times with the load of each block."""
        return self.wall_ms, self.loads

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
            "cpu": statistics(self.all_cpu_ms()) if self.cpu_ms else None,
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
        unlike = cpu and [len(block) for block in wall] != [len(block) for block in cpu]
        if not wall or not all(wall) or unlike:
            raise ValueError("latency without runs, or wall and CPU runs that do not match")
        loads = tuple(int(load) for load in document["loads"])
        if len(loads) != len(wall):
            raise ValueError("latency with blocks of unknown loads")
        return cls(wall, cpu, loads)


def family(machine: str) -> str:
    """``arm``, ``x86`` or another family of processors, by an architecture's name as ``uname -m`` says it."""
    if machine.startswith(("aarch64", "arm")):
        return "arm"
    return "x86" if machine in ("x86_64", "amd64", "i686", "i386") else machine


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """Where a measurement was taken; ``more`` is what else the device tells (governor, memory, uname ...)."""

    name: str
    provenance: Provenance
    machine: str
    processor: str
    cores: int
    system: str
    python: str
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_arm(self) -> bool:
        """Whether its kernel runs on an ARM core; a virtual board or phone may run on anything."""
        return family(self.machine) == "arm" and not self.more.get("virtual")


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator of a file as its runtime runs it: ``layer`` is the model's layer it comes from, if any.

    ``wall_ms`` is without what the profiler adds to each, ``profiled_ms`` with it; None: written before these were told
    apart, with it. ``again_ms`` is the time in a second round, after the other file's turn: what both differ by is the
    machine's.
    """

    name: str
    kind: str
    wall_ms: float
    layer: str | None = None
    again_ms: float | None = None
    profiled_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Sustained:
    """Minutes under load: the median wall time of each window, when it began, and what the device said of itself.

    ``clock_mhz`` and ``temperature_c`` are None in each window where the device does not tell.
    """

    start_s: tuple[float, ...]
    wall_ms: tuple[float, ...]
    clock_mhz: tuple[float | None, ...]
    temperature_c: tuple[float | None, ...]

    @property
    def drift(self) -> Ratio:
        """Time of the last fifth of the windows over that of the first fifth, with its interval."""
        fifth = max(1, len(self.wall_ms) // 5)
        return ratio_of_medians(self.wall_ms[-fifth:], self.wall_ms[:fifth])

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Sustained:
        """From the columns in ``document``; what else is there is not read."""
        columns = {key: tuple(document[key]) for key in cls.__dataclass_fields__}
        if len({len(column) for column in columns.values()}) != 1 or not columns["wall_ms"]:
            raise ValueError("sustained load without windows, or columns of different length")
        return cls(**columns)

    def to_json(self) -> Json:
        """The columns, and what they came to."""
        drift = self.drift
        return {
            **{key: list(getattr(self, key)) for key in self.__dataclass_fields__},
            "drift": drift.value,
            "drift_ci95": [drift.low, drift.high],
            "verdict": "drifted" if drift.resolved else "steady",
        }


@dataclass(frozen=True, slots=True)
class ColdStart:
    """Loading and the first inference, each in a fresh process."""

    load_ms: tuple[float, ...]
    first_run_ms: tuple[float, ...]

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> ColdStart:
        """The inverse of ``asdict``."""
        return cls(tuple(document["load_ms"]), tuple(document["first_run_ms"]))


@dataclass(frozen=True, slots=True)
class FileProfile(ABC):
    """What every profile says: the file, where it ran, storage and work.

    ``zipped_bytes`` is after DEFLATE; ``params`` and ``macs`` are None for a file of unknown origin.
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

    def told(self) -> Json:
        """Its fields as JSON values; FLOPs are 2 x MACs."""
        return {
            **{name: getattr(self, name) for name in FileProfile.__dataclass_fields__},
            "runtime": dict(self.runtime),
            "flops": 2 * self.macs if self.macs is not None else None,
            "device": asdict(self.device),
        }

    @abstractmethod
    def to_json(self) -> Json:
        """A JSON object with kind and version."""

    def save(self, path: Path) -> None:
        """Write the profile as JSON."""
        write_json(path, self.to_json())


@dataclass(frozen=True, slots=True)
class Profile(FileProfile):
    """One model on one measured device: storage, work, memory, latency.

    ``peak_rss_bytes`` is a process with the runtime that runs the model a few times, of which ``runtime_rss_bytes``
    were there before the model was loaded. ``unstable`` are the reasons not to trust the times, none if they can be
    trusted. ``operators`` were timed in a run of their own, beside which the whole file took ``whole_ms`` without a
    profiler (``whole_again_ms`` in the second round). What a runner of the user's does not tell is None.
    """

    cold: ColdStart | None
    peak_rss_bytes: int | None
    runtime_rss_bytes: int | None
    latency: Latency
    unstable: tuple[str, ...] = ()
    operators: tuple[Operator, ...] = ()
    sustained: Sustained | None = None
    conditions: Mapping[str, Any] = field(default_factory=dict)
    whole_ms: float | None = None
    whole_again_ms: float | None = None

    @property
    def load_ms(self) -> float | None:
        """The median over fresh processes."""
        return median(self.cold.load_ms) if self.cold else None

    @property
    def first_run_ms(self) -> float | None:
        """The median over fresh processes."""
        return median(self.cold.first_run_ms) if self.cold else None

    def to_json(self) -> Json:
        """A JSON object with kind and version."""
        return {
            "kind": PROFILE_KIND,
            "version": VERSION,
            **self.told(),
            "peak_rss_bytes": self.peak_rss_bytes,
            "runtime_rss_bytes": self.runtime_rss_bytes,
            "conditions": dict(self.conditions),
            "unstable": list(self.unstable),
            "load_ms": self.load_ms,
            "first_run_ms": self.first_run_ms,
            "cold": {key: list(values) for key, values in asdict(self.cold).items()} if self.cold else None,
            "operators": [asdict(operator) for operator in self.operators],
            "whole_ms": self.whole_ms,
            "whole_again_ms": self.whole_again_ms,
            "sustained": self.sustained.to_json() if self.sustained else None,
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
            document = {"whole_ms": None, "whole_again_ms": None, **document}
            fields = {key: document[key] for key in cls.__dataclass_fields__}
            made = {
                "device": DeviceFacts(**fields["device"]),
                "latency": Latency.from_json(fields["latency"]),
                "unstable": tuple(fields["unstable"]),
                "operators": tuple(Operator(**operator) for operator in fields["operators"]),
                "cold": ColdStart.from_json(fields["cold"]) if fields["cold"] else None,
                "sustained": Sustained.from_json(fields["sustained"]) if fields["sustained"] else None,
            }
            return cls(**fields | made)
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise FileError(f"profile: field missing or malformed: {error}") from None

    @classmethod
    def load(cls, path: Path) -> Profile:
        """Read a profile written by :meth:`save`."""
        return cls.from_json(read_json(path))


@lru_cache(maxsize=16)
def quantiles(above: Series, below: Series, *, together: bool = True) -> Json:
    """Ratios of wall time by the names of quantiles, as ``value`` and ``ci95``."""
    ratios = quantile_ratios(above, below, list(QUANTILES.values()), together=together)
    found = zip(QUANTILES, ratios, strict=True)
    return {name: one and {"value": one.value, "ci95": [one.low, one.high]} for name, one in found}


@dataclass(frozen=True, slots=True)
class FilePair:
    """What every comparison says: both files, and where they ran."""

    baseline: str
    candidate: str
    baseline_sha256: str
    candidate_sha256: str
    device: DeviceFacts
    runtime: Mapping[str, str]
    threads: int
    batch: int

    def told(self) -> Json:
        """Its fields as JSON values, and the provenance of the figures."""
        return {
            **{name: getattr(self, name) for name in FilePair.__dataclass_fields__},
            "runtime": dict(self.runtime),
            "device": asdict(self.device),
            "provenance": self.device.provenance,
        }

    @staticmethod
    def fields_in(document: Json) -> dict[str, Any]:
        """The fields out of what :meth:`told` made; KeyError or TypeError where one is missing or malformed."""
        fields = {name: document[name] for name in FilePair.__dataclass_fields__}
        return fields | {"device": DeviceFacts(**fields["device"])}


@dataclass(frozen=True, slots=True)
class Comparison(FilePair):
    """Two models measured in interleaved blocks of one process on one device.

    ``cpu`` is None where a runner of the user's does not tell CPU time. ``sustained`` are both models' minutes under
    load, taking turns; ``unstable`` are reasons not to trust the times. ``ablations`` are, of layers that seemed
    slower, the time of the candidate with the baseline's layer over that of the candidate, taking turns: below 1 it is.
    """

    wall: Ratio
    cpu: Ratio | None
    baseline_latency: Latency
    candidate_latency: Latency
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

    def quantiles(self) -> Json:
        """Candidate over baseline wall time at p50, p90 and p99, with the 95 % interval; None of too few runs."""
        return quantiles(self.candidate_latency.series, self.baseline_latency.series)

    @property
    def verified_on_arm(self) -> bool:
        """Whether a gain was measured on an ARM device, with times that can be trusted: nothing else is called that."""
        return self.verdict == "faster" and self.device.is_arm and not self.unstable

    def to_json(self) -> Json:
        """A JSON object with kind and version; ``speedup`` and ``ci95`` are of wall time."""
        return {
            "kind": COMPARISON_KIND,
            "version": VERSION,
            **self.told(),
            "speedup": self.wall.value,
            "ci95": [self.wall.low, self.wall.high],
            "cpu_speedup": self.cpu.value if self.cpu else None,
            "cpu_ci95": [self.cpu.low, self.cpu.high] if self.cpu else None,
            "verdict": self.verdict,
            "unit": "milliseconds",
            "verified_on_arm": self.verified_on_arm,
            "unstable": list(self.unstable),
            "quantiles": self.quantiles(),
            "ablations": {name: asdict(ratio) for name, ratio in self.ablations.items()},
            "conditions": dict(self.conditions),
            "sustained": {role: sustained.to_json() for role, sustained in self.sustained.items()},
            "blocks": len(self.candidate_latency.wall_ms),
            "loads": len(set(self.candidate_latency.loads)),
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
                **cls.fields_in(document),
                wall=Ratio(document["speedup"], *document["ci95"]),
                cpu=Ratio(document["cpu_speedup"], *document["cpu_ci95"]) if document["cpu_ci95"] else None,
                baseline_latency=Latency.from_json(document["baseline_latency"]),
                candidate_latency=Latency.from_json(document["candidate_latency"]),
                unstable=tuple(document["unstable"]),
                sustained={role: Sustained.from_json(sustained) for role, sustained in document["sustained"].items()},
                conditions=document["conditions"],
                ablations={name: Ratio(**ratio) for name, ratio in document.get("ablations", {}).items()},
            )
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise FileError(f"comparison: field missing or malformed: {error}") from None
