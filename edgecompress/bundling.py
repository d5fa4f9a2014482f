"""bundle(): what an app ships: the model, a manifest, a golden pair, and a runner that checks them anywhere."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from edgecompress.artifacts import Artifact, golden_path, profile_path
from edgecompress.errors import FileError, printable
from edgecompress.exporting.tolerances import TOLERANCES
from edgecompress.exporting.verifying import check_facts
from edgecompress.files import Json, folder_made, read_json, reason, sha256, write_json
from edgecompress.platforms import PLATFORMS, Platform, platform_named
from edgecompress.profiling.instruction_counts import profile_from
from edgecompress.replacing import document_in
from edgecompress.settings import USUAL_PLATFORM
from edgecompress.sources import sample_facts

VERSION = 1
KIND = "edgecompress.bundle"
GOLDEN_FILE, MANIFEST_FILE = "golden.npz", "manifest.json"
OLD = ".old"
"""The bundle that was replaced, until it is removed."""


def bundle(path: Path, folder: Path, *, platform: str = USUAL_PLATFORM, force: bool = False) -> Path:
    """Make ``folder`` a bundle of the artifact at ``path``: the model, a manifest, a golden pair and a runner.

    The folder is made aside and renamed, so it is whole or not there. An older bundle in its place is replaced if it
    holds what its manifest lists and nothing else (:func:`check_bundle`).

    Args:
        path: an exported file, its facts and golden pair beside it.
        folder: to make.
        platform: a name in ``PLATFORMS``.
        force: also replace files of the older bundle that were changed since.

    Returns:
        The path of ``manifest.json``.

    Raises:
        FileError: the artifact is not whole, the platform is unknown or runs other targets, or the folder is taken.
    """
    chosen, artifact, folder = platform_named(platform), Artifact.load(path), folder.resolve()
    if artifact.target not in chosen.targets:
        other = "".join(f"; --platform {name} takes it" for name in _takers([artifact.target]))
        raise FileError(
            f"{path}: the {platform} bundle runs on {' or '.join(chosen.targets)}, this is {artifact.target}{other}"
        )
    check_facts(artifact)
    check_bundle(folder, force=force)
    try:
        with (
            folder_made(folder.parent) as beside,
            tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=beside) as parent,
        ):
            aside = Path(parent) / folder.name
            _fill(aside, artifact, chosen)
            _put_in_place(aside, folder, Path(parent) / OLD)
    except OSError as error:
        raise FileError(f"cannot write the bundle {folder}: {reason(error)}") from error
    return folder / MANIFEST_FILE


def bundled_target(targets: Sequence[str], platform: str) -> str:
    """The first of several targets that a platform's bundle runs.

    Raises:
        FileError: none of them, or no such platform.
    """
    runnable = platform_named(platform).targets
    if fitting := [target for target in targets if target in runnable]:
        return fitting[0]
    others = [f"--platform {name}" for name in _takers(targets)]
    advised = " or ".join([f"add --target {runnable[0]}", *others]) + ", or use `compress`"
    raise FileError(f"the {platform} bundle runs {' or '.join(runnable)}; {advised}")


def _takers(targets: Sequence[str]) -> list[str]:
    """The platforms whose bundles run one of several targets."""
    return [name for name, platform in PLATFORMS.items() if not set(targets).isdisjoint(platform.targets)]


def _put_in_place(made: Path, folder: Path, old: Path) -> None:
    """Rename ``made`` to ``folder``; what is there goes to ``old``, and comes back if that fails."""
    if folder.exists():
        folder.rename(old)
    try:
        made.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise


def check_bundle(folder: Path, *, force: bool = False) -> None:
    """Prove that a bundle may be made in ``folder``: it is not there, empty, or an older bundle and nothing else.

    ``force`` also lets go of files that were changed since the older bundle was made, but of nothing that it lacked.

    Raises:
        FileError: something else is there.
    """
    if folder.is_symlink():
        raise FileError(f"{folder}: is a symbolic link, which is not followed; choose another folder with -o")
    if not folder.exists():
        return
    if not folder.is_dir():
        raise FileError(f"{folder}: is there and no folder; choose another one with -o")
    listed = _listed(folder / MANIFEST_FILE)
    for entry in sorted(folder.iterdir()):
        if entry.name not in listed or entry.is_symlink() or not entry.is_file():
            name = printable(repr(entry.name))
            raise FileError(f"{folder}: holds {name}, which no bundle put there; choose another folder with -o")
        if not force and entry.name != MANIFEST_FILE and sha256(entry) != listed[entry.name]:
            raise FileError(
                f"{entry}: was changed since the bundle was made; choose another folder with -o, "
                "or replace it with --force"
            )


def _listed(manifest: Path) -> dict[str, object]:
    """The names in a bundle's folder by its manifest, with their digests; none where there is no manifest of ours."""
    document = document_in(manifest)
    files = document.get("files")
    if document.get("kind") != KIND or not isinstance(files, list):
        return {}
    entries = [entry for entry in files if isinstance(entry, dict) and isinstance(entry.get("path"), str)]
    return {MANIFEST_FILE: None} | {entry["path"]: entry.get("sha256") for entry in entries}


def _fill(folder: Path, artifact: Artifact, platform: Platform) -> None:
    folder.mkdir()
    shutil.copyfile(artifact.path, folder / artifact.path.name)
    shutil.copyfile(golden_path(artifact.path), folder / GOLDEN_FILE)
    platform.fill(folder, artifact)
    write_json(folder / MANIFEST_FILE, _manifest(folder, artifact, platform))


def _manifest(folder: Path, artifact: Artifact, platform: Platform) -> Json:
    facts = artifact.to_json()
    copied = (
        "target",
        "precision",
        "inputs",
        "outputs",
        "preprocessing",
        "parity",
        "graph",
        "cost",
        "plan",
        "versions",
    )
    return {
        "kind": KIND,
        "version": VERSION,
        "platform": platform.name,
        "model": artifact.model,
        "licence": sample_facts().get(artifact.model, {}).get("licence"),
        "model_file": artifact.path.name,
        "golden_file": GOLDEN_FILE,
        "runner": platform.runner,
        "tolerance": TOLERANCES[artifact.precision].relative,
        "files": [_entry(file) for file in sorted(folder.iterdir())],
        **{key: facts[key] for key in copied},
        "profile": _profile(artifact),
    }


def _entry(file: Path) -> Json:
    return {"path": file.name, "size_bytes": file.stat().st_size, "sha256": sha256(file)}


def _profile(artifact: Artifact) -> Json | None:
    """The profile beside the artifact, if it is of this very file."""
    file = profile_path(artifact.path)
    if not file.is_file():
        return None
    profile = profile_from(read_json(file))
    return profile.summary() if profile.sha256 == artifact.sha256 else None
