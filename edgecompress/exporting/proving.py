"""Writing a file and comparing its numbers with PyTorch's; int8 that fails is tried again with less of it in int8."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from edgecompress.artifacts import Parity, TensorSpec
from edgecompress.errors import ExportError, ParityError, first_line
from edgecompress.exporting.inputs import parity_inputs, probe
from edgecompress.exporting.outputs import run_model
from edgecompress.exporting.slices import Finding
from edgecompress.exporting.tolerances import TOLERANCES
from edgecompress.exporting.verifying import PARITY_BATCHES, check_parity, check_slices, check_steps, fixed_batch
from edgecompress.files import Json
from edgecompress.models import Sample
from edgecompress.targets import Job, Target
from edgecompress.targets.base import NHWC
from edgecompress.targets.refusing import refusing
from edgecompress.targets.runtimes import refuse_crashing

DEPTHS = (0, 1, 2)
"""How many products deep what feeds a failing output is left in float, one try after the other."""
WAY_OUT = "leave more of it in float with --keep-float LAYER or --keep-float OPERATOR, or export it in fp16 or fp32"


@dataclass(frozen=True, slots=True)
class Written:
    """A file that its runtime was tried with: facts about the graph, signature, parity, and what could be better."""

    graph: Json
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    parity: tuple[Parity, ...] = ()
    findings: tuple[Finding, ...] = ()


def write_and_compare(target: Target, path: Path, job: Job, model: nn.Module, sample: Sample) -> Written:
    """Write ``path``; where int8 fails, again with more and more of what feeds the failing outputs in float.

    What is not wrong but could be better is tried so too, and left in int8 if that does not help.

    Raises:
        ParityError: the numbers are not ``model``'s.
        ExportError: the exporter refused, or the file does not run.
    """
    try:
        first = _attempt(target, path, job, model, sample)
    except ParityError as error:
        if job.precision != "int8":
            raise
        return _with_more_in_float(target, path, job, model, sample, error)
    if job.precision != "int8" or not first.findings:
        return first
    return _without_weak_slices(target, path, job, model, sample, first)


def _attempt(target: Target, path: Path, job: Job, model: nn.Module, sample: Sample) -> Written:
    """Write ``path`` and compare its numbers with ``model``'s where its runtime is for this machine."""
    with refusing(target.name, "the converter"):
        graph = target.export(job, path)
    if target.runs_here and target.may_crash:
        refuse_crashing(target.name, path, job.batch or 1)
    with refusing(target.name, "what the converter made does not load:"):
        inputs, outputs = target.signature(path)
    if job.channels_last:
        inputs = tuple(replace(spec, layout=NHWC) if len(spec.shape) == 4 else spec for spec in inputs)
    if not target.runs_here:
        return Written(graph, inputs, outputs)
    batches = PARITY_BATCHES if job.batch is None else (job.batch,)
    with refusing(target.name, "its runtime"):
        if job.free:
            return Written(graph, inputs, outputs, check_steps(target, path, inputs, model, sample.inputs))
        fed = parity_inputs(sample, job.precision)
        parity = check_parity(target, path, inputs, model, fed, TOLERANCES[job.precision], batches)
        findings = check_slices(target, path, inputs, model, sample, job.precision, fixed_batch(batches))
    return Written(graph, inputs, outputs, parity, findings)


def _with_more_in_float(
    target: Target, path: Path, job: Job, model: nn.Module, sample: Sample, failure: ParityError
) -> Written:
    """A file that holds, with what feeds the failing outputs in float.

    Raises:
        ParityError: there is none.
    """
    outputs = failure.outputs or tuple(range(len(run_model(model, probe(sample.inputs, 1)))))
    why = str(failure).partition("differs from PyTorch")[2].strip(": ")
    last: ExportError = failure
    for depth in DEPTHS:
        job = replace(job, keep=job.keep.before(outputs, depth, why))
        try:
            return _attempt(target, path, job, model, sample)
        except ExportError as error:
            last = error
    failure.args = (f"{failure}; with what feeds it in float: {first_line(last)}; {WAY_OUT}",)
    raise failure


def _without_weak_slices(
    target: Target, path: Path, job: Job, model: nn.Module, sample: Sample, first: Written
) -> Written:
    """A file without weak slices if there is one, else the first again."""
    outputs = {finding.output for finding in first.findings}
    why = "; ".join(finding.text for finding in first.findings)
    for depth in DEPTHS[:2]:
        with suppress(ExportError):
            other = _attempt(target, path, replace(job, keep=job.keep.before(outputs, depth, why)), model, sample)
            if not other.findings:
                return other
    return _attempt(target, path, job, model, sample)
