"""Checks before a run: what would be refused hours later is refused at once, before anything is written."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from edgecompress.bundling import bundled_target, check_bundle
from edgecompress.decomposing import check_plan, refuse_noticed, replaced, uses_codec
from edgecompress.decomposing.dry_run import noticed
from edgecompress.devices import device_named
from edgecompress.errors import DataError, ExportError, FileError, ModelError, PlanError
from edgecompress.exporting import check_exportable
from edgecompress.exporting.jobs import refuse_impossible, refuse_without_ranges
from edgecompress.exporting.probing import check_traceable, refusing_before_work
from edgecompress.files import Json
from edgecompress.finetuning.workers import shared
from edgecompress.models import Sample, check_runs, state_digest
from edgecompress.planning import refuse_out_of_reach
from edgecompress.plans import CompressionPlan
from edgecompress.running.budgeting import in_float
from edgecompress.running.claiming import Owner, bundle_name, check_claim, claim
from edgecompress.running.delivery import dense_exporter, export_options, needed_targets
from edgecompress.running.keys import options_key
from edgecompress.running.options import Options, Teacher
from edgecompress.running.pipeline import STEMS, Pipeline
from edgecompress.settings import Replaces
from edgecompress.sources import folder_of
from edgecompress.targets import target_named
from edgecompress.targets.child_converter import require
from edgecompress.timing.fronts import refuse_without_times


def check(pipeline: Pipeline, *, exports: bool = False) -> None:
    """Refuse at once what would be refused hours later; then make the folder the pipeline's own.

    Args:
        pipeline: the model, the folder and the options.
        exports: files for targets and the bundle will be written too.

    Raises:
        FileError: the output folder is the model's own, or has results of another model or foreign files.
        PlanError, ExportError, DeviceError, DataError: the given plan, a target, the device or the data do not fit.
        NotExportable: the model cannot be exported.
        BudgetError: no plan can meet the budget.
    """
    _refuse_inputs(pipeline)
    _refuse_changing_weights(pipeline)
    _check_choice(pipeline)
    if pipeline.options.teacher is not None:
        _check_teacher(pipeline, pipeline.options.teacher)
    if pipeline.data is None:
        _check_untrained(pipeline.sample, pipeline.options)
    _check_places(pipeline.options)
    _check_precision(pipeline)
    shared(lambda: _claim(pipeline, exports=exports))
    if _makes_plan(pipeline.options):
        pipeline.stages.do("budget", _budget_key(pipeline), dict)
    _probe(pipeline, exports=exports)


def _refuse_inputs(pipeline: Pipeline) -> None:
    """Nothing that the pipeline reads lies where it writes."""
    ours, read = pipeline.folder, [folder_of(source) for source in _sources(pipeline.sample)]
    if pipeline.options.teacher is not None:
        read += map(folder_of, pipeline.options.teacher.names)
    for folder in (folder for folder in read if folder is not None):
        if folder == ours.resolve():
            raise FileError(f"{ours}: is the model itself; choose another folder with -o")
        if folder.is_relative_to(ours.resolve()):
            raise FileError(f"{ours}: holds the model {folder} itself; choose another folder with -o")


def _sources(sample: Sample) -> Iterator[str]:
    """Where a model comes from, and where what it was made from does."""
    yield sample.source
    if sample.dense is not None:
        yield from _sources(sample.dense)


def _refuse_changing_weights(pipeline: Pipeline) -> None:
    sample = pipeline.sample
    if state_digest(sample.model()) != state_digest(pipeline.dense_model):
        raise ModelError(f"{sample.name}: model() gives other weights each time; load trained ones, or seed it")


def _check_choice(pipeline: Pipeline) -> None:
    """The given plan fits, or there is one that meets the budget."""
    options = pipeline.options
    if options.pareto:
        refuse_without_times(options.selector if _makes_plan(options) else None, options.given)
    if options.given is not None:
        _check_given(pipeline, options.given)
    elif _makes_plan(options) and not pipeline.stages.is_done("budget", _budget_key(pipeline)):
        refuse_out_of_reach(pipeline.survey, in_float(options.selector, options.quantize), options.scope)


def _makes_plan(options: Options) -> bool:
    """Whether a selector chooses among candidates."""
    return options.given is None and options.recipe is None and options.storage is None


def _budget_key(pipeline: Pipeline) -> list[object]:
    options = pipeline.options
    return [pipeline.dense_key, options_key(options.selector), repr(options.scope)]


def _check_given(pipeline: Pipeline, given: CompressionPlan) -> None:
    check_plan(pipeline.dense_model, given)
    refuse_noticed(noticed(pipeline.dense_model, pipeline.sample.inputs, replaced(given)))
    if uses_codec(given) and pipeline.options.storage is None:
        codec = given.layers[0].method
        raise PlanError(f"the plan is for {codec}: say how its codes are trained, with Options(storage=...)")


def _check_teacher(pipeline: Pipeline, teacher: Teacher) -> None:
    """Its outputs can stand for the dense model's, and no option needs the dense model's layers."""
    options, sample = pipeline.options, pipeline.sample
    if options.tuning.distill == 0:
        raise ModelError("--distill 0 learns from no teacher; drop one of them")
    if options.tuning.epochs == 0 and options.storage is None:
        raise ModelError("--epochs 0 trains nothing, so that a teacher is of no use; drop one of them")
    for what, wanted in (("--feature", options.tuning.feature), ("--portions", options.tuning.portions > 1)):
        if wanted:
            raise ModelError(f"{what} compares layers with the dense model's; it goes without another teacher")
    if options.recipe is not None:
        raise ModelError(f"recipe {options.recipe.name} learns from the dense model; it goes without a teacher")
    ours = _shapes(pipeline.dense_model, sample, sample.name)
    for name, model in zip(teacher.names, teacher.models, strict=True):
        theirs = _shapes(model, sample, f"the teacher {name}")
        if ours != theirs:
            raise ModelError(f"the teacher {name} gives {theirs} where {sample.name} gives {ours}")


def _shapes(model: nn.Module, sample: Sample, name: str) -> str:
    """The shapes of a model's outputs on the example."""
    return ", ".join(str(tuple(output.shape)) for output in check_runs(model, sample.inputs, name))


def _check_untrained(sample: Sample, options: Options) -> None:
    """Without data no option trains."""
    if options.storage is not None:
        raise DataError(f"{sample.name}: has no data to train codes on; define data(split)")
    if options.tuning.epochs:
        raise DataError(f"{sample.name}: has no data to fine-tune on; define data(split) or use --epochs 0")


def _check_places(options: Options) -> None:
    """The device, the targets' converters and the platform are there, and the first target can be measured."""
    device_named(options.device, options.place)
    targets = [target_named(target) for target in options.targets]
    for target in targets:
        require(target)
    if not targets[0].runs_here:
        raise ExportError(f"{targets[0].name}: cannot be measured on this machine; give another --target before it")
    for platform in options.platforms:
        bundled_target(options.targets, platform)


def _check_precision(pipeline: Pipeline) -> None:
    """Every target has the precision, and int8 the inputs that set its ranges."""
    options, sample = pipeline.options, pipeline.sample
    if options.keep_float and options.quantize == "fp32":
        raise ExportError("--keep-float is for --quantize int8 and fp16; float32 keeps all in float")
    for target in map(target_named, options.targets):
        refuse_impossible(target, export_options(pipeline, "compressed"))
    if options.quantize == "int8":
        refuse_without_ranges(sample)


def _claim(pipeline: Pipeline, *, exports: bool) -> None:
    """Make the folder this pipeline's own, unless something there is in the way."""
    folder, sample, force = pipeline.folder, pipeline.sample, pipeline.force
    model = Owner(sample.name, sample.source, pipeline.dense_key)
    owned = check_claim(folder, model, force=force)
    replaces: Replaces = "anything" if force else "ours" if owned else "same model"
    if exports:
        _check_files(pipeline, replaces)
        for platform in pipeline.options.platforms:
            check_bundle(folder / bundle_name(pipeline.options.platforms, platform), force=force)
    claim(folder, model)


def _check_files(pipeline: Pipeline, replaces: Replaces) -> None:
    """Both models may be exported to all targets."""
    for role in STEMS:
        for target in pipeline.options.targets:
            file = pipeline.folder / pipeline.exported_file(role, target)
            check_exportable(file, target_named(target), pipeline.sample, replaces)


def _probe(pipeline: Pipeline, *, exports: bool) -> None:
    """The dense model can be exported, which is remembered; what was traced for that serves its export."""
    targets = needed_targets(pipeline.options) if exports else []

    def work() -> Json:
        if exports:
            _probe_targets(pipeline, targets)
        else:
            check_traceable(pipeline.dense_model, pipeline.sample.inputs, pipeline.sample.name)
        return {}

    pipeline.stages.do("probe", [pipeline.dense_key, *targets], work)


def _probe_targets(pipeline: Pipeline, targets: list[str]) -> None:
    with refusing_before_work(pipeline.sample.name), dense_exporter(pipeline) as exporter:
        for target in targets:
            pipeline.progress(f"try the first step of the export to {target}", 0, 1, "")
            exporter.probe(target_named(target))
