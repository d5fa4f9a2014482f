"""Files to be measured: their facts, whether they compare, and how they get onto a device."""

from __future__ import annotations

from pathlib import Path

from edgecompress.artifacts import Artifact
from edgecompress.devices import Session
from edgecompress.errors import FileError
from edgecompress.files import Json, sha256, size_of, zipped_bytes
from edgecompress.plans import Cost
from edgecompress.targets import TARGETS, Target, target_of


def push_once(session: Session, pushed: dict[Path, str], file: Path, *beside: Path) -> str:
    """The path of a file on the device, pushed once, with a model's parts and what must lie ``beside`` it."""
    if file not in pushed:
        is_model = any(file.name.endswith(target.suffix) for target in TARGETS.values())
        pushed[file] = session.push(file, *(target_of(file).parts(file) if is_model else ()), *beside)
    return pushed[file]


def facts_of_pair(candidate: Path, baseline: Path) -> Json:
    """The fields of a comparison that are about its two files, wherever they are measured."""
    files = {"baseline": baseline, "candidate": candidate}
    names = {role: file.name for role, file in files.items()}
    return {**names, **{f"{role}_sha256": sha256(file) for role, file in files.items()}}


def facts_of_file(path: Path, target: Target) -> Json:
    """The fields of a profile that are about the file itself, wherever it is measured."""
    cost = _known_cost(path)
    return {
        "file": path.name,
        "sha256": sha256(path),
        "target": target.name,
        "size_bytes": sum(map(size_of, (path, *target.parts(path)))),
        "zipped_bytes": zipped_bytes(path, *target.parts(path)),
        "weight_bytes": target.weight_bytes(path),
        "params": cost.params if cost else None,
        "macs": cost.macs if cost else None,
    }


def _known_cost(path: Path) -> Cost | None:
    """From the facts beside a file of ours; None for any other file."""
    try:
        return Artifact.load(path).cost
    except FileError:
        return None


def refuse_unlike(candidate: Path, baseline: Path) -> None:
    """Times of files of different formats, or that take different inputs, say nothing about each other.

    Raises:
        FileError: they are such.
    """
    target = target_of(candidate)
    if target_of(baseline) is not target:
        raise FileError(f"{candidate} and {baseline} are of different targets: their times do not compare")
    ours, theirs = ([(s.dtype, s.shape[1:]) for s in target.signature(path)[0]] for path in (candidate, baseline))
    if ours != theirs:
        raise FileError(f"{candidate} and {baseline} take different inputs ({ours} and {theirs}): times do not compare")
