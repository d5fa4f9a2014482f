"""export(): write a file, run it, compare it with PyTorch, and only then let it be found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from torch import nn

from edgecompress.artifacts import Artifact, TensorSpec, facts_path, golden_path, profile_path, versions, write_golden
from edgecompress.costs import cost
from edgecompress.errors import BatchError, DataError, FileError, LengthError
from edgecompress.exporting.caching import golden_step
from edgecompress.exporting.inputs import golden_inputs, probe
from edgecompress.exporting.jobs import DEFAULT_EXPORT, Batch, Jobs, jobs_of, refuse_impossible
from edgecompress.exporting.outcomes import Outcome, fatal, outcomes_of, without_extras
from edgecompress.exporting.outputs import as_feed, run_model
from edgecompress.exporting.proving import Written
from edgecompress.exporting.rewriting import written_for_runtime
from edgecompress.exporting.score_checks import approximation, check_score
from edgecompress.exporting.tolerances import TOLERANCES
from edgecompress.exporting.verifying import PARITY_BATCHES
from edgecompress.files import folder_made, make_folder, reason, remove, several_aside, sha256, size_of
from edgecompress.models import Sample
from edgecompress.models.datasets import Inputs
from edgecompress.models.stepping import Step
from edgecompress.progress import Progress, silent
from edgecompress.replacing import check_export, is_log
from edgecompress.reporting.wording import kept_sentences
from edgecompress.scoring import split_score
from edgecompress.settings import ExportOptions, Precision, Replaces
from edgecompress.split_scores import SplitScore
from edgecompress.targets import Job, Target, target_named
from edgecompress.targets.probing import probe as probe_target
from edgecompress.targets.shared import Traces

__all__ = [
    "DEFAULT_EXPORT",
    "ExportOptions",
    "Exporter",
    "Outcome",
    "check_exportable",
    "export",
    "export_each",
    "exporter_of",
    "fatal",
    "file_name",
    "without_extras",
]

GOLDEN_BATCH = 3
Done = TypeVar("Done")


def export(
    model: nn.Module,
    sample: Sample,
    folder: str | Path,
    *,
    target: str = "onnx",
    stem: str = "model",
    options: ExportOptions = DEFAULT_EXPORT,
    known_score: SplitScore | None = None,
    dense_score: SplitScore | None = None,
    progress: Progress = silent,
) -> Artifact:
    """Write ``folder/stem.onnx`` (or another target's suffix) with its facts and golden pair beside it.

    The file gets its name last, after its runtime agreed with PyTorch at batch 1 and 3 and, where the sample has data,
    its task score on the whole test split was not surely worse, both within the tolerance of the precision. A target
    whose runtime is not for this machine is written unproved, and its facts say so.

    Args:
        model: dense or compressed, in eval mode.
        sample: what it is of; its inputs, data, score and plan are used.
        folder: for the files.
        target: a name in ``TARGETS``.
        stem: of the files' names.
        options: precision, batch size, layers that stay in float32.
        known_score: PyTorch's on the test split, where it was measured before.
        dense_score: the dense model's, of the same kind.
        progress: is called between the steps.

    Returns:
        The file and its facts.

    Raises:
        ExportError: the exporter refused the model, there is no such target, or it has no such precision.
        ParityError: the runtime computes something else than PyTorch.
        FileError: the folder cannot be written to, or holds a file of that name that may not be replaced.
        MissingExtra: the target's libraries are not installed.
        DataError: int8 without data, which sets the ranges.
    """
    chosen = target_named(target)
    with exporter_of(model, sample, Path(folder), stem, options, known_score, dense_score) as exporter:
        return exporter.export(chosen, progress)


@dataclass(slots=True)
class Exporter:
    """Writes files of one model, for one target after the other.

    ``known_score`` is PyTorch's, once it was measured.
    """

    jobs: Jobs
    folder: Path
    stem: str
    known_score: SplitScore | None
    dense_score: SplitScore | None

    def export(self, target: Target, progress: Progress = silent) -> Artifact:
        """Write the target's file, with its facts and golden pair beside it; raises what :func:`export` does."""
        made, batch = self._at_a_batch(target, lambda size: self._exported(target, size, progress))
        if made.score and made.score.pair:
            self.known_score = made.score.pair[0]
        if self.jobs.fixed_length and target.free_length:
            length = self.jobs.sample.inputs[0].shape[1]
            made = _noted(made, f"takes sequences of {length} positions only: {self.jobs.fixed_length}")
        return _noted(made, f"takes batches of {batch.size} only: {batch.why}") if batch.size is not None else made

    def probe(self, target: Target) -> None:
        """Take the first step of an export, which :meth:`export` then need not; raises what it does."""
        self._at_a_batch(target, lambda size: probe_target(target, self.jobs.job(target, size, None)))

    def _at_a_batch(self, target: Target, work: Callable[[int | None], Done]) -> tuple[Done, Batch]:
        """What ``work`` gives for batches, and sequences, of any size, or for the one size that can be had."""
        refuse_impossible(target, self.jobs.options)
        batch = self.jobs.batch()
        refuse_impossible(target, replace(self.jobs.options, batch=batch.size))
        while True:
            try:
                return work(batch.size), batch
            except LengthError as error:
                if self.jobs.fixed_length:
                    raise
                self.jobs.fixed_length = error.fact
            except BatchError as error:
                if batch.size is not None:
                    raise
                batch = Batch(error.batch, error.fact)

    def _exported(self, target: Target, size: int | None, progress: Progress) -> Artifact:
        """The file for any batch size, or for one."""
        jobs, sample, options = self.jobs, self.jobs.sample, self.jobs.options
        path = make_folder(self.folder) / file_name(target, self.stem, options.precision)
        left_out = jobs.left_out
        check_exportable(path, target, sample, options.replaces)
        _forget(path, target)
        log = None if _log_path(path).exists() else _log_path(path)
        job = jobs.job(target, size, log)
        with several_aside(path) as aside:
            written = written_for_runtime(target, aside, job, jobs.model, sample, options.rewrite)
            artifact = _proved(target, aside, job, jobs.model, sample, written, jobs.step, self.known_score, progress)
            scored = artifact.score.pair[0] if artifact.score and artifact.score.pair else None
            notices = (*left_out, *written.graph.pop("notices", ()), *kept_sentences(written.graph))
            near = approximation(jobs.model, sample, self.dense_score, scored, size or max(PARITY_BATCHES))
            artifact = replace(artifact, approximation=near, notices=notices)
            artifact.save()
        return replace(artifact, path=path)


@contextmanager
def exporter_of(
    model: nn.Module,
    sample: Sample,
    folder: Path,
    stem: str = "model",
    options: ExportOptions = DEFAULT_EXPORT,
    known_score: SplitScore | None = None,
    dense_score: SplitScore | None = None,
    traces: Traces | None = None,
) -> Iterator[Exporter]:
    """An exporter for the time being; arguments as of :func:`export`, and what was traced of the model before."""
    with folder_made(folder), jobs_of(model, sample, options, traces) as jobs:
        yield Exporter(jobs, folder, stem, known_score, dense_score)


def _noted(artifact: Artifact, notice: str) -> Artifact:
    """With one more notice, in the facts beside the file too."""
    noted = replace(artifact, notices=(*artifact.notices, notice))
    noted.save()
    return noted


def export_each(
    model: nn.Module,
    sample: Sample,
    folder: Path,
    targets: Sequence[str],
    *,
    options: ExportOptions = DEFAULT_EXPORT,
    progress: Progress = silent,
) -> list[Outcome]:
    """Export to several targets, of which some may fail.

    Raises:
        FileError: the folder cannot be written to, or holds what may not be replaced (:func:`export`).
        ModelError: the model does not run, or has no data that is needed.
    """
    with folder_made(folder):
        for chosen in map(target_named, targets):
            path = folder / file_name(chosen, "model", options.precision)
            check_exportable(path, chosen, sample, options.replaces)
        dense_score = _dense_score(sample, progress)
        with exporter_of(model, sample, folder, options=options, dense_score=dense_score) as exporter:
            return outcomes_of(exporter.export, targets, progress)


def _dense_score(sample: Sample, progress: Progress) -> SplitScore | None:
    """The dense model's score, if a compressed one and data are given."""
    try:
        return split_score(sample.dense.model(), sample.dense, progress=progress) if sample.dense is not None else None
    except DataError:
        return None


def _proved(
    target: Target,
    path: Path,
    job: Job,
    model: nn.Module,
    sample: Sample,
    written: Written,
    step: Step | None,
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
    size = job.batch or target.batch or GOLDEN_BATCH
    fed = probe(golden_inputs(sample, job.precision, size), size)
    model_of_pair, fed = (step.model, golden_step(step, fed)) if step else (model, fed)
    _write_golden(path, inputs, outputs, model_of_pair, fed)
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
    """Where a converter's output is kept, if it fails."""
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
    fed: Inputs,
) -> None:
    expected = {spec.name: array for spec, array in zip(outputs, run_model(model, fed), strict=True)}
    write_golden(golden_path(path), as_feed(inputs, fed), expected)
