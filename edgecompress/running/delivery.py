"""The last stages, each done once: export, measure, bundle, report."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from edgecompress.artifacts import profile_path
from edgecompress.bundling import bundle, bundled_target
from edgecompress.devices import device_named
from edgecompress.errors import ExportError
from edgecompress.exporting import Exporter, ExportOptions, exporter_of
from edgecompress.files import Json, write_json
from edgecompress.manifests import VERSION as MANIFEST_VERSION
from edgecompress.profiling import measure
from edgecompress.reporting import HTML_NAME, JSON_NAME, MARKDOWN_NAME, Report, write_report
from edgecompress.running.claiming import COMPARISON_FILE, bundle_name
from edgecompress.running.options import Options
from edgecompress.running.pipeline import SCORES, STEMS, Pipeline, renamed
from edgecompress.running.resuming import Done
from edgecompress.settings import Effort, Replaces
from edgecompress.sources.compressed_folder import rebuilt
from edgecompress.split_scores import SplitScore
from edgecompress.targets import target_named


def export_files(pipeline: Pipeline, role: str, dense: Done, upstream: Done) -> Done:
    """``dense.onnx`` or ``model.onnx`` for each target, equal to PyTorch in numbers and in the task score.

    ``dense`` has the score of the dense model, ``upstream`` that of the one to export.
    A target may fail, unless it is the one that is measured or bundled; its result is then the reason.
    """
    files = {target: Path(pipeline.exported_file(role, target)) for target in pipeline.options.targets}

    def work() -> Json:
        known, theirs = (SplitScore.from_json(done.result.get("scored")) for done in (upstream, dense))
        made = dense_exporter if role == "dense" else _compressed_exporter
        with made(pipeline, known, theirs) as exporter:
            return _all_exported(pipeline, role, exporter)

    written = [f"{file}{ending}" for file in files.values() for ending in ("", ".json", ".golden.npz")]
    written += [part.name for target, file in files.items() for part in target_named(target).parts(file)]
    rounded = [pipeline.precision(role), pipeline.options.keep_float] if pipeline.precision(role) != "fp32" else []
    cached = ["kv cache"] if pipeline.options.kv_cache else []
    return pipeline.stages.do(
        f"export_{role}", [upstream.key, pipeline.options.targets, *rounded, *cached], work, tuple(written)
    )


def dense_exporter(
    pipeline: Pipeline, known: SplitScore | None = None, dense: SplitScore | None = None
) -> AbstractContextManager[Exporter]:
    """An exporter of the model as given, with what was traced of it so far."""
    sample, options = pipeline.sample, export_options(pipeline, "dense")
    model, traces = pipeline.dense_model, pipeline.traces
    return exporter_of(model, sample, pipeline.folder, STEMS["dense"], options, known, dense, traces)


def _compressed_exporter(
    pipeline: Pipeline, known: SplitScore | None, dense: SplitScore | None
) -> AbstractContextManager[Exporter]:
    sample, options = rebuilt(pipeline.sample, pipeline.folder), export_options(pipeline, "compressed")
    return exporter_of(sample.model(), sample, pipeline.folder, STEMS["compressed"], options, known, dense)


def export_options(pipeline: Pipeline, role: str) -> ExportOptions:
    """How files of one of both models are written."""
    precision = pipeline.precision(role)
    replaces: Replaces = "anything" if pipeline.force else "ours"
    keep_float = pipeline.options.keep_float if precision != "fp32" else ()
    return ExportOptions(
        precision=precision, keep_float=keep_float, replaces=replaces, kv_cache=pipeline.options.kv_cache
    )


def needed_targets(options: Options) -> list[str]:
    """Those without whose file a run fails, in the order of the options: the one that is measured, those of bundles."""
    needed = {options.targets[0], *(bundled_target(options.targets, platform) for platform in options.platforms)}
    return [target for target in options.targets if target in needed]


def _all_exported(pipeline: Pipeline, role: str, exporter: Exporter) -> Json:
    targets, needed = pipeline.options.targets, needed_targets(pipeline.options)
    made: Json = {}
    errors: list[ExportError] = []
    for target in targets:
        try:
            made[target] = _exported(pipeline, role, target, exporter)
        except ExportError as error:
            made[target] = {"failed": str(error)}
            errors += [error] if target in needed else []
    if errors:  # only now, so that the other files are there
        raise errors[0]
    return made


def _exported(pipeline: Pipeline, role: str, target: str, exporter: Exporter) -> Json:
    name = f"export {role} to {target}"
    pipeline.progress(name, 0, 1, "")
    artifact = exporter.export(target_named(target), renamed(pipeline.progress, f"{name}, score"))
    scored = artifact.score.pair[1] if artifact.score and artifact.score.pair else None
    reached = {"accuracy": scored.value, "scored": scored.to_json()} if scored else dict.fromkeys(SCORES)
    return {"file": artifact.path.name, **reached}


def profile_files(pipeline: Pipeline, dense: Done, compressed: Done) -> Done:
    """Each model alone, then both taking turns, with one thread and with all by default, on the first target."""
    options = pipeline.options
    files = {role: pipeline.exported_file(role, options.targets[0]) for role in STEMS}

    def work() -> Json:
        return {"files": files, "threads": _measured(pipeline, pipeline.folder / files["compressed"],
                                                     pipeline.folder / files["dense"])}  # fmt: skip

    written = (COMPARISON_FILE, *(profile_path(Path(file)).name for file in files.values()))
    place = [options.device, repr(options.place), options.threads, options.seconds]
    return pipeline.stages.do("profile", [dense.key, compressed.key, *place], work, written)


def _measured(pipeline: Pipeline, compressed: Path, dense: Path) -> list[Json]:
    """Write both profiles and the comparison; what other numbers of threads gave."""
    options = pipeline.options
    found = measure(
        compressed,
        dense,
        device_named(options.device, options.place),
        Effort((options.threads or (1,))[0], seconds=options.seconds),
        threads=options.threads[1:] if options.threads else None,
        progress=pipeline.progress,
    )
    assert found.baseline is not None
    assert found.comparison is not None
    found.profile.save(profile_path(compressed))
    found.baseline.save(profile_path(dense))
    write_json(pipeline.folder / COMPARISON_FILE, found.comparison.to_json())
    return [other.summary() for other in found.more]


def bundle_files(pipeline: Pipeline, measured: Done) -> list[Done]:
    """For each platform a bundle of the compressed model on the first target that it runs."""
    return [_bundled(pipeline, measured, platform) for platform in pipeline.options.platforms]


def _bundled(pipeline: Pipeline, measured: Done, platform: str) -> Done:
    target, name = bundled_target(pipeline.options.targets, platform), bundle_name(pipeline.options.platforms, platform)

    def work() -> Json:
        made = pipeline.folder / name
        file = pipeline.folder / pipeline.exported_file("compressed", target)
        manifest = bundle(file, made, platform=platform, force=pipeline.force)
        return {"manifest": f"{made.name}/{manifest.name}"}

    return pipeline.stages.do(name, [measured.key, platform, MANIFEST_VERSION], work, (name,))


def report_on(pipeline: Pipeline, report: Report, upstream: str) -> Done:
    """``report.html``, ``report.md`` and ``report.json``."""

    def work() -> Json:
        write_report(report, pipeline.folder)
        return {}

    return pipeline.stages.do("report", [upstream, report.to_json()], work, (HTML_NAME, MARKDOWN_NAME, JSON_NAME))
