"""Exported files by their own runtimes, behind one interface: ``inputs``, ``outputs`` and ``run(feed)``.

A class takes a path and a number of threads (0: the runtime's choice). ``library()`` imports the runtime before
anything is timed; ``modules`` are what an interpreter must be able to import, where that is one and the same. A runtime
with a profiler of its own has ``operators`` too.

Stand-alone, as ``bench.py`` beside it: Python 3.8, numpy and the one runtime.
"""

import json
import os
import tempfile

import numpy as np

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
    def operators(cls, path, threads, watch):
        """What ``watch`` makes of a model and its profiled twin, with name, kind and milliseconds of every operator.

        What a run takes beside its graph is the rest of it: calling the session, and taking arrays in and out.
        """
        unwatched = cls(path, threads)
        with tempfile.TemporaryDirectory() as folder:
            model = cls(path, threads, os.path.join(folder, "profile"))
            found = watch(unwatched, model)
            with open(model.session.end_profiling()) as stream:
                runs, graphs = onnx_runs(json.load(stream))
        outside = [wall - graph for wall, graph in zip(found.watched_ms, graphs) if graph]
        found.outside_ms = max(0.0, float(np.median(outside))) if outside else 0.0
        found.runs = found.kept(runs)
        return found


def onnx_runs(events):
    """Of ONNX Runtime's profile, run by run: milliseconds by operator, and those of the whole graph."""
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
    return runs[:-1], graphs


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
    def operators(cls, path, threads, watch):
        """What ``watch`` makes of a model and its profiled twin, with name, kind and milliseconds of every operator."""
        unwatched, model, runs = cls(path, threads), cls(path, threads, "yes"), []

        def after():
            """Note the operators of the last run."""
            infos = [info for info in model.request.profiling_info if info.real_time.total_seconds()]
            runs.append({(info.node_name, info.node_type): info.real_time.total_seconds() * 1e3 for info in infos})

        found = watch(unwatched, model, after)
        found.runs = found.kept(runs)
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
        """Names and shapes of the inputs in the Input lines of a .param (0 width, 1 height, 2 channels)."""
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
