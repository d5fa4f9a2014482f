"""``export``, ``verify`` and ``bundle``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgecompress.cli.display import print_json, print_table, say, showing_progress
from edgecompress.cli.options import json_option, output_option, platform_option, target_option, trust_option

if TYPE_CHECKING:
    from torch import nn

    from edgecompress.artifacts import Artifact, Scored
    from edgecompress.models import Sample
    from edgecompress.verifying import Verified


@click.command(epilog="Example: edgecompress export lenet5 --target onnx -o out/dense")
@click.argument("model")
@target_option
@click.option(
    "--merge",
    multiple=True,
    help="Layers, as in a shell: 'layer1.*', whose chains become dense layers again in this file; repeatable.",
)
@trust_option
@output_option("Folder for the exported files.")
@json_option
def export(
    model: str, targets: tuple[str, ...], merge: tuple[str, ...], trust: bool, output: Path, as_json: bool
) -> None:
    """Export a model, dense or compressed, and prove that the file computes the same."""
    from edgecompress.exporting import export as export_model
    from edgecompress.resolving import resolve

    sample, artifacts = resolve(model, trust=trust), []
    built = sample.model()
    if merge:
        built, sample = _merged(built, sample, merge)
    with showing_progress() as progress:
        for target in dict.fromkeys(targets):
            progress(f"export to {target}", 0, 1, "")
            artifacts.append(export_model(built, sample, output, target=target, progress=progress))
    if as_json:
        print_json({"model": sample.name, "artifacts": [artifact.summary() for artifact in artifacts]})
    else:
        _print_artifacts(artifacts)


def _merged(built: nn.Module, sample: Sample, patterns: tuple[str, ...]) -> tuple[nn.Module, Sample]:
    from edgecompress.decomposing import merge_back

    if sample.plan is None or sample.dense is None:
        raise click.UsageError(f"--merge is for compressed models; {sample.name} is dense already")
    changed, plan = merge_back(built, sample.plan, sample.dense.model(), sample.inputs, patterns)
    return changed, replace(sample, plan=plan)


def _print_artifacts(artifacts: list[Artifact]) -> None:
    from edgecompress.wording import bytes_text

    rows = [
        (
            a.target,
            str(a.path),
            bytes_text(a.size_bytes),
            f"{a.max_abs_error:.1e}",
            f"{a.sqnr_db:.0f} dB",
            _score(a.score),
        )
        for a in artifacts
    ]
    header = ("target", "file", "size", "max error", "SQNR", "score, file / PyTorch")
    print_table("Exported; agrees with PyTorch at batch 1 and 3", header, rows)


def _score(scored: Scored | None) -> str:
    return f"{scored.artifact:.2f} / {scored.torch:.2f} on {scored.items:,}" if scored else "no data"


@click.command(epilog="Example: edgecompress verify out/lenet5 --model lenet5")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--model", help="The MODEL the files came from, where it is not where it was.")
@trust_option
@json_option
def verify(path: Path, model: str | None, trust: bool, as_json: bool) -> None:
    """Check exported files again: whole, equal to PyTorch at two batch sizes, same task score.

    PATH is an exported file or a folder of them.
    """
    from edgecompress.verifying import verify as verify_artifact

    with showing_progress() as progress:
        checked = [
            verify_artifact(artifact, _sample_of(artifact, model, trust=trust), progress=progress)
            for artifact in _artifacts_in(path)
        ]
    if as_json:
        print_json({"verified": [_verified(item) for item in checked]})
        return
    rows = [
        (item.artifact.path.name, *(f"{p.max_abs_error:.1e}" for p in item.parity), _score(item.score))
        for item in checked
    ]
    header = ("file", "max error, batch 1", "max error, batch 3", "score, file / PyTorch")
    print_table("Verified", header, rows)


def _artifacts_in(path: Path) -> list[Artifact]:
    from edgecompress.artifacts import Artifact, facts_path
    from edgecompress.errors import FileError
    from edgecompress.targets import TARGETS

    if path.is_file():
        return [Artifact.load(path)]
    if not path.is_dir():
        raise FileError(f"{path}: no such file or folder")
    suffixes = {target.suffix for target in TARGETS.values()}
    files = [file for file in sorted(path.iterdir()) if file.suffix in suffixes and facts_path(file).is_file()]
    if not files:
        raise FileError(f"{path}: holds no exported file with its facts beside it; `edgecompress export` writes those")
    return [Artifact.load(file) for file in files]


def _sample_of(artifact: Artifact, model: str | None, *, trust: bool) -> Sample:
    """The sample an artifact came from; ``model`` gives its code and data where it is of the same plan."""
    from edgecompress.compressed import resolve_recorded
    from edgecompress.errors import ModelError
    from edgecompress.resolving import resolve

    given = resolve(model, trust=trust) if model else None
    if given is not None and given.plan == artifact.plan:
        return given
    try:
        recorded = resolve_recorded(artifact.source, str(artifact.path), trust=trust)
    except ModelError as error:
        raise ModelError(f"{error}; or say where its model is now with --model") from error
    return recorded if given is None else replace(given, build=recorded.build, plan=recorded.plan)


def _verified(item: Verified) -> dict[str, Any]:
    return {
        "path": str(item.artifact.path),
        "target": item.artifact.target,
        "parity": [parity.to_json() for parity in item.parity],
        "score": item.score.to_json() if item.score else None,
    }


@click.command(epilog="Example: edgecompress bundle out/lenet5/model.onnx --platform pi -o app && python app/run.py")
@click.argument("artifact", type=click.Path(path_type=Path))
@platform_option
@output_option("Folder to make; an older bundle there is replaced.")
@json_option
def bundle(artifact: Path, platform: str, output: Path, as_json: bool) -> None:
    """Package an exported file for an app: manifest, golden pair, and a runner that checks them anywhere."""
    from edgecompress.bundling import bundle as make_bundle
    from edgecompress.files import read_json
    from edgecompress.wording import bytes_text

    manifest = make_bundle(artifact, output, platform=platform)
    document = read_json(manifest)
    if as_json:
        print_json({"bundle": str(output), "manifest": document})
        return
    rows = [(entry["path"], bytes_text(entry["size_bytes"]), entry["sha256"][:16]) for entry in document["files"]]
    print_table(f"Bundle {output}", ("file", "size", "sha256"), rows)
    say(f"check it anywhere with numpy and onnxruntime: python {output / 'run.py'}")


COMMANDS = (export, verify, bundle)
