"""bundle(): what an app ships: the model, a manifest, golden files, and what checks them where it runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgecompress.artifacts import Artifact
from edgecompress.bundling.archives import write_zip
from edgecompress.bundling.contents import fill
from edgecompress.bundling.places import beside, check_bundle, making
from edgecompress.errors import FileError
from edgecompress.exporting.verifying import check_facts
from edgecompress.files import written_aside
from edgecompress.manifests import FILE, Manifest
from edgecompress.platforms import PLATFORMS, Platform, platform_named
from edgecompress.settings import USUAL_PLATFORM, BundleOptions

__all__ = ["Bundled", "bundle", "bundled", "bundled_target", "check_bundle"]


@dataclass(frozen=True, slots=True)
class Bundled:
    """A bundle that was made: where, and what it says of itself."""

    path: Path
    manifest: Manifest


def bundle(
    path: str | Path,
    place: str | Path,
    *,
    platform: str = USUAL_PLATFORM,
    options: BundleOptions | None = None,
    force: bool = False,
) -> Path:
    """Make a bundle of the artifact at ``path``: the model, a manifest, golden files and what checks them.

    It is made aside and renamed, so it is whole or not there. An older bundle in its place is replaced if it holds what
    its manifest lists and nothing else (:func:`check_bundle`). The same artifact gives the same files, and the same
    archive byte for byte.

    Args:
        path: an exported file, its facts and golden pair beside it.
        place: a folder to make, an archive if it ends in ``.zip``, or the page of ``single_file``.
        platform: a name in ``PLATFORMS``.
        options: labels, and what the platform takes besides.
        force: also replace files of the older bundle that were changed since.

    Returns:
        The path of the folder's ``manifest.json``, or of the archive or page.

    Raises:
        FileError: the artifact is not whole, the platform is unknown, runs other targets or does not take an option, or
            the place is taken.
    """
    wanted = options or BundleOptions()
    made = bundled(Path(path), Path(place), platform=platform, options=wanted, force=force)
    return made.path / FILE if made.path.is_dir() else made.path


def bundled(path: Path, place: Path, *, platform: str, options: BundleOptions, force: bool) -> Bundled:
    """As :func:`bundle`, with the manifest."""
    chosen, artifact, place = platform_named(platform), Artifact.load(path), place.resolve()
    if artifact.target not in chosen.targets:
        other = "".join(f"; --platform {name} takes it" for name in _takers([artifact.target]))
        raise FileError(
            f"{path}: the {platform} bundle runs on {' or '.join(chosen.targets)}, this is {artifact.target}{other}"
        )
    options.refuse_other_than(platform, *chosen.takes)
    if options.single_file and place.suffix != ".html":
        raise FileError(f"{place}: --single-file makes one page; name it FILE.html with -o")
    check_facts(artifact)
    check_bundle(place, force=force)
    return Bundled(place, _made(place, artifact, chosen, options))


def _made(place: Path, artifact: Artifact, platform: Platform, options: BundleOptions) -> Manifest:
    if place.suffix not in (".zip", ".html"):
        with making(place) as aside:
            return fill(aside, artifact, platform, options)
    with beside(place) as parent:
        manifest = fill(parent / place.stem, artifact, platform, options)
        if options.single_file:
            with written_aside(place) as partial:
                partial.write_bytes(platform.page(parent / place.stem))
        else:
            write_zip(parent / place.stem, place)
    return manifest


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
