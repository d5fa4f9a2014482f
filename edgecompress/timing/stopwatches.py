"""What takes times of whole files on a device: CPU time in turns here, pairs elsewhere, instructions where emulated."""

from __future__ import annotations

import os
import platform
import time
from bisect import insort
from collections.abc import Collection, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from itertools import count
from operator import itemgetter
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Protocol

from edgecompress.devices import Device, is_counting
from edgecompress.errors import DeviceError
from edgecompress.exporting.outputs import as_feed
from edgecompress.profiling.turns import in_turns
from edgecompress.settings import Effort
from edgecompress.targets import Job, Target

if TYPE_CHECKING:
    import onnx

    from edgecompress.models.datasets import Inputs
    from edgecompress.profiling.bench import Bench

PAIR_SECONDS = 0.5
"""Of measuring two files in turns on a device elsewhere."""
ROOM_BYTES = 1 << 30
"""Of the files that are kept, since they may be taken again."""
DISTURBED, QUIET, MOST_TRIES = 0.08, 0.2, 3
"""How much longer than in the quietest fifth of all loads a file may take; how many times as many are tried at most."""
COUNTED = 3
"""Inferences of a file whose instructions are counted, the first of which is dropped."""
CPUINFO = Path("/proc/cpuinfo")


class Stopwatch(Protocol):
    """Takes times of graphs of one target on one device."""

    @property
    def machine(self) -> str:
        """What the device is, beyond its name: times hold for that alone."""

    @property
    def seconds_a_file(self) -> float:
        """What a file takes besides its runs, about."""

    def take(self, graphs: Sequence[onnx.ModelProto], turns: int, loads: int = 1) -> list[list[float]]:
        """Of each graph a series of times, in one unit for all, of which those of one turn belong together.

        Files are loaded anew ``loads`` times, each for as many turns, which follow each other in the series.
        """


@dataclass(slots=True)
class Files:
    """The files of graphs, numbered as they are made; their runs use so many threads."""

    target: Target
    job: Job
    folder: Path
    threads: int
    made: dict[str, Path] = field(default_factory=dict, init=False)
    numbers: Iterator[int] = field(default_factory=count, init=False)

    def files(self, graphs: Collection[onnx.ModelProto]) -> list[Path]:
        """The target's files of graphs; of equal ones the same."""
        digests = [digest_of(graph) for graph in graphs]
        missing = {digest: graph for digest, graph in zip(digests, graphs, strict=True) if digest not in self.made}
        self._make_room(digests)
        paths = {digest: self.folder / f"{next(self.numbers)}{self.target.suffix}" for digest in missing}
        write(self.target, self.job, {paths[digest]: graph for digest, graph in missing.items()})
        self.made |= paths
        return [self.made[digest] for digest in digests]

    def _make_room(self, wanted: Container[str]) -> None:
        """By the oldest files that are not ``wanted``, where all take more than they may."""
        parts = {digest: (path, *self.target.parts(path)) for digest, path in self.made.items()}
        sizes = {digest: sum(part.stat().st_size for part in own) for digest, own in parts.items()}
        taken = sum(sizes.values())
        for digest in [digest for digest in parts if digest not in wanted]:
            if taken > ROOM_BYTES:
                taken -= sizes[digest]
                del self.made[digest]
                for part in parts[digest]:
                    part.unlink()


@dataclass(slots=True)
class Here(Files):
    """This machine: nanoseconds of process CPU time, of several threads of wall time; all files in this process."""

    inputs: Inputs
    seconds_a_file: float = 0.1
    known: dict[Path, list[float]] = field(default_factory=dict)

    @property
    def machine(self) -> str:
        """Processor with its flags, and the kernel."""
        return identity_here()

    def take(self, graphs: Sequence[onnx.ModelProto], turns: int, loads: int = 1) -> list[list[float]]:
        """All of them in turns."""
        start = time.perf_counter()
        files = self.files(graphs)
        self.seconds_a_file = (time.perf_counter() - start) / len(graphs)
        parts = self._undisturbed(files, max(1, turns // loads), loads)
        return [[one for part in parts for one in part[at]] for at in range(len(files))]

    def _undisturbed(self, files: Sequence[Path], turns: int, loads: int) -> list[list[list[float]]]:
        """So many loads; others in place of those in which the first file took longer than when all is quiet.

        What else runs on a processor, or beside it, slows files down in phases of some tenths of a second, and those
        most whose weights do not fit into the nearest cache: a load in such a phase says nothing of a quiet machine.
        """
        found = list[tuple[float, list[list[float]]]]()
        for number in range(MOST_TRIES * loads):
            series = self._loaded(files, turns, number)
            found.append((median(series[0]), series))
            known = self.known.setdefault(files[0], [])
            insort(known, found[-1][0])
            if sum(took <= (1 + DISTURBED) * known[int(QUIET * len(known))] for took, _ in found) >= loads:
                break
        return [series for _, series in sorted(found, key=itemgetter(0))[:loads]]

    def _loaded(self, files: Sequence[Path], turns: int, number: int) -> list[list[float]]:
        """Times of files that are loaded anew."""
        runs = [self.target.load(file, threads=self.threads) for file in files]
        feed = as_feed(self.target.signature(files[0])[0], self.inputs)  # formats have their own names
        tick = time.process_time_ns if self.threads == 1 else time.perf_counter_ns
        calls = [partial(run, feed) for run in runs]
        return in_turns(calls, turns=turns, seconds=600.0, tick=tick, seed=number)


@dataclass(slots=True)
class There(Files):
    """Another device, in use: nanoseconds of each file in turns with the first."""

    bench: Bench
    seconds_a_file: float = 4.0

    @property
    def machine(self) -> str:
        """What its own system reports."""
        return str(sorted(self.bench.session.facts().items()))

    def take(self, graphs: Sequence[onnx.ModelProto], turns: int, loads: int = 1) -> list[list[float]]:
        """One file after the other: one number each, of several loads anyway."""
        del loads
        files, start = self.files(graphs), time.perf_counter()
        effort = Effort(self.threads, self.job.batch or 1, runs=max(2, turns), seconds=PAIR_SECONDS)
        pairs = [self.bench.compare(file, files[0], effort) for file in files[1:] or files]
        dense = median(pair.baseline_latency.statistics.wall.p50 for pair in pairs) * 1e6
        self.seconds_a_file = (time.perf_counter() - start) / len(files)
        return [[dense], *([dense / (pair.cpu or pair.wall).value] for pair in pairs[: len(files) - 1])]


@dataclass(slots=True)
class Counting(There):
    """An emulated device, in use: instructions, which are exact, so that a graph is counted once."""

    known: dict[str, float] = field(default_factory=dict)

    def take(self, graphs: Sequence[onnx.ModelProto], turns: int, loads: int = 1) -> list[list[float]]:
        """One number each; those that are not known in one process, whose start takes longer than a small file."""
        del turns, loads
        digests = [digest_of(graph) for graph in graphs]
        missing = {digest: graph for digest, graph in zip(digests, graphs, strict=True) if digest not in self.known}
        if missing:
            files, start = self.files(missing.values()), time.perf_counter()
            effort = Effort(self.threads, self.job.batch or 1, runs=COUNTED)
            counts = self.bench.counts(files, effort)
            self.known |= {digest: float(one.least) for digest, one in zip(missing, counts, strict=True)}
            self.seconds_a_file = (time.perf_counter() - start) / len(files)
        return [[self.known[digest]] for digest in digests]


def digest_of(graph: onnx.ModelProto) -> str:
    """Equal of equal graphs."""
    return sha256(graph.SerializeToString(deterministic=True)).hexdigest()


def write(target: Target, job: Job, graphs: Mapping[Path, onnx.ModelProto]) -> None:
    """The target's files of graphs; those that have to be converted all in one process."""
    import onnx

    from edgecompress.targets.child_converter import convert_graphs

    if target.name == "onnx":
        for path, graph in graphs.items():
            onnx.save_model(graph, path)
    elif graphs:
        converter: Any = target
        convert_graphs(converter, job, graphs)


@contextmanager
def stopwatch(target: Target, job: Job, device: Device, threads: int, inputs: Inputs) -> Iterator[Stopwatch]:
    """For files of ``target`` on ``device``; its files are gone afterwards.

    Raises:
        DeviceError: the device cannot be used, or runs no bench script.
    """
    from edgecompress.profiling.bench import Bench, bench_for

    with TemporaryDirectory(prefix="edgecompress-") as folder:
        place = Path(folder)
        if device.name == "local":
            yield Here(target, job, place, threads, inputs)
            return
        with bench_for(device, target, target.name) as there:
            if not isinstance(there, Bench):
                raise DeviceError.of(device.name, "layers cannot be timed there: it runs no bench script")
            kind = Counting if is_counting(there.session) else There
            yield kind(target, job, place, threads, there)


def identity_here() -> str:
    """Processor, a digest of its flags, and the kernel of this machine."""
    known = _cpuinfo()
    name = known.get("model name") or known.get("CPU part") or platform.processor()
    return f"{platform.machine()} {name} {sha256(flags_here().encode()).hexdigest()[:8]} {platform.release()}"


def flags_here() -> str:
    """Instruction sets of this machine's processor, as its kernel calls them; empty where it does not tell."""
    known = _cpuinfo()
    return known.get("flags") or known.get("Features") or ""


def _cpuinfo() -> dict[str, str]:
    """What the kernel tells of the processor: of several of one name the first."""
    text = CPUINFO.read_text(encoding="utf-8", errors="replace") if CPUINFO.is_file() else ""
    facts = (line.partition(":") for line in reversed(text.splitlines()))
    return {key.strip(): value.strip() for key, colon, value in facts if colon}


def load_here() -> float:
    """Processes that wanted a processor in the last minute."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
