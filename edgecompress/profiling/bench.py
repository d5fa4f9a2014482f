"""A device in use for measuring: files on it, and the bench script (``deploy/runners/bench.py``) or a vendor's runner.

The figures come from the script; this module starts it, pass by pass, and reads its answers. On an emulated
device instructions are counted instead: see :mod:`edgecompress.profiling.instruction_counts`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from edgecompress.artifacts import golden_path
from edgecompress.devices import CountingSession, Device, Session, is_counting, is_page
from edgecompress.devices.base import Counts
from edgecompress.errors import DeviceError, FileError
from edgecompress.files import Json
from edgecompress.profiling.ablation import with_dense_layer
from edgecompress.profiling.comparisons import Comparison
from edgecompress.profiling.facts import DeviceFacts, provenance
from edgecompress.profiling.instruction_counts import AnyProfile, InstructionProfile
from edgecompress.profiling.latencies import ColdStart, Latency, Sustained
from edgecompress.profiling.measured_files import facts_of_file, facts_of_pair, push_once
from edgecompress.profiling.operators import with_layers, with_second_round
from edgecompress.profiling.profiles import Operator, Profile
from edgecompress.profiling.ratios import Ratio, paired_ratio
from edgecompress.profiling.stability import unstable
from edgecompress.profiling.vendor_bench import VendorBench
from edgecompress.profiling.vendor_runners import runner_of
from edgecompress.profiling.web_bench import WebBench
from edgecompress.progress import Progress, silent
from edgecompress.settings import Effort
from edgecompress.targets import Target, target_of
from edgecompress.targets.runtimes import bench_files, module_of

Pass = Literal["latency", "start", "operators", "sustained", "count"]

TIMEOUT_S = 900.0
"""Beyond the time of the effort: large models load slowly and run at least a few dozen times."""
COLD_STARTS = 3
FEWEST_COUNTED, COUNTED_RUNS = 2, 6
"""Inferences whose instructions are counted, the first of which is dropped."""


def arguments(effort: Effort, kind: Pass) -> list[str]:
    """The bench script's options for one pass."""
    argv = ["--pass", kind, "--threads", str(effort.threads), "--batch", str(effort.batch)]
    argv += ["--length", str(effort.length)] if effort.length else []
    argv += ["--past", str(effort.past)] if effort.past is not None else []
    if kind == "sustained":
        return [*argv, "--minutes", str(effort.minutes)]
    runs = max(FEWEST_COUNTED, min(COUNTED_RUNS, effort.runs)) if kind == "count" else effort.runs
    return [*argv, "--runs", str(runs), "--seconds", str(effort.seconds)]


@dataclass(frozen=True, slots=True)
class Bench:
    """Files and the bench script on a device in use."""

    device: Device
    session: Session
    kernel: Json
    pushed: dict[Path, str] = field(default_factory=dict)

    # -- measured ------------------------------------------------------------------------------------------------

    def profile(self, path: Path, effort: Effort) -> AnyProfile:
        """Measure one file alone, each pass in a process of its own.

        Raises:
            FileError: it cannot be read.
            DeviceError: the bench script failed.
        """
        target = target_of(path)
        target.signature(path)
        if is_counting(self.session):
            return self._counted(path, effort, self.session)
        starts = [self.answer(path, None, "start", effort) for _ in range(COLD_STARTS)]
        operators, whole_ms = self._operators(path, effort)
        long = self.answer(path, None, "sustained", effort) if effort.minutes else None
        answer = self.answer(path, None, "latency", effort)
        latency = Latency.from_json(answer["models"][0])
        return Profile(
            **facts_of_file(path, target),
            **self._circumstances(answer),
            cold=ColdStart(*(tuple(start[key] for start in starts) for key in ("load_ms", "first_run_ms"))),
            peak_rss_bytes=max(start["peak_rss_bytes"] for start in starts),
            runtime_rss_bytes=max(start["rss_before_load_bytes"] for start in starts),
            latency=latency,
            unstable=unstable(answer, [latency]),
            operators=operators,
            whole_ms=whole_ms,
            sustained=Sustained.from_json(long["sustained"]["candidate"]) if long else None,
            conditions=answer["conditions"],
        )

    def again(self, path: Path, found: Profile, effort: Effort) -> Profile:
        """A profile with a second round of its operators' times."""
        if not found.operators:
            return found
        second, whole_ms = self._operators(path, effort)
        both = with_second_round(found.operators, second)
        return found if both == found.operators else replace(found, operators=both, whole_again_ms=whole_ms)

    def _operators(self, path: Path, effort: Effort) -> tuple[tuple[Operator, ...], float | None]:
        """Every operator, and what the whole file takes beside them."""
        answer = self.answer(path, None, "operators", effort)
        return with_layers(path, [Operator(**row) for row in answer["operators"] or ()]), answer["whole_ms"]

    def ablated(self, candidate: Path, baseline: Path, layers: Sequence[str], names: Sequence[str], effort: Effort,
                progress: Progress = silent) -> dict[str, Ratio]:  # fmt: skip
        """Of each of ``layers`` that can be put back, the time of ``candidate`` with it dense over that without.

        The interval holds those of wall and of CPU time.
        """
        found = {}
        with TemporaryDirectory() as folder:
            for done, layer in enumerate(layers):
                progress("profile", done, len(layers), f"{layer} dense again, in turns")
                file = Path(folder) / f"ablated-{done}{candidate.suffix}"
                try:
                    with_dense_layer(candidate, baseline, layer, names, file)
                    pair = self.compare(candidate, file, effort)
                except Exception:  # noqa: S112 - whatever keeps a layer from being put back: it is not called slower
                    continue
                both = [ratio for ratio in (pair.wall, pair.cpu) if ratio]
                low, high = min(one.low for one in both), max(one.high for one in both)
                found[layer] = Ratio(pair.wall.value, low, high)
        return found

    def compare(self, candidate: Path, baseline: Path, effort: Effort) -> Comparison:
        """Measure two files in interleaved blocks of one process: the speed-up, its interval, and a verdict.

        That they compare is for the caller to see to, by :func:`refuse_unlike`.

        Raises:
            DeviceError: the bench script failed.
        """
        long = self.answer(candidate, baseline, "sustained", effort)["sustained"] if effort.minutes else {}
        answer = self.answer(candidate, baseline, "latency", effort)
        latencies = {measured["role"]: Latency.from_json(measured) for measured in answer["models"]}
        ours, theirs = latencies["candidate"], latencies["baseline"]
        return Comparison(
            **facts_of_pair(candidate, baseline),
            **self._circumstances(answer),
            wall=paired_ratio(theirs.wall_ms, ours.wall_ms, ours.loads),
            cpu=paired_ratio(theirs.cpu_ms, ours.cpu_ms, ours.loads),
            baseline_latency=theirs,
            candidate_latency=ours,
            unstable=unstable(answer, [ours, theirs]),
            sustained={role: Sustained.from_json(columns) for role, columns in long.items()},
            conditions=answer["conditions"],
        )

    # -- emulated ------------------------------------------------------------------------------------------------

    def _counted(self, path: Path, effort: Effort, session: CountingSession) -> InstructionProfile:
        """Instructions of one file."""
        (counts,), answer = self._all_counted([path], effort, session)
        return InstructionProfile(**facts_of_file(path, target_of(path)), **self._circumstances(answer), counts=counts)

    def counts(self, paths: Sequence[Path], effort: Effort) -> list[Counts]:
        """Instructions of several files, one after the other in one process: its start takes longer than most files.

        Raises:
            DeviceError: the device counts none, or the bench script failed.
        """
        if not is_counting(self.session):
            raise DeviceError.of(self.device.name, "counts no instructions")
        return self._all_counted(paths, effort, self.session)[0]

    def _all_counted(
        self, paths: Sequence[Path], effort: Effort, session: CountingSession
    ) -> tuple[list[Counts], Json]:
        """By one thread, since waiting threads spin; with the bench script's answer."""
        if effort.threads != 1:
            why = "instructions are counted with one thread (others spin while they wait)"
            raise DeviceError.of(self.device.name, why)
        from edgecompress.devices.emulated import counts_of

        argv = self._argv(paths[0], None, "count", effort)
        argv += [word for path in paths[1:] for word in ("--also", self._there(path))]
        text, intervals = session.counted(argv, timeout_s=TIMEOUT_S * len(paths))
        answer = _read_answer(self.device, argv, text, "count")
        return counts_of(answer, intervals, session.cpu), answer

    # -- the bench script ----------------------------------------------------------------------------------------------

    def answer(self, path: Path, baseline: Path | None, kind: Pass, effort: Effort) -> Json:
        """Push what is not there yet, run one pass, and read its one JSON object."""
        argv = self._argv(path, baseline, kind, effort)
        timeout_s = TIMEOUT_S + 60 * effort.minutes + 4 * effort.seconds * (2 if baseline else 1)
        return _read_answer(self.device, argv, self.session.run(argv, timeout_s=timeout_s), kind)

    def _argv(self, path: Path, baseline: Path | None, kind: Pass, effort: Effort) -> list[str]:
        argv = [*self.session.python, self._there(*bench_files()), self._there(path)]
        if baseline is not None:
            argv += ["--baseline", self._there(baseline)]
        if golden_path(path).is_file():
            argv += ["--inputs", self._there(golden_path(path))]
        return [*argv, *arguments(effort, kind)]

    def _there(self, file: Path, *beside: Path) -> str:
        return push_once(self.session, self.pushed, file, *beside)

    def _circumstances(self, answer: Json) -> Json:
        machine = answer["machine"]
        more = {**machine["more"], **{key: value for key, value in self.kernel.items() if key != "machine"}}
        facts = DeviceFacts(
            name=self.device.name,
            provenance=provenance(self.device.provenance, machine["machine"], self.kernel["machine"]),
            **{**machine, "more": more},
        )
        known = {key: answer[key] for key in ("runtime", "threads", "batch")}
        return {"device": facts, **known, "length": answer.get("length"), "past": answer.get("past")}


ANSWERS: dict[Pass, tuple[str, ...]] = {
    "latency": ("models", "clocks_mhz", "preempted"),
    "start": ("load_ms", "first_run_ms", "peak_rss_bytes", "rss_before_load_bytes"),
    "operators": ("operators", "whole_ms"),
    "sustained": ("sustained",),
    "count": ("intervals",),
}


def _read_answer(device: Device, argv: Sequence[str], text: str, kind: Pass) -> Json:
    """One JSON object with what every pass and this one reports."""
    wanted = ("runtime", "machine", "conditions", "threads", "batch", *ANSWERS[kind])
    try:
        answer: Any = json.loads(text)
        if isinstance(answer, dict) and all(key in answer for key in wanted):
            return answer
    except (json.JSONDecodeError, RecursionError):
        pass
    last = text.strip().splitlines()[-1:] or ["nothing"]
    why = f"the bench script did not print one JSON object but {last[0][:200]!r}"
    raise DeviceError.of(device.name, why, command=argv[0], returncode=0)


@contextmanager
def bench(device: Device, path: Path) -> Iterator[Bench | VendorBench | WebBench]:
    """Use a device for files like ``path``.

    Raises:
        FileError: they cannot be measured.
        DeviceError: the device cannot be used.
    """
    with bench_for(device, target_of(path), str(path)) as there:
        yield there


@contextmanager
def bench_for(device: Device, target: Target, name: str) -> Iterator[Bench | VendorBench | WebBench]:
    """Use a device for files of a target; errors name what is called ``name``.

    Raises:
        FileError: they cannot be measured.
        DeviceError: the device cannot be used.
    """
    if not target.runs_here:
        raise FileError(
            f"{name}: {target.name} has no runtime for this machine, nor can it be measured on {device.name}"
        )
    program = device.options.runner
    if program and not target.suffix.endswith(suffixes := runner_of(program).suffixes):
        raise FileError(f"{name}: {program.name} runs {', '.join(suffixes)} files")
    modules = () if program else ("numpy", *module_of(Path(f"model{target.suffix}")))
    with device.session(modules) as session:
        kernel = session.facts()
        if is_page(session):
            with TemporaryDirectory(prefix="edgecompress-") as folder:
                yield WebBench(device, session, kernel, Path(folder))
            return
        yield VendorBench(device, session, kernel, program) if program else Bench(device, session, kernel)
