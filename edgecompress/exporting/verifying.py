"""verify(): does an exported file compute what PyTorch does, number by number and in the task score?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from edgecompress.artifacts import Artifact, Parity, Scored, TensorSpec
from edgecompress.errors import (
    BatchError,
    EdgeCompressError,
    ExportError,
    FileError,
    LengthError,
    ParityError,
    first_line,
)
from edgecompress.exporting.caching import STEPS, generated, padded, takes_cache
from edgecompress.exporting.inputs import parity_inputs, probe, slice_inputs
from edgecompress.exporting.lengths import at_length, length_of, other_length, takes_any_length
from edgecompress.exporting.outputs import Array, alike, as_feed, compare, run_in_batches, run_model, run_rows
from edgecompress.exporting.score_checks import check_score
from edgecompress.exporting.slices import Finding, compare_slices, described
from edgecompress.exporting.tolerances import TOLERANCES, Tolerance, allowed_error, float32_error
from edgecompress.models import Sample
from edgecompress.models.datasets import Inputs
from edgecompress.models.stepping import LOGITS, logits_of
from edgecompress.progress import Progress, silent
from edgecompress.targets import Target, target_named
from edgecompress.targets.base import Run

PARITY_BATCHES = (1, 3)
MOST_LOGITS = 5_000_000
"""Of a batch that is compared step by step: those of long texts would take gigabytes."""
BAKED = 100.0
"""So many times beyond the tolerance at one batch size and not at another: numbers of that batch are in the graph."""


@dataclass(frozen=True, slots=True)
class Verified:
    """What :func:`verify` found; ``score`` is None for a sample without data."""

    artifact: Artifact
    parity: tuple[Parity, ...]
    score: Scored | None


def verify(artifact: Artifact, sample: Sample, *, progress: Progress = silent) -> Verified:
    """Prove again that an artifact computes what ``sample``'s model does: numbers, and the task score.

    Args:
        artifact: a file that is whole, as :meth:`Artifact.load` proves.
        sample: the model it was exported from.
        progress: is called while the score is computed.

    Returns:
        The errors at each batch size and the scores; none where the target's runtime is not for this machine.

    Raises:
        ParityError: outputs differ beyond the tolerance, or the scores do.
        ExportError: the file does not run.
    """
    check_facts(artifact)
    model, target = sample.model(), target_named(artifact.target)
    if not target.runs_here:
        return Verified(artifact, (), None)
    tolerance = TOLERANCES[artifact.precision]
    batches = tuple(dict.fromkeys(parity.batch for parity in artifact.parity)) or PARITY_BATCHES
    if takes_cache(artifact.inputs):
        parity = check_steps(target, artifact.path, artifact.inputs, model, sample.inputs)
    else:
        inputs = parity_inputs(sample, artifact.precision)
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

    One that takes sequences of any length is compared at a length that ``inputs`` do not have too.

    Raises:
        ParityError: an output differs by more than the tolerance, or in shape, dtype or number.
        BatchError: the file holds at one of the batch sizes only.
        LengthError: the file holds at the length of ``inputs`` only.
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
    length = length_of(inputs) if takes_any_length(specs) else None
    if length is None:
        return tuple(found)
    other = other_length(length)
    try:
        last = _parity_at(batches[-1], target, path, run, specs, model, at_length(inputs, other), tolerance)
    except ExportError as error:
        fact = f"a file for any length is not PyTorch's model at {other} positions"
        raise LengthError(f"{first_line(error)}, at {other} positions", fact=fact) from error
    return (*(replace(one, length=length) for one in found), replace(last, length=other))


def check_steps(
    target: Target, path: Path, specs: tuple[TensorSpec, ...], model: nn.Module, inputs: Inputs
) -> tuple[Parity, ...]:
    """Compare a file with a KV cache, step by step, with what PyTorch gives for all tokens at once, without a cache.

    At each batch size, of which the larger one has padding in front of a row, and at two lengths: that of ``inputs``,
    or as many positions as ``MOST_LOGITS`` allow, and another.

    Raises:
        ParityError: logits differ by more than the tolerance.
        ExportError: the file does not run.
    """
    run = loaded(target, path)
    vocabulary = next(each.shape[2] for each in target.signature(path)[1] if each.name == LOGITS)
    assert isinstance(vocabulary, int)
    most = max(2 * STEPS, MOST_LOGITS // (PARITY_BATCHES[-1] * vocabulary))
    length = min(inputs[0].shape[1], most)
    sizes = [*((batch, length) for batch in PARITY_BATCHES), (PARITY_BATCHES[-1], other_length(length))]
    return tuple(_parity_of_steps(target, path, run, specs, model, inputs[0], size) for size in sizes)


def _parity_of_steps(
    target: Target,
    path: Path,
    run: Run,
    specs: tuple[TensorSpec, ...],
    model: nn.Module,
    tokens: Tensor,
    size: tuple[int, int],
) -> Parity:
    batch, length = size
    (rows,), mask = at_length(probe((tokens,), batch), length), padded(batch, length)
    expected = logits_of(model, rows, torch.from_numpy(mask)).numpy()
    try:
        found = generated(run, specs, rows.numpy(), mask)
    except Exception as error:
        raise ExportError(f"{target.name}: the file does not run token by token: {first_line(error)}") from error
    counts = mask[:, :, None].astype(expected.dtype)
    parity = replace(compare(batch, [expected * counts], [found * counts]), length=length)

    def counted(language: nn.Module, fed: Inputs) -> list[Array]:
        return [logits_of(language, *fed).numpy() * counts]

    own_error = partial(float32_error, counted, model, (rows, torch.from_numpy(mask)))
    return _within(target.name, path, parity, TOLERANCES["fp32"], own_error)


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
    fed = slice_inputs(model, sample, precision, batch or 1)
    expected, actual = run_in_batches(model, fed, batch), _run_file(target, target.load(path), specs, fed)
    findings = compare_slices(expected, actual, precision)
    if text := described(findings):
        raise ParityError(
            f"{target.name}: {path.name} differs from PyTorch: {text}",
            target=target.name,
            max_abs_error=math.inf,
            sqnr_db=-math.inf,
            tolerance=TOLERANCES[precision].relative,
            outputs=tuple(sorted({finding.output for finding in findings if finding.fatal})),
        )
    return findings


def fixed_batch(batches: Sequence[int]) -> int | None:
    """The one batch size that a file was proved at, None: it was at all of ``PARITY_BATCHES``."""
    return None if tuple(batches) == PARITY_BATCHES else batches[0]


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
    return _within(target.name, path, parity, tolerance, partial(float32_error, run_model, model, fed))


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


def _run_file(target: Target, run: Run, specs: tuple[TensorSpec, ...], inputs: Inputs) -> list[Array]:
    try:
        return list(run_rows(run, specs, as_feed(specs, inputs)).values())
    except Exception as error:
        raise ExportError(
            f"{target.name}: the file does not run at batch {len(inputs[0])}: {first_line(error)}; try another target"
        ) from error


def _within(target: str, path: Path, parity: Parity, tolerance: Tolerance, own_error: Callable[[], float]) -> Parity:
    """``parity``, where that is no more than is allowed."""
    allowed = allowed_error(tolerance, parity, own_error)
    if parity.max_abs_error <= allowed:
        return parity
    raise ParityError(
        f"{target}: {path.name} differs from PyTorch at batch {parity.batch}: max abs error {parity.max_abs_error:.3g} "
        f"(allowed {allowed:.3g}), SQNR {parity.sqnr_db:.1f} dB",
        target=target,
        max_abs_error=parity.max_abs_error,
        sqnr_db=parity.sqnr_db,
        tolerance=allowed,
    )
