"""An ARM core emulated by QEMU: programs for aarch64 run on this machine, and their instructions are counted exactly.

Counts are no times: see :mod:`edgecompress.profiling.instruction_counts`.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgecompress.devices.base import NO_OPTIONS, Counts, Kind, Provenance
from edgecompress.devices.commands import checked, run_command
from edgecompress.devices.emulated import spec
from edgecompress.devices.emulated.spec import Emulation
from edgecompress.errors import DeviceError, FileError
from edgecompress.files import Json, read_json
from edgecompress.settings import DeviceOptions

FORM = "cortex-a53|cortex-a72|cortex-a76|neoverse-n1"


@dataclass(frozen=True, slots=True)
class EmulatedSession:
    """An emulated core in use; ``scratch`` is its home and temporary folder."""

    name: str
    cpu: str
    built: Emulation
    scratch: Path
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def python(self) -> tuple[str, ...]:
        """The interpreter there; like every command there, :meth:`run` starts it under the emulator."""
        return (str(self.built.python),)

    def push(self, *files: Path) -> str:
        """Nothing to copy: an emulated program sees this machine's files."""
        return str(files[0].resolve())

    def run(self, argv: Sequence[str], *, timeout_s: float) -> str:
        """Run a program for aarch64, or a script by :attr:`python`; returns its standard output.

        Raises:
            DeviceError: it cannot be run, fails, or takes too long.
        """
        return self._run(argv, timeout_s)

    def counted(self, argv: Sequence[str], *, timeout_s: float) -> tuple[str, list[dict[str, int]]]:
        """As :meth:`run`, with the instructions of each class between one call of ``getppid`` and the next.

        Raises:
            DeviceError: as :meth:`run`, or nothing was counted.
        """
        with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
            out = Path(folder) / "marks.json"
            text = self._run(argv, timeout_s, f"{_quoted(self.built.plugin)},out={_quoted(out)}")
            try:
                marks = read_json(out)["marks"]
                return text, [_difference(*pair) for pair in itertools.pairwise(marks)]
            except (AttributeError, FileError, KeyError, TypeError) as error:
                why = f"the instructions of {Path(argv[0]).name} were not counted ({error})"
                raise DeviceError.of(self.name, why, command=argv[0], returncode=0) from error

    def _run(self, argv: Sequence[str], timeout_s: float, plugin: str = "") -> str:
        whole = (*self.built.command(self.cpu, plugin=plugin), *argv)
        environment = self.built.environment(self.scratch)
        return checked(self.name, whole, run_command(self.name, whole, timeout_s=timeout_s, environment=environment))

    def facts(self) -> Json:
        """The architecture, the core, and what emulates it."""
        return {"machine": "aarch64", "core": self.cpu, **self.more}


def _quoted(path: Path) -> str:
    """A comma would end the value of an option of the emulator's."""
    return str(path).replace(",", ",,")


def _difference(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    return {kind: after[kind] - before[kind] for kind in after}


@dataclass(frozen=True, slots=True)
class Emulated:
    """One core, by the name the emulator has for it."""

    name: str
    cpu: str
    provenance: Provenance = "emulated"
    options: DeviceOptions = NO_OPTIONS

    @contextmanager
    def session(self, modules: Sequence[str]) -> Iterator[EmulatedSession]:
        """A folder for temporary files, gone in the end.

        Raises:
            DeviceError: the device was not set up, or has not all ``modules``.
            MissingExtra: the emulator is not installed.
        """
        built, manifest = spec.load_installation(self.name)
        lacking = [module for module in modules if module not in spec.recipe().modules]
        if lacking:
            there = ", ".join(spec.recipe().modules)
            raise DeviceError.of(self.name, f"has no {', '.join(lacking)}; there are {there}")
        more = {"emulator": manifest["emulator"], "packages": manifest["packages"]}
        with tempfile.TemporaryDirectory(prefix="edgecompress-") as folder:
            yield EmulatedSession(self.name, self.cpu, built, Path(folder).resolve(), more)


def parse(rest: str, options: DeviceOptions) -> Emulated:
    """``emulated:cortex-a76``.

    Raises:
        DeviceError: no such core, or an option of other devices.
    """
    name = f"emulated:{rest}"
    options.refuse_other_than(name)
    cores = spec.recipe().cores
    if rest not in cores:
        why = "is no core but every feature the emulator knows" if rest == "max" else "is unknown"
        raise DeviceError.of(name, f"{rest!r} {why}; there are {', '.join(cores)}")
    return Emulated(name, rest)


KIND = Kind(FORM, "an ARM core under QEMU on this machine; exact instruction counts, no times", parse)


def counts_of(answer: Json, intervals: Sequence[Mapping[str, int]], cpu: str) -> list[Counts]:
    """What the bench script reports of its intervals, and what was counted in each, put together, model by model.

    The first inference is dropped; the mix is that of the least one.

    Raises:
        DeviceError: they do not match, or fewer than two inferences were counted.
    """
    names = answer.get("intervals")
    if not isinstance(names, list) or len(names) != len(intervals):
        why = f"{len(intervals)} intervals were counted, the bench script reports {names!r}"
        raise DeviceError.of(f"emulated:{cpu}", why)
    starts = [at for at, name in enumerate(names) if name == "load"]
    ends = [*starts[1:], len(names)]
    return [_counts(names[at:end], intervals[at:end], cpu) for at, end in zip(starts or [0], ends, strict=True)]


def _counts(names: Sequence[str], intervals: Sequence[Mapping[str, int]], cpu: str) -> Counts:
    """Of one model."""
    runs = [counted for name, counted in zip(names, intervals, strict=True) if name == "run"][1:]
    if not runs:
        raise DeviceError.of(f"emulated:{cpu}", "fewer than two inferences were counted")
    totals = [sum(run.values()) for run in runs]
    load = sum(sum(counted.values()) for name, counted in zip(names, intervals, strict=True) if name == "load")
    return Counts(cpu, tuple(totals), dict(runs[totals.index(min(totals))]), load)
