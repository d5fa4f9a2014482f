"""Storage, work, memory and latency of exported files on a device: profile(), compare(), measure().

The figures come from a stand-alone runner on the device; this module only starts it, pass by pass, and reads its
answers. On an emulated device instructions are counted instead: see :mod:`edgecompress.instructions`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from edgecompress.artifacts import Artifact, golden_path
from edgecompress.costs import Cost
from edgecompress.devices import CountingSession, Device, Session, device_named
from edgecompress.errors import DeviceError, FileError
from edgecompress.files import Json, sha256, size_of, zipped_bytes
from edgecompress.instructions import AnyComparison, AnyProfile, InstructionComparison, InstructionProfile
from edgecompress.operators import compared_layers, with_layers
from edgecompress.profiles import (
    ColdStart,
    Comparison,
    DeviceFacts,
    Latency,
    Operator,
    Profile,
    Provenance,
    Sustained,
    paired_ratio,
)
from edgecompress.progress import Progress, silent
from edgecompress.stability import unstable
from edgecompress.targets import TARGETS, Target
from edgecompress.targets.runtimes import module_of, runner

Pass = Literal["latency", "start", "operators", "sustained", "count"]

TIMEOUT_S = 900.0
"""Beyond the time effort for: large models load slowly and run at least a few dozen times."""
COLD_STARTS = 3
COUNTED_RUNS = 4
FAMILIES = {"x86_64": "x86", "amd64": "x86", "i686": "x86", "i386": "x86", "aarch64": "arm", "arm64": "arm"}


def target_of(path: Path) -> Target:
    """The target that a file's ending stands for.

    Raises:
        FileError: no such file, or no target writes such files.
    """
    if not path.exists():
        raise FileError(f"{path}: no such file")
    for target in TARGETS.values():
        if path.name.endswith(target.suffix):
            return target
    raise FileError(f"{path}: not a file any target reads ({', '.join(t.suffix for t in TARGETS.values())})")


@dataclass(frozen=True, slots=True)
class Effort:
    """How to measure: at least so many runs and seconds of each model, and minutes under load if more than none."""

    threads: int = 1
    batch: int = 1
    runs: int = 50
    seconds: float = 2.0
    minutes: float = 0.0

    def arguments(self, kind: Pass) -> list[str]:
        """The runner's options for one pass."""
        argv = ["--pass", kind, "--threads", str(self.threads), "--batch", str(self.batch)]
        if kind == "sustained":
            return [*argv, "--minutes", str(self.minutes)]
        runs = COUNTED_RUNS if kind == "count" else self.runs
        return [*argv, "--runs", str(runs), "--seconds", str(self.seconds)]


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
        operators = self.answer(path, None, "operators", effort)["operators"] or ()
        long = self.answer(path, None, "sustained", effort) if effort.minutes else None
        answer = self.answer(path, None, "latency", effort)
        latency = Latency.from_json(answer["models"][0])
        return Profile(
            **self._facts_of_file(path, target),
            **self._circumstances(answer),
            cold=ColdStart(*(tuple(start[key] for start in starts) for key in ("load_ms", "first_run_ms"))),
            peak_rss_bytes=max(start["peak_rss_bytes"] for start in starts),
            runtime_rss_bytes=max(start["rss_before_load_bytes"] for start in starts),
            latency=latency,
            unstable=unstable(answer, [latency]),
            operators=with_layers(path, [Operator(**row) for row in operators]),
            sustained=Sustained.from_json(long["sustained"]["candidate"]) if long else None,
            conditions=answer["conditions"],
        )

    def compare(self, candidate: Path, baseline: Path, effort: Effort) -> Comparison:
        """Measure two files in interleaved blocks of one process: the speed-up, its interval, and a verdict.

        Raises:
            FileError: one cannot be read, or they are of different targets.
            DeviceError: the runner failed.
        """
        refuse_unlike(candidate, baseline)
        long = self.answer(candidate, baseline, "sustained", effort)["sustained"] if effort.minutes else {}
        answer = self.answer(candidate, baseline, "latency", effort)
        latencies = {measured["role"]: Latency.from_json(measured) for measured in answer["models"]}
        ours, theirs = latencies["candidate"], latencies["baseline"]
        return Comparison(
            baseline=baseline.name,
            candidate=candidate.name,
            baseline_sha256=sha256(baseline),
            candidate_sha256=sha256(candidate),
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
        return InstructionProfile(**self._facts_of_file(path, target_of(path)), **circumstances, counts=counts)

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
        return [*argv, *effort.arguments(kind)]

    def _there(self, file: Path) -> str:
        """The path of a file on the device, pushed once, with its parts beside it."""
        if file not in self.pushed:
            parts = target_of(file).parts(file) if _is_model(file) else ()
            self.pushed[file] = self.session.push(file, *parts)
        return self.pushed[file]

    def _facts_of_file(self, path: Path, target: Target) -> Json:
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

    def _circumstances(self, answer: Json) -> Json:
        machine = answer["machine"]
        more = {**machine["more"], **{key: value for key, value in self.kernel.items() if key != "machine"}}
        facts = DeviceFacts(
            name=self.device.name,
            provenance=provenance(self.device.provenance, machine["machine"], self.kernel["machine"]),
            **{**machine, "more": more},
        )
        return {"device": facts, **{key: answer[key] for key in ("runtime", "threads", "batch")}}


def _is_model(file: Path) -> bool:
    return any(file.name.endswith(target.suffix) for target in TARGETS.values())


def provenance(claimed: Provenance, machine: str, kernel: str) -> Provenance:
    """Emulated if a program's architecture is not of the family of its kernel's; else what the device claims."""
    program, system = (FAMILIES.get(name, "arm" if name.startswith("arm") else name) for name in (machine, kernel))
    return claimed if program == system else "emulated"


@contextmanager
def bench(device: Device, path: Path) -> Iterator[Bench]:
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
    with device.session(("numpy", *module_of(path))) as session:
        yield Bench(device, session, session.facts())


def profile(path: Path, device: Device, **effort: Any) -> AnyProfile:
    """One file alone on a device; ``effort`` are the fields of :class:`Effort`.

    Raises:
        FileError: it cannot be read.
        DeviceError: the device or the runner failed.
    """
    with bench(device, path) as there:
        return there.profile(path, Effort(**effort))


def compare(candidate: Path, baseline: Path, device: Device, **effort: Any) -> AnyComparison:
    """Two files on a device, taking turns; ``effort`` are the fields of :class:`Effort`.

    Raises:
        FileError: one cannot be read, or they do not compare.
        DeviceError: the device or the runner failed.
    """
    refuse_unlike(candidate, baseline)
    with bench(device, candidate) as there:
        if isinstance(there.session, CountingSession):
            ours, theirs = (there.profile(path, Effort(**effort)) for path in (candidate, baseline))
            return instruction_comparison(ours, theirs)
        return there.compare(candidate, baseline, Effort(**effort))


@dataclass(frozen=True, slots=True)
class Measured:
    """What :func:`measure` found: each file alone, both in turns, and both in turns with other numbers of threads."""

    profile: AnyProfile
    baseline: AnyProfile | None = None
    comparison: AnyComparison | None = None
    more: tuple[Comparison | Profile, ...] = ()


def measure(
    path: Path,
    baseline: Path | None,
    device: Device,
    effort: Effort,
    *,
    threads: Sequence[int] | None = (),
    progress: Progress = silent,
) -> Measured:
    """All that is to know of a file, and of a baseline if there is one, in one session on a device.

    ``threads`` are further numbers of threads to compare with; None stands for all processors of the device.

    Raises:
        FileError: a file cannot be read, or they do not compare.
        DeviceError: the device or the runner failed.
    """
    files = [path] if baseline is None else [path, baseline]
    if baseline is not None:
        refuse_unlike(path, baseline)
    progress("profile", 0, len(files) + 1, f"connect to {device.name}")
    with bench(device, path) as there:
        progress("profile", 0, len(files) + 1, path.name)
        ours = there.profile(path, replace(effort, minutes=0) if baseline else effort)
        if baseline is None:
            return Measured(ours, more=_more(there, path, None, effort, threads, ours))
        progress("profile", 1, 3, baseline.name)
        theirs = there.profile(baseline, replace(effort, minutes=0))
        if isinstance(ours, InstructionProfile):
            return Measured(ours, theirs, instruction_comparison(ours, theirs))
        progress("profile", 2, 3, "both, in turns")
        pair = there.compare(path, baseline, effort)
        more = _more(there, path, baseline, effort, threads, ours)
        progress("profile", 3, 3, pair.verdict)
        return Measured(ours, theirs, pair, more)


def _more(
    there: Bench, path: Path, baseline: Path | None, effort: Effort, threads: Sequence[int] | None, first: AnyProfile
) -> tuple[Comparison | Profile, ...]:
    """The same with other numbers of threads, without minutes under load."""
    if isinstance(first, InstructionProfile):
        return ()
    wanted = [len(first.device.more.get("cpus_allowed") or ()) or first.device.cores] if threads is None else threads
    others = [replace(effort, threads=number, minutes=0) for number in wanted if number != effort.threads]
    if baseline is not None:
        return tuple(there.compare(path, baseline, other) for other in others)
    found = (there.profile(path, other) for other in others)
    return tuple(one for one in found if isinstance(one, Profile))


def instruction_comparison(candidate: AnyProfile, baseline: AnyProfile) -> InstructionComparison:
    """The instructions of two files under one core."""
    assert isinstance(candidate, InstructionProfile)
    assert isinstance(baseline, InstructionProfile)
    return InstructionComparison(
        baseline.file,
        candidate.file,
        baseline.sha256,
        candidate.sha256,
        candidate.device,
        candidate.runtime,
        candidate.batch,
        baseline.counts,
        candidate.counts,
    )


def layers_of(found: Measured) -> list[Json]:
    """Milliseconds in each layer of the baseline before and after; empty where the runtime does not tell."""
    ours, theirs = found.profile, found.baseline
    if not isinstance(ours, Profile) or not isinstance(theirs, Profile) or not (ours.operators and theirs.operators):
        return []
    names = list(dict.fromkeys(operator.layer for operator in theirs.operators if operator.layer))
    return compared_layers(theirs.operators, ours.operators, names)


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
    "operators": ("operators",),
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


__all__ = [
    "Bench",
    "Effort",
    "Measured",
    "bench",
    "compare",
    "device_named",
    "layers_of",
    "measure",
    "profile",
    "refuse_unlike",
    "target_of",
]
