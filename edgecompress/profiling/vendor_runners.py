"""Vendor runners, programs that measure a model themselves: LiteRT's, ONNX Runtime's and ExecuTorch's.

They are recognised by their name, pushed to a device like any file, and their output is read. Each invocation loads the
model, warms up, runs it so many times and prints aggregates, without CPU time.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

from edgecompress.devices.commands import last_lines
from edgecompress.errors import DeviceError
from edgecompress.profiling.latencies import Latency

ROUNDING = 1e-4
"""Relative: the runners print six significant digits or three decimals."""
AGREEMENT = 0.01
NUMBER = r"(-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)"
MEBIBYTE = 1 << 20
STARTED = 'chmod u+x "$1" 2>/dev/null; LD_LIBRARY_PATH="${1%/*}${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" exec "$@" 2>&1'
"""Some write to standard error; libraries may lie beside the program; a copy may not be executable."""


@dataclass(frozen=True, slots=True)
class RunnerAnswer:
    """What one invocation printed: aggregates over its ``runs`` inferences in milliseconds, never the single runs.

    ``first_run_ms`` is the first inference after loading. It is no part of the others, except that the mean of an
    ``executor_runner`` that prints only a total includes it. ``peak_memory_bytes`` is the most the process took. What
    is not printed is None.
    """

    runs: int
    mean_ms: float
    min_ms: float | None = None
    max_ms: float | None = None
    p50_ms: float | None = None
    load_ms: float | None = None
    first_run_ms: float | None = None
    peak_memory_bytes: int | None = None

    @property
    def problem(self) -> str:
        """Why these cannot be times of one model; empty if they can."""
        times = (self.mean_ms, self.min_ms, self.max_ms, self.p50_ms, self.load_ms, self.first_run_ms)
        known = [time for time in times if time is not None]
        if self.runs < 1 or not self.mean_ms > 0:
            return "no inference was timed"
        if not all(math.isfinite(time) and time >= 0 for time in known):
            return "a time is negative or no number"
        low = self.min_ms if self.min_ms is not None else 0.0
        high = self.max_ms if self.max_ms is not None else math.inf
        middle = [self.mean_ms, *([] if self.p50_ms is None else [self.p50_ms])]
        if not all(low * (1 - ROUNDING) <= time <= high * (1 + ROUNDING) for time in middle):
            return "mean or median lies outside of least and most"
        return ""


@dataclass(frozen=True, slots=True)
class Runner:
    """A program that measures: what it is called, which files it runs, how it is called and how its output is read."""

    name: str
    runtime: str
    suffixes: tuple[str, ...]
    arguments: Callable[[str, int, int], list[str]]
    memory_arguments: tuple[str, ...]
    read: Callable[[str], RunnerAnswer]

    def command(self, program: str, model: str, *, threads: int, runs: int, memory: bool = False) -> list[str]:
        """The command for one invocation; both paths are absolute, and the device's.

        ``threads`` 0 leaves them to the runtime. ``memory`` reports the peak too where that disturbs the times.
        """
        more = self.memory_arguments if memory else ()
        return ["sh", "-c", STARTED, "sh", program, *more, *self.arguments(model, threads, runs)]

    def parse(self, text: str, *, device: str) -> RunnerAnswer:
        """Read what an invocation printed.

        Raises:
            DeviceError: times are missing or contradict each other; the message holds the last lines.
        """
        try:
            answer = self.read(text.replace("\r\n", "\n"))
            problem = answer.problem
        except (ValueError, OverflowError) as error:
            problem = str(error)
        if problem:
            why = f"cannot use what {self.name} printed: {problem}; last: {last_lines(text)}"
            raise DeviceError.of(device, why, command=self.name, returncode=0)
        return answer


def parsed_number(label: str, text: str, scale: float = 1.0) -> float | None:
    """The number that stands behind ``label``, a regular expression; times ``scale``.

    Raises:
        ValueError: the label stands there with several numbers.
    """
    found = {float(number) for number in re.findall(label + NUMBER, text, re.MULTILINE)}
    if len(found) > 1:
        raise ValueError(f"it prints {sorted(found)} for one thing")
    return found.pop() * scale if found else None


def _needed(what: str, label: str, text: str, scale: float = 1.0) -> float:
    """As :func:`parsed_number`, but it must stand there."""
    value = parsed_number(label, text, scale)
    if value is None:
        raise ValueError(f"it prints no {what}")
    return value


def _agree(what: str, first: float, second: float) -> None:
    """Raise if two ways to the same figure differ by more than rounding explains."""
    if not abs(first - second) <= AGREEMENT * max(abs(first), abs(second)):
        raise ValueError(f"its figures for the {what} contradict each other ({first:g} and {second:g})")


# -- LiteRT (TensorFlow Lite): benchmark_model -------------------------------------------------------------------------

SUMMARY = "Inference timings in us: "
COUNT = re.compile(r"^(?:INFO: )?count=(\d+) (.*)$", re.MULTILINE)


def _arguments_of_litert(model: str, threads: int, runs: int) -> list[str]:
    return [f"--graph={model}", f"--num_threads={threads or -1}", f"--num_runs={runs}"]


def _read_litert(text: str) -> RunnerAnswer:
    """The summary, and the last line of statistics before it (the one before that is of the warm-up); microseconds."""
    mean_ms = _needed("mean inference time", SUMMARY + r".*Inference \(avg\): ", text, 1e-3)
    counts = COUNT.findall(text.partition(SUMMARY)[0])
    if not counts:
        raise ValueError("it prints no number of runs")
    runs, rest = counts[-1]
    least, most, middle, same, mean = (
        parsed_number(rf"\b{key}=", rest, 1e-3) for key in ("min", "max", "median", "curr", "avg")
    )
    _agree("mean", mean_ms, next((value for value in (mean, same) if value is not None), math.nan))
    peak = parsed_number(r"peak memory footprint \(MB\) via periodic monitoring: ", text, MEBIBYTE)
    return RunnerAnswer(
        runs=int(runs),
        mean_ms=mean_ms,
        min_ms=least if mean is not None else same,
        max_ms=most if mean is not None else same,
        p50_ms=middle if mean is not None else same,
        load_ms=parsed_number(SUMMARY + "Init: ", text, 1e-3),
        first_run_ms=parsed_number(SUMMARY + ".*First inference: ", text, 1e-3),
        peak_memory_bytes=round(peak) if peak else None,
    )


# -- ONNX Runtime: onnxruntime_perf_test -------------------------------------------------------------------------------


def _arguments_of_onnxruntime(model: str, threads: int, runs: int) -> list[str]:
    """Inputs are made up from a seed; free dimensions become 1."""
    return ["-I", "-S", "0", "-e", "cpu", "-m", "times", "-r", str(runs), "-x", str(threads), "-y", "1", "-s", model]


def _read_onnxruntime(text: str) -> RunnerAnswer:
    """Seconds, except for the mean and the first inference (in whole milliseconds)."""
    runs = _needed("number of runs", r"^Total inference requests: *", text)
    mean_ms = _needed("mean inference time", r"^Average inference time cost(?: total)?: *", text)
    total_ms = _needed("total inference time", r"^Total inference time cost: *", text, 1e3)
    _agree("mean", mean_ms, total_ms / max(runs, 1))
    least, most, middle = (parsed_number(rf"^{mark} Latency(?::| is) *", text, 1e3) for mark in ("Min", "Max", "P50"))
    peak = parsed_number(r"^Peak working set size: *", text)
    return RunnerAnswer(
        runs=int(runs),
        mean_ms=mean_ms,
        min_ms=least,
        max_ms=most,
        p50_ms=middle,
        load_ms=parsed_number(r"^Session creation time cost: *", text, 1e3),
        first_run_ms=parsed_number(r"^First inference time cost: *", text),
        peak_memory_bytes=int(peak) if peak else None,
    )


# -- ExecuTorch: executor_runner ---------------------------------------------------------------------------------------

EXECUTED = r"\] Model executed successfully(?: (\d+) time\(s\) in " + NUMBER + r" ms)?\."
ITERATION = re.compile(r"\] Iteration (\d+) of (\d+): " + NUMBER + " ms")


def _arguments_of_executorch(model: str, threads: int, runs: int) -> list[str]:
    """One execution more than ``runs``: it has no warm-up of its own."""
    return [f"--model_path={model}", f"--num_executions={runs + 1}", f"--cpu_threads={threads or -1}"]


def _read_executorch(text: str) -> RunnerAnswer:
    """Milliseconds. Older ones print the total alone, newer ones each execution, of which the first is the cold one."""
    found = re.findall(EXECUTED, text)
    if not found:
        raise ValueError(
            "no model was executed, or its log went elsewhere (built for Android, it logs to logcat unless configured "
            "with -DEXECUTORCH_PAL_DEFAULT=posix)"
        )
    count, total = found[-1]
    if len(found) > 1 or not count:
        raise ValueError("it prints no times; take a newer one" if not count else "it prints several measurements")
    load_ms = parsed_number(r"\] Model loaded in ", text)
    times = [float(time) for _, _, time in ITERATION.findall(text)]
    if not times:
        return RunnerAnswer(int(count), float(total) / max(int(count), 1), load_ms=load_ms)
    _agree("number of runs", len(times), int(count))
    _agree("total", sum(times), float(total))
    warm = times[1:]
    if not warm:
        raise ValueError("only the first, cold execution was timed")
    return RunnerAnswer(len(warm), fmean(warm), min(warm), max(warm), median(warm), load_ms, times[0])


RUNNERS: dict[str, Runner] = {
    runner.name: runner
    for runner in (
        Runner(
            "benchmark_model",
            "litert",
            (".tflite",),
            _arguments_of_litert,
            ("--report_peak_memory_footprint=true", "--memory_footprint_check_interval_ms=5"),
            _read_litert,
        ),
        Runner(
            "onnxruntime_perf_test", "onnxruntime", (".onnx", ".ort"), _arguments_of_onnxruntime, (), _read_onnxruntime
        ),
        Runner("executor_runner", "executorch", (".pte",), _arguments_of_executorch, (), _read_executorch),
    )
}


def runner_of(program: Path) -> Runner:
    """The runner that a program is by its name, as ``android_aarch64_benchmark_model``.

    Raises:
        DeviceError: no such file, or none of those known.
    """
    problem = "no such file" if not program.is_file() else f"not a runner known here: {', '.join(RUNNERS)}"
    for name, runner in RUNNERS.items():
        if name in program.name and program.is_file():
            return runner
    raise DeviceError(f"{program}: {problem}", device="", command=str(program), returncode=None)


def as_latency(answers: Sequence[RunnerAnswer]) -> Latency:
    """One block and one load for each invocation: its median where all print one, else its mean; no CPU time.

    A block is an aggregate here, so the spread within invocations is not seen: compare what many of them printed.
    """
    medians = [answer.p50_ms for answer in answers if answer.p50_ms is not None]
    values = medians if len(medians) == len(answers) else [answer.mean_ms for answer in answers]
    return Latency(tuple((value,) for value in values), (), tuple(range(len(values))))
