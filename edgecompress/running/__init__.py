"""compress() and run(): the stages in a row, and the document that tells what came of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgecompress.artifacts import Artifact, profile_path, versions
from edgecompress.codecs.payload import load
from edgecompress.costs import coded_bytes, cost
from edgecompress.files import Json, read_json, zipped_bytes
from edgecompress.models import Sample
from edgecompress.planning import layer_costs
from edgecompress.plans import CompressionPlan
from edgecompress.profiling.comparisons import Comparison
from edgecompress.profiling.instruction_counts import AnyProfile, comparison_from, profile_from
from edgecompress.profiling.operators import FileTimes, compared_layers, file_times
from edgecompress.profiling.profiles import Profile
from edgecompress.profiling.ratios import Ratio
from edgecompress.progress import Progress, silent
from edgecompress.reporting import KIND as REPORT_KIND
from edgecompress.reporting import VERSION as REPORT_VERSION
from edgecompress.running.claiming import COMPARISON_FILE
from edgecompress.running.compression import score_dense, start, store, tune
from edgecompress.running.delivery import bundle_file, export_files, profile_files, report_on
from edgecompress.running.history import tried
from edgecompress.running.locking import locked
from edgecompress.running.options import Options
from edgecompress.running.pipeline import STEMS, Pipeline
from edgecompress.running.preflight import check
from edgecompress.running.resuming import Done
from edgecompress.settings import NO_RECIPE
from edgecompress.sources import resolve
from edgecompress.sources.compressed_folder import CODES_FILE, PLAN_FILE, rebuilt
from edgecompress.split_scores import SplitScore, difference


def compress(
    model: str | Path | Sample,
    folder: str | Path,
    options: Options | None = None,
    *,
    progress: Progress = silent,
    force: bool = False,
    trust: bool = False,
    **chosen: Any,
) -> Json:
    """Plan, decompose and fine-tune a model; interrupted, the same call goes on where it was.

    ``compress("resnet20", "small", selector=Budget(0.4))`` keeps 40 percent of the MACs. The folder is then a MODEL.

    Args:
        model: what :func:`edgecompress.resolve` takes (``"lenet5"``, ``"model.py"``, a folder), or what it gives.
        folder: where the compressed model is written; made if it is not there.
        options: what to do; those of :class:`~edgecompress.running.options.Options` by default.
        progress: listens to long work.
        force: replace another model's results in the folder.
        trust: run the code that a compressed folder names.
        **chosen: fields of ``options`` that differ from it.

    Returns:
        Accuracy in percent and cost, before and after, as a JSON object.

    Raises:
        TypeError: ``chosen`` has a name that is no field of ``Options``.
        EdgeCompressError: the model, the folder or the options do not fit; before any long work.
    """
    with _pipeline(model, folder, options, progress, force=force, trust=trust, **chosen) as pipeline:
        check(pipeline)
        return _compressed(pipeline)[0]


def run(
    model: str | Path | Sample,
    folder: str | Path,
    options: Options | None = None,
    *,
    progress: Progress = silent,
    force: bool = False,
    trust: bool = False,
    **chosen: Any,
) -> Json:
    """Plan, decompose, fine-tune, export, verify, measure, bundle and report; a second call redoes nothing.

    ``run("lenet5", "out", selector=Budget(0.25), targets=("onnx", "litert"))`` leaves ``out/report.html``.

    Args:
        model: what :func:`edgecompress.resolve` takes (``"lenet5"``, ``"model.py"``, a folder), or what it gives.
        folder: where everything is written; made if it is not there.
        options: what to do; those of :class:`~edgecompress.running.options.Options` by default.
        progress: listens to long work.
        force: replace another model's results in the folder.
        trust: run the code that a compressed folder names.
        **chosen: fields of ``options`` that differ from it.

    Returns:
        The report's document, as in ``report.json``.

    Raises:
        TypeError: ``chosen`` has a name that is no field of ``Options``.
        EdgeCompressError: the model, the folder or the options do not fit (before any long work), or a stage failed.
    """
    with _pipeline(model, folder, options, progress, force=force, trust=trust, **chosen) as pipeline:
        check(pipeline, exports=True)
        return _run(pipeline)


@contextmanager
def _pipeline(
    model: str | Path | Sample,
    folder: str | Path,
    options: Options | None,
    progress: Progress,
    *,
    force: bool,
    trust: bool,
    **chosen: Any,
) -> Iterator[Pipeline]:
    """The context of a run; no other process works in its folder meanwhile."""
    sample = model if isinstance(model, Sample) else resolve(str(model), trust=trust)
    wanted = replace(options or Options(), **chosen)
    with locked(Path(folder)):
        yield Pipeline(sample, Path(folder), wanted, progress, force)


def _compressed(pipeline: Pipeline) -> tuple[Json, Done, Done]:
    """What the first stages came to, the dense model's score, and the last of them."""
    dense, decomposed = score_dense(pipeline), start(pipeline)
    tuned = tune(pipeline, decomposed)
    storage = pipeline.options.storage
    last = tuned if storage is None else store(pipeline, tuned, storage)
    factors = {} if storage is None else {"factors": tuned}
    document = {
        "model": pipeline.sample.name,
        "data": pipeline.data,
        "metric": pipeline.sample.metric,
        "accuracy": _accuracy(pipeline, dense=dense, decomposed=decomposed, **factors, finetuned=last),
        **_paired(dense.result, last.result),
        "calibration": decomposed.result["calibration"],
        "recipe": decomposed.result.get("recipe", {"name": NO_RECIPE}),
        "training": tuned.result["training"],
        "cost": _costs(pipeline),
        **({} if storage is None else {"storage": last.result["storage"]}),
    }
    return document, dense, last


def _run(pipeline: Pipeline) -> Json:
    """All stages; returns the report's document."""
    compressed, dense, tuned = _compressed(pipeline)
    files = {
        "dense": export_files(pipeline, "dense", dense),
        "compressed": export_files(pipeline, "compressed", tuned),
    }
    failed = [
        {"role": role, "target": target, "reason": made["failed"]}
        for role, done in files.items()
        for target, made in done.result.items()
        if "failed" in made
    ]
    measured = profile_files(pipeline, files["dense"], files["compressed"])
    bundled = bundle_file(pipeline, measured)
    document = {
        "kind": REPORT_KIND,
        "version": REPORT_VERSION,
        **compressed,
        "arguments": pipeline.options.to_json(),
        "versions": versions(),
        "accuracy": _with_artifact(compressed["accuracy"], files["compressed"].result[pipeline.options.targets[0]]),
        **_paired(dense.result, files["compressed"].result[pipeline.options.targets[0]]),
        **_layers(pipeline),
        "artifacts": _artifacts(pipeline, files),
        "failed": failed,
        "profiles": {role: _profile(pipeline, role).to_json() for role in STEMS},
        "comparison": comparison_from(read_json(pipeline.folder / COMPARISON_FILE)).to_json(),
        "threads": measured.result["threads"],
        "bundle": bundled.result["manifest"],
    }
    document["tried"] = tried(pipeline.folder, pipeline.dense_key, document)
    report_on(pipeline, document, measured.key)
    return document


def summary(document: Json) -> Json:
    """A run's document without the single timings and items, which stay in the folder's files."""
    profiles = {role: profile_from(profile).summary() for role, profile in document["profiles"].items()}
    comparison = comparison_from(document["comparison"]).summary()
    scores = {"scored": None}
    return {**document, **scores, "profiles": profiles, "comparison": comparison}


def _with_artifact(accuracy: Json | None, exported: Json) -> Json | None:
    """Accuracy with the score through the exported file, which ``verify`` has found equal to PyTorch's."""
    return None if accuracy is None else {**accuracy, "artifact": exported["accuracy"]}


def _accuracy(pipeline: Pipeline, **stages: Done) -> Json | None:
    """Percent on the whole test split after each stage; None without data."""
    return None if pipeline.data is None else {name: done.result["accuracy"] for name, done in stages.items()}


def _paired(dense: Json, compressed: Json) -> Json:
    """Both models' scores as they can be paired, and what sets them apart; None where that is not known."""
    scores = {"dense": dense.get("scored"), "compressed": compressed.get("scored")}
    first, second = (SplitScore.from_json(score) for score in scores.values())
    apart = difference(first, second).to_json() if first and second else None
    return {"scored": scores, "accuracy_difference": apart}


def _costs(pipeline: Pipeline) -> Json:
    models = {"dense": pipeline.dense_model, "compressed": rebuilt(pipeline.sample, pipeline.folder).model()}
    return {name: cost(model, pipeline.sample.inputs).to_json() for name, model in models.items()}


def _artifacts(pipeline: Pipeline, files: Mapping[str, Done]) -> list[Json]:
    """Facts about every exported file, with paths relative to the folder."""
    found = []
    for role, done in files.items():
        for target in (target for target, made in done.result.items() if "failed" not in made):
            file = pipeline.exported_file(role, target)
            artifact = Artifact.load(pipeline.folder / file)
            zipped = {"zipped_bytes": zipped_bytes(*artifact.files)}
            found.append({"role": role, **artifact.summary(), "path": file, **zipped})
    return found


def _profile(pipeline: Pipeline, role: str) -> AnyProfile:
    """Of the first target's file."""
    file = pipeline.folder / pipeline.exported_file(role, pipeline.options.targets[0])
    return profile_from(read_json(profile_path(file)))


def _layers(pipeline: Pipeline) -> Json:
    """Every layer with its cost, and its time before and after where the runtime tells; and that of all else.

    Bytes are those of the weights as they are; of a layer stored as codes those in the file of codes.
    """
    plan = CompressionPlan.load(pipeline.folder / PLAN_FILE)
    layers = layer_costs(pipeline.dense_model, pipeline.sample.inputs, plan)
    coded = coded_bytes(load(pipeline.folder / CODES_FILE)) if pipeline.options.storage is not None else {}
    times, ablations = _file_times(pipeline)
    names = [layer["name"] for layer in layers]
    *timed, others = compared_layers(times["dense"], times["compressed"], names, ablations)
    for layer, taken in zip(layers, timed, strict=True):
        layer |= {key: taken[key] for key in ("slower", "ablation") if key in taken}
        for role in STEMS:
            layer[role] = {**layer[role], "wall_ms": taken[role]}
        if layer["name"] in coded:
            layer["compressed"]["bytes"] = coded[layer["name"]]
    outside = {role: one.outside_ms() for role, one in times.items()}
    whole = {role: one.latency_ms for role, one in times.items()}
    return {
        "layers": layers,
        "outside_layers": {role: others[role] for role in STEMS},
        "file_times": {"outside_operators": outside, "whole": whole},
    }


def _file_times(pipeline: Pipeline) -> tuple[dict[str, FileTimes], dict[str, Ratio]]:
    """What both files' operators and both files took, and what became of layers that seemed slower."""
    profiles = {role: one if isinstance(one := _profile(pipeline, role), Profile) else None for role in STEMS}
    pair = comparison_from(read_json(pipeline.folder / COMPARISON_FILE))
    if not isinstance(pair, Comparison):
        return {role: file_times(one) for role, one in profiles.items()}, {}
    latencies = {"dense": pair.baseline_latency, "compressed": pair.candidate_latency}
    return {role: file_times(one, latencies[role]) for role, one in profiles.items()}, dict(pair.ablations)
