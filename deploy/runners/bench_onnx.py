"""Measure one ONNX model, or two in interleaved blocks, with ONNX Runtime; prints ONE JSON object.

    python bench_onnx.py MODEL [--baseline MODEL] [--threads N] [--batch N] [--runs N] [--seconds S] [--inputs NPZ]

Stand-alone: needs Python 3.8, numpy and onnxruntime only, so it can be copied to any board. Every run's wall and
process CPU time is kept, in milliseconds. With a baseline both models live in this one process and take turns,
block by block (A B, B A, A B ...), so that whatever disturbs the machine disturbs both. Peak memory is of the
whole process: ask for one model alone to know its memory.
"""

import argparse
import gc
import json
import os
import platform
import sys
import time

import numpy as np

KINDS = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
}
BLOCK_MS = 20.0
FEWEST_IN_BLOCK = 5
FEWEST_BLOCKS = 4


class Subject:
    """A model with its timings over several loads."""

    def __init__(self, role, path, options):
        self.role, self.path, self.options = role, path, options
        self.load_ms, self.first_run_ms, self.blocks, self.loads = [], [], [], []
        self.session = self.feed = self.names = None

    def load(self):
        """A fresh session: memory is laid out anew, which changes times by up to a percent."""
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = self.options.threads
        settings.inter_op_num_threads = 1
        settings.log_severity_level = 3
        self.session = None
        start = time.perf_counter()
        self.session = onnxruntime.InferenceSession(self.path, settings, providers=["CPUExecutionProvider"])
        self.load_ms.append((time.perf_counter() - start) * 1e3)
        self.names = [output.name for output in self.session.get_outputs()]
        self.feed = feed_for(self.session, self.options)
        self.first_run_ms.append(self.timed()[0])

    def timed(self):
        """One run: wall and process CPU milliseconds."""
        wall, cpu = time.perf_counter(), time.process_time()
        self.session.run(self.names, self.feed)
        return (time.perf_counter() - wall) * 1e3, (time.process_time() - cpu) * 1e3

    def block(self, size):
        """One run that is not kept (it refills the caches), then ``size`` that are."""
        self.session.run(self.names, self.feed)
        self.blocks.append([self.timed() for _ in range(size)])
        self.loads.append(len(self.load_ms) - 1)

    def report(self):
        """Everything measured, as JSON values; ``loads`` says which load each block belongs to."""
        return {
            "role": self.role,
            "path": self.path,
            "load_ms": self.load_ms[0],
            "first_run_ms": self.first_run_ms[0],
            "loads": self.loads,
            "wall_ms": [[round(wall, 6) for wall, _ in block] for block in self.blocks],
            "cpu_ms": [[round(cpu, 6) for _, cpu in block] for block in self.blocks],
        }


def feed_for(session, options):
    """Inputs of the wanted batch size: rows of the given arrays, else seeded normal numbers."""
    given = np.load(options.inputs, allow_pickle=False) if options.inputs else {}
    generator = np.random.default_rng(options.seed)
    feed = {}
    for spec in session.get_inputs():
        shape = [
            options.batch if axis == 0 and not isinstance(size, int) else size for axis, size in enumerate(spec.shape)
        ]
        key = "input:" + spec.name
        if key in given:
            feed[spec.name] = np.resize(given[key], shape)
            continue
        free = [size for size in shape if not isinstance(size, int)]
        if free:
            raise SystemExit("input %s has free dimensions %s besides the batch" % (spec.name, free))
        if spec.type not in KINDS:
            raise SystemExit("input %s is a %s: no values can be made up for it" % (spec.name, spec.type))
        kind = KINDS[spec.type]
        values = generator.standard_normal(shape) if kind.startswith("float") else np.zeros(shape)
        feed[spec.name] = values.astype(kind)
    return feed


def warm_up(subject, seconds):
    """Run for a while, then return how many runs fill a block."""
    end, runs, start = time.perf_counter() + seconds, 0, time.perf_counter()
    while time.perf_counter() < end or runs < 3:
        subject.timed()
        runs += 1
    each_ms = (time.perf_counter() - start) * 1e3 / runs
    return max(FEWEST_IN_BLOCK, int(BLOCK_MS / each_ms))


def measure(subjects, options):
    """Several loads; in each, blocks in turn until every model has its share of runs, blocks and seconds."""
    for number in range(options.loads):
        for subject in subjects if number % 2 == 0 else reversed(subjects):
            subject.load()
        sizes = {subject: warm_up(subject, options.warmup_seconds / options.loads) for subject in subjects}
        gc.disable()
        start, turn = time.perf_counter(), 0
        while not enough(subjects, turn, time.perf_counter() - start, number + 1, options):
            for subject in subjects if turn % 2 == 0 else reversed(subjects):
                subject.block(sizes[subject])
            turn += 1
        gc.enable()


def enough(subjects, turn, seconds, loads, options):
    """Whether this load has been measured for long enough."""
    runs = min(sum(len(block) for block in subject.blocks) for subject in subjects)
    share = loads / options.loads
    return (
        turn >= FEWEST_BLOCKS
        and runs >= options.runs * share
        and seconds >= options.seconds * len(subjects) / options.loads
    )


def peak_rss_bytes():
    """Most memory this process ever held: VmHWM where there is /proc (ru_maxrss there includes the parent's)."""
    try:
        with open("/proc/self/status") as stream:
            return next(int(line.split()[1]) * 1024 for line in stream if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def machine():
    """What the numbers were measured on."""
    name = ""
    try:
        with open("/proc/cpuinfo") as stream:
            lines = [
                line.split(":", 1)[1].strip() for line in stream if line.lower().startswith(("model name", "hardware"))
            ]
            name = lines[0] if lines else ""
    except OSError:
        pass
    return {
        "machine": platform.machine(),
        "processor": name or platform.processor(),
        "cores": os.cpu_count(),
        "system": "%s %s" % (platform.system(), platform.release()),
        "python": platform.python_version(),
    }


def main():
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--baseline")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--runs", type=int, default=50, help="at least so many kept runs a model")
    parser.add_argument("--seconds", type=float, default=1.0, help="at least so many seconds a model")
    parser.add_argument("--loads", type=int, default=8, help="load each model so often, and measure each load")
    parser.add_argument("--warmup-seconds", type=float, default=0.3)
    parser.add_argument("--inputs", help=".npz with arrays named input:NAME")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    import onnxruntime

    before = peak_rss_bytes()
    subjects = [Subject("candidate", options.model, options)]
    if options.baseline:
        subjects.append(Subject("baseline", options.baseline, options))
    measure(subjects, options)
    document = {
        "runner": "bench_onnx",
        "version": 1,
        "runtime": {"name": "onnxruntime", "version": onnxruntime.__version__, "provider": "CPUExecutionProvider"},
        "machine": machine(),
        "threads": options.threads,
        "batch": options.batch,
        "rss_before_load_bytes": before,
        "peak_rss_bytes": peak_rss_bytes(),
        "models": [subject.report() for subject in subjects],
    }
    print(json.dumps(document))


if __name__ == "__main__":
    main()
