"""timings(): what chains take in place of layers, on a device.

All layers of one geometry are replaced at once in the whole dense file, which takes turns with the dense file: what
lies between both, by the number of layers, is what a chain takes in its place, with the caches, layouts and fusions of
a whole model. (Chains timed alone mispredict whole models by up to 40 %, per-node profiles inflate chains.) Where
instructions are counted, which know nothing of caches, one layer is replaced in its neighbourhood.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING

from torch import nn

from edgecompress.artifacts import versions
from edgecompress.decompositions import AUTO, DECOMPOSITIONS
from edgecompress.devices import Device
from edgecompress.errors import PlanError
from edgecompress.exporting.inputs import probe
from edgecompress.exporting.jobs import DEFAULT_EXPORT, jobs_of
from edgecompress.exporting.outputs import as_feed
from edgecompress.models import Sample
from edgecompress.planning import Survey
from edgecompress.progress import Progress, notice, silent
from edgecompress.settings import Scope
from edgecompress.targets import Target
from edgecompress.targets.onnx import Onnx
from edgecompress.targets.onnx.graphs import spec_of
from edgecompress.targets.onnx.rewrites import REWRITES, rewritten
from edgecompress.targets.onnx.rewrites import VERSION as REWRITES_VERSION
from edgecompress.timing.caching import Circumstances, Timing, TimingFile
from edgecompress.timing.geometries import MOST_COUNTED, Chain, Geometry, geometries_of
from edgecompress.timing.grafting import Chosen, graftable, grafted, places_of
from edgecompress.timing.neighbourhoods import neighbourhood
from edgecompress.timing.plateaus import clear_multiple, misfits, plateau_ranks
from edgecompress.timing.pooling import Pool
from edgecompress.timing.prices import Prices
from edgecompress.timing.stopwatches import Stopwatch, digest_of, load_here, stopwatch

if TYPE_CHECKING:
    import onnx

    from edgecompress.artifacts import Arrays

FEWEST_TURNS, MOST_TURNS, SECONDS = 4, 32, 40.0
"""Of each file of candidates with the dense file: as many as take so long in all."""
INSTRUCTIONS = "instructions"
LOADS = 2
"""Of each file, which moves its times by some percent."""
MOST_PLATEAUS = 3
"""Geometries whose plateaus are looked for: those with the most MACs."""
FILE_BYTES = 1 << 30
"""Of all files that take turns in one process."""
COUNTING_SECONDS, NEAR = 600.0, 3
"""Of counting instructions, about: beyond, few chains are counted. A neighbourhood is taken for so many layers."""
CUT = ("onnx", "ort")
"""Targets of whose files a part is a file: others are converted, by rules for a whole model."""


Todo = list[tuple[Geometry, list[Chain]]]
"""By geometry the chains that are still to be timed."""


@dataclass
class Bench:
    """A dense model's graph on a device: files with chains in it are made and timed.

    ``layers`` are those that may be replaced; ``feed`` an input; ``unit`` is what times are in.
    """

    graph: onnx.ModelProto
    layers: dict[str, nn.Module]
    watch: Stopwatch
    circumstances: Circumstances
    feed: Arrays
    unit: str = "ns"
    dense: list[float] = field(default_factory=list)

    def file(self, chosen: Chosen, graph: onnx.ModelProto | None = None) -> onnx.ModelProto:
        """The whole model, or a part of its graph, with these chains, rewritten as an exported file is."""
        made = grafted(graph or self.graph, self.layers, chosen)
        rewritten(made, tuple(REWRITES))
        return made

    def compared(self, plans: Sequence[Chosen], turns: int = MOST_TURNS, loads: int = 1) -> list[list[float]]:
        """The times of the dense file, then of each plan's, in turns, each load of all files with its share of them."""
        found = self.watch.take([self.file({}), *map(self.file, plans)], turns, loads)
        self.dense += found[0]
        return found

    def counted(self, layer: str, chains: Sequence[Chain]) -> list[float]:
        """Instructions of a layer and what lies around it, then of the same with each chain in its place."""
        part = self.graph
        if self.circumstances.target in CUT:
            part = neighbourhood(self.graph, places_of(self.graph, self.layers)[layer], self.feed)
        files = [self.file(chosen, part) for chosen in ({}, *({layer: chain} for chain in chains))]
        return [count for (count,) in self.watch.take(files, 1)]

    @property
    def counts(self) -> bool:
        """Whether instructions are counted, which are exact."""
        return self.unit == INSTRUCTIONS

    @property
    def dense_time(self) -> float:
        """The median of all that was taken of the dense file."""
        return median(self.dense) if self.dense else median(self.compared([])[0])

    @property
    def dense_ms(self) -> float | None:
        """Milliseconds of the dense file; None where instructions are counted."""
        return None if self.counts else self.dense_time / 1e6


@dataclass
class Timings:
    """Times of a model's chains, and what follows from them."""

    bench: Bench
    seen: Survey
    geometries: tuple[Geometry, ...]
    found: tuple[Timing, ...]

    @cached_property
    def multiple(self) -> int | None:
        """The multiple of ranks within which times stay level; None where that is not known."""
        return clear_multiple(misfits(self.found))

    @property
    def prices(self) -> Prices:
        """Of all candidates."""
        return Prices(self.geometries, self.found, self.bench.dense_time, self.seen.total.macs)


@contextmanager
def bench_of(sample: Sample, seen: Survey, target: Target, device: Device, threads: int = 1) -> Iterator[Bench]:
    """The dense model of ``sample``, whose layers were surveyed, on a device.

    Raises:
        PlanError: files of the target are not made from an .onnx.
        ExportError: it cannot be exported.
        DeviceError: the device cannot be used.
    """
    if target.made_from != "onnx":
        raise PlanError(f"{target.name}: chains are timed in files that are made from an .onnx; {target.name} has none")
    with jobs_of(seen.model, sample, DEFAULT_EXPORT) as jobs:
        size = jobs.batch().size
        job = jobs.job(target, size, None)
        graph, _ = Onnx().graph_of(job.model, job)
        rewritten(graph, tuple(REWRITES))
        layers = {item.name: item.layer for item in seen.items}
        places = places_of(graph, layers)
        inputs = probe(sample.inputs, size or 1)
        feed = as_feed(tuple(map(spec_of, graph.graph.input)), inputs)
        with stopwatch(target, job, device, threads, inputs) as watch:
            known = versions(*target.needs)
            runtime = " ".join(f"{name} {known[name]}" for name in target.needs)
            context = digest_of(graph)
            place = (device.name, watch.machine, threads, size or 1)
            at = Circumstances(target.name, job.precision, runtime, *place, REWRITES_VERSION, context)
            unit = "ns" if device.provenance == "measured" else INSTRUCTIONS
            layers = {name: layer for name, layer in layers.items() if places[name] and graftable(layer)}
            yield Bench(graph, layers, watch, at, feed, unit)


def timings(
    bench: Bench, seen: Survey, scope: Scope, *, more: Sequence[tuple[str, Chain]] = (), progress: Progress = silent
) -> Timings:
    """Take the times that are not in the cache yet.

    Args:
        bench: of the model.
        seen: its layers.
        scope: the methods and the multiple that chains are of.
        more: chains to time besides, each of the geometry of a layer that is named.
        progress: is called after each geometry.

    Returns:
        All that are known.

    Raises:
        DeviceError: measuring failed.
        FileError: the cache cannot be written to.
    """
    file, methods = TimingFile(bench.circumstances), scope.methods or AUTO
    geometries = tuple(one for one in geometries_of(seen.items) if one.first.name in bench.layers)
    known = {(one.geometry, one.method, one.ranks): one for one in file.read()}

    def missing(*, few: bool) -> Todo:
        wanted = _wanted(geometries, methods, scope.multiple, more, few=few)
        return [(one, [c for c in dict.fromkeys(wanted[one.key]) if (one.key, *c) not in known]) for one in geometries]

    todo = missing(few=False)
    turns, seconds = _estimated(bench, todo, seen.total.macs)
    if bench.counts and seconds > COUNTING_SECONDS:
        todo = missing(few=True)
        turns, seconds = _estimated(bench, todo, seen.total.macs)
    count, done = sum(len(chains) for _, chains in todo), 0
    if count:
        how = "are counted" if bench.counts else f"are timed, {turns} turns each"
        notice(f"{count} chains of {sum(bool(own) for _, own in todo)} geometries {how}: about {seconds:.0f} s")
        progress("timings", 0, count, "")
    for geometry, chains in todo:
        for part in _parts(chains, bench):
            taken = _count(bench, geometry, part) if bench.counts else _take(bench, geometry, part, turns)
            file.add(taken)
            known |= {(one.geometry, one.method, one.ranks): one for one in taken}
            done += len(part)
            progress("timings", done, count, geometry.first.name)
    return Timings(bench, seen, geometries, tuple(known.values()))


def _wanted(
    geometries: Sequence[Geometry],
    methods: Sequence[str],
    multiple: int,
    more: Sequence[tuple[str, Chain]],
    *,
    few: bool,
) -> dict[str, list[Chain]]:
    """By geometry the chains to time; without ``more`` and those that show plateaus where there are to be ``few``."""
    if few:
        return {one.key: one.timed(methods, multiple, MOST_COUNTED) for one in geometries}
    largest = sorted(geometries, key=lambda one: -one.dense.macs * len(one.items))[:MOST_PLATEAUS]
    found = {one.key: one.timed(methods, multiple) for one in geometries}
    for one in largest:
        found[one.key] += _steps(one)
    by_layer = {item.name: one.key for one in geometries for item in one.items}
    for name, chain in more:
        if name in by_layer:
            found[by_layer[name]].append(chain)
    return found


def _estimated(bench: Bench, todo: Todo, macs: int) -> tuple[int, float]:
    """How many turns there are to be, and what all take in seconds, about."""
    count = sum(len(chains) for _, chains in todo)
    if not count:
        return FEWEST_TURNS, 0.0
    start = perf_counter()
    bench.compared([], turns=FEWEST_TURNS)
    if bench.counts:
        near = NEAR / max(1, macs) if bench.circumstances.target in CUT else 1.0
        parts = sum(len(chains) * min(1.0, near * one.dense.macs) for one, chains in todo)
        return 1, bench.watch.seconds_a_file * (parts + sum(bool(chains) for _, chains in todo))
    turn = count * (perf_counter() - start) / FEWEST_TURNS
    turns = round(min(MOST_TURNS, max(FEWEST_TURNS, SECONDS / turn)))
    return turns, turn * turns + count * bench.watch.seconds_a_file


def _steps(geometry: Geometry) -> list[Chain]:
    """Chains that show plateaus: one method with a single rank, at small steps."""
    layer = geometry.first.layer
    for method in ("spatial_svd", "svd"):
        if DECOMPOSITIONS[method].supports(layer) and len(largest := DECOMPOSITIONS[method].max_ranks(layer)) == 1:
            return [(method, ranks) for ranks in plateau_ranks(largest[0])]
    return []


def _parts(chains: Sequence[Chain], bench: Bench) -> Iterator[Sequence[Chain]]:
    """As many as fit into memory at once."""
    size = max(1, FILE_BYTES // max(1, 2 * bench.graph.ByteSize()))
    yield from (chains[at : at + size] for at in range(0, len(chains), size))


def _take(bench: Bench, geometry: Geometry, chains: Sequence[Chain], turns: int) -> list[Timing]:
    names = [item.name for item in geometry.items]
    series = bench.compared([dict.fromkeys(names, chain) for chain in chains], turns, LOADS)
    pool, load = Pool(), round(load_here(), 2)
    pool.add(dict(enumerate(series)), LOADS)
    count, inverses = len(names), [pool.ratio(at, 0).inverse for at in range(1, len(series))]
    return [
        Timing(geometry.key, *chain, (one.value - 1) / count, one.error / count, count, turns, load)
        for chain, one in zip(chains, inverses, strict=True)
    ]


def _count(bench: Bench, geometry: Geometry, chains: Sequence[Chain]) -> list[Timing]:
    """Of one layer, in shares of the dense model's instructions."""
    dense, *counts = bench.counted(geometry.first.name, chains)
    shares = [(own - dense) / bench.dense_time for own in counts]
    return [Timing(geometry.key, *chain, share, 0.0, 1, 1) for chain, share in zip(chains, shares, strict=True)]
