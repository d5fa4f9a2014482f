"""``export`` and ``verify``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgecompress.cli.building import made
from edgecompress.cli.bundling import check_bundle_at
from edgecompress.cli.commands import Command
from edgecompress.cli.display import complain, print_json, print_table, say, showing_progress
from edgecompress.cli.fields import option, options_of
from edgecompress.cli.options import (
    FILES,
    force_option,
    json_option,
    output_option,
    target_option,
    tested_option,
    trust_option,
)
from edgecompress.cli.types import TableChoice
from edgecompress.cli.writing import announcing
from edgecompress.settings import ExportOptions

if TYPE_CHECKING:
    from torch import nn

    from edgecompress.artifacts import Approximation, Artifact, Parity, Scored
    from edgecompress.exporting import Outcome
    from edgecompress.exporting.verifying import Verified
    from edgecompress.models import Sample
    from edgecompress.split_scores import Difference


@click.command(cls=Command, epilog="Example: edgecompress export lenet5 --target onnx -o out/dense")
@click.argument("model")
@target_option
@option(
    "--merge",
    multiple=True,
    group=FILES,
    help="Layers, as in a shell: 'layer1.*', whose chains become dense layers again in this file; repeatable.",
)
@option(
    "--require",
    "required",
    multiple=True,
    group=FILES,
    type=TableChoice("edgecompress.targets:TARGETS"),
    help="A target that must succeed; repeatable.",
)
@options_of(ExportOptions, group=FILES)
@tested_option
@trust_option
@output_option("Folder for the exported files.")
@force_option
@json_option
def export(
    model: str,
    targets: tuple[str, ...],
    merge: tuple[str, ...],
    required: tuple[str, ...],
    tested: int | None,
    trust: bool,
    output: Path,
    force: bool,
    as_json: bool,
    **given: Any,
) -> int:
    """Export a model, dense or compressed, and prove that each file computes the same.

    Of several targets some may fail, with a reason each; --require makes a failure fatal.
    """
    from edgecompress.exporting import export_each, without_extras
    from edgecompress.sources import resolve

    if stray := set(required) - set(targets):
        raise click.UsageError(f"--require {min(stray)}: is not among the targets; add --target {min(stray)}")
    sample, wanted = resolve(model, trust=trust).scored_on(tested), list(dict.fromkeys(targets))
    if lacking := without_extras(wanted, required):
        return _reported(sample, lacking, required, as_json=as_json)
    built = sample.model()
    if merge:
        built, sample = _merged(built, sample, merge)
    chosen = made(ExportOptions, given, **({"replaces": "anything"} if force else {}))
    with showing_progress() as shown, announcing(output, shown) as progress:
        outcomes = export_each(built, sample, output, wanted, options=chosen, progress=progress)
    return _reported(sample, outcomes, required, as_json=as_json)


def _reported(sample: Sample, outcomes: list[Outcome], required: tuple[str, ...], *, as_json: bool) -> int:
    """Print what became of each target; returns the exit code."""
    from edgecompress.exporting import fatal

    if as_json:
        print_json({"model": sample.name, "artifacts": [outcome.to_json() for outcome in outcomes]})
    else:
        _print_artifacts(outcomes)
    error = fatal(outcomes, required)
    return error.exit_code if error is not None else 0


def _merged(built: nn.Module, sample: Sample, patterns: tuple[str, ...]) -> tuple[nn.Module, Sample]:
    from edgecompress.decomposing import merge_back

    if sample.plan is None or sample.dense is None:
        raise click.UsageError(f"--merge is for compressed models; {sample.name} is dense already")
    changed, plan = merge_back(built, sample.plan, sample.dense.model(), sample.inputs, patterns)
    return changed, replace(sample, plan=plan)


def _print_artifacts(outcomes: list[Outcome]) -> None:
    from edgecompress.reporting.numbers import bytes_text

    made = [outcome.artifact for outcome in outcomes if outcome.artifact]
    rows = [
        (
            a.target,
            ", ".join((str(a.path), *a.parts)),
            bytes_text(a.size_bytes),
            f"{a.max_abs_error:.1e}" if a.max_abs_error is not None else "not run here",
            f"{a.sqnr_db:.0f} dB" if a.sqnr_db is not None else "",
            _score(a.score) if a.parity else "",
        )
        for a in made
    ]
    header = ("target", "file", "size", "max error", "SQNR", "score, file / PyTorch")
    if rows:
        print_table("Exported and compared with PyTorch", header, rows)
    for artifact in made:
        for notice in artifact.notices:
            say(f"{artifact.path.name}: {notice}")
    if made and made[0].approximation is not None:
        say(distance(made[0].approximation))
    for outcome in outcomes:
        if outcome.error is not None:
            complain(f"error: {outcome.error}")


def distance(found: Approximation) -> str:
    """What compression itself changed, apart from what conversion did."""
    text = f"compressed against dense, both in PyTorch: SQNR {found.parity.sqnr_db:.0f} dB"
    if found.score is None or found.dense_score is None:
        return text
    apart = f" ({_apart(found.difference)})" if found.difference else ""
    return f"{text}, score {found.score:.2f} against {found.dense_score:.2f}{apart}"


def _score(scored: Scored | None) -> str:
    if scored is None:
        return "no data"
    apart = f" ({_apart(scored.difference)})" if scored.difference else ""
    return f"{scored.artifact:.2f} / {scored.torch:.2f} on {scored.items:,}{apart}"


def _apart(found: Difference) -> str:
    from edgecompress.reporting.wording import score_verdict

    return score_verdict(found, " %" if found.flips else "")


@click.command(cls=Command, epilog="Example: edgecompress verify out/lenet5 --model lenet5")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--model", help="The MODEL the files came from, where it is not where it was.")
@tested_option
@trust_option
@json_option
def verify(path: Path, model: str | None, tested: int | None, trust: bool, as_json: bool) -> None:
    """Check exported files again: whole, equal to PyTorch at two batch sizes, same task score; or a bundle.

    PATH is an exported file or a folder of them, or a bundle: every file is whole and listed, and the golden answers
    come out where its runtime is here.
    """
    from edgecompress.bundling.checking import is_bundle
    from edgecompress.exporting.verifying import verify as verify_artifact

    if is_bundle(path):
        check_bundle_at(path, as_json=as_json)
        return
    with showing_progress() as progress:
        checked = [
            verify_artifact(artifact, _sample_of(artifact, model, trust=trust).scored_on(tested), progress=progress)
            for artifact in _artifacts_in(path)
        ]
    if as_json:
        print_json({"verified": [_verified(item) for item in checked]})
        return
    rows = [
        (item.artifact.path.name, "; ".join(map(_error_at, item.parity)), _score(item.score))
        if item.parity
        else (item.artifact.path.name, "whole; not run here", "")
        for item in checked
    ]
    header = ("file", "max error", "score, file / PyTorch")
    print_table("Verified", header, rows)


def _error_at(parity: Parity) -> str:
    length = "" if parity.length is None else f", {parity.length} positions"
    return f"{parity.max_abs_error:.1e} at batch {parity.batch}{length}"


def _artifacts_in(path: Path) -> list[Artifact]:
    from edgecompress.artifacts import Artifact, facts_path
    from edgecompress.errors import FileError
    from edgecompress.targets import TARGETS

    suffixes = tuple(target.suffix for target in TARGETS.values())
    if path.is_file() or path.name.endswith(suffixes):
        return [Artifact.load(path)]
    if not path.is_dir():
        raise FileError(f"{path}: no such file or folder")
    files = [file for file in sorted(path.iterdir()) if file.name.endswith(suffixes) and facts_path(file).is_file()]
    if not files:
        raise FileError(f"{path}: holds no exported file with its facts beside it; `edgecompress export` writes those")
    return [Artifact.load(file) for file in files]


def _sample_of(artifact: Artifact, model: str | None, *, trust: bool) -> Sample:
    """The sample an artifact came from; ``model`` gives its code and data where it is of the same plan."""
    from edgecompress.errors import ModelError
    from edgecompress.sources import resolve, resolve_recorded

    given = resolve(model, trust=trust) if model else None
    if given is not None and given.plan == artifact.plan:
        return given
    try:
        recorded = resolve_recorded(artifact.source, str(artifact.path), trust=trust, above=_above(artifact))
    except ModelError as error:
        raise ModelError(f"{error}; or say where its model is now with --model") from error
    return recorded if given is None else replace(given, build=recorded.build, plan=recorded.plan)


def _above(artifact: Artifact) -> tuple[Path, ...]:
    """What has to bear a seal for the code of an artifact to run: the compressed-model folder that it lies in.

    Where the artifact names that folder, or what the folder names, nothing runs that the folder itself would not run as
    MODEL; where it names anything else, nothing has a seal.
    """
    from edgecompress.errors import FileError
    from edgecompress.sources.compressed_folder import MODEL_FILE, Recorded

    folder = artifact.path.parent.resolve()
    try:
        source = Recorded.load(folder / MODEL_FILE).source
    except FileError:
        return (artifact.path,)
    if artifact.source == str(folder):
        return ()  # it proves itself
    return (folder,) if artifact.source == source else (artifact.path,)


def _verified(item: Verified) -> dict[str, Any]:
    return {
        "path": str(item.artifact.path),
        "target": item.artifact.target,
        "status": "verified" if item.parity else "not run here",
        "parity": [parity.to_json() for parity in item.parity],
        "score": item.score.to_json() if item.score else None,
    }
