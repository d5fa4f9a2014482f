"""Times of one model: every run, their statistics, minutes under load, cold starts. All in milliseconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from statistics import median
from typing import Any

from edgecompress.files import Json
from edgecompress.profiling.ratios import (
    Blocks,
    Ratio,
    Series,
    Statistics,
    quantile_ratios,
    ratio_of_medians,
    statistics,
)

FEWEST_FOR_P99 = 100
"""Of fewer runs a 99th percentile lies beside the slowest one, which is chance: it is not shown."""
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}


@dataclass(frozen=True)
class Latency:
    """Every run of one model, in blocks: wall and process CPU time in milliseconds.

    Where a program of the user's measured, a block is one invocation and holds one figure, its median or mean, and CPU
    time is not reported (``cpu_ms`` is empty).
    ``loads`` are, of each block, which load of the file it was measured on: the model is loaded several times.
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

    @cached_property
    def statistics(self) -> LatencyStatistics:
        """Of wall and CPU time of all runs."""
        wall, cpu = self.all_wall_ms(), self.all_cpu_ms()
        return LatencyStatistics(len(wall), statistics(wall), statistics(cpu) if cpu else None)

    def summary(self) -> Json:
        """The statistics alone, as a JSON object."""
        return self.statistics.to_json()

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


@dataclass(frozen=True, slots=True)
class LatencyStatistics:
    """What remains of a latency without its runs; ``cpu`` is None where CPU time was not reported."""

    runs: int
    wall: Statistics
    cpu: Statistics | None

    @property
    def statistics(self) -> LatencyStatistics:
        """Itself: the same question as to a :class:`Latency`."""
        return self

    def p99(self, times: Statistics) -> float | None:
        """Of wall or CPU time, to be shown; None of too few runs."""
        return times.p99 if self.runs >= FEWEST_FOR_P99 else None

    def summary(self) -> Json:
        """The same as :meth:`to_json`."""
        return self.to_json()

    def to_json(self) -> Json:
        """A JSON object."""
        return {"runs": self.runs, "wall": asdict(self.wall), "cpu": asdict(self.cpu) if self.cpu else None}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> LatencyStatistics:
        """The inverse of :meth:`to_json`."""
        cpu = document["cpu"]
        return cls(int(document["runs"]), Statistics(**document["wall"]), Statistics(**cpu) if cpu else None)


@lru_cache(maxsize=16)
def quantiles(above: Series, below: Series, *, together: bool = True) -> Mapping[str, Ratio | None]:
    """Ratios of wall time by the names of quantiles; None of too few runs."""
    ratios = quantile_ratios(above, below, list(QUANTILES.values()), together=together)
    return dict(zip(QUANTILES, ratios, strict=True))


@dataclass(frozen=True)
class Sustained:
    """Minutes under load: the median wall time of each window, when it began, and what the device reported of itself.

    ``clock_mhz`` and ``temperature_c`` are None in each window where the device does not report them.
    """

    start_s: tuple[float, ...]
    wall_ms: tuple[float, ...]
    clock_mhz: tuple[float | None, ...]
    temperature_c: tuple[float | None, ...]

    @cached_property
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

    @property
    def medians(self) -> tuple[float, float]:
        """Of loading and of the first inference."""
        return median(self.load_ms), median(self.first_run_ms)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> ColdStart:
        """The inverse of ``asdict``."""
        return cls(tuple(document["load_ms"]), tuple(document["first_run_ms"]))
