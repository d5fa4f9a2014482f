"""What is exported, and how: the options of an export, what of them a target can do, and the job it gets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from edgecompress.calibrating import calibration_of
from edgecompress.errors import DataError, ExportError, ModelError, first_line
from edgecompress.exporting.equalizing import equalized
from edgecompress.exporting.inputs import watched_inputs
from edgecompress.exporting.lengths import at_length, length_of, other_length
from edgecompress.exporting.preparing import Prepared, prepared
from edgecompress.models import Sample, check_runs, copied, evaluating
from edgecompress.models.accepting import accepted
from edgecompress.models.datasets import Inputs, in_batches, of_batch
from edgecompress.models.stepping import Step, as_step
from edgecompress.settings import ExportOptions
from edgecompress.targets import Job, Target
from edgecompress.targets.base import NHWC
from edgecompress.targets.half_precision import beyond_half
from edgecompress.targets.mixed_precision import KeepFloat
from edgecompress.targets.shared import Traces

MOST_NAMED = 4
"""Operators that are named of those beyond half precision."""


DEFAULT_EXPORT = ExportOptions()


@dataclass(frozen=True, slots=True)
class Batch:
    """The one batch size that a file is made for, and why; None: any."""

    size: int | None = None
    why: str = ""


@dataclass(slots=True)
class Jobs:
    """One model as the jobs of several targets; what those have in common is made once, when it is first needed.

    ``model`` is what files are compared with; ``traces`` is what targets share; ``fixed_length`` is why files take
    sequences of the example's length alone, once that is known (None: not yet; empty: they take any).
    """

    model: nn.Module
    sample: Sample
    options: ExportOptions
    traces: Traces
    _prepared: Prepared | None = None
    _step: Step | None = None
    _calibrated: tuple[nn.Module, Inputs] | None = None
    _batch: Batch | None = None
    fixed_length: str | None = None

    @property
    def left_out(self) -> tuple[str, ...]:
        """In words, what of the model no file has."""
        return self._ready().notices

    def batch(self) -> Batch:
        """The batch size that files are to be made for.

        Raises:
            ModelError: the model does not run on its example, or not at the batch size that is requested.
        """
        if self._batch is None:
            self._batch = _batch_of(self.model, self.sample, self.options)
        return self._batch

    def any_length(self, target: Target) -> bool:
        """Whether files of a target are to take sequences of any length: tokens, where PyTorch runs another length."""
        if self.fixed_length is None:
            self.fixed_length = _why_one_length(self.model, self.sample)
        return target.free_length and not self.fixed_length and length_of(self.sample.inputs) is not None

    def job(self, target: Target, size: int | None, log: Path | None) -> Job:
        """The job of a target at a batch size (None: any); ``log`` is for what its converter says.

        Raises:
            ExportError: the target cannot do that.
            DataError: int8 is requested and the sample has no data.
        """
        options, step = self.options, self.step
        ready, form = self._ready(), self.sample.form
        model = copied(ready.model)  # a converter may leave something in the one it traces
        if step:
            return Job(
                model, step.example(self.sample.inputs), self.sample.plan, log=log, shared=self.traces.at(size),
                names=(step.names, step.outputs), free=step.free,
            )  # fmt: skip
        job = Job(
            model, self.sample.inputs, self.sample.plan, options.precision, channels_last=options.channels_last,
            log=log, batch=size, any_length=self.any_length(target), shared=self.traces.at(size),
            names=(form.names if form else (), ready.names),
        )  # fmt: skip
        if options.precision == "int8":
            model, inputs = self._ranged()
            return replace(job, model=copied(model), calibration=inputs, keep=KeepFloat(options.keep_float))
        return _in_half(target, job, self.sample, options) if options.precision == "fp16" else job

    def _ready(self) -> Prepared:
        if self._prepared is None:
            step, inputs = self.step, self.sample.inputs
            self._prepared = prepared(step.model, step.example(inputs)) if step else prepared(self.model, inputs)
        return self._prepared

    @property
    def step(self) -> Step | None:
        """The model as a step of generation, where the options ask for that.

        Raises:
            ExportError: it cannot be one.
        """
        if self.options.kv_cache and self._step is None:
            self._step = as_step(self.model, self.sample.inputs, self.sample.name)
        return self._step

    def _ranged(self) -> tuple[nn.Module, Inputs]:
        """The model with equal ranges inside chains, and calibration inputs."""
        if self._calibrated is None:
            refuse_without_ranges(self.sample)
            inputs = calibration_of(self.sample, self.options.calibration, seed=0).inputs
            model = self._ready().model
            self._calibrated = equalized(model, inputs) if self.options.equalize else model, inputs
        return self._calibrated


def refuse_without_ranges(sample: Sample) -> None:
    """Prove that there are inputs that set the ranges of int8.

    Raises:
        DataError: there are none.
    """
    if sample.splits is None and sample.unlabelled is None:
        raise DataError(f"{sample.name}: has no data, which set the ranges of int8; define data(split), or use fp16")


@contextmanager
def jobs_of(model: nn.Module, sample: Sample, options: ExportOptions, traces: Traces | None = None) -> Iterator[Jobs]:
    """The jobs of a model; ``traces`` is what was traced of it before, and what is traced now.

    Raises:
        ModelError: the model is none that can be exported.
    """
    own = Traces()
    try:
        yield Jobs(copied(sample.flat(accepted(model, sample.name))).eval(), sample, options, traces or own)
    finally:
        own.close()


def _batch_of(model: nn.Module, sample: Sample, options: ExportOptions) -> Batch:
    """The requested one; else the example's if PyTorch runs the model on that alone; else any.

    Raises:
        ModelError: the model does not run on its example, or not at the batch size that is requested.
    """
    rows = len(sample.inputs[0])
    with evaluating(tried := copied(model)):
        check_runs(tried, sample.inputs, sample.name)
        wanted = options.batch
        if wanted is not None:
            check_runs(tried, of_batch(sample.inputs, wanted), sample.name, f"a batch of {wanted}")
            return Batch(wanted, "as requested with --batch-size")
        try:
            check_runs(tried, of_batch(sample.inputs, 1), sample.name)
        except ModelError as error:
            return Batch(
                rows, f"PyTorch runs the model on its example of so many items and not on one: {first_line(error)}"
            )
    return Batch()


def _why_one_length(model: nn.Module, sample: Sample) -> str:
    """Why PyTorch runs the model on no other length than the example's; empty: it does, or the inputs are no tokens."""
    length = length_of(sample.inputs)
    if length is None:
        return ""
    with evaluating(tried := copied(model)):
        try:
            check_runs(tried, at_length(sample.inputs, other_length(length)), sample.name)
        except ModelError as error:
            return f"PyTorch runs the model on no other length: {first_line(error)}"
    return ""


def refuse_impossible(target: Target, options: ExportOptions) -> None:
    """Refuse options that a target does not have.

    Raises:
        ExportError: it is so.
    """
    if options.precision not in target.precisions:
        raise ExportError(f"{target.name}: has no {options.precision}; it has {', '.join(target.precisions)}")
    if options.keep_float and options.precision == "fp32":
        raise ExportError(f"{target.name}: --keep-float is for --quantize int8 and fp16; float32 keeps all in float")
    if options.batch not in (None, 1) and target.one_at_a_time:
        raise ExportError(f"{target.name}: takes one item at a time; drop --batch-size or choose another target")
    if options.kv_cache and not target.caches:
        raise ExportError(f"{target.name}: --kv-cache is for onnx and ort only")
    if options.kv_cache and (options.precision != "fp32" or options.batch is not None):
        raise ExportError("--kv-cache writes float32 for any batch; drop --quantize and --batch-size")
    if options.channels_last and NHWC not in target.layouts:
        raise ExportError(f"{target.name}: --channels-last is for litert only")


def _in_half(target: Target, job: Job, sample: Sample, options: ExportOptions) -> Job:
    """For half precision: with the inputs on which numbers are watched, and what is to stay in float32.

    Raises:
        ExportError: the model leaves half precision, and the target has no operators in float32 beside it.
    """
    inputs = watched_inputs(sample, job.batch or 1)
    if target.mixes_halves:
        return replace(job, calibration=inputs, keep=KeepFloat(options.keep_float))
    if options.keep_float:
        raise ExportError(
            f"{target.name}: fp16 is for all operators there; --keep-float goes with int8, or --target onnx"
        )
    if found := beyond_half(job.model, in_batches(inputs, job.batch or len(inputs[0]))):
        more = f"; and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
        raise ExportError(
            f"{target.name}: fp16: {'; '.join(found[:MOST_NAMED])}{more}: a device that computes in half precision "
            "gets other numbers; change that in the model (an eps of 1e-6, a mask of -1e4, a scale), or take fp32, "
            "int8 or --target onnx, which keeps such operators in float32"
        )
    return job
