"""export(): write a file, run it, compare it with PyTorch, and only then let it be found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.fx
from torch import nn

from edgecompress.artifacts import (
    Artifact,
    Scored,
    TensorSpec,
    facts_path,
    golden_path,
    profile_path,
    versions,
    write_golden,
)
from edgecompress.calibrating import calibration_of
from edgecompress.codecs.ada_tucker import plain
from edgecompress.costs import cost
from edgecompress.errors import (
    BatchError,
    DataError,
    EdgeCompressError,
    ExportError,
    FileError,
    MissingExtra,
    ModelError,
    first_line,
)
from edgecompress.exporting.equalizing import equalized
from edgecompress.exporting.preparing import prepared
from edgecompress.exporting.proving import Written, written_well
from edgecompress.exporting.verifying import (
    PARITY_BATCHES,
    TOLERANCES,
    approximation,
    as_feed,
    check_score,
    probe,
    proof_inputs,
    run_model,
)
from edgecompress.files import Json, make_folder, reason, remove, several_aside, sha256, size_of
from edgecompress.models import Sample, check_runs, copied, evaluating
from edgecompress.models.accepting import accepted
from edgecompress.models.datasets import Inputs, calibration_inputs, in_batches, of_batch
from edgecompress.progress import Progress, silent
from edgecompress.replacing import check_export, is_log
from edgecompress.reporting.wording import kept_sentences
from edgecompress.scoring import split_score
from edgecompress.settings import ExportOptions as ExportOptions
from edgecompress.settings import Precision, Replaces
from edgecompress.split_scores import SplitScore
from edgecompress.targets import Job, Target, target_named
from edgecompress.targets.half_precision import beyond_half
from edgecompress.targets.keeping import KeepFloat

PLAIN = ExportOptions()
GOLDEN_BATCH = 3
WATCHED_ITEMS, MOST_TOLD = 16, 4
KEEPS_FLOAT = ("onnx",)
"""Targets whose files in fp16 can have operators in float32."""
ONE_AT_A_TIME = "ncnn"
"""The target that takes one item at a time, whatever is asked for."""
CHANNELS_LAST = "litert"
"""The target that can take images in NHWC."""


def export(
    model: nn.Module,
    sample: Sample,
    folder: Path,
    *,
    target: str = "onnx",
    stem: str = "model",
    options: ExportOptions = PLAIN,
    known_score: SplitScore | None = None,
    dense_score: SplitScore | None = None,
    progress: Progress = silent,
) -> Artifact:
    """Write ``folder/stem.onnx`` (or another target's suffix) with its facts and golden pair beside it.

    The file gets its name last, after its runtime agreed with PyTorch at batch 1 and 3 and, where the sample has data,
    its task score on the whole test split was not surely worse, both within the tolerance of the precision. A target
    whose runtime is not for this machine is written unproved, and its facts say so. ``known_score`` is PyTorch's, if it
    was measured before, ``dense_score`` the dense model's.

    Raises:
        ExportError: the exporter refused the model, there is no such target, or it has no such precision.
        ParityError: the runtime computes something else than PyTorch.
        FileError: the folder cannot be written to, or holds a file of that name that may not be replaced.
        MissingExtra: the target's libraries are not installed.
        DataError: int8 is asked for and the sample has no data.
    """
    chosen, model = target_named(target), accepted(model, sample.name)
    _refuse_impossible(chosen, options)
    batch, fact = _batch_of(model, sample, options)
    try:
        fixed = replace(options, batch=batch)
        _refuse_impossible(chosen, fixed)
        made = _exported(chosen, model, sample, folder, stem, fixed, known_score, dense_score, progress)
    except BatchError as error:
        if batch is not None:
            raise
        batch, fact = error.batch, error.fact
        fixed = replace(options, batch=batch)
        made = _exported(chosen, model, sample, folder, stem, fixed, known_score, dense_score, progress)
    return _noted(made, f"takes batches of {batch} only: {fact}") if batch is not None else made


def _batch_of(model: nn.Module, sample: Sample, options: ExportOptions) -> tuple[int | None, str]:
    """The one batch size that a file is to be made for, and why; None: any.

    Raises:
        ModelError: the model does not run on its example, or not at the batch size that is asked for.
    """
    rows = len(sample.inputs[0])
    with evaluating(tried := copied(model)):
        check_runs(tried, sample.inputs, sample.name)
        wanted = options.batch
        if wanted is not None:
            check_runs(tried, of_batch(sample.inputs, wanted), sample.name, f"a batch of {wanted}")
            return wanted, "as asked for with --batch"
        try:
            check_runs(tried, of_batch(sample.inputs, 1), sample.name)
        except ModelError as error:
            return rows, f"PyTorch runs the model on its example of so many items and not on one: {first_line(error)}"
    return None, ""


def _noted(artifact: Artifact, notice: str) -> Artifact:
    """With one more notice, in the facts beside the file too."""
    noted = replace(artifact, notices=(*artifact.notices, notice))
    noted.save()
    return noted


def _exported(
    chosen: Target,
    model: nn.Module,
    sample: Sample,
    folder: Path,
    stem: str,
    options: ExportOptions,
    known_score: SplitScore | None,
    dense_score: SplitScore | None,
    progress: Progress,
) -> Artifact:
    """:func:`export` for any batch size, or for the one of the options."""
    (given, left_out), precision = prepared(model, sample.inputs), options.precision
    model = copied(model).eval()  # a converter may leave something in the one it traces
    path = make_folder(folder) / file_name(chosen, stem, precision)
    check_exportable(path, chosen, sample, options.replaces)
    _forget(path, chosen)
    log = None if _log_path(path).exists() else _log_path(path)
    job = Job(given, sample.inputs, sample.plan, precision, channels_last=options.channels_last, log=log)
    job = replace(job, batch=options.batch)
    if precision == "int8":
        job = _calibrated(job, sample, options)
    elif precision == "fp16":
        job = _ranged(chosen, job, sample, options)
    with several_aside(path) as aside, TemporaryDirectory() as scratch:
        written = written_well(chosen, aside, replace(job, scratch=Path(scratch)), model, sample)
        artifact = _proved(chosen, aside, job, model, sample, written, known_score, progress)
        scored = artifact.score.pair[0] if artifact.score and artifact.score.pair else None
        notices = (*left_out, *written.graph.pop("notices", ()), *kept_sentences(written.graph))
        near = approximation(model, sample, dense_score, scored, options.batch or max(PARITY_BATCHES))
        artifact = replace(artifact, approximation=near, notices=notices)
        artifact.save()
    return replace(artifact, path=path)


def check_traceable(model: nn.Module, inputs: Inputs, name: str) -> None:
    """Prove that PyTorch can trace ``model``, as every target asks: what it computes must not depend on values.

    What ``torch.fx`` traces symbolically, in no time, does not.

    Raises:
        ExportError: with the first thing that cannot be traced.
    """
    try:
        torch.fx.symbolic_trace(copied(model))
    except Exception:  # much of what torch.fx cannot trace is traced by torch.export
        _check_exported(model, inputs, name)


def _check_exported(model: nn.Module, inputs: Inputs, name: str) -> None:
    from edgecompress.targets.onnx import quiet

    try:
        with quiet(), torch.no_grad():
            torch.export.export(plain(copied(model)).eval(), tuple(tensor.contiguous() for tensor in inputs))
    except Exception as error:  # user code of any kind is traced
        cause = error.__cause__ or error
        raise ExportError(
            f"{name}: PyTorch cannot trace the model, as an export has to: {type(cause).__name__}: "
            f"{first_line(cause)[:300]}; where its code chooses by values, use torch.where or torch.cond"
        ) from error


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one of several targets: an artifact, or the reason why not."""

    target: str
    artifact: Artifact | None = None
    error: EdgeCompressError | None = None

    def to_json(self) -> Json:
        """The artifact's summary, or ``status`` (missing, failed) and ``reason``."""
        if self.artifact is not None:
            return self.artifact.summary()
        status = "missing" if isinstance(self.error, MissingExtra) else "failed"
        return {"target": self.target, "status": status, "reason": str(self.error)}


def export_each(
    model: nn.Module,
    sample: Sample,
    folder: Path,
    targets: Sequence[str],
    *,
    options: ExportOptions = PLAIN,
    progress: Progress = silent,
) -> list[Outcome]:
    """Export to several targets, of which some may fail.

    Raises:
        FileError: the folder cannot be written to, or holds what may not be replaced (:func:`export`).
        ModelError: the model does not run, or has no data that is needed.
    """
    make_folder(folder)
    for chosen in map(target_named, targets):
        path = folder / file_name(chosen, "model", options.precision)
        check_exportable(path, chosen, sample, options.replaces)
    outcomes: list[Outcome] = []
    dense_score = _dense_score(sample, progress)
    for done, target in enumerate(targets):
        progress(f"export to {target}", done, len(targets), "")
        known = next((score.pair[0] for score in _scores(outcomes) if score.pair), None)
        try:
            made = export(
                model, sample, folder, target=target, options=options, known_score=known, dense_score=dense_score,
                progress=progress,
            )  # fmt: skip
            outcomes.append(Outcome(target, made))
        except EdgeCompressError as error:
            if isinstance(error, ModelError) and not outcomes:
                raise  # it is of the model, and no file is lost by it
            outcomes.append(Outcome(target, error=error))
    return outcomes


def _scores(outcomes: Sequence[Outcome]) -> list[Scored]:
    return [one.artifact.score for one in outcomes if one.artifact and one.artifact.score]


def fatal(outcomes: Sequence[Outcome], required: Sequence[str] = ()) -> EdgeCompressError | None:
    """The error that makes an export a failure: that of a required target, or any if nothing was made."""
    errors = [outcome for outcome in outcomes if outcome.error is not None]
    needed = [outcome.error for outcome in errors if outcome.target in required or len(errors) == len(outcomes)]
    return next(iter(needed), None)


def _dense_score(sample: Sample, progress: Progress) -> SplitScore | None:
    """The dense model's score, if a compressed one and data are given."""
    try:
        return split_score(sample.dense.model(), sample.dense, progress=progress) if sample.dense is not None else None
    except DataError:
        return None


def _refuse_impossible(target: Target, options: ExportOptions) -> None:
    if options.precision not in target.precisions:
        raise ExportError(f"{target.name}: has no {options.precision}; it has {', '.join(target.precisions)}")
    if options.keep_float and options.precision == "fp32":
        raise ExportError(f"{target.name}: --keep-float is for --quantize int8 and fp16; float32 keeps all in float")
    if options.batch not in (None, 1) and target.name == ONE_AT_A_TIME:
        raise ExportError(f"{target.name}: takes one item at a time; drop --batch or choose another target")
    if options.channels_last and target.name != CHANNELS_LAST:
        raise ExportError(f"{target.name}: --channels-last is for litert only")


def _calibrated(job: Job, sample: Sample, options: ExportOptions) -> Job:
    inputs = calibration_of(sample, options.calibration, seed=0).inputs
    model = equalized(job.model, inputs) if options.equalize else job.model
    return replace(job, model=model, calibration=inputs, keep=KeepFloat(options.keep_float))


def _ranged(target: Target, job: Job, sample: Sample, options: ExportOptions) -> Job:
    """For half precision: with the inputs on which numbers are watched, and what is to stay in float32.

    Raises:
        ExportError: the model leaves half precision, and the target has no operators in float32 beside it.
    """
    inputs = watched_inputs(sample, job.batch or 1)
    if target.name in KEEPS_FLOAT:
        return replace(job, calibration=inputs, keep=KeepFloat(options.keep_float))
    if options.keep_float:
        raise ExportError(
            f"{target.name}: fp16 is for all operators there; --keep-float goes with int8, or --target onnx"
        )
    if found := beyond_half(job.model, in_batches(inputs, job.batch or len(inputs[0]))):
        more = f"; and {len(found) - MOST_TOLD} more" if len(found) > MOST_TOLD else ""
        raise ExportError(
            f"{target.name}: fp16: {'; '.join(found[:MOST_TOLD])}{more}: a device that computes in half precision gets "
            "other numbers; change that in the model (an eps of 1e-6, a mask of -1e4, a scale), or take fp32, int8 or "
            "--target onnx, which keeps such operators in float32"
        )
    return job


def watched_inputs(sample: Sample, batch: int) -> Inputs:
    """Inputs on which numbers are watched: of the training data where there is some, else of the example."""
    count = -(-WATCHED_ITEMS // batch) * batch
    try:
        return calibration_inputs(sample.data("train"), count, seed=0)
    except DataError:
        return probe(sample.inputs, count)


def _proved(
    target: Target,
    path: Path,
    job: Job,
    model: nn.Module,
    sample: Sample,
    written: Written,
    known_score: SplitScore | None,
    progress: Progress,
) -> Artifact:
    """The artifact at ``path``, scored where its runtime is for this machine."""
    inputs, outputs, allowed = written.inputs, written.outputs, TOLERANCES[job.precision]
    scored = None
    if target.runs_here:
        scored = check_score(
            target, path, inputs, model, sample, allowed, known=known_score, batch=job.batch, progress=progress
        )
    _write_golden(path, inputs, outputs, model, proof_inputs(sample, job.precision), job.batch or target.batch)
    parts = target.parts(path)
    return Artifact(
        target=target.name,
        path=path,
        size_bytes=sum(map(size_of, (path, *parts))),
        sha256=sha256(path),
        model=sample.name,
        source=sample.source,
        inputs=inputs,
        outputs=outputs,
        parity=written.parity,
        graph=written.graph,
        cost=cost(model, sample.inputs),
        golden_sha256=sha256(golden_path(path)),
        score=scored,
        plan=sample.plan,
        preprocessing=sample.preprocessing,
        versions=versions(*target.needs),
        precision=job.precision,
        parts={part.name: sha256(part) for part in parts},
    )


def _log_path(path: Path) -> Path:
    """Where what a converter said is kept, if it fails."""
    return path.with_name(path.name + ".log")


def file_name(target: Target, stem: str, precision: Precision = "fp32") -> str:
    """``model.onnx``, ``model.int8.onnx``."""
    return f"{stem if precision == 'fp32' else f'{stem}.{precision}'}{target.suffix}"


def check_exportable(path: Path, target: Target, sample: Sample, replaces: Replaces = "same model") -> None:
    """Prove that an export may write ``path`` and what belongs to it.

    Raises:
        FileError: something is there that may not be replaced.
    """
    parts, companions = target.parts(path), target.companions(path)
    check_export(path, parts, companions, sample.source, replaces)


def _forget(path: Path, target: Target) -> None:
    """Remove what an earlier export left, so that a failure leaves nothing that looks good.

    Raises:
        FileError: it cannot be removed.
    """
    beside = (golden_path(path), profile_path(path), *target.parts(path), *target.companions(path))
    log = (_log_path(path),) if is_log(_log_path(path)) else ()
    try:
        for old in (facts_path(path), path, *beside, *log):
            remove(old)
    except OSError as error:
        raise FileError(f"cannot replace {path}: {reason(error)}") from error


def _write_golden(
    path: Path,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    model: nn.Module,
    example: Inputs,
    batch: int | None,
) -> None:
    fed = probe(example, batch or GOLDEN_BATCH)
    expected = {spec.name: array for spec, array in zip(outputs, run_model(model, fed), strict=True)}
    write_golden(golden_path(path), as_feed(inputs, fed), expected)
