"""A device in use for measuring by a vendor's runner: a program that measures a model by itself.

See :mod:`edgecompress.profiling.vendor_runners` for those that are known, and how their output is read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgecompress.devices import Device, Session
from edgecompress.errors import DeviceError
from edgecompress.files import Json, sha256
from edgecompress.profiling.comparisons import Comparison
from edgecompress.profiling.facts import DeviceFacts
from edgecompress.profiling.latencies import ColdStart
from edgecompress.profiling.measured_files import facts_of_file, facts_of_pair, push_once
from edgecompress.profiling.profiles import Profile
from edgecompress.profiling.ratios import paired_ratio
from edgecompress.profiling.stability import FEWEST_RUNS
from edgecompress.profiling.vendor_runners import RunnerAnswer, as_latency, runner_of
from edgecompress.settings import Effort
from edgecompress.targets import target_of

TIMEOUT_S = 900.0
"""Of one invocation: large models load slowly and run at least a few dozen times."""
INVOCATIONS, FIRST_RUNS = 10, 10


@dataclass(frozen=True, slots=True)
class VendorBench:
    """A device on which a vendor's runner measures: aggregates of several invocations, no CPU time."""

    device: Device
    session: Session
    kernel: Json
    program: Path
    pushed: dict[Path, str] = field(default_factory=dict)

    def profile(self, path: Path, effort: Effort) -> Profile:
        """Measure one file, invocation by invocation.

        Raises:
            FileError: it cannot be read.
            DeviceError: the runner failed, or what it printed cannot be used.
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
            DeviceError: the runner failed, or what it printed cannot be used.
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
        """Ten invocations of each, forwards and backwards in turns, of as many runs as fill the time of ``effort``."""
        if effort.minutes or effort.length or effort.past is not None or effort.batch != 1:
            why = "--runner knows no --sustained, no --length, no --past and no --batch; drop them"
            raise DeviceError.of(self.device.name, why, command=self.program.name)
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
        program, model = (push_once(self.session, self.pushed, file) for file in (self.program, path))
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
    """Why aggregates, whose single runs nobody sees, are unstable; empty if they are not."""
    total = sum(answer.runs for answer in answers)
    return (f"too few runs: {total} of at least {FEWEST_RUNS}",) if total < FEWEST_RUNS else ()
