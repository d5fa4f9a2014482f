"""Measure one exported model, or two in turns, in its own runtime; prints ONE JSON object.

    python bench.py MODEL [--baseline MODEL] [--pass PASS] [--threads N] [--batch N] [--inputs NPZ] ...

MODEL is a .onnx or .ort (needs onnxruntime), .tflite (ai-edge-litert, or tflite-runtime where numpy is below 2), .pte
(executorch), .xml with its .bin (openvino), or .ncnn.param with its .ncnn.bin (ncnn).

What disturbs one figure is kept out of another by passes, each a process of its own:

    latency     every run's wall and process CPU time, in milliseconds. Both models live in this one process and take
                turns, block by block (A B, B A, A B ...), so that whatever disturbs the machine disturbs both.
    start       one model: time to load it, its first inference, and the most memory the process ever held
    operators   one model: time in each operator, by the runtime's own profiler, less what looking at each one adds
    sustained   minutes under load, in windows of about a second
    count       markers around loading and each inference, for a counter of instructions outside; times nothing

Stand-alone: needs Python 3.8, numpy and the one runtime, so it can be copied to any board. ``opened`` and the classes
it returns are also what edgecompress itself runs exported files with.
"""

import argparse
import gc
import json
import os
import platform
import re
import sys
import tempfile
import time

import numpy as np

BLOCK_MS = 20.0
FEWEST_IN_BLOCK = 5
FEWEST_BLOCKS = 4
SETTLED, WINDOWS = 0.03, 3
"""A model is warm when the medians of so many blocks in a row lie within this fraction."""
LATER_WARMUP = 10
FINE_CPU_CLOCK = time.get_clock_info("process_time").resolution < 1e-6
OPERATOR_BLOCKS, OPERATOR_SECONDS, START_RUNS = 12, 20.0, 3
WINDOW_S = 1.0
PROBLEM = "bench.py: "
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
"""ONNX Runtime 1.29 and newer report to its vendor unless this is set before it is imported."""


class Spec:
    """Name, numpy dtype and shape of an input or output; what is no whole number in the shape is free."""

    def __init__(self, name, dtype, shape):
        self.name, self.dtype, self.shape = name, dtype, tuple(shape)


class OnnxRuntime:
    """.onnx and .ort on the CPU provider."""

    name, provider = "onnxruntime", "CPUExecutionProvider"
    modules = ("onnxruntime",)
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

    @staticmethod
    def library():
        """The runtime itself, imported; before anything is timed."""
        import onnxruntime

        return onnxruntime

    def __init__(self, path, threads, profiled=""):
        onnxruntime = self.library()
        self.version = onnxruntime.__version__
        settings = onnxruntime.SessionOptions()
        if profiled:
            settings.enable_profiling, settings.profile_file_prefix = True, profiled
        settings.intra_op_num_threads = threads
        settings.inter_op_num_threads = 1
        settings.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(path, settings, providers=[self.provider])
        self.inputs, self.outputs = (
            [Spec(value.name, self.KINDS.get(value.type, value.type), value.shape) for value in values]
            for values in (self.session.get_inputs(), self.session.get_outputs())
        )
        self.names = [spec.name for spec in self.outputs]

    def run(self, feed):
        """Arrays by name to arrays by name."""
        return dict(zip(self.names, self.session.run(self.names, feed)))

    @classmethod
    def operators(cls, path, options):
        """Run by run, name, kind and milliseconds of every operator; see ``Watched``.

        What a run takes beside its graph is the rest of it: calling the session, and taking arrays in and out.
        """
        plain = cls(path, options.threads)
        with tempfile.TemporaryDirectory() as folder:
            model = cls(path, options.threads, os.path.join(folder, "profile"))
            found = Watched(plain, model, feed_for(model, options))
            with open(model.session.end_profiling()) as stream:
                events = json.load(stream)
        runs, graphs = [{}], [0.0]
        for event in events:
            name = event["name"]
            if event.get("cat") == "Node" and name.endswith("_kernel_time"):
                key = (name[: -len("_kernel_time")], event["args"]["op_name"])
                runs[-1][key] = runs[-1].get(key, 0.0) + event["dur"] / 1e3
            elif name == "SequentialExecutor::Execute":
                graphs[-1] = max(graphs[-1], event["dur"] / 1e3)
            elif name == "model_run":
                runs.append({})
                graphs.append(0.0)
        outside = [wall - graph for wall, graph in zip(found.watched_ms, graphs) if graph]
        found.outside_ms = max(0.0, float(np.median(outside))) if outside else 0.0
        found.runs = [run for number, run in enumerate(runs[:-1]) if number % (FEWEST_IN_BLOCK + 1)]
        return found


class LiteRT:
    """.tflite with XNNPACK, by ai-edge-litert or its ancestor tflite-runtime."""

    name, provider = "litert", "XNNPACK"
    modules = ()

    @staticmethod
    def library():
        """Package and interpreter."""
        try:
            import ai_edge_litert as package
            from ai_edge_litert import interpreter
        except ImportError:
            import tflite_runtime as package
            from tflite_runtime import interpreter
        return package, interpreter

    def __init__(self, path, threads):
        package, interpreter = self.library()
        self.version = package.__version__
        self.interpreter = interpreter.Interpreter(model_path=path, num_threads=threads or None)
        self.interpreter.allocate_tensors()
        (names,) = self.interpreter.get_signature_list().values()
        self.runner = self.interpreter.get_signature_runner()
        self.inputs, self.outputs = (
            [Spec(name, details[name]["dtype"].__name__, map(int, details[name]["shape"])) for name in names[kind]]
            for kind, details in (
                ("inputs", self.runner.get_input_details()),
                ("outputs", self.runner.get_output_details()),
            )
        )

    def run(self, feed):
        """Arrays by name to arrays by name."""
        found = self.runner(**feed)
        return {spec.name: found[spec.name] for spec in self.outputs}


class ExecuTorch:
    """.pte by ExecuTorch's Python runtime; its thread pool is one for the process."""

    name, provider = "executorch", "XNNPACK"
    modules = ("torch", "executorch")

    @staticmethod
    def library():
        """PyTorch, the runtime's bindings, the runtime."""
        import torch
        from executorch.extension.pybindings import portable_lib
        from executorch.runtime import Runtime

        return torch, portable_lib, Runtime

    def __init__(self, path, threads):
        from importlib.metadata import version

        self.torch, portable_lib, runtime = self.library()
        self.version = version("executorch")
        if threads:
            portable_lib._unsafe_reset_threadpool(threads)
        self.program = runtime.get().load_program(path)
        self.method = self.program.load_method("forward")
        about = self.method.metadata
        self.inputs = [self.spec("input", i, about.input_tensor_meta(i)) for i in range(about.num_inputs())]
        self.outputs = [self.spec("output", i, about.output_tensor_meta(i)) for i in range(about.num_outputs())]
        for specs in (self.inputs, self.outputs):
            if len(specs) == 1:
                specs[0].name = specs[0].name.split("_")[0]

    def spec(self, stem, index, about):
        """``about`` gives sizes and the number of a dtype, in PyTorch's order."""
        kinds = ["uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64"]
        number = int(about.dtype())
        kind = {11: "bool"}.get(number) or kinds[number]
        return Spec("%s_%d" % (stem, index), kind, about.sizes())

    def run(self, feed):
        """Arrays by name to arrays by name."""
        given = [self.torch.from_numpy(np.ascontiguousarray(feed[spec.name])) for spec in self.inputs]
        found = self.method.execute(given)
        return {spec.name: value.numpy().copy() for spec, value in zip(self.outputs, found)}


class OpenVINO:
    """.xml and .bin on the CPU plugin, in float32 where the model is."""

    name, provider = "openvino", "CPU"
    modules = ("openvino",)
    settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}

    @staticmethod
    def library():
        """The runtime."""
        import openvino

        return openvino

    def __init__(self, path, threads, profiled=""):
        openvino = self.library()
        self.version = openvino.get_version()
        core = openvino.Core()
        settings = dict(self.settings)
        if threads:
            settings["INFERENCE_NUM_THREADS"] = threads
        if profiled:
            settings["PERF_COUNT"] = True
        self.request = core.compile_model(core.read_model(path), self.provider, settings).create_infer_request()
        model = self.request.get_compiled_model()
        self.inputs, self.outputs = (
            [
                Spec(port.any_name, np.dtype(port.element_type.to_dtype()).name, sizes(port.partial_shape))
                for port in ports
            ]
            for ports in (model.inputs, model.outputs)
        )

    def run(self, feed):
        """Arrays by name to arrays by name."""
        found = self.request.infer(feed)
        return {spec.name: found[spec.name].copy() for spec in self.outputs}

    @classmethod
    def operators(cls, path, options):
        """Run by run, name, kind and milliseconds of every operator; see ``Watched``."""
        plain, model, runs = cls(path, options.threads), cls(path, options.threads, "yes"), []

        def kept():
            """The operators of the last run."""
            infos = [info for info in model.request.profiling_info if info.real_time.total_seconds()]
            runs.append({(info.node_name, info.node_type): info.real_time.total_seconds() * 1e3 for info in infos})

        found = Watched(plain, model, feed_for(model, options), kept)
        found.runs = [run for number, run in enumerate(runs) if number % (FEWEST_IN_BLOCK + 1)]
        return found


def sizes(shape):
    """A partial shape of OpenVINO with a name for a free batch."""
    return [size.get_length() if size.is_static else "batch" for size in shape]


class Ncnn:
    """.ncnn.param and .ncnn.bin; one item at a time, computed in float32 (weights may be half)."""

    name, provider = "ncnn", "CPU"
    modules = ("ncnn",)

    @staticmethod
    def library():
        """The runtime."""
        import ncnn

        return ncnn

    def __init__(self, path, threads):
        self.ncnn = ncnn = self.library()
        self.version = ncnn.__version__
        self.net = ncnn.Net()
        if threads:
            self.net.opt.num_threads = threads
        for option in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
            setattr(self.net.opt, option, False)
        if self.net.load_param(path) or self.net.load_model(path[: -len(".param")] + ".bin"):
            raise ValueError("ncnn cannot load %s" % path)
        self.inputs = [Spec(name, "float32", (1, *shape)) for name, shape in self.declared(path)]
        self.names = list(self.net.output_names())
        zeros = {spec.name: np.zeros(spec.shape, np.float32) for spec in self.inputs}
        self.outputs = [Spec(name, "float32", array.shape) for name, array in self.run(zeros).items()]

    @staticmethod
    def declared(path):
        """Names and shapes of the inputs as the Input lines of a .param say them (0 width, 1 height, 2 channels)."""
        with open(path) as stream:
            lines = [line.split() for line in stream if line.startswith("Input ")]
        for kind, name, _below, _above, *rest in lines:
            facts = dict(pair.split("=") for pair in rest if "=" in pair)
            shape = [int(facts[key]) for key in ("2", "1", "0") if key in facts]
            if not shape:
                raise ValueError("%s of %s says no shape; edgecompress writes one" % (kind, name))
            yield rest[0], shape

    def run(self, feed):
        """Arrays by name to arrays by name; each with a leading dimension of one."""
        extractor = self.net.create_extractor()
        for spec in self.inputs:
            extractor.input(spec.name, self.ncnn.Mat(np.ascontiguousarray(feed[spec.name][0])))
        found = {}
        for name in self.names:
            failed, value = extractor.extract(name)
            if failed:
                raise ValueError("ncnn cannot compute %s" % name)
            found[name] = np.array(value)[None]
        return found


class Watched:
    """A model under its runtime's profiler and the same one without, taking turns, block by block.

    A profiler looks at each operator and takes time for that, which it counts as the operator's: a chain of three small
    layers is looked at three times. What the model takes without one says how much that was. ``runs`` are the kept
    runs under the profiler, as times by operator; ``outside_ms`` is what a run takes outside all operators, at least.
    """

    def __init__(self, plain, watched, feed, after=lambda: None):
        self.model, self.runs, self.outside_ms = watched, [], 0.0
        self.plain_ms, self.watched_ms = [], []
        start, turn = time.perf_counter(), 0
        while turn < OPERATOR_BLOCKS and (turn < 2 or time.perf_counter() - start < OPERATOR_SECONDS):
            for number in range(FEWEST_IN_BLOCK + 1):
                self.plain_ms += [self.timed(plain, feed)] if number else self.unkept(plain, feed)
            for _ in range(FEWEST_IN_BLOCK + 1):
                self.watched_ms.append(self.timed(watched, feed))
                after()
            turn += 1

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


RUNTIMES = {
    ".onnx": OnnxRuntime,
    ".ort": OnnxRuntime,
    ".tflite": LiteRT,
    ".pte": ExecuTorch,
    ".xml": OpenVINO,
    ".ncnn.param": Ncnn,
}


def runtime_of(path):
    """The class for a file's ending."""
    for suffix, runtime in RUNTIMES.items():
        if path.endswith(suffix):
            return runtime
    raise ValueError("%s: not one of %s" % (path, ", ".join(RUNTIMES)))


def opened(path, threads):
    """The model at ``path``, loaded by the runtime that its ending stands for (``threads`` 0: the runtime's choice)."""
    return runtime_of(path)(path, threads)


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
        """Everything measured, as JSON values; ``loads`` says which load each block belongs to."""
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


def feed_for(model, options):
    """Inputs of the wanted batch size: rows of the given arrays, else seeded normal numbers."""
    given = np.load(options.inputs, allow_pickle=False) if options.inputs else {}
    generator = np.random.default_rng(options.seed)
    feed = {}
    for spec in model.inputs:
        shape = [
            options.batch if axis == 0 and not isinstance(size, int) else size for axis, size in enumerate(spec.shape)
        ]
        if shape and shape[0] != options.batch:
            raise SystemExit(
                PROBLEM + "input %s has a fixed batch of %s; use --batch %s" % (spec.name, shape[0], shape[0])
            )
        key = "input:" + spec.name
        if key in given:
            feed[spec.name] = np.resize(given[key], shape)
            continue
        free = [size for size in shape if not isinstance(size, int)]
        if free:
            raise SystemExit(PROBLEM + "input %s has free dimensions %s besides the batch" % (spec.name, free))
        if not hasattr(np, spec.dtype) and spec.dtype != "bool":
            raise SystemExit(PROBLEM + "input %s is a %s: no values can be made up for it" % (spec.name, spec.dtype))
        values = generator.standard_normal(shape) if spec.dtype.startswith("float") else np.zeros(shape)
        feed[spec.name] = values.astype(spec.dtype)
    return feed


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
    """The mean of the quicker half of the runs, for every operator; None where the runtime cannot tell.

    ``profiled_ms`` is what the profiler says, ``wall_ms`` that without what it adds, ``whole_ms`` the model unwatched.
    """
    (subject,) = subjects
    runtime = runtime_of(subject.path)
    if not hasattr(runtime, "operators"):
        subject.load()
        return {"operators": None, "whole_ms": None}
    found = runtime.operators(subject.path, options)
    subject.model = found.model
    keys = list(found.runs[0])
    profiled = [quick([run.get(key, 0.0) for run in found.runs]) for key in keys]
    whole = quick(found.plain_ms)
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
    left, total = sorted(times), max(0.0, total)
    overhead = 0.0
    while left and sum(left) - len(left) * overhead > total + 1e-12:
        overhead = (sum(left) - total) / len(left)
        left = [time for time in left if time > overhead]
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

    Intervals between marks: loading, making up the input, then each inference.
    """
    (subject,) = subjects
    mark = os.getppid
    mark()
    subject.model = opened(subject.path, 1)
    mark()
    feed = feed_for(subject.model, options)
    mark()
    for _ in range(options.runs):
        subject.model.run(feed)
        mark()
    return {"intervals": ["load", "input"] + ["run"] * options.runs}


PASSES = {
    "latency": measure_latency,
    "start": measure_start,
    "operators": measure_operators,
    "sustained": measure_sustained,
    "count": count_instructions,
}


def peak_rss_bytes():
    """Most memory this process ever held: VmHWM where there is /proc (ru_maxrss there includes the parent's)."""
    try:
        with open("/proc/self/status") as stream:
            return next(int(line.split()[1]) * 1024 for line in stream if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def read(path):
    """A small file of the system, or nothing."""
    try:
        with open(path) as stream:
            return stream.read().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def cpus():
    """The processors this process may run on."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def cpufreq(name):
    """What the kernel says of each processor's clock under ``name``, where it does."""
    texts = (read("/sys/devices/system/cpu/cpu%d/cpufreq/%s" % (cpu, name)) for cpu in cpus())
    return [text for text in texts if text]


def clock_mhz():
    """The slowest processor's clock now; None if the kernel does not tell."""
    found = [int(text) / 1e3 for text in cpufreq("scaling_cur_freq") if text.isdigit()]
    return min(found) if found else None


def temperature_c():
    """The hottest thermal zone now; None if there is none."""
    import glob

    texts = (read(path) for path in glob.glob("/sys/class/thermal/thermal_zone*/temp"))
    found = [int(text) / 1e3 for text in texts if text.lstrip("-").isdigit()]
    return max(found) if found else None


def power():
    """Each battery's or mains supply's state."""
    import glob

    found = {}
    for folder in sorted(glob.glob("/sys/class/power_supply/*")):
        state = read(folder + "/status") or {"1": "online", "0": "offline"}.get(read(folder + "/online"), "")
        found[os.path.basename(folder)] = state
    return found


def conditions():
    """What may change while measuring."""
    memory = [line.split()[1] for line in read("/proc/meminfo").splitlines() if line.startswith("MemAvailable:")]
    return {
        "clock_mhz": clock_mhz(),
        "temperature_c": temperature_c(),
        "throttled": read("/sys/devices/platform/soc/soc:firmware/get_throttled") or None,
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "memory_available_bytes": int(memory[0]) * 1024 if memory else None,
        "power": power(),
    }


def machine():
    """What the numbers were measured on."""
    lines = read("/proc/cpuinfo").splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.lower().startswith(("model name", "hardware"))]
    board = read("/proc/device-tree/model").strip("\0")
    memory = [line.split()[1] for line in read("/proc/meminfo").splitlines() if line.startswith("MemTotal:")]
    fastest = [int(text) / 1e3 for text in cpufreq("cpuinfo_max_freq") if text.isdigit()]
    return {
        "machine": platform.machine(),
        "processor": (names[0] if names else "") or board or platform.processor(),
        "cores": os.cpu_count(),
        "system": "%s %s" % (platform.system(), platform.release()),
        "python": platform.python_version(),
        "more": {
            "board": board or None,
            "virtual": is_virtual(),
            "governors": sorted(set(cpufreq("scaling_governor"))),
            "highest_clock_mhz": max(fastest) if fastest else None,
            "memory_bytes": int(memory[0]) * 1024 if memory else None,
            "cpus_allowed": cpus(),
            "numpy": np.__version__,
        },
    }


FIRMWARE = ["/sys/class/dmi/id/" + name for name in ("sys_vendor", "product_name", "board_vendor", "bios_vendor")]
FIRMWARE += ["/proc/device-tree/model", "/proc/device-tree/compatible"]
HYPERVISOR = ["/sys/hypervisor/type", "/proc/device-tree/hypervisor/compatible"]
GUEST = re.compile(
    r"(?<![a-z])(qemu|kvm|vmware|virtualbox|innotek|xen|bochs|parallels|bhyve|hyper-v|virtual machine|"
    r"apple virtualization|google compute engine|amazon ec2|openstack|kubevirt|alibaba cloud ecs|digitalocean|"
    r"crosvm|cloud hypervisor|firecracker|dummy-virt|user mode linux|microsoft-standard-wsl2)(?![a-z])",
    re.IGNORECASE,
)
"""What virtual machines say of their maker, product, board or processor."""


def is_virtual():
    """Whether this is a virtual machine, by its processor, firmware or board; None where nothing tells.

    A container is none: it says what the machine says that it runs on.
    """
    if sys.platform == "darwin":
        return {"1": True, "0": False}.get(sysctl("kern.hv_vmm_present"))
    cpuinfo, firmware = read("/proc/cpuinfo"), " ".join(filter(None, map(read, FIRMWARE)))
    flags = re.search(r"^flags\s*:(.*)$", cpuinfo, re.MULTILINE)
    if flags and "hypervisor" in flags.group(1).split():
        return True
    rented_whole = ".metal" in firmware
    if any(map(read, HYPERVISOR)) or GUEST.search(cpuinfo + " " + platform.release()):
        return True
    if GUEST.search(firmware):
        return not rented_whole
    return False if flags or firmware else None


def sysctl(name):
    """A value of a BSD kernel, or nothing."""
    import subprocess

    try:
        told = subprocess.run(["/usr/sbin/sysctl", "-n", name], check=False, stdout=subprocess.PIPE, timeout=10)
        return told.stdout.decode(errors="replace").strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def main():
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--baseline")
    parser.add_argument("--pass", dest="kind", choices=sorted(PASSES), default="latency")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
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
    document.update(measured)
    print(json.dumps(document))


def preempted():
    """How often this process was made to wait for another, so far."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


if __name__ == "__main__":
    main()
