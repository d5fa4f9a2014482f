"""compress() and run(): the stages in a row, and the document that tells what came of them."""

from __future__ import annotations

from collections.abc import Mapping

from edgecompress.artifacts import Artifact, profile_path, versions
from edgecompress.codecs.payload import load
from edgecompress.costs import coded_bytes, cost
from edgecompress.files import Json, read_json, zipped_bytes
from edgecompress.planning import layer_costs
from edgecompress.plans import CompressionPlan
from edgecompress.profiling.comparisons import Comparison
from edgecompress.profiling.instruction_counts import AnyProfile, comparison_from, profile_from
from edgecompress.profiling.operators import FileTimes, compared_layers, file_times
from edgecompress.profiling.profiles import Profile
from edgecompress.profiling.ratios import Ratio
from edgecompress.reporting import KIND as REPORT_KIND
from edgecompress.reporting import VERSION as REPORT_VERSION
from edgecompress.running.claiming import COMPARISON_FILE
from edgecompress.running.history import tried
from edgecompress.running.options import PLAIN
from edgecompress.running.pipeline import STEMS, Line
from edgecompress.running.resuming import Done
from edgecompress.sources.compressed_folder import CODES_FILE, PLAN_FILE, rebuilt
from edgecompress.split_scores import SplitScore, difference


def compress(line: Line) -> Json:
    """Plan, decompose, fine-tune; returns accuracy and cost. The folder is then a MODEL."""
    line.check()
    return _compressed(line)[0]


def _compressed(line: Line) -> tuple[Json, Done, Done]:
    """What the first stages came to, the dense model's score, and the last of them."""
    dense, decomposed = line.score_dense(), line.start()
    tuned = line.finetune(decomposed)
    storage = line.options.storage
    last = tuned if storage is None else line.store(tuned, storage)
    factors = {} if storage is None else {"factors": tuned}
    document = {
        "model": line.sample.name,
        "data": line.data,
        "metric": line.sample.metric,
        "accuracy": _accuracy(line, dense=dense, decomposed=decomposed, **factors, finetuned=last),
        **_paired(dense.result, last.result),
        "calibration": decomposed.result["calibration"],
        "recipe": decomposed.result.get("recipe", {"name": PLAIN}),
        "training": tuned.result["training"],
        "cost": _costs(line),
        **({} if storage is None else {"storage": last.result["storage"]}),
    }
    return document, dense, last


def run(line: Line) -> Json:
    """All stages; returns the report's document."""
    line.check(exports=True)
    compressed, dense, tuned = _compressed(line)
    files = {"dense": line.export("dense", dense), "compressed": line.export("compressed", tuned)}
    failed = [
        {"role": role, "target": target, "reason": made["failed"]}
        for role, done in files.items()
        for target, made in done.result.items()
        if "failed" in made
    ]
    measured = line.profile(files["dense"], files["compressed"])
    bundled = line.bundle(measured)
    document = {
        "kind": REPORT_KIND,
        "version": REPORT_VERSION,
        **compressed,
        "arguments": line.options.to_json(),
        "versions": versions(),
        "accuracy": _with_artifact(compressed["accuracy"], files["compressed"].result[line.options.targets[0]]),
        **_paired(dense.result, files["compressed"].result[line.options.targets[0]]),
        **_layers(line),
        "artifacts": _artifacts(line, files),
        "failed": failed,
        "profiles": {role: _profile(line, role).to_json() for role in STEMS},
        "comparison": comparison_from(read_json(line.folder / COMPARISON_FILE)).to_json(),
        "threads": measured.result["threads"],
        "bundle": bundled.result["manifest"],
    }
    document["tried"] = tried(line.folder, line.dense_key, document)
    line.report(document, measured.key)
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


def _accuracy(line: Line, **stages: Done) -> Json | None:
    """Percent on the whole test split after each stage; None without data."""
    return None if line.data is None else {name: done.result["accuracy"] for name, done in stages.items()}


def _paired(dense: Json, compressed: Json) -> Json:
    """Both models' scores as they can be paired, and what sets them apart; None where that is not known."""
    scores = {"dense": dense.get("scored"), "compressed": compressed.get("scored")}
    first, second = (SplitScore.from_json(score) for score in scores.values())
    apart = difference(first, second).to_json() if first and second else None
    return {"scored": scores, "accuracy_difference": apart}


def _costs(line: Line) -> Json:
    models = {"dense": line.dense_model, "compressed": rebuilt(line.sample, line.folder).model()}
    return {name: cost(model, line.sample.inputs).to_json() for name, model in models.items()}


def _artifacts(line: Line, files: Mapping[str, Done]) -> list[Json]:
    """Facts about every exported file, with paths relative to the folder."""
    found = []
    for role, done in files.items():
        for target in (target for target, made in done.result.items() if "failed" not in made):
            file = line.exported_file(role, target)
            artifact = Artifact.load(line.folder / file)
            zipped = {"zipped_bytes": zipped_bytes(*artifact.files)}
            found.append({"role": role, **artifact.summary(), "path": file, **zipped})
    return found


def _profile(line: Line, role: str) -> AnyProfile:
    """Of the first target's file."""
    file = line.folder / line.exported_file(role, line.options.targets[0])
    return profile_from(read_json(profile_path(file)))


def _layers(line: Line) -> Json:
    """Every layer with its cost, and its time before and after where the runtime tells; and that of all else.

    Bytes are those of the weights as they are; of a layer stored as codes those in the file of codes.
    """
    plan = CompressionPlan.load(line.folder / PLAN_FILE)
    layers = layer_costs(line.dense_model, line.sample.inputs, plan)
    coded = coded_bytes(load(line.folder / CODES_FILE)) if line.options.storage is not None else {}
    times, ablations = _file_times(line)
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


def _file_times(line: Line) -> tuple[dict[str, FileTimes], dict[str, Ratio]]:
    """What both files' operators and both files took, and what became of layers that seemed slower."""
    profiles = {role: one if isinstance(one := _profile(line, role), Profile) else None for role in STEMS}
    pair = comparison_from(read_json(line.folder / COMPARISON_FILE))
    if not isinstance(pair, Comparison):
        return {role: file_times(one) for role, one in profiles.items()}, {}
    latencies = {"dense": pair.baseline_latency, "compressed": pair.candidate_latency}
    return {role: file_times(one, latencies[role]) for role, one in profiles.items()}, dict(pair.ablations)
