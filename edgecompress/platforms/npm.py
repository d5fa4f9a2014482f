"""JavaScript libraries for bundles: fetched from npm's registry at pinned versions, each file proved by its SHA-256."""

from __future__ import annotations

import hashlib
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgecompress.errors import FileError, printable

TIMEOUT_S = 300.0
COMMAND = (
    "npm",
    "pack",
    "--ignore-scripts",
    "--prefer-offline",
    "--no-audit",
    "--no-fund",
    "--no-update-notifier",
    "--fetch-retries=1",
    "--fetch-retry-mintimeout=2000",
)


@dataclass(frozen=True, slots=True)
class Package:
    """A package of npm, and which of its files a bundle takes.

    Args:
        name: as npm knows it.
        version: the pinned one.
        files: by the path in the package: the name in a bundle, and the SHA-256.
    """

    name: str
    version: str
    files: Mapping[str, tuple[str, str]]

    @property
    def pinned(self) -> str:
        """Name and version, as npm takes them."""
        return f"{self.name}@{self.version}"


def vendor(packages: Sequence[Package], to: Path, local: Path | None = None) -> None:
    """Write the files of packages into the folder ``to``, from ``local`` or else from npm's registry (or its cache).

    Nothing of a package is run: its archive is read file by file.

    Args:
        packages: what is wanted.
        to: a folder, there already.
        local: a folder with the packages' files: beside each other, as an unpacked package or in ``node_modules``.

    Raises:
        FileError: npm is missing or fails, or a file is missing or has another digest.
    """
    for package in packages:
        with tempfile.TemporaryDirectory(prefix="edgecompress-") as folder:
            archive = None if local else _packed(package, Path(folder))
            for path, (name, digest) in package.files.items():
                found = [_member(archive, path)] if archive else list(_local(local or Path(), package, path))
                right = [content for content in found if hashlib.sha256(content).hexdigest() == digest]
                if not right:
                    raise FileError(_refusal(local, package, path, there=bool(found)))
                (to / name).write_bytes(right[0])


def _refusal(local: Path | None, package: Package, path: str, *, there: bool) -> str:
    where = local or "npm's archive"
    if there:
        return f"{where}: {path} is not that of {package.pinned}: its sha256 differs from the pinned one"
    return f"{where}: holds no {path} of {package.pinned}; get it by `npm pack {package.pinned}`"


def _local(folder: Path, package: Package, path: str) -> Iterator[bytes]:
    """What may be a package's file."""
    parents = (folder / "node_modules" / package.name, folder / package.name, folder / "package", folder)
    places = [parent / path for parent in parents]
    for place in (*places, folder / package.files[path][0], folder / path.rpartition("/")[2]):
        if place.is_file():
            yield place.read_bytes()


def _packed(package: Package, folder: Path) -> Path:
    """The package's archive, as npm keeps it."""
    way_out = f"or give a folder with the files of {package.pinned} by --runtime-dir"
    try:
        done = subprocess.run(
            [*COMMAND, package.pinned], cwd=folder, capture_output=True, timeout=TIMEOUT_S, check=False
        )
    except FileNotFoundError:
        raise FileError(f"npm is not here, and fetches {package.pinned}; install Node.js, {way_out}") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FileError(f"npm cannot fetch {package.pinned}: {printable(error)}; {way_out}") from None
    archives = sorted(folder.glob("*.tgz"))
    if done.returncode or len(archives) != 1:
        raise FileError(f"npm cannot fetch {package.pinned} ({_why(done.stderr)}); is there a network? {way_out}")
    return archives[0]


def _why(stderr: bytes) -> str:
    """The first line of npm's that says anything."""
    lines = [line.strip().removeprefix("npm error ") for line in stderr.decode(errors="replace").splitlines()]
    telling = [line for line in lines if line and line.split()[0] not in ("code", "syscall", "errno")]
    return printable(next(iter(telling), "it says nothing"))[:200]


def _member(archive: Path, path: str) -> bytes:
    """A file of an archive, by its path in the package."""
    try:
        with tarfile.open(archive) as tar:
            stream = tar.extractfile(f"package/{path}")
            if stream is not None:
                return stream.read()
    except (KeyError, OSError, EOFError, tarfile.TarError) as error:
        raise FileError(f"{archive.name}: {path} cannot be read in it ({printable(error)})") from None
    raise FileError(f"{archive.name}: {path} is no file in it")
