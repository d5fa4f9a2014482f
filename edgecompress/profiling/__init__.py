"""Storage, work, memory and latency of exported files on a device: profile(), compare(), measure()."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecompress.artifacts import Artifact, facts_path
from edgecompress.devices import Device, is_counting, is_page
from edgecompress.profiling.comparisons import Comparison
from edgecompress.profiling.instruction_counts import (
    AnyComparison,
    AnyProfile,
    InstructionComparison,
    InstructionProfile,
)
from edgecompress.profiling.profiles import Profile
from edgecompress.progress import Progress, silent
from edgecompress.settings import Effort

if TYPE_CHECKING:
    from edgecompress.profiling.bench import Bench
    from edgecompress.profiling.operators import ComparedLayer
    from edgecompress.profiling.vendor_bench import VendorBench
    from edgecompress.profiling.web_bench import WebBench


def profile(path: str | Path, device: Device, **effort: Any) -> AnyProfile:
    """Measure one file alone on a device.

    Args:
        path: an exported file, its facts beside it or not.
        device: as :func:`edgecompress.device_named` gives it.
        effort: fields of :class:`Effort`, as ``runs=50, threads=1``.

    Returns:
        A :class:`Profile`, in milliseconds and bytes; of an emulated device, counted instructions.

    Raises:
        FileError: it cannot be read.
        DeviceError: the device, or what measures on it, failed.
    """
    from edgecompress.profiling.bench import bench

    path = Path(path)
    wanted = _for_batch_of([path], Effort(**effort))
    with bench(device, path) as there:
        return there.profile(path, wanted)


def compare(candidate: str | Path, baseline: str | Path, device: Device, **effort: Any) -> AnyComparison:
    """Measure two files on a device, taking turns, so that both meet the same machine.

    Args:
        candidate: the exported file in question, usually the compressed one.
        baseline: what it is compared with.
        device: as :func:`edgecompress.device_named` gives it.
        effort: fields of :class:`Effort`, as ``runs=50, threads=1``.

    Returns:
        A :class:`Comparison` with the speed-up, its 95 % interval and a verdict; of an emulated device, of counted
        instructions.

    Raises:
        FileError: one cannot be read, or they do not compare.
        DeviceError: the device, or what measures on it, failed.
    """
    from edgecompress.profiling.bench import bench
    from edgecompress.profiling.measured_files import refuse_unlike

    candidate, baseline = Path(candidate), Path(baseline)
    refuse_unlike(candidate, baseline)
    wanted = _for_batch_of([candidate, baseline], Effort(**effort))
    with bench(device, candidate) as there:
        if is_counting(there.session):
            ours, theirs = (there.profile(path, wanted) for path in (candidate, baseline))
            return instruction_comparison(ours, theirs)
        return there.compare(candidate, baseline, wanted)


@dataclass(frozen=True, slots=True)
class Measured:
    """What :func:`measure` gives: each file alone, both in turns, and both in turns with other numbers of threads."""

    profile: AnyProfile
    baseline: AnyProfile | None = None
    comparison: AnyComparison | None = None
    more: tuple[Comparison | Profile, ...] = ()


def measure(
    path: str | Path,
    baseline: str | Path | None,
    device: Device,
    effort: Effort,
    *,
    threads: Sequence[int] | None = (),
    progress: Progress = silent,
) -> Measured:
    """All that is to know of a file, and of a baseline if there is one, in one session on a device.

    Args:
        path: an exported file.
        baseline: another to compare it with, or None.
        device: as :func:`edgecompress.device_named` gives it.
        effort: how long and how often is measured.
        threads: further numbers of threads to measure with; None: all processors of the device.
        progress: is called between the parts.

    Returns:
        Each file's profile, their comparison, and those with other numbers of threads.

    Raises:
        FileError: a file cannot be read, or they do not compare.
        DeviceError: the device, or what measures on it, failed.
    """
    from edgecompress.profiling.bench import Bench, bench
    from edgecompress.profiling.measured_files import refuse_unlike

    path, baseline = Path(path), None if baseline is None else Path(baseline)
    files = [path] if baseline is None else [path, baseline]
    effort = _for_batch_of(files, effort)
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
        if isinstance(there, Bench) and isinstance(theirs, Profile):
            theirs, ours = there.again(baseline, theirs, effort), there.again(path, ours, effort)
        pair = _with_ablations(there, there.compare(path, baseline, effort), ours, theirs, (path, baseline), effort)
        more = _more(there, path, baseline, effort, threads, ours)
        progress("profile", 3, 3, pair.verdict)
        return Measured(ours, theirs, pair, more)


def _for_batch_of(files: Sequence[Path], effort: Effort) -> Effort:
    """The effort with the batch of a file that takes one size only, where no other was asked for."""
    known = (Artifact.load(path) for path in files if effort.batch == 1 and facts_path(path).is_file())
    sizes = [size for one in known if isinstance(size := one.inputs[0].shape[0], int) and size > 1]
    return replace(effort, batch=sizes[0]) if sizes else effort


OUTSIDE_OPERATORS = "(outside operators)"
MOST_ABLATIONS = 8
"""Layers that are put back one by one: each takes as long as the comparison."""


def _with_ablations(
    there: Bench | VendorBench | WebBench,
    pair: Comparison,
    ours: AnyProfile,
    theirs: AnyProfile,
    files: tuple[Path, Path],
    effort: Effort,
) -> Comparison:
    """The comparison with what became of the layers that seem slower when each is dense again, in its place."""
    from edgecompress.profiling.bench import Bench
    from edgecompress.profiling.operators import file_times, suspects

    if not isinstance(there, Bench) or not isinstance(ours, Profile) or not isinstance(theirs, Profile):
        return pair
    if files[0].suffix != ".onnx" or pair.device.provenance != "measured":
        return pair
    names = _names(theirs)
    seeming = suspects(file_times(theirs, pair.baseline_latency), file_times(ours, pair.candidate_latency), names)
    shorter = replace(effort, minutes=0, seconds=min(effort.seconds, 1.0))
    return replace(pair, ablations=there.ablated(*files, seeming[:MOST_ABLATIONS], names, shorter))


def _names(profile: Profile) -> list[str]:
    return list(dict.fromkeys(operator.layer for operator in profile.operators if operator.layer))


def _more(
    there: Bench | VendorBench | WebBench,
    path: Path,
    baseline: Path | None,
    effort: Effort,
    threads: Sequence[int] | None,
    first: AnyProfile,
) -> tuple[Comparison | Profile, ...]:
    """The same with other numbers of threads, without minutes under load; a page has one thread."""
    if isinstance(first, InstructionProfile) or (threads is None and is_page(there.session)):
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
        candidate.threads,
        candidate.batch,
        baseline.counts,
        candidate.counts,
        length=candidate.length,
        past=candidate.past,
    )


def layers_of(found: Measured) -> list[ComparedLayer]:
    """Milliseconds in each layer of the baseline before and after; empty where the runtime does not tell."""
    from edgecompress.profiling.operators import ComparedLayer, compared_layers, file_times

    ours, theirs = found.profile, found.baseline
    if not isinstance(ours, Profile) or not isinstance(theirs, Profile) or not (ours.operators and theirs.operators):
        return []
    names, pair = _names(theirs), found.comparison
    if not isinstance(pair, Comparison):
        return compared_layers(file_times(theirs), file_times(ours), names)
    before, after = file_times(theirs, pair.baseline_latency), file_times(ours, pair.candidate_latency)
    rows = compared_layers(before, after, names, pair.ablations)
    return [*rows, ComparedLayer(OUTSIDE_OPERATORS, before.outside_ms(), after.outside_ms())]
