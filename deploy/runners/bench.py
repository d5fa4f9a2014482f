"""Measure one exported model, or two in interleaved blocks, in its own runtime; prints ONE JSON object.

    python bench.py MODEL [--baseline MODEL] [--threads N] [--batch N] [--runs N] [--seconds S] [--inputs NPZ]

MODEL is a .onnx or .ort (needs onnxruntime), .tflite (ai-edge-litert, or tflite-runtime where numpy is below 2), .pte
(executorch), .xml with its .bin (openvino), or .ncnn.param with its .ncnn.bin (ncnn).

Stand-alone: needs Python 3.8, numpy and the one runtime, so it can be copied to any board. Every run's wall and
process CPU time is kept, in milliseconds. With a baseline both models live in this one process and take turns,
block by block (A B, B A, A B ...), so that whatever disturbs the machine disturbs both. Peak memory is of the
whole process: ask for one model alone to know its memory.

``opened`` and the classes it returns are also what edgecompress itself runs exported files with.
"""

import argparse
import gc
import json
import os
import platform
import sys
import time

import numpy as np

BLOCK_MS = 20.0
FEWEST_IN_BLOCK = 5
FEWEST_BLOCKS = 4


class Spec:
    """Name, numpy dtype and shape of an input or output; what is no whole number in the shape is free."""

    def __init__(self, name, dtype, shape):
        self.name, self.dtype, self.shape = name, dtype, tuple(shape)


class OnnxRuntime:
    """.onnx and .ort on the CPU provider."""

    name, provider = "onnxruntime", "CPUExecutionProvider"
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

    def __init__(self, path, threads):
        onnxruntime = self.library()
        self.version = onnxruntime.__version__
        settings = onnxruntime.SessionOptions()
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


class LiteRT:
    """.tflite with XNNPACK, by ai-edge-litert or its ancestor tflite-runtime."""

    name, provider = "litert", "XNNPACK"

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
        return Spec("%s_%d" % (stem, index), kinds[int(about.dtype())], about.sizes())

    def run(self, feed):
        """Arrays by name to arrays by name."""
        given = [self.torch.from_numpy(np.ascontiguousarray(feed[spec.name])) for spec in self.inputs]
        found = self.method.execute(given)
        return {spec.name: value.numpy().copy() for spec, value in zip(self.outputs, found)}


class OpenVINO:
    """.xml and .bin on the CPU plugin, in float32 where the model is."""

    name, provider = "openvino", "CPU"

    @staticmethod
    def library():
        """The runtime."""
        import openvino

        return openvino

    def __init__(self, path, threads):
        openvino = self.library()
        self.version = openvino.get_version()
        core = openvino.Core()
        settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
        if threads:
            settings["INFERENCE_NUM_THREADS"] = threads
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


def sizes(shape):
    """A partial shape of OpenVINO with a name for a free batch."""
    return [size.get_length() if size.is_static else "batch" for size in shape]


class Ncnn:
    """.ncnn.param and .ncnn.bin; one item at a time, computed in float32 (weights may be half)."""

    name, provider = "ncnn", "CPU"

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
        self.load_ms, self.first_run_ms, self.blocks, self.loads = [], [], [], []
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
            "load_ms": self.load_ms[0],
            "first_run_ms": self.first_run_ms[0],
            "loads": self.loads,
            "wall_ms": [[round(wall, 6) for wall, _ in block] for block in self.blocks],
            "cpu_ms": [[round(cpu, 6) for _, cpu in block] for block in self.blocks],
        }


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
            raise SystemExit("input %s has a fixed batch of %s; use --batch %s" % (spec.name, shape[0], shape[0]))
        key = "input:" + spec.name
        if key in given:
            feed[spec.name] = np.resize(given[key], shape)
            continue
        free = [size for size in shape if not isinstance(size, int)]
        if free:
            raise SystemExit("input %s has free dimensions %s besides the batch" % (spec.name, free))
        if not hasattr(np, spec.dtype) and spec.dtype != "bool":
            raise SystemExit("input %s is a %s: no values can be made up for it" % (spec.name, spec.dtype))
        values = generator.standard_normal(shape) if spec.dtype.startswith("float") else np.zeros(shape)
        feed[spec.name] = values.astype(spec.dtype)
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

    runtime_of(options.model).library()
    before = peak_rss_bytes()
    subjects = [Subject("candidate", options.model, options)]
    if options.baseline:
        subjects.append(Subject("baseline", options.baseline, options))
    measure(subjects, options)
    document = {
        "runner": "bench",
        "version": 2,
        "runtime": {key: getattr(subjects[0].model, key) for key in ("name", "version", "provider")},
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
