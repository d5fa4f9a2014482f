"""export(): write a file, run it, compare it with PyTorch, and only then let it be found."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from edgecompress.artifacts import (
    Artifact,
    TensorSpec,
    facts_path,
    golden_path,
    profile_path,
    versions,
    write_golden,
)
from edgecompress.costs import cost
from edgecompress.datasets import Inputs
from edgecompress.errors import ExportError, FileError
from edgecompress.files import make_folder, reason, sha256, written_aside
from edgecompress.models import Sample, copied
from edgecompress.progress import Progress, silent
from edgecompress.verifying import as_feed, check_parity, check_score, probe, run_model, target_named

GOLDEN_BATCH = 3


def export(
    model: nn.Module,
    sample: Sample,
    folder: Path,
    *,
    target: str = "onnx",
    stem: str = "model",
    known_score: float | None = None,
    progress: Progress = silent,
) -> Artifact:
    """Write ``folder/stem.onnx`` (or another target's suffix) with its facts and golden pair beside it.

    The file gets its name last, after the runtime agreed with PyTorch at batch 1 and 3 (largest absolute difference
    at most 1e-4 of the output's largest value) and, where the sample has data, in the task score on the whole test
    split. ``known_score`` is PyTorch's, if it was measured before.

    Raises:
        ExportError: the exporter refused the model, or there is no such target.
        ParityError: the runtime computes something else than PyTorch.
        FileError: the folder cannot be written to, or holds a file of that name that is not ours.
    """
    chosen = target_named(target)
    _refuse_half(model)
    model = copied(model).eval()
    path = make_folder(folder) / f"{stem}{chosen.suffix}"
    _forget(path)
    with written_aside(path) as aside:
        graph = chosen.export(model, sample.inputs, aside, sample.plan)
        inputs, outputs = chosen.signature(aside)
        parity = check_parity(chosen, aside, inputs, model, sample.inputs)
        scored = check_score(chosen, aside, inputs, model, sample, known=known_score, progress=progress)
        _write_golden(path, inputs, outputs, model, sample.inputs)
        artifact = Artifact(
            target=chosen.name,
            path=path,
            size_bytes=aside.stat().st_size,
            sha256=sha256(aside),
            model=sample.name,
            source=sample.source,
            inputs=inputs,
            outputs=outputs,
            parity=parity,
            graph=graph,
            cost=cost(model, sample.inputs),
            golden_sha256=sha256(golden_path(path)),
            score=scored,
            plan=sample.plan,
            preprocessing=sample.preprocessing,
            versions=versions(),
        )
        artifact.save()
    return artifact


def _refuse_half(model: nn.Module) -> None:
    """Half precision is a property of the file, chosen at export, not of the model."""
    halves = {str(p.dtype) for p in model.parameters() if p.dtype in (torch.float16, torch.bfloat16)}
    if halves:
        raise ExportError(f"the model's weights are {', '.join(sorted(halves))}; give it in float32: model.float()")


def _forget(path: Path) -> None:
    """Remove what an earlier export left, so that a failure leaves nothing that looks good.

    Raises:
        FileError: a file of that name is there that no export wrote.
    """
    if path.exists() and not facts_path(path).is_file():
        raise FileError(
            f"{path}: is there and was not written by edgecompress; move it or choose another folder with -o"
        )
    try:
        for old in (path, facts_path(path), golden_path(path), profile_path(path)):
            old.unlink(missing_ok=True)
    except OSError as error:
        raise FileError(f"cannot replace {path}: {reason(error)}") from error


def _write_golden(
    path: Path, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], model: nn.Module, example: Inputs
) -> None:
    fed = probe(example, GOLDEN_BATCH)
    expected = {spec.name: array for spec, array in zip(outputs, run_model(model, fed), strict=True)}
    write_golden(golden_path(path), as_feed(inputs, fed), expected)
