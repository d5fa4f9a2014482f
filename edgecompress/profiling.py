"""profile() and compare(): storage, work, memory and latency of an exported file on a device.

The figures come from a stand-alone runner in a process of its own; this module only starts it and reads its
answer.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgecompress.artifacts import Artifact, golden_path
from edgecompress.costs import Cost
from edgecompress.devices import DEVICES, Device
from edgecompress.errors import DeviceError, FileError
from edgecompress.files import Json, sha256, size_of, zipped_bytes
from edgecompress.profiles import Comparison, DeviceFacts, Latency, Profile, paired_ratio
from edgecompress.targets import TARGETS, Target
from edgecompress.targets.runtimes import runner

TIMEOUT_S = 1800.0
"""Beyond the time asked for: large models load slowly and run at least a few dozen times."""


def device_named(name: str) -> Device:
    """The device that a ``--device`` value names.

    Raises:
        DeviceError: there is none of that name.
    """
    if name not in DEVICES:
        message = f"no device {name!r}; there are {', '.join(DEVICES)}"
        raise DeviceError(message, device=name, command="", returncode=None)
    return DEVICES[name]()


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


def profile(
    path: Path, device: Device, *, threads: int = 1, batch: int = 1, runs: int = 50, seconds: float = 1.0
) -> Profile:
    """Measure one file alone in a process of its own.

    Raises:
        FileError: it cannot be read.
        DeviceError: the runner failed.
    """
    target = target_of(path)
    target.signature(path)
    answer = _measure(target, path, None, device, threads, batch, runs, seconds)
    (measured,) = answer["models"]
    cost = _known_cost(path)
    return Profile(
        file=path.name,
        sha256=sha256(path),
        target=target.name,
        device=_facts(device, answer),
        runtime=answer["runtime"],
        threads=threads,
        batch=batch,
        size_bytes=sum(map(size_of, (path, *target.parts(path)))),
        zipped_bytes=zipped_bytes(path, *target.parts(path)),
        weight_bytes=target.weight_bytes(path),
        params=cost.params if cost else None,
        macs=cost.macs if cost else None,
        load_ms=measured["load_ms"],
        first_run_ms=measured["first_run_ms"],
        peak_rss_bytes=answer["peak_rss_bytes"],
        runtime_rss_bytes=answer["rss_before_load_bytes"],
        latency=Latency.from_json(measured),
    )


def _known_cost(path: Path) -> Cost | None:
    """From the facts beside a file of ours; None for any other file."""
    try:
        return Artifact.load(path).cost
    except FileError:
        return None


def compare(
    candidate: Path,
    baseline: Path,
    device: Device,
    *,
    threads: int = 1,
    batch: int = 1,
    runs: int = 50,
    seconds: float = 2.0,
) -> Comparison:
    """Measure two files in interleaved blocks of one process: the speed-up, its interval, and a verdict.

    Raises:
        FileError: one cannot be read, or they are of different targets.
        DeviceError: the runner failed.
    """
    target = target_of(candidate)
    if target_of(baseline) is not target:
        raise FileError(f"{candidate} and {baseline} are of different targets: their times do not compare")
    _refuse_other_inputs(target, candidate, baseline)
    answer = _measure(target, candidate, baseline, device, threads, batch, runs, seconds)
    latencies = {measured["role"]: Latency.from_json(measured) for measured in answer["models"]}
    ours, theirs = latencies["candidate"], latencies["baseline"]
    return Comparison(
        baseline=baseline.name,
        candidate=candidate.name,
        baseline_sha256=sha256(baseline),
        candidate_sha256=sha256(candidate),
        device=_facts(device, answer),
        runtime=answer["runtime"],
        threads=threads,
        batch=batch,
        wall=paired_ratio(theirs.wall_ms, ours.wall_ms, ours.loads),
        cpu=paired_ratio(theirs.cpu_ms, ours.cpu_ms, ours.loads),
        baseline_latency=theirs,
        candidate_latency=ours,
    )


def _refuse_other_inputs(target: Target, candidate: Path, baseline: Path) -> None:
    """Times of models that take different inputs say nothing about each other."""
    ours, theirs = ([(s.dtype, s.shape[1:]) for s in target.signature(path)[0]] for path in (candidate, baseline))
    if ours != theirs:
        raise FileError(f"{candidate} and {baseline} take different inputs ({ours} and {theirs}): times do not compare")


def _measure(
    target: Target,
    path: Path,
    baseline: Path | None,
    device: Device,
    threads: int,
    batch: int,
    runs: int,
    seconds: float,
) -> Json:
    """Push files and runner, run it, and read its one JSON object."""
    if not target.runs_here:
        raise FileError(
            f"{path}: {target.name} has no runtime for this machine, nor can it be measured on {device.name}"
        )
    pushed = [device.push(file) for model in (path, baseline) if model for file in (model, *target.parts(model))]
    argv = [device.python, device.push(runner()), pushed[0]]
    if baseline is not None:
        argv += ["--baseline", pushed[len(pushed) // 2]]
    argv += ["--threads", str(threads), "--batch", str(batch), "--runs", str(runs), "--seconds", str(seconds)]
    if golden_path(path).is_file():
        argv += ["--inputs", device.push(golden_path(path))]
    timeout_s = TIMEOUT_S + 4 * seconds * (2 if baseline else 1)
    return _read_answer(device, argv, device.run(argv, timeout_s=timeout_s))


def _read_answer(device: Device, argv: list[str], text: str) -> Json:
    try:
        answer: Any = json.loads(text)
        if isinstance(answer, dict) and answer["models"]:
            return answer
    except (json.JSONDecodeError, KeyError):
        pass
    last = text.strip().splitlines()[-1:] or ["nothing"]
    message = f"{device.name}: the runner did not print one JSON object but {last[0][:200]!r}"
    raise DeviceError(message, device=device.name, command=argv[0], returncode=0)


def _facts(device: Device, answer: Json) -> DeviceFacts:
    return DeviceFacts(name=device.name, provenance=device.provenance, **answer["machine"])
