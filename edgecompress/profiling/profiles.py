"""Profile: one exported file on one measured device. Milliseconds and bytes; every run is kept.

Two files taking turns are a :mod:`comparison <edgecompress.profiling.comparisons>`; what was *emulated* is counted in
instructions and has its own values, see :mod:`edgecompress.profiling.instruction_counts`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from edgecompress.files import Json, check_version, read_json, reading_fields, write_json
from edgecompress.profiling.comparisons import Comparison
from edgecompress.profiling.facts import LENGTHS, VERSION, DeviceFacts, common_values
from edgecompress.profiling.latencies import ColdStart, Latency, Sustained

__all__ = ["PROFILE_KIND", "Comparison", "FileProfile", "Operator", "Profile"]

PROFILE_KIND = "edgecompress.profile"


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator of a file as its runtime runs it: ``layer`` is the model's layer it comes from, if any.

    ``wall_ms`` is without what the profiler adds to each, ``profiled_ms`` with it; None: written before these were
    set apart, with it. ``again_ms`` is the time in a second round, after the other file's turn: what both differ by is
    the machine's.
    """

    name: str
    kind: str
    wall_ms: float
    layer: str | None = None
    again_ms: float | None = None
    profiled_ms: float | None = None


@dataclass(frozen=True, slots=True)
class FileProfile(ABC):
    """What every profile holds: the file, where it ran, storage and work.

    ``length`` are the positions of a sequence, where the file takes any, ``past`` those before it in a KV cache.
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
    length: int | None = field(default=None, kw_only=True)
    past: int | None = field(default=None, kw_only=True)

    def common_fields(self) -> Json:
        """Its fields as JSON values; FLOPs are 2 x MACs."""
        return {
            **common_values(self, FileProfile.__dataclass_fields__),
            "runtime": dict(self.runtime),
            "flops": 2 * self.macs if self.macs is not None else None,
            "device": asdict(self.device),
        }

    @abstractmethod
    def to_json(self) -> Json:
        """A JSON object with kind and version."""

    def save(self, path: str | Path) -> None:
        """Write the profile as JSON."""
        write_json(Path(path), self.to_json())


@dataclass(frozen=True, slots=True)
class Profile(FileProfile):
    """One model on one measured device: storage, work, memory, latency.

    Args:
        cold: loads and first runs of fresh processes, in milliseconds.
        peak_rss_bytes: of a process that runs the model a few times.
        runtime_rss_bytes: of these, what was there before the model was loaded.
        latency: every run, in milliseconds.
        unstable: reasons not to trust the times; empty if they can be trusted.
        operators: each operator's time, in a run of their own.
        sustained: minutes under load.
        conditions: clocks and temperatures before and after.
        whole_ms: what the whole file took beside ``operators``, without a profiler.
        whole_again_ms: the same in the second round.

    What a runner of the user's does not report is None.
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
            **self.common_fields(),
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
        with reading_fields("profile"):
            document = {"whole_ms": None, "whole_again_ms": None, **LENGTHS, **document}
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

    @classmethod
    def load(cls, path: str | Path) -> Profile:
        """Read a profile written by :meth:`save`."""
        return cls.from_json(read_json(Path(path)))
