"""verify(): does an exported file compute what PyTorch does, number by number and in the task score?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgecompress.artifacts import SQNR_OF_EQUAL_DB, Approximation, Arrays, Artifact, Parity, Scored, TensorSpec
from edgecompress.errors import (
    BatchError,
    DataError,
    EdgeCompressError,
    ExportError,
    FileError,
    ParityError,
    first_line,
)
from edgecompress.exporting.judging import FEWEST, Finding, judge, lost
from edgecompress.models import Sample, as_outputs, top1
from edgecompress.models.datasets import Inputs, calibration_inputs, in_batches, origin, size
from edgecompress.progress import Progress, silent
from edgecompress.scoring import split_score
from edgecompress.split_scores import Difference, SplitScore, difference
from edgecompress.targets import Target, target_named
from edgecompress.targets.base import NHWC, Run

PARITY_BATCHES = (1, 3)
PROOF_ITEMS = 8
JUDGED_ITEMS, JUDGED_IN_FULL, JUDGED_NUMBERS = 64, 12, 10_000_000
"""Inputs on which slices are compared, in fewer bits and in float32, and about how many numbers of output at most."""
BAKED = 100.0
"""So many times beyond the tolerance at one batch size and not at another: numbers of that batch are in the graph."""
Array = np.ndarray[Any, Any]
WHOLE = "biu"
"""Kinds of dtypes whose values are compared one by one: true or not, and whole numbers."""


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
    batches = tuple(parity.batch for parity in artifact.parity) or PARITY_BATCHES
    inputs = proof_inputs(sample, artifact.precision)
    parity = check_parity(target, artifact.path, artifact.inputs, model, inputs, tolerance, batches)
    check_slices(target, artifact.path, artifact.inputs, model, sample, artifact.precision, fixed_batch(batches))
    scored = check_score(
        target, artifact.path, artifact.inputs, model, sample, tolerance, batch=batches[0], progress=progress
    )
    return Verified(artifact, parity, scored)


def check_facts(artifact: Artifact) -> None:
    """Prove that the facts beside a file are its own: the files it needs, its inputs and outputs, its golden pair.

    Raises:
        FileError: they are not.
        ExportError: there is no such target.
    """
    target = target_named(artifact.target)
    if artifact.precision not in TOLERANCES or set(artifact.parts) != {p.name for p in target.parts(artifact.path)}:
        raise FileError(f"{artifact.path}: its precision or parts are not those of {target.name}; export it again")
    if target.signature(artifact.path) != (artifact.inputs, artifact.outputs):
        raise FileError(f"{artifact.path}: its inputs or outputs are not those in the facts beside it; export it again")
    artifact.golden()


def check_parity(
    target: Target,
    path: Path,
    specs: tuple[TensorSpec, ...],
    model: nn.Module,
    inputs: Inputs,
    tolerance: Tolerance = TOLERANCES["fp32"],
    batches: Sequence[int] = PARITY_BATCHES,
) -> tuple[Parity, ...]:
    """Compare the file with PyTorch at each of the batch sizes; the worst output of each comes back.

    Raises:
        ParityError: an output differs by more than the tolerance, or in shape, dtype or number.
        BatchError: the file holds at one of the batch sizes only.
        ExportError: the file does not run.
    """
    run, found = loaded(target, path), []
    failed: dict[int, ExportError] = {}
    for batch in batches:
        try:
            found.append(_parity_at(batch, target, path, run, specs, model, inputs, tolerance))
        except ExportError as error:
            failed[batch] = error
    _refuse_failed(target, found, failed)
    return tuple(found)


def check_slices(
    target: Target,
    path: Path,
    specs: tuple[TensorSpec, ...],
    model: nn.Module,
    sample: Sample,
    precision: str,
    batch: int | None = None,
) -> tuple[Finding, ...]:
    """Compare the file with PyTorch slice by slice, on more inputs than the parity batches; what could be better.

    Inputs go through PyTorch in batches of ``batch``, None: in one.

    Raises:
        ParityError: a slice of an output is lost, or an output has too much noise.
        ExportError: the file does not run.
    """
    fed = judged_inputs(model, sample, precision, batch or 1)
    findings = judge(_run_in_batches(model, fed, batch), _run_file(target, target.load(path), specs, fed), precision)
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


def fixed_batch(batches: Sequence[int]) -> int | None:
    """The one batch size that a file was proved at, None: it was at all that are asked for."""
    return None if tuple(batches) == PARITY_BATCHES else batches[0]


def _run_in_batches(model: nn.Module, inputs: Inputs, batch: int | None) -> list[Array]:
    if batch is None:
        return run_model(model, inputs)
    parts = [run_model(model, part) for part in in_batches(inputs, batch)]
    return [_joined(side, batch, len(inputs[0])) for side in zip(*parts, strict=True)]


def proof_inputs(sample: Sample, precision: str) -> Inputs:
    """The inputs of which the parity batches are made: the example; for int8 test items where there is data.

    The ranges of int8 are those of data, which noise around an example may leave.
    """
    if precision != "int8":
        return sample.inputs
    try:
        return calibration_inputs(sample.data("test"), max(PROOF_ITEMS, len(sample.inputs[0])), seed=2)
    except DataError:
        return sample.inputs


def judged_inputs(model: nn.Module, sample: Sample, precision: str, batch: int = 1) -> Inputs:
    """Inputs that tell slices apart: of the test split where numbers were rounded and there is data, else a probe.

    So many that the outputs have at most ``JUDGED_NUMBERS``.
    """
    each = sum(output.size for output in run_model(model, probe(sample.inputs, batch))) / batch
    count = min(JUDGED_ITEMS, max(FEWEST, int(JUDGED_NUMBERS / max(each, 1))))
    if precision == "fp32":
        return probe(sample.inputs, min(count, JUDGED_IN_FULL))
    try:
        return calibration_inputs(sample.data("test"), count, seed=1)
    except DataError:
        return probe(sample.inputs, count)


def loaded(target: Target, path: Path) -> Run:
    """A file by its own runtime.

    Raises:
        ExportError: it cannot be loaded.
    """
    try:
        return target.load(path)
    except (FileError, ExportError) as error:
        cause = first_line(error.__cause__ or error)
        raise ExportError(f"{target.name}: {path.name} does not load in its runtime: {cause}") from error


def _refuse_failed(target: Target, found: Sequence[Parity], failed: Mapping[int, ExportError]) -> None:
    if not failed:
        return
    wrong, first = next(iter(failed.items()))
    near = any(isinstance(e, ParityError) and e.max_abs_error <= BAKED * e.tolerance for e in failed.values())
    if near or not found:
        raise first
    fact = f"a file for any batch size is not PyTorch's model at batch {wrong}"
    raise BatchError(
        f"{target.name}: the file holds at batch {found[0].batch} only: {first_line(first)}", batch=1, fact=fact
    ) from first


def _parity_at(
    batch: int,
    target: Target,
    path: Path,
    run: Run,
    specs: tuple[TensorSpec, ...],
    model: nn.Module,
    inputs: Inputs,
    tolerance: Tolerance,
) -> Parity:
    fed = probe(inputs, batch)
    try:
        expected = run_model(model, fed)
    except EdgeCompressError:
        raise
    except Exception as error:  # the user's code runs
        raise ExportError(
            f"{target.name}: PyTorch cannot run the model at batch {batch}: {first_line(error)}"
        ) from error
    theirs = _run_file(target, run, specs, fed)
    _refuse_other_shapes(target.name, path, batch, expected, theirs)
    parity = compare(batch, expected, theirs)
    if not parity.max_abs_error <= tolerance.relative * parity.scale:
        raise _difference(target.name, path, parity, tolerance.relative * parity.scale)
    return parity


def _refuse_other_shapes(
    target: str, path: Path, batch: int, expected: Sequence[Array], found: Sequence[Array]
) -> None:
    """Say which output is another than PyTorch's in shape, dtype or number."""
    if alike(expected, found):
        return
    ours, theirs = (", ".join(f"{a.dtype} {a.shape}" for a in side) for side in (expected, found))
    raise ParityError(
        f"{target}: {path.name} gives other outputs than PyTorch at batch {batch}: {theirs} for {ours}; "
        "the converter or the runtime changed them; try another target",
        target=target,
        max_abs_error=math.inf,
        sqnr_db=-math.inf,
        tolerance=0.0,
    )


def approximation(
    model: nn.Module,
    sample: Sample,
    dense_score: SplitScore | None = None,
    own_score: SplitScore | None = None,
    batch: int = max(PARITY_BATCHES),
) -> Approximation | None:
    """The distance of a compressed model to the dense one it was made from; None for a dense model."""
    if sample.dense is None:
        return None
    fed = probe(sample.inputs, batch)
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
    """PyTorch's outputs as arrays; a model may write into its inputs, so that it gets copies."""
    with torch.no_grad():
        outputs = as_outputs(model(*(tensor.clone() for tensor in inputs)))
    return [output.numpy() for output in outputs]


def _run_file(target: Target, run: Run, specs: tuple[TensorSpec, ...], inputs: Inputs) -> list[Array]:
    try:
        return list(run_rows(run, specs, as_feed(specs, inputs)).values())
    except Exception as error:
        raise ExportError(
            f"{target.name}: the file does not run at batch {len(inputs[0])}: {first_line(error)}; try another target"
        ) from error


def as_feed(specs: tuple[TensorSpec, ...], inputs: Inputs) -> Arrays:
    """Tensors as named arrays, in the layout and, for whole numbers, in the dtype that the file takes.

    Raises:
        ExportError: a whole number is too large for the file's dtype.
    """
    return {spec.name: _cast(_laid_out(tensor, spec).numpy(), spec) for spec, tensor in zip(specs, inputs, strict=True)}


def _cast(array: Array, spec: TensorSpec) -> Array:
    if array.dtype.kind not in WHOLE or array.dtype == spec.dtype or np.dtype(spec.dtype).kind not in WHOLE:
        return array
    cast: Array = array.astype(spec.dtype)
    if not np.array_equal(cast, array):
        raise ExportError(f"{spec.name}: the file takes {spec.dtype}, which cannot hold {array.max()}")
    return cast


def _laid_out(tensor: Tensor, spec: TensorSpec) -> Tensor:
    return tensor.permute(0, 2, 3, 1).contiguous() if spec.layout == NHWC else tensor


def run_rows(run: Run, specs: tuple[TensorSpec, ...], feed: Arrays) -> Arrays:
    """Run a batch of any size; in parts where the file takes batches of one size, the last filled up with its last row.

    An output that has not as many rows as the parts does not depend on the items, and is that of the first part.
    """
    count, size = len(next(iter(feed.values()))), specs[0].shape[0]
    if not isinstance(size, int) or count == size:
        return run(feed)
    rows = (np.minimum(np.arange(start, start + size), count - 1) for start in range(0, count, size))
    each = [run({name: array[part] for name, array in feed.items()}) for part in rows]
    return {name: _joined([found[name] for found in each], size, count) for name in each[0]}


def _joined(parts: Sequence[Array], size: int, count: int) -> Array:
    return np.concatenate(parts)[:count] if parts[0].shape[:1] == (size,) else parts[0]


def compare(batch: int, expected: Sequence[Array], found: Sequence[Array]) -> Parity:
    """The output that is worst in proportion to its own scale; infinite error where shapes, dtypes or counts differ."""
    if not alike(expected, found):
        return Parity(batch, math.inf, -math.inf, 0.0)
    each = [_compare_one(batch, ours, theirs) for ours, theirs in zip(expected, found, strict=True)]
    return max(each, key=lambda parity: parity.max_abs_error / parity.scale)


def alike(expected: Sequence[Array], found: Sequence[Array]) -> bool:
    """Whether outputs are as many, of the same shapes and of dtypes that hold the same values.

    Whole numbers may come in another dtype: a format may know int32 alone, or floats alone.
    """
    return len(expected) == len(found) and all(
        ours.shape == theirs.shape and (ours.dtype == theirs.dtype or ours.dtype.kind in WHOLE)
        for ours, theirs in zip(expected, found, strict=True)
    )


def _compare_one(batch: int, expected: Array, found: Array) -> Parity:
    """Of whole numbers, the share that differs: labels and indices are near to nothing but themselves.

    Infinities and NaN are equal to themselves; an output that is nothing but NaN proves nothing.
    """
    signal, other = (side.astype(np.float64).ravel() for side in (expected, found))
    same = (signal == other) | (np.isnan(signal) & np.isnan(other))
    if expected.dtype.kind in WHOLE:
        share = 1 - float(same.mean()) if same.size else 0.0
        return Parity(batch, share, SQNR_OF_EQUAL_DB if share == 0 else -10 * math.log10(share), 1.0)
    error = np.subtract(other, signal, out=np.zeros_like(signal), where=~same)
    if not np.isfinite(error).all() or (signal.size and np.isnan(signal).all()):
        return Parity(batch, math.inf, -math.inf, 1.0)
    signal = np.where(np.isfinite(signal), signal, 0)
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
    batch: int | None = None,
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
    with torch.no_grad():
        example = model(*probe(sample.inputs, batch or 1))
    run = predict_with_file(path, target, specs, like=example)
    theirs = split_score(run, sample, batch_size=64, progress=progress)
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
    path: Path, target: Target, specs: tuple[TensorSpec, ...], *, threads: int = 0, like: Any = None
) -> Callable[..., Any]:
    """An exported file as a function from a batch of inputs to a batch of outputs.

    ``threads`` 0: one where items are run one by one, else the runtime's choice. ``like`` is an output of PyTorch's
    model, whose form and dtypes the outputs get.
    """
    run = target.load(path, threads=threads or int(target.batch is not None))

    def predict(*inputs: Tensor) -> Any:
        outputs = [torch.from_numpy(array) for array in run_rows(run, specs, as_feed(specs, inputs)).values()]
        if like is None:
            return outputs[0] if len(outputs) == 1 else tuple(outputs)
        return _formed(outputs, like)

    return predict


def _formed(outputs: Sequence[Tensor], like: Any) -> Any:
    """Outputs as a model gives them: alone or in its tuple or list, None where it gives None, in its dtypes."""
    if isinstance(like, Tensor):
        return outputs[0].to(like.dtype)
    left = iter(outputs)
    filled = [None if item is None else next(left).to(item.dtype) for item in like]
    return type(like)(*filled) if hasattr(like, "_fields") else type(like)(filled)
