"""export(): write a file, run it, compare it with PyTorch, and only then let it be found; verify(): again, later."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgecompress.artifacts import (
    SQNR_OF_EQUAL_DB,
    Arrays,
    Artifact,
    Parity,
    TensorSpec,
    facts_path,
    golden_path,
    profile_path,
    versions,
    write_golden,
)
from edgecompress.costs import cost
from edgecompress.errors import ExportError, FileError, ParityError
from edgecompress.files import make_folder, sha256, written_aside
from edgecompress.models import Inputs, Outputs, Sample, as_outputs, copied
from edgecompress.progress import Progress, silent
from edgecompress.scoring import score
from edgecompress.targets import TARGETS, Target
from edgecompress.targets.base import Run

PARITY_BATCHES = (1, 3)
GOLDEN_BATCH = 3
RELATIVE_TOLERANCE = 1e-4
SCORE_TOLERANCE = 0.05


def export(model: nn.Module, sample: Sample, folder: Path, *, target: str = "onnx", stem: str = "model") -> Artifact:
    """Write ``folder/stem.onnx`` (or another target's suffix) with its facts and golden pair beside it.

    The file appears under its name only after the runtime agreed with PyTorch at batch 1 and 3: the largest
    absolute difference is at most 1e-4 of PyTorch's largest output.

    Raises:
        ExportError: the exporter refused the model, or there is no such target.
        ParityError: the runtime computes something else than PyTorch.
        FileError: the folder cannot be written to.
    """
    chosen = target_named(target)
    model = copied(model).eval()
    path = make_folder(folder) / f"{stem}{chosen.suffix}"
    _forget(path)
    with written_aside(path) as partial:
        graph = chosen.export(model, sample.inputs, partial, sample.plan)
        inputs, outputs = chosen.signature(partial)
        parity = check_parity(chosen, partial, inputs, model, sample.inputs)
        size_bytes, digest = partial.stat().st_size, sha256(partial)
        _write_golden(path, inputs, outputs, model, sample.inputs)
    artifact = Artifact(
        chosen.name, path, size_bytes, digest, sample.name, sample.source, inputs, outputs, parity, graph,
        cost(model, sample.inputs), sample.plan, sample.preprocessing, versions(),
    )  # fmt: skip
    artifact.save()
    return artifact


def target_named(name: str) -> Target:
    """The entry of ``TARGETS``.

    Raises:
        ExportError: there is none of that name.
    """
    if name not in TARGETS:
        raise ExportError(f"no target {name!r}; there are {', '.join(TARGETS)}")
    return TARGETS[name]


def _forget(path: Path) -> None:
    """Remove what an earlier export left, so that a failure leaves nothing that looks good."""
    try:
        for old in (path, facts_path(path), golden_path(path), profile_path(path)):
            old.unlink(missing_ok=True)
    except OSError as error:
        raise FileError(f"cannot replace {path}: {error}") from error


def probe(inputs: Inputs, batch: int) -> Inputs:
    """``batch`` rows of the example; where it must be repeated, floating rows get seeded noise of its spread."""
    generator = torch.Generator().manual_seed(batch)

    def rows(tensor: Tensor) -> Tensor:
        taken = tensor[torch.arange(batch) % len(tensor)].clone()
        if tensor.is_floating_point() and batch > len(tensor):
            spread = tensor.std(unbiased=False).clamp_min(1e-3)
            taken[len(tensor) :] += spread * torch.randn(taken[len(tensor) :].shape, generator=generator)
        return taken

    return tuple(rows(tensor) for tensor in inputs)


def check_parity(
    target: Target, path: Path, specs: tuple[TensorSpec, ...], model: nn.Module, inputs: Inputs
) -> tuple[Parity, ...]:
    """Compare the file with PyTorch at each of the parity batch sizes.

    Raises:
        ParityError: they differ by more than the tolerance, or a shape or number of outputs differs.
    """
    run, found = target.load(path), []
    for batch in PARITY_BATCHES:
        fed = probe(inputs, batch)
        ours, theirs = run_model(model, fed), _run_file(target, run, specs, fed, path)
        parity = compare(batch, ours, theirs)
        _refuse_difference(target.name, path, parity)
        found.append(parity)
    return tuple(found)


def run_model(model: nn.Module, inputs: Inputs) -> list[np.ndarray[Any, Any]]:
    """PyTorch's outputs as arrays."""
    with torch.inference_mode():
        outputs: Outputs = as_outputs(model(*inputs))
    return [output.numpy() for output in outputs]


def _run_file(
    target: Target, run: Run, specs: tuple[TensorSpec, ...], inputs: Inputs, path: Path
) -> list[np.ndarray[Any, Any]]:
    try:
        return list(run(as_feed(specs, inputs)).values())
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ExportError(f"{target.name}: {path.name} does not run at batch {len(inputs[0])}: {first}") from error


def as_feed(specs: tuple[TensorSpec, ...], inputs: Inputs) -> Arrays:
    """Tensors as named arrays."""
    return {spec.name: tensor.numpy() for spec, tensor in zip(specs, inputs, strict=True)}


def compare(batch: int, expected: list[np.ndarray[Any, Any]], found: list[np.ndarray[Any, Any]]) -> Parity:
    """Largest absolute error and SQNR over all outputs together; infinite error where shapes or counts differ."""
    if [array.shape for array in expected] != [array.shape for array in found]:
        return Parity(batch, math.inf, -math.inf, 0.0)
    signal = np.concatenate([array.astype(np.float64).ravel() for array in expected])
    error = np.concatenate([array.astype(np.float64).ravel() for array in found]) - signal
    if not np.isfinite(error).all():
        return Parity(batch, math.inf, -math.inf, 0.0)
    energy, wrong = float(np.square(signal).sum()), float(np.square(error).sum())
    sqnr = 10 * math.log10(energy / wrong) if wrong and energy else SQNR_OF_EQUAL_DB if not wrong else -math.inf
    return Parity(batch, float(np.abs(error).max()), sqnr, float(np.abs(signal).max()))


def _refuse_difference(target: str, path: Path, parity: Parity) -> None:
    tolerance = RELATIVE_TOLERANCE * max(parity.scale, 1e-6)
    if parity.max_abs_error <= tolerance:
        return
    raise ParityError(
        f"{target}: {path.name.lstrip('.').split('.')[0]} differs from PyTorch at batch {parity.batch}: max abs error "
        f"{parity.max_abs_error:.3g} (allowed {tolerance:.3g}), SQNR {parity.sqnr_db:.1f} dB; no file was kept",
        target=target,
        max_abs_error=parity.max_abs_error,
        sqnr_db=parity.sqnr_db,
        tolerance=tolerance,
    )


def _write_golden(
    path: Path, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], model: nn.Module, example: Inputs
) -> None:
    fed = probe(example, GOLDEN_BATCH)
    expected = {spec.name: array for spec, array in zip(outputs, run_model(model, fed), strict=True)}
    write_golden(golden_path(path), as_feed(inputs, fed), expected)


def predict_with_file(path: Path, target: str = "onnx", *, threads: int = 0) -> Callable[[Tensor], Any]:
    """An exported file as a function from an input batch to an output batch (one input)."""
    chosen = target_named(target)
    run, (inputs, _) = chosen.load(path, threads=threads), chosen.signature(path)

    def predict(batch: Tensor) -> Any:
        outputs = [torch.from_numpy(array) for array in run(as_feed(inputs, (batch,))).values()]
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    return predict


@dataclass(frozen=True, slots=True)
class Verified:
    """What :func:`verify` found: parity, and the task score of PyTorch and of the file (None without data)."""

    artifact: Artifact
    parity: tuple[Parity, ...]
    torch_score: float | None
    artifact_score: float | None


def verify(artifact: Artifact, sample: Sample, *, split: str = "test", progress: Progress = silent) -> Verified:
    """Prove again that an artifact computes what ``sample``'s model does: numbers, and the task score.

    Raises:
        ParityError: outputs differ beyond the tolerance, or the scores by more than 0.05.
    """
    model = sample.model()
    chosen = target_named(artifact.target)
    parity = check_parity(chosen, artifact.path, artifact.inputs, model, sample.inputs)
    if sample.splits is None:
        return Verified(artifact, parity, None, None)
    ours = score(model, sample, split, progress=progress)
    theirs = score(predict_with_file(artifact.path, artifact.target), sample, split, batch_size=64, progress=progress)
    if abs(ours - theirs) > SCORE_TOLERANCE:
        raise ParityError(
            f"{artifact.path}: scores {theirs:.3f} on the {split} split, PyTorch {ours:.3f}: more than "
            f"{SCORE_TOLERANCE} apart",
            target=artifact.target,
            max_abs_error=max(p.max_abs_error for p in parity),
            sqnr_db=min(p.sqnr_db for p in parity),
            tolerance=SCORE_TOLERANCE,
        )
    return Verified(artifact, parity, ours, theirs)
