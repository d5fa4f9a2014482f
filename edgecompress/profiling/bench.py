"""A device in use for measuring: files and the stand-alone runner on it, or a program of the user's.

The figures come from a runner on the device; this module starts it, pass by pass, and reads its answers. On an emulated
device instructions are counted instead: see :mod:`edgecompress.profiling.instruction_counts`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from edgecompress.artifacts import Artifact, golden_path
from edgecompress.devices import CountingSession, Device, Session
from edgecompress.devices.base import Provenance
from edgecompress.errors import DeviceError, FileError
from edgecompress.files import Json, sha256, size_of, zipped_bytes
from edgecompress.plans import Cost
from edgecompress.profiling.ablation import with_dense_layer
from edgecompress.profiling.comparisons import Comparison
from edgecompress.profiling.facts import DeviceFacts, family
from edgecompress.profiling.instruction_counts import AnyProfile, InstructionProfile
from edgecompress.profiling.latencies import ColdStart, Latency, Sustained
from edgecompress.profiling.operators import with_layers, with_second_round
from edgecompress.profiling.profiles import Operator, Profile
from edgecompress.profiling.ratios import Ratio, paired_ratio
from edgecompress.profiling.stability import FEWEST_RUNS, unstable
from edgecompress.profiling.vendor_runners import RunnerAnswer, as_latency, runner_of
from edgecompress.progress import Progress, silent
from edgecompress.settings import Effort
from edgecompress.targets import TARGETS, Target, target_of
from edgecompress.targets.runtimes import module_of, runner

Pass = Literal["latency", "start", "operators", "sustained", "count"]

TIMEOUT_S = 900.0
"""Beyond the time asked for: large models load slowly and run at least a few dozen times."""
COLD_STARTS = 3
COUNTED_RUNS = 6


def arguments(effort: Effort, kind: Pass) -> list[str]:
    """The runner's options for one pass."""
    argv = ["--pass", kind, "--threads", str(effort.threads), "--batch", str(effort.batch)]
    if kind == "sustained":
        return [*argv, "--minutes", str(effort.minutes)]
    runs = COUNTED_RUNS if kind == "count" else effort.runs
    return [*argv, "--runs", str(runs), "--seconds", str(effort.seconds)]


@dataclass(frozen=True, slots=True)
class Bench:
    """Files and the runner on a device in use."""

    device: Device
    session: Session
    kernel: Json
    pushed: dict[Path, str] = field(default_factory=dict)

    # -- measured ------------------------------------------------------------------------------------------------

    def profile(self, path: Path, effort: Effort) -> AnyProfile:
        """Measure one file alone, each pass in a process of its own.

        Raises:
            FileError: it cannot be read.
            DeviceError: the runner failed.
        """
        target = target_of(path)
        target.signature(path)
        if isinstance(self.session, CountingSession):
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
            DeviceError: the runner failed.
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
        """Instructions of one file; one thread, since waiting threads spin."""
        if effort.threads != 1:
            message = f"{self.device.name}: instructions are counted with one thread (others spin while they wait)"
            raise DeviceError(message, device=self.device.name, command="", returncode=None)
        from edgecompress.devices.emulated import counts_of

        argv = self._argv(path, None, "count", effort)
        text, intervals = session.counted(argv, timeout_s=TIMEOUT_S)
        answer = _read_answer(self.device, argv, text, "count")
        circumstances = self._circumstances(answer)
        counts = counts_of(answer, intervals, session.cpu)
        return InstructionProfile(**facts_of_file(path, target_of(path)), **circumstances, counts=counts)

    # -- the runner ----------------------------------------------------------------------------------------------

    def answer(self, path: Path, baseline: Path | None, kind: Pass, effort: Effort) -> Json:
        """Push what is not there yet, run one pass, and read its one JSON object."""
        argv = self._argv(path, baseline, kind, effort)
        timeout_s = TIMEOUT_S + 60 * effort.minutes + 4 * effort.seconds * (2 if baseline else 1)
        return _read_answer(self.device, argv, self.session.run(argv, timeout_s=timeout_s), kind)

    def _argv(self, path: Path, baseline: Path | None, kind: Pass, effort: Effort) -> list[str]:
        argv = [*self.session.python, self._there(runner()), self._there(path)]
        if baseline is not None:
            argv += ["--baseline", self._there(baseline)]
        if golden_path(path).is_file():
            argv += ["--inputs", self._there(golden_path(path))]
        return [*argv, *arguments(effort, kind)]

    def _there(self, file: Path) -> str:
        return once_there(self.session, self.pushed, file)

    def _circumstances(self, answer: Json) -> Json:
        machine = answer["machine"]
        more = {**machine["more"], **{key: value for key, value in self.kernel.items() if key != "machine"}}
        facts = DeviceFacts(
            name=self.device.name,
            provenance=provenance(self.device.provenance, machine["machine"], self.kernel["machine"]),
            **{**machine, "more": more},
        )
        return {"device": facts, **{key: answer[key] for key in ("runtime", "threads", "batch")}}


INVOCATIONS, FIRST_RUNS = 10, 10


@dataclass(frozen=True, slots=True)
class ProgramBench:
    """A device on which a program of the user's measures: aggregates of several invocations, no CPU time."""

    device: Device
    session: Session
    kernel: Json
    program: Path
    pushed: dict[Path, str] = field(default_factory=dict)

    def profile(self, path: Path, effort: Effort) -> Profile:
        """Measure one file, invocation by invocation.

        Raises:
            FileError: it cannot be read.
            DeviceError: the program failed, or what it printed cannot be used.
        """
        target = target_of(path)
        answers = self._answers([path], effort)[path]
        peak = self._answer(path, effort, FIRST_RUNS, memory=True).peak_memory_bytes
        cold = [(one.load_ms, one.first_run_ms) for one in answers]
        loads, firsts = ([time for time in times if time is not None] for times in zip(*cold, strict=True))
        return Profile(
            **facts_of_file(path, target),
            **self._circumstances(effort),
            cold=ColdStart(tuple(loads), tuple(firsts)) if loads and firsts else None,
            peak_rss_bytes=peak,
            runtime_rss_bytes=None,
            latency=as_latency(answers),
            unstable=too_few(answers),
        )

    def compare(self, candidate: Path, baseline: Path, effort: Effort) -> Comparison:
        """Two files, which the caller knows to compare; invocations take turns.

        Raises:
            DeviceError: the program failed, or what it printed cannot be used.
        """
        answers = self._answers([candidate, baseline], effort)
        ours, theirs = as_latency(answers[candidate]), as_latency(answers[baseline])
        return Comparison(
            **facts_of_pair(candidate, baseline),
            **self._circumstances(effort),
            wall=paired_ratio(theirs.wall_ms, ours.wall_ms, ours.loads),
            cpu=None,
            baseline_latency=theirs,
            candidate_latency=ours,
            unstable=too_few([*answers[candidate], *answers[baseline]]),
        )

    def _answers(self, paths: Sequence[Path], effort: Effort) -> dict[Path, list[RunnerAnswer]]:
        """Ten invocations of each, forwards and backwards in turns, of as many runs as fill the time asked for."""
        if effort.minutes or effort.batch != 1:
            message = f"{self.device.name}: --runner knows no --sustained and no --batch; drop them"
            raise DeviceError(message, device=self.device.name, command=self.program.name, returncode=None)
        first = {path: self._answer(path, effort, FIRST_RUNS) for path in paths}
        runs = {path: self._runs(one, effort) for path, one in first.items()}
        answers: dict[Path, list[RunnerAnswer]] = {path: [] for path in paths}
        for turn in range(INVOCATIONS):
            for path in paths if turn % 2 == 0 else paths[::-1]:
                answers[path].append(self._answer(path, effort, runs[path]))
        return answers

    @staticmethod
    def _runs(first: RunnerAnswer, effort: Effort) -> int:
        wanted = max(effort.runs, effort.seconds * 1e3 / first.mean_ms) / INVOCATIONS
        return max(FIRST_RUNS, math.ceil(wanted))

    def _answer(self, path: Path, effort: Effort, runs: int, *, memory: bool = False) -> RunnerAnswer:
        runner = runner_of(self.program)
        program, model = (once_there(self.session, self.pushed, file) for file in (self.program, path))
        argv = runner.command(program, model, threads=effort.threads, runs=runs, memory=memory)
        return runner.parse(self.session.run(argv, timeout_s=TIMEOUT_S), device=self.device.name)

    def _circumstances(self, effort: Effort) -> Json:
        kernel, runner = self.kernel, runner_of(self.program)
        known = {"machine": kernel["machine"], "processor": kernel.get("processor") or kernel.get("chip") or ""}
        known |= {"cores": kernel.get("cores") or 0, "system": kernel.get("system", ""), "python": "none"}
        more = {key: value for key, value in kernel.items() if key not in known}
        facts = DeviceFacts(self.device.name, self.device.provenance, **known, more=more)
        digest = sha256(self.program)[:12]
        runtime = {"name": runner.runtime, "version": f"of {self.program.name}, sha256 {digest}", "provider": "CPU"}
        return {"device": facts, "runtime": runtime, "threads": effort.threads, "batch": effort.batch}


def too_few(answers: Sequence[RunnerAnswer]) -> tuple[str, ...]:
    """Said of aggregates, whose single runs nobody sees."""
    total = sum(answer.runs for answer in answers)
    return (f"too few runs: {total} of at least {FEWEST_RUNS}",) if total < FEWEST_RUNS else ()


def once_there(session: Session, pushed: dict[Path, str], file: Path) -> str:
    """The path of a file on the device, pushed once, with its parts beside it."""
    if file not in pushed:
        is_model = any(file.name.endswith(target.suffix) for target in TARGETS.values())
        pushed[file] = session.push(file, *(target_of(file).parts(file) if is_model else ()))
    return pushed[file]


def provenance(claimed: Provenance, machine: str, kernel: str) -> Provenance:
    """Emulated if a program's architecture is not of the family of its kernel's; else what the device claims."""
    return claimed if family(machine) == family(kernel) else "emulated"


@contextmanager
def bench(device: Device, path: Path) -> Iterator[Bench | ProgramBench]:
    """Use a device for files like ``path``.

    Raises:
        FileError: they cannot be measured.
        DeviceError: the device cannot be used.
    """
    target = target_of(path)
    if not target.runs_here:
        raise FileError(
            f"{path}: {target.name} has no runtime for this machine, nor can it be measured on {device.name}"
        )
    program = device.options.runner
    if program and not path.name.endswith(suffixes := runner_of(program).suffixes):
        raise FileError(f"{path}: {program.name} runs {', '.join(suffixes)} files")
    modules = () if program else ("numpy", *module_of(path))
    with device.session(modules) as session:
        kernel = session.facts()
        yield ProgramBench(device, session, kernel, program) if program else Bench(device, session, kernel)


def facts_of_pair(candidate: Path, baseline: Path) -> Json:
    """What a comparison says of its two files, wherever they are measured."""
    files = {"baseline": baseline, "candidate": candidate}
    names = {role: file.name for role, file in files.items()}
    return {**names, **{f"{role}_sha256": sha256(file) for role, file in files.items()}}


def facts_of_file(path: Path, target: Target) -> Json:
    """What a profile says of the file itself, wherever it is measured."""
    cost = _known_cost(path)
    return {
        "file": path.name,
        "sha256": sha256(path),
        "target": target.name,
        "size_bytes": sum(map(size_of, (path, *target.parts(path)))),
        "zipped_bytes": zipped_bytes(path, *target.parts(path)),
        "weight_bytes": target.weight_bytes(path),
        "params": cost.params if cost else None,
        "macs": cost.macs if cost else None,
    }


def _known_cost(path: Path) -> Cost | None:
    """From the facts beside a file of ours; None for any other file."""
    try:
        return Artifact.load(path).cost
    except FileError:
        return None


def refuse_unlike(candidate: Path, baseline: Path) -> None:
    """Times of files of different formats, or that take different inputs, say nothing about each other.

    Raises:
        FileError: they are such.
    """
    target = target_of(candidate)
    if target_of(baseline) is not target:
        raise FileError(f"{candidate} and {baseline} are of different targets: their times do not compare")
    ours, theirs = ([(s.dtype, s.shape[1:]) for s in target.signature(path)[0]] for path in (candidate, baseline))
    if ours != theirs:
        raise FileError(f"{candidate} and {baseline} take different inputs ({ours} and {theirs}): times do not compare")


ANSWERS: dict[Pass, tuple[str, ...]] = {
    "latency": ("models", "clocks_mhz", "preempted"),
    "start": ("load_ms", "first_run_ms", "peak_rss_bytes", "rss_before_load_bytes"),
    "operators": ("operators", "whole_ms"),
    "sustained": ("sustained",),
    "count": ("intervals",),
}


def _read_answer(device: Device, argv: Sequence[str], text: str, kind: Pass) -> Json:
    """One JSON object with what every pass and this one tells."""
    wanted = ("runtime", "machine", "conditions", "threads", "batch", *ANSWERS[kind])
    try:
        answer: Any = json.loads(text)
        if isinstance(answer, dict) and all(key in answer for key in wanted):
            return answer
    except (json.JSONDecodeError, RecursionError):
        pass
    last = text.strip().splitlines()[-1:] or ["nothing"]
    message = f"{device.name}: the runner did not print one JSON object but {last[0][:200]!r}"
    raise DeviceError(message, device=device.name, command=argv[0], returncode=0)
