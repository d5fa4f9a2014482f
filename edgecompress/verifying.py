"""verify(): does an exported file compute what PyTorch does, number by number and in the task score?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgecompress.artifacts import SQNR_OF_EQUAL_DB, Approximation, Arrays, Artifact, Parity, Scored, TensorSpec
from edgecompress.datasets import Inputs, calibration_inputs, origin, size
from edgecompress.errors import DataError, ExportError, FileError, ParityError, first_line
from edgecompress.judging import FEWEST, Finding, judge, lost
from edgecompress.models import Sample, as_outputs, top1
from edgecompress.progress import Progress, silent
from edgecompress.scoring import split_score
from edgecompress.split_scores import Difference, SplitScore, difference
from edgecompress.targets import TARGETS, Target
from edgecompress.targets.base import NHWC, Run

PARITY_BATCHES = (1, 3)
JUDGED_ITEMS, JUDGED_IN_FULL, JUDGED_NUMBERS = 64, 12, 10_000_000
"""Inputs on which slices are compared, in fewer bits and in float32, and about how many numbers of output at most."""
Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far a file may be from PyTorch.

    ``relative`` is the largest absolute error as a fraction of PyTorch's largest absolute value of the same output,
    ``points`` how much worse its score in percent may be (for a score of the user's own, so many hundredths of it).
    """

    relative: float
    points: float


TOLERANCES: dict[str, Tolerance] = {
    "fp32": Tolerance(1e-4, 0.05),
    "fp16": Tolerance(2e-2, 0.1),
    "int8": Tolerance(0.25, 1.0),
}
"""By precision."""


@dataclass(frozen=True, slots=True)
class Verified:
    """What :func:`verify` found; ``score`` is None for a sample without data."""

    artifact: Artifact
    parity: tuple[Parity, ...]
    score: Scored | None


def verify(artifact: Artifact, sample: Sample, *, progress: Progress = silent) -> Verified:
    """Prove again that an artifact computes what ``sample``'s model does: numbers, and the task score.

    Raises:
        ParityError: outputs differ beyond the tolerance, or the scores do.
        ExportError: the file does not run.
    """
    check_facts(artifact)
    model, target = sample.model(), target_named(artifact.target)
    if not target.runs_here:
        return Verified(artifact, (), None)
    tolerance = TOLERANCES[artifact.precision]
    parity = check_parity(target, artifact.path, artifact.inputs, model, sample.inputs, tolerance)
    check_slices(target, artifact.path, artifact.inputs, model, sample, artifact.precision)
    scored = check_score(target, artifact.path, artifact.inputs, model, sample, tolerance, progress=progress)
    return Verified(artifact, parity, scored)


def check_facts(artifact: Artifact) -> None:
    """Prove that the facts beside a file are its own: its inputs and outputs, and its golden pair.

    Raises:
        FileError: they are not.
        ExportError: there is no such target.
    """
    if target_named(artifact.target).signature(artifact.path) != (artifact.inputs, artifact.outputs):
        raise FileError(f"{artifact.path}: its inputs or outputs are not those in the facts beside it; export it again")
    artifact.golden()


def target_named(name: str) -> Target:
    """The entry of ``TARGETS``.

    Raises:
        ExportError: there is none of that name.
    """
    if name not in TARGETS:
        raise ExportError(f"no target {name!r}; there are {', '.join(TARGETS)}")
    return TARGETS[name]


def check_parity(
    target: Target,
    path: Path,
    specs: tuple[TensorSpec, ...],
    model: nn.Module,
    inputs: Inputs,
    tolerance: Tolerance = TOLERANCES["fp32"],
) -> tuple[Parity, ...]:
    """Compare the file with PyTorch at each of the parity batch sizes; the worst output of each comes back.

    Raises:
        ParityError: an output differs by more than the tolerance, or in shape, dtype or number.
        ExportError: the file does not run.
    """
    run, found = target.load(path), []
    for batch in PARITY_BATCHES:
        fed = probe(inputs, batch)
        parity = compare(batch, run_model(model, fed), _run_file(target, run, specs, fed))
        if not parity.max_abs_error <= tolerance.relative * parity.scale:
            raise _difference(target.name, path, parity, tolerance.relative * parity.scale)
        found.append(parity)
    return tuple(found)


def check_slices(
    target: Target, path: Path, specs: tuple[TensorSpec, ...], model: nn.Module, sample: Sample, precision: str
) -> tuple[Finding, ...]:
    """Compare the file with PyTorch slice by slice, on more inputs than the parity batches; what could be better.

    Raises:
        ParityError: a slice of an output is lost, or an output has too much noise.
        ExportError: the file does not run.
    """
    fed = judged_inputs(model, sample, precision)
    findings = judge(run_model(model, fed), _run_file(target, target.load(path), specs, fed), precision)
    if said := lost(findings):
        raise ParityError(
            f"{target.name}: {path.name} differs from PyTorch: {said}",
            target=target.name,
            max_abs_error=math.inf,
            sqnr_db=-math.inf,
            tolerance=TOLERANCES[precision].relative,
            outputs=tuple(sorted({finding.output for finding in findings if finding.fatal})),
        )
    return findings


def judged_inputs(model: nn.Module, sample: Sample, precision: str) -> Inputs:
    """Inputs that tell slices apart: of the test split where numbers were rounded and there is data, else a probe.

    So many that the outputs have at most ``JUDGED_NUMBERS``.
    """
    each = sum(output.size for output in run_model(model, probe(sample.inputs, 1)))
    count = min(JUDGED_ITEMS, max(FEWEST, JUDGED_NUMBERS // max(each, 1)))
    if precision == "fp32":
        return probe(sample.inputs, min(count, JUDGED_IN_FULL))
    try:
        return calibration_inputs(sample.data("test"), count, seed=1)
    except DataError:
        return probe(sample.inputs, count)


def approximation(
    model: nn.Module, sample: Sample, dense_score: SplitScore | None = None, own_score: SplitScore | None = None
) -> Approximation | None:
    """The distance of a compressed model to the dense one it was made from; None for a dense model."""
    if sample.dense is None:
        return None
    fed = probe(sample.inputs, max(PARITY_BATCHES))
    parity = compare(len(fed[0]), run_model(sample.dense.model(), fed), run_model(model, fed))
    dense, own = (one.value if one else None for one in (dense_score, own_score))
    apart = difference(dense_score, own_score) if dense_score and own_score else None
    return Approximation(parity, dense, own, apart)


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


def run_model(model: nn.Module, inputs: Inputs) -> list[Array]:
    """PyTorch's outputs as arrays."""
    with torch.no_grad():
        outputs = as_outputs(model(*inputs))
    return [output.numpy() for output in outputs]


def _run_file(target: Target, run: Run, specs: tuple[TensorSpec, ...], inputs: Inputs) -> list[Array]:
    try:
        return list(run_rows(run, specs, as_feed(specs, inputs)).values())
    except Exception as error:
        raise ExportError(
            f"{target.name}: the file does not run at batch {len(inputs[0])}: {first_line(error)}"
        ) from error


def as_feed(specs: tuple[TensorSpec, ...], inputs: Inputs) -> Arrays:
    """Tensors as named arrays, in the layout the file takes."""
    return {spec.name: _laid_out(tensor, spec).numpy() for spec, tensor in zip(specs, inputs, strict=True)}


def _laid_out(tensor: Tensor, spec: TensorSpec) -> Tensor:
    return tensor.permute(0, 2, 3, 1).contiguous() if spec.layout == NHWC else tensor


def run_rows(run: Run, specs: tuple[TensorSpec, ...], feed: Arrays) -> Arrays:
    """Run a batch of any size; item by item where the file takes one at a time."""
    count = len(next(iter(feed.values())))
    if specs[0].shape[:1] != (1,) or count == 1:
        return run(feed)
    each = [run({name: array[row : row + 1] for name, array in feed.items()}) for row in range(count)]
    return {name: np.concatenate([found[name] for found in each]) for name in each[0]}


def compare(batch: int, expected: Sequence[Array], found: Sequence[Array]) -> Parity:
    """The output that is worst in proportion to its own scale; infinite error where shapes, dtypes or counts differ."""
    if [(a.shape, a.dtype) for a in expected] != [(a.shape, a.dtype) for a in found]:
        return Parity(batch, math.inf, -math.inf, 0.0)
    each = [_compare_one(batch, ours, theirs) for ours, theirs in zip(expected, found, strict=True)]
    return max(each, key=lambda parity: parity.max_abs_error / parity.scale)


def _compare_one(batch: int, expected: Array, found: Array) -> Parity:
    signal = expected.astype(np.float64).ravel()
    error = found.astype(np.float64).ravel() - signal
    if not np.isfinite(error).all():
        return Parity(batch, math.inf, -math.inf, 1.0)
    energy, wrong = float(np.square(signal).sum()), float(np.square(error).sum())
    sqnr = 10 * math.log10(max(energy, 1e-30) / wrong) if wrong else SQNR_OF_EQUAL_DB
    scale = max(float(np.abs(signal).max(initial=0)), 1e-6)
    return Parity(batch, float(np.abs(error).max(initial=0)), sqnr, scale)


def _difference(target: str, path: Path, parity: Parity, tolerance: float) -> ParityError:
    return ParityError(
        f"{target}: {path.name} differs from PyTorch at batch {parity.batch}: max abs error {parity.max_abs_error:.3g} "
        f"(allowed {tolerance:.3g}), SQNR {parity.sqnr_db:.1f} dB",
        target=target,
        max_abs_error=parity.max_abs_error,
        sqnr_db=parity.sqnr_db,
        tolerance=tolerance,
    )


def check_score(
    target: Target,
    path: Path,
    specs: tuple[TensorSpec, ...],
    model: nn.Module,
    sample: Sample,
    allowed: Tolerance = TOLERANCES["fp32"],
    *,
    known: SplitScore | None = None,
    progress: Progress = silent,
) -> Scored | None:
    """Score PyTorch (unless ``known``) and the file on the whole test split; None where there is no data.

    A file is never refused for a better score, and for a worse one only if it is surely worse by more than allowed:
    on the same items, with 99 % confidence. Where no interval can be made, the plain difference decides.

    Raises:
        ParityError: the file's score is worse than PyTorch's by more than the tolerance.
    """
    try:
        test = sample.data("test")
    except DataError:
        return None
    ours = split_score(model, sample, progress=progress) if known is None else known
    theirs = split_score(predict_with_file(path, target, specs), sample, batch_size=64, progress=progress)
    apart = difference(ours, theirs)
    tolerance = allowed.points if sample.score is top1 else allowed.points / 100 * abs(ours.value)
    if apart.worse_by_more_than(tolerance):
        raise ParityError(
            f"{target.name}: {path.name} scores {theirs.value:.4g} on the {theirs.items:,} items of the test split, "
            f"PyTorch {ours.value:.4g}: {_surely_worse(apart)}, allowed {tolerance:.2g}",
            target=target.name,
            max_abs_error=abs(apart.value),
            sqnr_db=-math.inf,
            tolerance=tolerance,
        )
    return Scored(size(test), origin(test), ours.value, theirs.value, apart, (ours, theirs))


def _surely_worse(apart: Difference) -> str:
    flips = f"{apart.flips[0]:,} of them became wrong and {apart.flips[1]:,} right, " if apart.flips else ""
    if apart.at_best is None:
        return f"{-apart.value:.3g} worse (no interval: {apart.why_not})"
    return f"{flips}with 99 % confidence at least {-apart.at_best:.3g} worse"


def predict_with_file(
    path: Path, target: Target, specs: tuple[TensorSpec, ...], *, threads: int = 0
) -> Callable[..., Any]:
    """An exported file as a function from a batch of inputs to a batch of outputs.

    ``threads`` 0: one where items are run one by one, else the runtime's choice.
    """
    run = target.load(path, threads=threads or int(target.batch is not None))

    def predict(*inputs: Tensor) -> Any:
        outputs = [torch.from_numpy(array) for array in run_rows(run, specs, as_feed(specs, inputs)).values()]
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    return predict
