"""What lies in a bundle: model, golden files, labels, the platform's files, a README, and the manifest of them all."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgecompress.artifacts import profile_path
from edgecompress.bundling.golden_files import FOLDER, write_golden_files
from edgecompress.bundling.metadata import describe, facts_of
from edgecompress.bundling.readme import README, readme_text
from edgecompress.bundling.signatures import inputs_of, labels_of, notes_of, outputs_of
from edgecompress.errors import FileError
from edgecompress.exporting.outputs import compare
from edgecompress.exporting.tolerances import TOLERANCES
from edgecompress.files import Json, files_in, read_json, sha256, write_json, write_text
from edgecompress.manifests import FILE, Licences, ListedFile, Manifest, Role, Runtime
from edgecompress.manifests.reading import FACTS, is_path, manifest_from
from edgecompress.platforms.base import Contents
from edgecompress.profiling.instruction_counts import profile_from
from edgecompress.sources import sample_facts
from edgecompress.targets import target_named
from edgecompress.targets.child_converter import missing

if TYPE_CHECKING:
    from edgecompress.artifacts import Artifact
    from edgecompress.platforms import Platform
    from edgecompress.settings import BundleOptions

LABELS = "labels.txt"


def fill(folder: Path, artifact: Artifact, platform: Platform, options: BundleOptions) -> Manifest:
    """Make ``folder``, which is not there, a bundle, and return its manifest.

    Raises:
        FileError: what the artifact says of itself makes none, or what the platform needs is not there.
    """
    home = folder / platform.payload
    home.mkdir(parents=True)
    made = _model(home, artifact, platform, options)
    roles = {file: _role(file.relative_to(home).as_posix()) for file in files_in(home)}
    platform.fill(folder, Contents(artifact, made, home, options))
    made = replace(
        made,
        runtime=platform.runtime(artifact.target, folder),
        licences=Licences(made.licences.model, platform.runtime_licence(artifact.target)),
    )
    if platform.payload:
        _save(home, made, _listed(home, roles))
    whole = replace(made.below(platform.payload), runner=platform.runner)
    model_bytes = sum(file.stat().st_size for file, role in roles.items() if role == "model")
    write_text(folder / README, readme_text(whole, model_bytes, platform.check(Path())))
    return _save(folder, whole, _listed(folder, _all_roles(folder, platform, roles)))


def _model(home: Path, artifact: Artifact, platform: Platform, options: BundleOptions) -> Manifest:
    """Write model, golden files and labels; the manifest without files, runner and the runtime's own."""
    for file in artifact.files:
        _copy(file, home / _name(file))
    labels = labels_of(artifact, options.labels)
    inputs, expected = inputs_of(artifact), artifact.golden()[1]
    outputs = outputs_of(artifact, expected, LABELS, len(labels))
    if any(one.labels for one in outputs):
        write_text(home / LABELS, "".join(f"{' '.join(label.split())}\n" for label in labels))
    golden = write_golden_files(home, artifact, inputs, outputs)
    if describe(artifact.target, home / artifact.path.name, facts_of(artifact, inputs[0], labels)):
        _check_described(home / artifact.path.name, artifact)
    facts = artifact.to_json() | {"profile": _profile(artifact)}
    return Manifest(
        platform=platform.name,
        model=artifact.model,
        model_file=artifact.path.name,
        target=artifact.target,
        precision=artifact.precision,
        runner=None,
        tolerance=TOLERANCES[artifact.precision].relative,
        runtime=Runtime(artifact.target),
        inputs=inputs,
        outputs=outputs,
        golden=golden,
        licences=Licences(sample_facts().get(artifact.model, {}).get("licence")),
        verified=platform.verified,
        facts={key: facts[key] for key in FACTS},
        notes=notes_of(artifact, image=inputs[0].preprocessing is not None),
    )


def _name(file: Path) -> str:
    if not is_path(file.name):
        raise FileError(f"{file}: a bundle has no file of that name; export it under one of letters, digits, . _ and -")
    return file.name


def _check_described(model: Path, artifact: Artifact) -> None:
    """Prove that the file still answers as PyTorch did, or where its runtime is not here that it has its signature.

    Raises:
        FileError: it does not.
    """
    target = target_named(artifact.target)
    if missing(target):
        return
    same = target.signature(model) == (artifact.inputs, artifact.outputs)
    if same and target.runs_here:
        given, wanted = artifact.golden()
        answers = target.load(model)(given)
        found = compare(1, list(wanted.values()), [answers[name] for name in wanted])
        same = found.max_abs_error <= TOLERANCES[artifact.precision].relative * found.scale
    if not same:
        raise FileError(f"{artifact.path}: is another model with facts about itself in it; export it again")


def _copy(file: Path, to: Path) -> None:
    """A file, or a format that is a folder."""
    if file.is_dir():
        shutil.copytree(file, to, copy_function=shutil.copyfile)
    else:
        shutil.copyfile(file, to)


def _role(path: str) -> Role:
    """Of a file among model, golden files and labels."""
    if path.startswith(f"{FOLDER}/"):
        return "golden"
    return "labels" if path == LABELS else "model"


def _all_roles(folder: Path, platform: Platform, own: dict[Path, Role]) -> dict[Path, Role]:
    """Of every file in the bundle; a manifest in it is ``text``."""
    return {file: own.get(file) or _other(file.relative_to(folder).as_posix(), platform) for file in files_in(folder)}


def _other(path: str, platform: Platform) -> Role:
    return "text" if path in (README, f"{platform.payload}/{FILE}") else platform.role(path)


def _listed(folder: Path, roles: dict[Path, Role]) -> tuple[ListedFile, ...]:
    entries = ((file.relative_to(folder).as_posix(), role, file) for file, role in roles.items())
    return tuple(ListedFile(path, role, file.stat().st_size, sha256(file)) for path, role, file in sorted(entries))


def _save(folder: Path, manifest: Manifest, files: tuple[ListedFile, ...]) -> Manifest:
    """Write a manifest that is proved to be read again."""
    whole = replace(manifest, files=files)
    write_json(folder / FILE, whole.to_json())
    manifest_from(read_json(folder / FILE))
    return whole


def _profile(artifact: Artifact) -> Json | None:
    """The profile beside the artifact, if it is of this very file."""
    file = profile_path(artifact.path)
    if not file.is_file():
        return None
    profile = profile_from(read_json(file))
    return profile.summary() if profile.sha256 == artifact.sha256 else None
