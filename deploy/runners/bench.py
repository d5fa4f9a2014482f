"""Measure one exported model, or two in turns, in its own runtime; prints ONE JSON object.

    python bench.py MODEL [--baseline MODEL] [--pass PASS] [--threads N] [--batch N] [--inputs NPZ] ...

MODEL is a .onnx or .ort (needs onnxruntime), .tflite (ai-edge-litert, or tflite-runtime where numpy is below 2), .pte
(executorch), .xml with its .bin (openvino), or .ncnn.param with its .ncnn.bin (ncnn).

What disturbs one figure is kept out of another by passes, each a process of its own:

    latency     every run's wall and process CPU time, in milliseconds. Both models live in this one process and take
                turns, block by block (A B, B A, A B ...), so that whatever disturbs the machine disturbs both.
    start       one model: time to load it, its first inference, and the most memory the process ever took
    operators   one model: time in each operator, by the runtime's own profiler, less what looking at each one adds
    sustained   minutes under load, in windows of about a second
    count       markers around loading and each inference, for a counter of instructions outside; times nothing. With
                --also one model after the other, in one process: where it is emulated, its start takes longest

Stand-alone: needs Python 3.8, numpy, the one runtime, and the files ``runtimes.py`` and ``machine.py`` beside it, so it
can be copied to any board.
"""

import argparse
import gc
import json
import os
import sys
import time

import numpy as np

# An isolated interpreter does not look beside the script; nothing is left there.
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
from machine import clock_mhz, conditions, machine, peak_rss_bytes, preempted, temperature_c  # noqa: E402
from runtimes import opened, runtime_of  # noqa: E402

sys.dont_write_bytecode = before

BLOCK_MS = 20.0
FEWEST_IN_BLOCK = 5
FEWEST_BLOCKS = 4
SETTLED, WINDOWS = 0.03, 3
"""A model is warm when the medians of so many blocks in a row lie within this fraction."""
LATER_WARMUP = 10
FINE_CPU_CLOCK = time.get_clock_info("process_time").resolution < 1e-6
OPERATOR_BLOCKS, OPERATOR_SECONDS, START_RUNS = 12, 20.0, 3
WINDOW_S = 1.0
PAST = "past_key_values."
"""Inputs that are keys and values of earlier tokens."""
PROBLEM = "bench.py: "


class Watched:
    """A model under its runtime's profiler and the same one without, taking turns, block by block.

    A profiler looks at each operator and takes time for that, which it counts as the operator's: a chain of three small
    layers is looked at three times. What the model takes without one shows how much that was. ``runs`` are the kept
    runs under the profiler, as times by operator; ``outside_ms`` is what a run takes outside all operators, at least.
    """

    def __init__(self, unwatched, watched, feed, after=lambda: None):
        self.model, self.runs, self.outside_ms = watched, [], 0.0
        self.unwatched_ms, self.watched_ms = [], []
        start, turn = time.perf_counter(), 0
        while turn < OPERATOR_BLOCKS and (turn < 2 or time.perf_counter() - start < OPERATOR_SECONDS):
            for number in range(FEWEST_IN_BLOCK + 1):
                self.unwatched_ms += [self.timed(unwatched, feed)] if number else self.unkept(unwatched, feed)
            for _ in range(FEWEST_IN_BLOCK + 1):
                self.watched_ms.append(self.timed(watched, feed))
                after()
            turn += 1

    @staticmethod
    def kept(runs):
        """Of runs, those whose caches are filled: all but the first of each block."""
        return [run for number, run in enumerate(runs) if number % (FEWEST_IN_BLOCK + 1)]

    @staticmethod
    def timed(model, feed):
        """Milliseconds of one run: CPU time where that is less, as it is when another process was let in between."""
        wall, cpu = time.perf_counter(), time.process_time()
        model.run(feed)
        taken = [time.perf_counter() - wall, time.process_time() - cpu]
        return min(taken[: 1 + FINE_CPU_CLOCK]) * 1e3

    @staticmethod
    def unkept(model, feed):
        """A run that refills the caches after the other model's."""
        model.run(feed)
        return []


class Subject:
    """A model with its timings over several loads."""

    def __init__(self, role, path, options):
        self.role, self.path, self.options = role, path, options
        self.load_ms, self.first_run_ms, self.blocks, self.loads, self.settled = [], [], [], [], []
        self.model = self.feed = None

    def load(self):
        """A fresh one: memory is laid out anew, which changes times by up to a percent."""
        self.model = None
        start = time.perf_counter()
        self.model = opened(self.path, self.options.threads)
        self.load_ms.append((time.perf_counter() - start) * 1e3)
        self.feed = feed_for(self.model, self.options)
        self.first_run_ms.append(self.timed()[0])

    def timed(self):
        """One run: wall and process CPU milliseconds."""
        wall, cpu = time.perf_counter(), time.process_time()
        self.model.run(self.feed)
        return (time.perf_counter() - wall) * 1e3, (time.process_time() - cpu) * 1e3

    def warm_up(self):
        """Run until the medians of blocks in a row agree, or time is over; returns how many runs fill a block.

        Processor and runtime are warm after the first load; a further one has only caches to fill.
        """
        seconds = self.options.warmup_seconds / (1 if len(self.load_ms) == 1 else LATER_WARMUP)
        end, size, medians = time.perf_counter() + seconds, 1, []
        while not settled(medians) and (time.perf_counter() < end or len(medians) < 2):
            times = [self.timed()[0] for _ in range(size)]
            medians.append(float(np.median(times)))
            size = max(FEWEST_IN_BLOCK, int(BLOCK_MS / max(medians[-1], 1e-3)))
        self.settled.append(settled(medians))
        return size

    def block(self, size):
        """One run that is not kept (it refills the caches), then ``size`` that are."""
        self.model.run(self.feed)
        self.blocks.append([self.timed() for _ in range(size)])
        self.loads.append(len(self.load_ms) - 1)

    def report(self):
        """Everything measured, as JSON values; ``loads`` gives the load that each block belongs to."""
        return {
            "role": self.role,
            "path": self.path,
            "loads": self.loads,
            "settled": self.settled,
            "wall_ms": [[round(wall, 6) for wall, _ in block] for block in self.blocks],
            "cpu_ms": [[round(cpu, 6) for _, cpu in block] for block in self.blocks],
        }


def settled(medians):
    """Whether the last few lie close together."""
    last = medians[-WINDOWS:]
    return len(last) == WINDOWS and max(last) - min(last) <= SETTLED * min(last)


def positions(model, options, given):
    """Of sequences, where the model takes any number: the wanted one, else that of the given arrays; else None."""
    for spec in model.inputs:
        if len(spec.shape) == 2 and not isinstance(spec.shape[1], int):
            key = "input:" + spec.name
            return options.length or (given[key].shape[1] if key in given and given[key].ndim == 2 else None)
    if options.length:
        raise SystemExit(PROBLEM + "the model takes sequences of one length only; drop --length")
    return None


def earlier(model, options, given):
    """Tokens before those that are fed, whose keys and values the model takes; None where it takes none."""
    for spec in model.inputs:
        if spec.name.startswith(PAST):
            key = "input:" + spec.name
            return options.past if options.past >= 0 else given[key].shape[2] if key in given else 0
    if options.past >= 0:
        raise SystemExit(PROBLEM + "the model takes no keys and values of earlier tokens; drop --past")
    return None


def rows_of(array, shape):
    """An array with its rows, and positions, again where there are fewer."""
    if array.ndim == len(shape) and array.ndim in (2, 4) and array.size:
        for axis, size in enumerate(shape):
            array = np.take(array, np.arange(size) % array.shape[axis], axis=axis)
        return array
    return np.resize(array, shape)


def step_feed(model, options, given):
    """Inputs of a step of generation: the next tokens after earlier ones; logits of the last alone."""
    new, past = positions(model, options, given) or 1, earlier(model, options, given)
    sizes = {"batch": options.batch, "positions": new, "past": past, "total": past + new, "kept": 1}
    known = {
        "attention_mask": np.ones((options.batch, past + new)),
        "position_ids": np.tile(np.arange(past, past + new), (options.batch, 1)),
        "logits_to_keep": np.array([new - 1]),
    }
    feed = {}
    for spec in model.inputs:
        shape = [sizes.get(size, size) for size in spec.shape]
        values = given.get("input:" + spec.name, np.zeros([1] * len(shape)))
        feed[spec.name] = known.get(spec.name, rows_of(values, shape)).astype(spec.dtype)
    return feed


def feed_for(model, options):
    """Inputs of the wanted batch size: rows of the given arrays, else seeded normal numbers."""
    given = np.load(options.inputs, allow_pickle=False) if options.inputs else {}
    if earlier(model, options, given) is not None:
        return step_feed(model, options, given)
    generator = np.random.default_rng(options.seed)
    free_sizes = {0: options.batch, 1: positions(model, options, given)}
    feed = {}
    for spec in model.inputs:
        shape = [
            size if isinstance(size, int) else free_sizes.get(axis) or size for axis, size in enumerate(spec.shape)
        ]
        if shape and shape[0] != options.batch:
            raise SystemExit(
                PROBLEM + "input %s has a fixed batch of %s; use --batch %s" % (spec.name, shape[0], shape[0])
            )
        key = "input:" + spec.name
        if key in given:
            feed[spec.name] = rows_of(given[key], shape)
            continue
        free = [size for size in shape if not isinstance(size, int)]
        if free:
            raise SystemExit(
                PROBLEM + "input %s has free dimensions %s besides the batch; use --length" % (spec.name, free)
            )
        if not hasattr(np, spec.dtype) and spec.dtype != "bool":
            raise SystemExit(PROBLEM + "input %s is a %s: no values can be made up for it" % (spec.name, spec.dtype))
        values = generator.standard_normal(shape) if spec.dtype.startswith("float") else np.zeros(shape)
        feed[spec.name] = values.astype(spec.dtype)
    return feed


def lengths_fed(model, options):
    """Positions of the sequences that are fed, and of those before them; None where the model does not take any."""
    given = np.load(options.inputs, allow_pickle=False) if options.inputs else {}
    return {"length": positions(model, options, given), "past": earlier(model, options, given)}


def in_turns(subjects, turn):
    """Forwards, then backwards."""
    return subjects if turn % 2 == 0 else subjects[::-1]


def measure_latency(subjects, options):
    """Several loads; in each, blocks in turn until every model has its share of runs, blocks and seconds."""
    clocks = []
    for number in range(options.loads):
        for subject in in_turns(subjects, number):
            subject.load()
        sizes = {subject: subject.warm_up() for subject in subjects}
        gc.disable()
        start, turn = time.perf_counter(), 0
        while not enough(subjects, turn, time.perf_counter() - start, number + 1, options):
            for subject in in_turns(subjects, turn):
                subject.block(sizes[subject])
            turn += 1
        gc.enable()
        clocks.append(clock_mhz())
    return {"models": [subject.report() for subject in subjects], "clocks_mhz": clocks}


def enough(subjects, turn, seconds, loads, options):
    """Whether this load has been measured for long enough."""
    runs = min(sum(len(block) for block in subject.blocks) for subject in subjects)
    share = loads / options.loads
    return (
        turn >= FEWEST_BLOCKS
        and runs >= options.runs * share
        and seconds >= options.seconds * len(subjects) / options.loads
    )


def measure_start(subjects, _options):
    """Load, first inference, a few more, and the memory all that took."""
    (subject,) = subjects
    before = peak_rss_bytes()
    subject.load()
    for _ in range(START_RUNS):
        subject.timed()
    return {
        "load_ms": subject.load_ms[0],
        "first_run_ms": subject.first_run_ms[0],
        "rss_before_load_bytes": before,
        "peak_rss_bytes": peak_rss_bytes(),
    }


def measure_operators(subjects, options):
    """The mean of the quicker half of the runs, for every operator; None where the runtime has no profiler.

    ``profiled_ms`` is the profiler's time, ``wall_ms`` that without what it adds, ``whole_ms`` the model unwatched.
    """
    (subject,) = subjects
    runtime = runtime_of(subject.path)
    if not hasattr(runtime, "operators"):
        subject.load()
        return {"operators": None, "whole_ms": None}

    def watch(unwatched, watched, after=lambda: None):
        """Both in turns, on the same input."""
        return Watched(unwatched, watched, feed_for(watched, options), after)

    found = runtime.operators(subject.path, options.threads, watch)
    subject.model = found.model
    keys = list(found.runs[0])
    profiled = [quick([run.get(key, 0.0) for run in found.runs]) for key in keys]
    whole = quick(found.unwatched_ms)
    real = without_overhead(profiled, whole - found.outside_ms)
    rows = [
        {"name": name, "kind": kind, "wall_ms": round(wall, 6), "profiled_ms": round(watched, 6)}
        for (name, kind), wall, watched in zip(keys, real, profiled)
    ]
    return {"operators": rows, "whole_ms": round(whole, 6)}


def quick(times):
    """The mean of the quicker half: what else runs on the machine makes the others slower, never quicker."""
    kept = sorted(times)[: (len(times) + 1) // 2]
    return sum(kept) / len(kept)


def without_overhead(times, total):
    """Times less one amount for each, so that they add up to ``total`` at most; none below nothing."""
    left, above, overhead = sorted(times, reverse=True), sum(times) - max(0.0, total), 0.0
    while left and above > 0:
        overhead = above / len(left)
        if left[-1] > overhead:
            break
        above -= left.pop()
    return [max(0.0, time - overhead) for time in times]


def measure_sustained(subjects, options):
    """Windows of about a second in which every model runs for its share, until the minutes are over."""
    for subject in subjects:
        subject.load()
    sizes = {subject: subject.warm_up() for subject in subjects}
    windows = {subject: [] for subject in subjects}
    start = time.perf_counter()
    while time.perf_counter() - start < options.minutes * 60:
        began, turn, times = time.perf_counter(), 0, {subject: [] for subject in subjects}
        while time.perf_counter() - began < WINDOW_S:
            for subject in in_turns(subjects, turn):
                times[subject] += [subject.timed()[0] for _ in range(sizes[subject])]
            turn += 1
        now = {"start_s": round(began - start, 3), "clock_mhz": clock_mhz(), "temperature_c": temperature_c()}
        for subject in subjects:
            windows[subject].append(dict(now, wall_ms=round(float(np.median(times[subject])), 6)))
        print("sustained: %.0f of %.0f s" % (time.perf_counter() - start, options.minutes * 60), file=sys.stderr)
    keys = ("start_s", "wall_ms", "clock_mhz", "temperature_c")
    return {"sustained": {s.role: {key: [window[key] for window in windows[s]] for key in keys} for s in subjects}}


def count_instructions(subjects, options):
    """A cheap system call that nothing else here makes marks the ends of what an outer counter is to count.

    Intervals between marks: loading, making up the input, then each inference; the same of each further model.
    """
    (subject,), mark, intervals = subjects, os.getppid, []
    for path in [subject.path, *options.also]:
        subject.model = None
        if intervals:
            intervals.append("between")
        mark()
        subject.model = opened(path, 1)
        mark()
        feed = feed_for(subject.model, options)
        mark()
        for _ in range(options.runs):
            subject.model.run(feed)
            mark()
        intervals += ["load", "input"] + ["run"] * options.runs
    return {"intervals": intervals}


PASSES = {
    "latency": measure_latency,
    "start": measure_start,
    "operators": measure_operators,
    "sustained": measure_sustained,
    "count": count_instructions,
}


def main():
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--baseline")
    parser.add_argument("--also", action="append", default=[], help="a further model to count; repeatable")
    parser.add_argument("--pass", dest="kind", choices=sorted(PASSES), default="latency")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--length", type=int, default=0, help="of sequences; 0: of the inputs given")
    parser.add_argument("--past", type=int, default=-1, help="earlier tokens with a cache; -1: of the inputs given")
    parser.add_argument("--runs", type=int, default=50, help="at least so many kept runs a model")
    parser.add_argument("--seconds", type=float, default=1.0, help="at least so many seconds a model")
    parser.add_argument("--loads", type=int, default=8, help="load each model so often, and measure each load")
    parser.add_argument("--warmup-seconds", type=float, default=2.0, help="at most, a tenth for later loads")
    parser.add_argument("--minutes", type=float, default=1.0, help="of the sustained pass")
    parser.add_argument("--inputs", help=".npz with arrays named input:NAME")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    try:
        runtime_of(options.model).library()
    except ImportError as error:
        raise SystemExit(PROBLEM + "%s (%s)" % (error, sys.executable)) from None
    subjects = [Subject("candidate", options.model, options)]
    if options.baseline:
        if options.kind not in ("latency", "sustained"):
            parser.error("--baseline goes with the passes latency and sustained")
        subjects.append(Subject("baseline", options.baseline, options))
    if options.also and options.kind != "count":
        parser.error("--also goes with the pass count")
    before, switches = conditions(), preempted()
    measured = PASSES[options.kind](subjects, options)
    document = {
        "runner": "bench",
        "version": 4,
        "pass": options.kind,
        "runtime": {key: getattr(subjects[0].model, key) for key in ("name", "version", "provider")},
        "machine": machine(),
        "conditions": {"before": before, "after": conditions()},
        "preempted": preempted() - switches,
        "threads": options.threads,
        "batch": options.batch,
    }
    document.update(lengths_fed(subjects[0].model, options))
    document.update(measured)
    print(json.dumps(document))


if __name__ == "__main__":
    main()
