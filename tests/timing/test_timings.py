"""Chains are timed in their place, once; what was interrupted goes on; what is shown is what was measured."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx
import pytest

from edgecompress import timing as timing_stage
from edgecompress.devices import device_named
from edgecompress.errors import DeviceError, PlanError
from edgecompress.models import Sample
from edgecompress.planning import Survey, survey
from edgecompress.settings import Scope
from edgecompress.sources import resolve
from edgecompress.targets import target_named
from edgecompress.timing import Bench, bench_of, stopwatches, timings
from edgecompress.timing.caching import TimingFile
from edgecompress.timing.stopwatches import Here
from tests.processes import command

SCOPE = Scope(methods=("svd",), multiple=8)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGECOMPRESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(timing_stage, "MOST_TURNS", 8)


@dataclass
class Counted:
    """A stopwatch by which a file takes 1000, and 100 more or less for each convolution or product."""

    machine: str = "one that counts"
    seconds_a_file: float = 0.0
    files: int = 0
    fails_at: int = 10**9
    taken: list[int] = field(default_factory=list)

    def take(self, graphs: Sequence[onnx.ModelProto], turns: int, loads: int = 1) -> list[list[float]]:
        self.files += len(graphs)
        if self.files > self.fails_at:
            raise DeviceError.of("local", "was switched off")
        counts = [sum(node.op_type in ("Conv", "Gemm") for node in graph.graph.node) for graph in graphs]
        return [[1000.0 + 100.0 * count] * turns for count in counts]


@pytest.fixture(scope="module")
def dense(tiny_file: Path) -> tuple[Sample, Survey]:
    sample = resolve(str(tiny_file))
    return sample, survey(sample.model(), sample.inputs, SCOPE)


@pytest.fixture(scope="module")
def real(dense: tuple[Sample, Survey]) -> Iterator[Bench]:
    with bench_of(*dense, target_named("onnx"), device_named("local")) as bench:
        yield bench


@pytest.fixture
def bench(real: Bench) -> Bench:
    return replace(real, watch=Counted(), dense=[])


def test_a_chain_takes_what_the_whole_file_takes_more(bench: Bench, dense: tuple[Sample, Survey]) -> None:
    found = timings(bench, dense[1], SCOPE)
    assert found.found
    assert bench.dense_time == 1400
    assert {round(one.share * bench.dense_time) for one in found.found} == {100}  # one product more
    assert all(one.spread < 0.01 for one in found.found)


def test_what_is_known_is_not_timed_again(bench: Bench, dense: tuple[Sample, Survey]) -> None:
    first, before = timings(bench, dense[1], SCOPE), bench.watch.files
    again = timings(bench, dense[1], SCOPE)
    assert bench.watch.files == before
    assert sorted(again.found, key=repr) == sorted(first.found, key=repr)
    more = timings(bench, dense[1], SCOPE, more=[("4", ("svd", (3,)))])
    assert len(more.found) == len(first.found) + 1


def test_instructions_are_counted_around_one_layer(bench: Bench, dense: tuple[Sample, Survey]) -> None:
    counted = replace(bench, unit="instructions")
    found = timings(counted, dense[1], SCOPE, more=[("4", ("svd", (3,)))])
    assert {(round(one.share * counted.dense_time), one.spread, one.layers) for one in found.found} == {(100, 0.0, 1)}
    assert len(found.found) == len(timings(bench, dense[1], SCOPE).found)
    assert counted.dense_ms is None
    assert bench.dense_ms == pytest.approx(1400 / 1e6)


def test_few_chains_are_counted_where_it_takes_long(
    bench: Bench, dense: tuple[Sample, Survey], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing_stage, "COUNTING_SECONDS", -1.0)
    found = timings(replace(bench, unit="instructions"), dense[1], SCOPE, more=[("4", ("svd", (3,)))])
    assert 0 < len(found.found) <= 3 * len(found.geometries)


def test_what_was_interrupted_goes_on(bench: Bench, dense: tuple[Sample, Survey]) -> None:
    assert isinstance(bench.watch, Counted)
    bench.watch.fails_at = 25  # in the second of four geometries
    with pytest.raises(DeviceError, match="switched off"):
        timings(bench, dense[1], SCOPE)
    kept = TimingFile(bench.circumstances).read()
    bench.watch.fails_at = 10**9
    seen: list[tuple[int, int]] = []
    found = timings(bench, dense[1], SCOPE, progress=lambda _name, done, total, _detail: seen.append((done, total)))
    assert 0 < len(kept) < len(found.found)
    assert seen[0] == (0, len(found.found) - len(kept))
    assert seen[-1] == (len(found.found) - len(kept),) * 2


@pytest.mark.parametrize("target", ["openvino", "ncnn"])
def test_files_of_other_runtimes_are_timed(
    dense: tuple[Sample, Survey], target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ncnn has names of its own for inputs; files come from one process, and go where they take too much room."""
    pytest.importorskip(target)
    with bench_of(*dense, target_named(target), device_named("local")) as bench:
        found = bench.compared([{"7": ("svd", (8,))}, {"4": ("svd", (3,))}], turns=2)
        assert [min(series) > 1000 for series in found] == [True] * 3
        assert isinstance(bench.watch, Here)
        before = set(bench.watch.folder.iterdir())
        monkeypatch.setattr(stopwatches, "ROOM_BYTES", 1)
        assert bench.watch.files([bench.file({})])[0] in before
        after = set(bench.watch.folder.iterdir())
        assert len(after) == len(before) / 3


def test_files_not_made_from_an_onnx_are_refused(dense: tuple[Sample, Survey]) -> None:
    with (
        pytest.raises(PlanError, match=r"litert: chains are timed in files that are made from an \.onnx"),
        bench_of(*dense, target_named("litert"), device_named("local")),
    ):
        pass


def test_times_are_taken_and_listed(tiny_file: Path, tmp_path: Path) -> None:
    cache = {"EDGECOMPRESS_CACHE": str(tmp_path / "cache")}
    first = command("timings", tiny_file, "--include", "7", env=cache)
    assert first.code == 0, first.err
    assert "chains of 1 geometries are timed" in first.err
    assert "Linear(in_features=288" in first.out.replace("\n", "")
    again = command("timings", tiny_file, "--include", "7", "--json", env=cache)
    assert "are timed" not in again.err
    facts = json.loads(again.out)
    (layer,) = facts["geometries"]
    assert layer["layers"] == ["7"]
    assert len(layer["timings"]) > 4
    assert facts["dense"] > 1000
    assert facts["circumstances"]["threads"] == 1
    listed = json.loads(command("list", "timings", "--json", env=cache).out)["timings"]
    assert [one["timings"] for one in listed.values()] == [len(layer["timings"])]


@pytest.mark.parametrize("more", [("--target", "onnx", "--target", "ort"), ("--threads", "1", "--threads", "2")])
def test_times_are_of_one_place(tiny_file: Path, more: tuple[str, ...]) -> None:
    answer = command("timings", tiny_file, *more)
    assert answer.code == 2
    assert "times are of one; 2 were given" in answer.err
