"""What the stages of a run came to, as the values of its report."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from edgecompress.artifacts import Artifact, profile_path, versions
from edgecompress.codecs.payload import load
from edgecompress.costs import coded_bytes, cost
from edgecompress.fields import optional
from edgecompress.files import read_json, zipped_bytes
from edgecompress.manifests.reading import manifest_from
from edgecompress.planning.layer_costs import layer_costs
from edgecompress.plans import CompressionPlan, Cost
from edgecompress.profiling.comparisons import Comparison, ComparisonSummary
from edgecompress.profiling.instruction_counts import AnyComparison, AnyProfile, comparison_from, profile_from
from edgecompress.profiling.operators import ComparedLayer, FileTimes, compared_layers, file_times
from edgecompress.profiling.profiles import Profile
from edgecompress.reporting.document import Compression, Report
from edgecompress.reporting.entries import (
    BundleEntry,
    Failure,
    FileEntry,
    FileTimesEntry,
    Fitting,
    LayerCost,
    LayerEntry,
    Training,
)
from edgecompress.reporting.pairs import Known, Pair
from edgecompress.reporting.scores import Nearness, Scores, Split, TaskMetric
from edgecompress.reporting.suggesting import suggestion
from edgecompress.running.claiming import COMPARISON_FILE
from edgecompress.running.pipeline import Pipeline
from edgecompress.running.resuming import Done
from edgecompress.settings import NO_RECIPE
from edgecompress.sources.compressed_folder import CODES_FILE, PLAN_FILE, rebuilt
from edgecompress.split_scores import Difference, SplitScore, difference


def compression_of(
    pipeline: Pipeline, dense: Done, decomposed: Done, tuned: Done, stored: Done | None, compared: Done
) -> Compression:
    """What planning, decomposing, fine-tuning and storing (None: weights are not stored as codes) came to."""
    after = (dense, decomposed, tuned, stored)
    scores = Scores(*(stage.result["accuracy"] if stage else None for stage in after))
    scored = Pair(dense, stored or tuned).map(_scored)
    data, sample = pipeline.data, pipeline.sample
    return Compression(
        model=sample.name,
        data=None if data is None else {name: Split.from_json(split) for name, split in data.items()},
        metric=TaskMetric.from_json(sample.metric),
        scores=None if data is None else scores,
        scored=scored,
        difference=_difference(scored),
        calibration=optional(Fitting.from_json, decomposed.result["calibration"]),
        recipe=decomposed.result.get("recipe", {"name": NO_RECIPE}),
        training=optional(Training.from_json, tuned.result["training"]),
        cost=_costs(pipeline),
        storage=stored.result["storage"] if stored else None,
        outputs=Nearness.from_json(compared.result),
    )


def report_of(
    pipeline: Pipeline, compressed: Compression, files: Pair[Done], measured: Done, bundled: list[Done]
) -> Report:
    """The whole report, but for the plans tried before."""
    exported = files.compressed.result[pipeline.options.targets[0]]
    scored = Pair(compressed.scored.dense, SplitScore.from_json(exported.get("scored")))
    profiles = Pair(_profile(pipeline, "dense"), _profile(pipeline, "compressed"))
    pair = comparison_from(read_json(pipeline.folder / COMPARISON_FILE))
    times = _file_times(profiles, pair)
    layers, outside = _layers(pipeline, times, pair)
    changed = {
        "scores": compressed.scores and replace(compressed.scores, artifact=exported["accuracy"]),
        "scored": scored,
        "difference": _difference(scored),
    }
    made = {**vars(compressed), **changed}
    outlook = CompressionPlan.load(pipeline.folder / PLAN_FILE).outlook
    return Report(
        **made,
        arguments=pipeline.options.to_json(),
        versions=versions(),
        layers=layers,
        outside_layers=outside,
        file_times=FileTimesEntry(times.map(FileTimes.outside_ms), times.map(lambda one: one.latency_ms)),
        artifacts=tuple(_artifacts(pipeline, files)),
        failed=tuple(_failures(files)),
        profiles=profiles,
        comparison=pair,
        threads=tuple(map(ComparisonSummary.from_json, measured.result["threads"])),
        bundle=bundled[0].result["manifest"],
        bundles=tuple(_bundle_entry(pipeline, done.result["manifest"]) for done in bundled),
        command=pipeline.options.command,
        suggestion=suggestion(Compression(**made), outlook),
    )


def _bundle_entry(pipeline: Pipeline, manifest: str) -> BundleEntry:
    """What a bundle says of the bytes of model and runtime."""
    found = manifest_from(read_json(pipeline.folder / manifest))
    runtime = found.runtime
    return BundleEntry(
        platform=found.platform,
        manifest=manifest,
        model_bytes=found.bytes_of("model"),
        runtime=runtime.name,
        version=runtime.tested,
        library_bytes=runtime.library_bytes,
        library_bytes_compressed=runtime.library_bytes_compressed,
        source=runtime.source,
    )


def _scored(stage: Done) -> SplitScore | None:
    """A stage's score as it can be paired."""
    return SplitScore.from_json(stage.result.get("scored"))


def _difference(scored: Pair[SplitScore | None]) -> Difference | None:
    """What sets both scores apart; None where one cannot be paired."""
    return difference(scored.dense, scored.compressed) if scored.dense and scored.compressed else None


def _costs(pipeline: Pipeline) -> Pair[Cost]:
    models = Pair(pipeline.dense_model, rebuilt(pipeline.sample, pipeline.folder).model())
    return models.map(lambda model: cost(model, pipeline.sample.inputs))


def _failures(files: Pair[Done]) -> Iterator[Failure]:
    for role, done in files.items():
        for target, made in done.result.items():
            if "failed" in made:
                yield Failure(role, target, made["failed"])


def _artifacts(pipeline: Pipeline, files: Pair[Done]) -> Iterator[FileEntry]:
    """Facts about every exported file, with paths relative to the folder."""
    for role, done in files.items():
        for target in (target for target, made in done.result.items() if "failed" not in made):
            path = pipeline.exported_file(role, target)
            artifact = Artifact.load(pipeline.folder / path)
            zipped = zipped_bytes(*artifact.files)
            yield FileEntry.from_json({**artifact.summary(), "role": role, "path": path, "zipped_bytes": zipped})


def _profile(pipeline: Pipeline, role: str) -> AnyProfile:
    """Of the first target's file."""
    file = pipeline.folder / pipeline.exported_file(role, pipeline.options.targets[0])
    return profile_from(read_json(profile_path(file)))


def _file_times(profiles: Pair[AnyProfile], pair: AnyComparison) -> Pair[FileTimes]:
    """What both files' operators and both files took."""
    latencies = (pair.baseline_latency, pair.candidate_latency) if isinstance(pair, Comparison) else (None, None)
    both = zip(profiles, latencies, strict=True)
    return Pair(*(file_times(one if isinstance(one, Profile) else None, latency) for one, latency in both))


def _layers(pipeline: Pipeline, times: Pair[FileTimes], pair: AnyComparison) -> tuple[tuple[LayerEntry, ...], Known]:
    """Every layer with its cost, and its time before and after where the runtime reports it; and that of all else.

    Bytes are those of the weights as they are; of a layer stored as codes those in the file of codes.
    """
    plan = CompressionPlan.load(pipeline.folder / PLAN_FILE)
    layers = map(LayerEntry.from_json, layer_costs(pipeline.dense_model, pipeline.sample.inputs, plan))
    coded = coded_bytes(load(pipeline.folder / CODES_FILE)) if pipeline.options.storage is not None else {}
    by_name = {layer.name: layer for layer in layers}
    ablations = pair.ablations if isinstance(pair, Comparison) else {}
    *timed, others = compared_layers(times.dense, times.compressed, list(by_name), ablations)
    entries = (
        _with_times(layer, taken, coded.get(layer.name)) for layer, taken in zip(by_name.values(), timed, strict=True)
    )
    return tuple(entries), Pair(others.dense, others.compressed)


def _with_times(layer: LayerEntry, taken: ComparedLayer, coded: int | None) -> LayerEntry:
    dense: LayerCost = replace(layer.costs.dense, wall_ms=taken.dense)
    compressed: LayerCost = replace(layer.costs.compressed, wall_ms=taken.compressed)
    if coded is not None:
        compressed = replace(compressed, bytes=coded)
    return replace(layer, costs=Pair(dense, compressed), slower=taken.slower, ablation=taken.ablation)
