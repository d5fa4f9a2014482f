"""Documents of runs, made by hand: what tests of the report and of its page share."""

import math
import random
from dataclasses import replace

from edgecompress.profiling.comparisons import Comparison
from edgecompress.profiling.facts import DeviceFacts
from edgecompress.profiling.instruction_counts import Counts, InstructionComparison, InstructionProfile
from edgecompress.profiling.latencies import ColdStart, Latency, Sustained
from edgecompress.profiling.profiles import Operator, Profile
from edgecompress.profiling.ratios import Ratio
from edgecompress.reporting import Report, render_html, render_markdown
from edgecompress.split_scores import of_flips

DEVICE = DeviceFacts(
    "local", "measured", "x86_64", "Example CPU", 4, "Linux 6", "3.11.7",
    {"governors": ["performance"], "highest_clock_mhz": 2400.0, "memory_bytes": 8_000_000_000, "board": None},
)  # fmt: skip
BOARD = replace(DEVICE, name="ssh:pi@board", machine="aarch64", processor="Cortex-A76")
CORE = replace(DEVICE, name="emulated:cortex-a76", provenance="emulated", machine="aarch64", processor="cortex-a76")
RUNTIME = {"name": "onnxruntime", "version": "1.31.1", "provider": "CPUExecutionProvider"}
PLACE = "Example CPU, 1 thread, ONNX Runtime 1.31.1"
HOSTILE = "block<script>alert('x')</script>&\"end|`x`\n# _b_ **c** [d](https://e.example) @f"
REASON = "tied: shares its weight with <another> layer"
CONDITIONS = {
    "before": {"clock_mhz": 2400.0, "temperature_c": 45.5, "load_average": 0.25, "power": {}},
    "after": {"clock_mhz": 1800.0, "temperature_c": 61.0, "load_average": 1.0, "power": {}},
}


def latency(typical, blocks=4, size=5, seed=0):
    noise = random.Random(seed)
    wall = tuple(tuple(typical * (1 + 0.02 * noise.random()) for _ in range(size)) for _ in range(blocks))
    return Latency(wall, wall, tuple(range(blocks)))


def comparison(wall=1.25, cpu=1.25, spread=0.02, before=1.0, device=DEVICE, threads=1, more=None, **sizes):
    ratios = (value and Ratio(value, value - spread, value + spread) for value in (wall, cpu))
    times = latency(before, **sizes), latency(before / wall, seed=1, **sizes)
    made = Comparison("dense.onnx", "model.onnx", "ab" * 32, "cd" * 32, device, RUNTIME, threads, 1, *ratios, *times)
    return replace(made, conditions=CONDITIONS, **(more or {}))


def sustained(typical, slowdown, windows=120):
    """Windows of a second; the clock falls as times rise."""
    noise = random.Random(2)
    factors = [1 + (slowdown - 1) / (1 + math.exp((windows / 2 - i) / (windows / 20))) for i in range(windows)]
    times = tuple(typical * factor * (1 + 0.01 * noise.random()) for factor in factors)
    clocks = tuple(2400 / factor for factor in factors)
    return Sustained(
        tuple(map(float, range(windows))), times, clocks, tuple(45 + 25 * i / windows for i in range(windows))
    )


def profile(file, size, typical, **more):
    return Profile(
        file=file, sha256="ab" * 32, target="onnx", device=DEVICE, runtime=RUNTIME, threads=1, batch=1, size_bytes=size,
        zipped_bytes=size - 100, weight_bytes=size - 1000, params=100, macs=1000,
        cold=ColdStart((12.5, 11.0, 13.0), (2.0, 2.5, 1.5)), peak_rss_bytes=70_000_000, runtime_rss_bytes=50_000_000,
        latency=latency(typical), operators=(Operator("stem.conv", "Conv", 0.1, "stem.conv"),), conditions=CONDITIONS,
        **more,
    )  # fmt: skip


def counts(least, scale=1.0):
    """Classes that add up to ``least``."""
    shares = {"vector_fp": 0.5, "integer_dot": 0.0, "load_store": 0.3, "branch": 0.05, "other": 0.15}
    shares["vector_fp"], shares["other"] = 0.5 * scale, 0.15 + 0.5 * (1 - scale)
    return Counts(
        "cortex-a76", (least + 40, least), {name: round(least * part) for name, part in shares.items()}, 9_000_000
    )


def instruction_comparison(before=39_496_000, after=20_460_000):
    both = counts(before), counts(after, 0.9)
    return InstructionComparison("dense.onnx", "model.onnx", "ab" * 32, "cd" * 32, CORE, RUNTIME, 1, 1, *both)


def instruction_profile(file, size, counted):
    return InstructionProfile(
        file, "ab" * 32, "onnx", CORE, RUNTIME, 1, 1, size, size - 100, size - 1000, 100, 1000, counted
    )


def layer(name, *, method=None, ranks=None, error=None, reason=None, macs=2_000, kept=1_000, times=None, slower=None):
    """``times`` are milliseconds, dense and compressed."""
    before, after = times or (None, None)
    return {
        "name": name, "kind": "Conv2d 16->16 3x3", "method": method, "ranks": ranks, "error": error, "reason": reason,
        "dense": {"macs": macs, "params": 300, "bytes": 1200, "wall_ms": before},
        "compressed": {"macs": kept, "params": 100, "bytes": 400, "wall_ms": after},
        "slower": slower,
    }  # fmt: skip


def artifact(role, path, size):
    return {
        "role": role, "target": "onnx", "precision": "fp32", "status": "verified", "path": path, "parts": [],
        "size_bytes": size, "sha256": role[0].encode().hex() * 32, "max_abs_error": 3.8e-6, "sqnr_db": 130.06,
        "score": None, "approximation": None, "graph": {"opset": 20}, "notices": [], "zipped_bytes": size - 100,
    }  # fmt: skip


def plan(name, accuracy, size, wall=None, *, chosen=False, place=PLACE):
    costs = {"macs": 40 * size, "size_bytes": size, "wall_ms": wall}
    return {"key": f"key of {name}", "name": name, "accuracy": accuracy, **costs, "place": place, "chosen": chosen}


def document():
    """A small run, measured."""
    return {
        "kind": "edgecompress.report",
        "version": 2,
        "model": "example",
        "data": {"test": {"items": 10_000, "origin": "CIFAR-10 test, whole"}},
        "metric": {"name": "accuracy", "unit": " %"},
        "accuracy": {"dense": 91.73, "decomposed": 77.0, "finetuned": 90.1, "artifact": 90.1},
        "scored": {"dense": None, "compressed": None},
        "accuracy_difference": of_flips(400, 237, 10_000).to_json(),
        "calibration": {"items": 1024, "asymmetric": True, "recalibrated": True},
        "recipe": {"name": "none"},
        "training": {
            "epochs": 2,
            "best_epoch": 2,
            "history": [{"epoch": 1, "loss": 1.97, "score": 87.31}, {"epoch": 2, "loss": 1.62, "score": 90.42}],
        },
        "cost": {
            "dense": {"params": 269_722, "macs": 40_551_040, "flops": 81_102_080, "weight_bytes": 1_084_544},
            "compressed": {"params": 150_146, "macs": 20_267_648, "flops": 40_535_296, "weight_bytes": 606_240},
        },
        "arguments": {"keep": 0.5, "methods": ["svd", "tucker2"], "teacher": None, "bfloat16": False},
        "versions": {"edgecompress": "0.1.0", "torch": "2.13.0"},
        "layers": [
            layer("stem.conv", method="tucker2", ranks=[8, 16], error=0.1234, times=(0.2, 0.1), slower=False),
            layer(HOSTILE, method="svd", ranks=[24], error=0.5, times=(0.2, 0.3), slower=True),
            layer("head.linear", reason=REASON, kept=2_000, times=(0.05, 0.05), slower=False),
        ],
        "outside_layers": {"dense": 0.03, "compressed": 0.04},
        "file_times": {
            "outside_operators": {"dense": 0.52, "compressed": 0.31},
            "whole": {"dense": 1.0, "compressed": 0.8},
        },
        "artifacts": [artifact("dense", "dense.onnx", 1_087_212), artifact("compressed", "model.onnx", 617_720)],
        "failed": [],
        "profiles": {
            "dense": profile("dense.onnx", 1_087_212, 1.0).to_json(),
            "compressed": profile("model.onnx", 617_720, 0.8).to_json(),
        },
        "comparison": comparison().to_json(),
        "threads": [comparison(wall=1.1, cpu=None, threads=4).summary()],
        "bundle": "bundle/manifest.json",
        "bundles": [
            {
                "platform": "pi",
                "manifest": "bundle/manifest.json",
                "model_bytes": 292_160,
                "runtime": "onnxruntime",
                "version": "1.31.1",
                "library_bytes": 55_916_689,
                "library_bytes_compressed": None,
                "source": "PyPI",
            }
        ],
        "tried": [
            plan("keep 0.5", 90.1, 617_720, 0.8, chosen=True),
            plan("keep 0.25", 88.0, 300_000, 0.6),
            plan("keep 0.3", 88.5, 350_000, 3.0, place="another board"),
        ],
    }


def emulated(made):
    """The same run on an emulated core: instructions, no time."""
    pair = instruction_comparison()
    sizes = {"dense": ("dense.onnx", 1_087_212), "compressed": ("model.onnx", 617_720)}
    both = zip(sizes.items(), (pair.baseline_counts, pair.candidate_counts), strict=True)
    profiles = {role: instruction_profile(*file, counted).to_json() for (role, file), counted in both}
    layers = [
        {**one, "slower": None, **{role: {**one[role], "wall_ms": None} for role in sizes}} for one in made["layers"]
    ]
    more = {"comparison": pair.to_json(), "profiles": profiles, "layers": layers, "outside_layers": None}
    more["file_times"] = {name: dict.fromkeys(sizes) for name in made["file_times"]}
    tried = [{**one, "wall_ms": None} for one in made["tried"]]
    return {**made, **more, "threads": [], "tried": tried}


def bare(made):
    """The same run without data, files and device."""
    left = dict.fromkeys(("data", "accuracy", "calibration", "training", "comparison", "profiles", "outside_layers"))
    return {**made, **left, "artifacts": [], "layers": [], "threads": [], "tried": []}


def resnet20(*, minutes=10):
    """A run as large as a real one: 20 convolutions and a linear layer, ten plans, sustained load."""
    names = ["conv1"]
    names += [f"layer{stage}.{block}.conv{conv}" for stage in (1, 2, 3) for block in range(3) for conv in (1, 2)]
    noise = random.Random(3)
    layers = []
    for index, name in enumerate([*names, "linear"]):
        kept = index in (0, 1, 19)
        macs = 2_359_296 if 0 < index < 19 else 442_368 if index == 0 else 640
        ratio = 1.0 if kept else noise.uniform(0.3, 0.7)
        before = macs / 2.6e7 * noise.uniform(0.9, 1.1)
        after = before * (1.18 if index == 7 else 1.0 if kept else ratio * noise.uniform(1.1, 1.4))
        made = layer(
            name,
            method=None if kept else ("tucker2", "svd", "hierarchical_tucker2")[index % 3],
            ranks=None if kept else [16, 24, 8][: 1 + index % 3],
            error=None if kept else noise.uniform(0.01, 0.2),
            reason="the budget is met at less loss by compressing other layers" if kept else None,
            macs=macs,
            kept=round(macs * ratio),
            times=(before, after),
            slower=after > 1.02 * before,
        )
        size = 2_304 * 2 ** (2 * ((index - 1) // 6)) if 0 < index < 19 else 650
        made["dense"] |= {"params": size, "bytes": 4 * size}
        made["compressed"] |= {"params": round(size * ratio), "bytes": 4 * round(size * ratio)}
        layers.append(made)
    windows = minutes * 60
    load = {"baseline": sustained(1.62, 1.01, windows), "candidate": sustained(1.05, 1.25, windows)}
    unstable = ("throttled: the clock went from 2,400 to 1,920 MHz",)
    pair = comparison(1.54, 1.55, 0.02, 1.62, blocks=80, size=14, more={"sustained": load, "unstable": unstable})
    tried = [
        plan(f"keep {keep:.2f}", 91.9 - 0.35 / keep, round(1_087_212 * keep), 0.3 + 1.3 * keep, chosen=keep == 0.5)
        for keep in (0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
    ]
    tried.append(
        plan("by measured latency, 1 ms", 90.6, 580_000, 0.99, place="Cortex-A76, 1 thread, ONNX Runtime 1.31.1")
    )
    history = [{"epoch": i, "loss": 2 / i, "score": 90.5 - 12 / i + 0.3 * (i % 3)} for i in range(1, 31)]
    others = [comparison(1.3, 1.28, 0.03, 0.6, threads=4).summary()]
    more = {"model": "resnet20", "layers": layers, "comparison": pair.to_json(), "threads": others, "tried": tried}
    return {**document(), **more, "training": {"epochs": 30, "best_epoch": 29, "history": history}}


def report(made=None):
    """A document's report, as it is read."""
    return Report.from_json(document() if made is None else made)


def html(made):
    """A document's page."""
    return render_html(Report.from_json(made))


def markdown(made):
    """A document as Markdown."""
    return render_markdown(Report.from_json(made))
