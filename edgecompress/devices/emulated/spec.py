"""What an emulated ARM device is made of, where it lies, and whether it is whole.

``deploy/emulated_arm/`` holds the recipe: Debian packages and wheels for aarch64, the cores, and the plug-in that
counts. What :mod:`edgecompress.devices.emulated.setup` builds of it lies in a folder of the cache whose name identifies
the recipe.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from edgecompress.devices.commands import checked, run_command
from edgecompress.errors import DeviceError, FileError, MissingExtra
from edgecompress.files import Json, check_version, read_json, resource, sha256

KIND, VERSION = "edgecompress.emulation", 1
NAME = "emulated"
QEMU = "qemu-aarch64"
SETUP = "edgecompress doctor --setup emulated"
PROGRAM_S = 60.0
"""Seconds a small program of this machine may take."""


@dataclass(frozen=True, slots=True)
class Core:
    """A core as the emulator models it; ``caches_kib`` are those of a common board with it."""

    name: str
    part: int
    variant: int
    revision: int
    features: str
    caches_kib: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Wheel:
    """A pinned wheel of the Python Package Index for aarch64; ``module`` is what one imports."""

    name: str
    version: str
    module: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything an emulated device is made of; ``digest`` changes with any of it."""

    digest: str
    debian: Mapping[str, Any]
    platforms: tuple[str, ...]
    wheels: tuple[Wheel, ...]
    cores: Mapping[str, Core]
    disk_bytes: int

    @property
    def modules(self) -> tuple[str, ...]:
        """What the interpreter there can import besides the standard library."""
        return tuple(wheel.module for wheel in self.wheels)


def recipe_folder() -> Path:
    """Where the recipe and the plug-in's source lie."""
    return resource("deploy") / "emulated_arm"


@cache
def recipe() -> Recipe:
    """The recipe of this release."""
    folder = recipe_folder()
    found = tomllib.loads((folder / "recipe.toml").read_text(encoding="utf-8"))
    return Recipe(
        digest=_digest(folder),
        debian=found["debian"],
        platforms=tuple(found["platforms"]),
        wheels=tuple(Wheel(**wheel) for wheel in found["wheels"]),
        cores={name: Core(name, **facts) for name, facts in found["cores"].items()},
        disk_bytes=found["disk_bytes"],
    )


def _digest(folder: Path) -> str:
    files = [folder / name for name in ("recipe.toml", "debian.sources", "count.c", "classify.h")]
    return hashlib.sha256("".join(map(sha256, files)).encode()).hexdigest()


def cache_folder() -> Path:
    """``EDGECOMPRESS_CACHE``, or ``edgecompress`` in ``XDG_CACHE_HOME``, or ``~/.cache/edgecompress``."""
    if own := os.environ.get("EDGECOMPRESS_CACHE"):
        return Path(own).absolute()
    shared = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(shared) if Path(shared).is_absolute() else Path.home() / ".cache") / "edgecompress"


def emulation_folder() -> Path:
    """Where this release's emulated device is, or would be."""
    return cache_folder() / f"emulated-arm-{recipe().digest[:12]}"


@dataclass(frozen=True, slots=True)
class Emulation:
    """A built device: one system for all cores, and for each core a root that links to it and describes that core."""

    folder: Path

    @property
    def system(self) -> Path:
        """Debian's packages, unpacked."""
        return self.folder / "system"

    @property
    def site(self) -> Path:
        """The wheels, unpacked."""
        return self.folder / "site"

    @property
    def plugin(self) -> Path:
        """Counts instructions."""
        return self.folder / "libcount.so"

    @property
    def packages(self) -> Path:
        """The names of the packages' files, a line each: name, version and architecture."""
        return self.folder / "packages.txt"

    @property
    def manifest(self) -> Path:
        """Versions and digests."""
        return self.folder / "manifest.json"

    @property
    def python(self) -> Path:
        """The interpreter there."""
        return self.system / "usr" / "bin" / f"python{recipe().debian['python']}"

    def root(self, core: str) -> Path:
        """What the emulator shows as ``/``, before this machine's own files."""
        return self.folder / "cores" / core

    def command(self, core: str, *, plugin: str = "") -> tuple[str, ...]:
        """What starts a program of the device; ``plugin`` is a value of the emulator's option."""
        loaded = ("-plugin", plugin) if plugin else ()
        return (emulator(), "-L", str(self.root(core)), "-cpu", core, *loaded)

    def environment(self, scratch: Path) -> dict[str, str]:
        """All variables a program there sees: none of this machine's, no program of its, and one thread."""
        return {
            "HOME": str(scratch),
            "LC_ALL": "C.UTF-8",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "ORT_DISABLE_TELEMETRY": "1",
            "PATH": str(self.python.parent),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONHASHSEED": "0",
            "PYTHONNOUSERSITE": "1",
            "PYTHONPATH": str(self.site),
            "TMPDIR": str(scratch),
        }

    def key_files(self) -> list[Path]:
        """What counts depend on: native code, and what the files report of the cores."""
        libraries = [path for folder in (self.system / "lib", self.site) for path in folder.rglob("*.so*")]
        reported = [path for name in recipe().cores for path in self.root(name).glob("[ps]*/**/*")]
        files = [self.plugin, self.python, *libraries, *reported]
        return sorted(path for path in files if path.is_file() and not path.is_symlink())

    def digests(self) -> dict[str, str]:
        """SHA-256 of each key file."""
        return {path.relative_to(self.folder).as_posix(): sha256(path) for path in self.key_files()}


def load_installation(device: str = NAME) -> tuple[Emulation, Json]:
    """The device as it was built, whole and for this emulator, with its manifest.

    Raises:
        DeviceError: it was not set up, or is not as it was.
        MissingExtra: the emulator is not installed.
    """
    emulation = Emulation(emulation_folder())
    if not emulation.folder.is_dir():
        raise _unusable(device, "it is not set up")
    try:
        manifest = read_json(emulation.manifest)
        check_version(manifest, KIND, VERSION)
        whole = manifest["sha256"] == emulation.digests()
    except (FileError, KeyError, OSError) as error:
        raise _unusable(device, f"{emulation.folder} is not whole ({error})") from error
    if not whole:
        raise _unusable(device, f"files in {emulation.folder} are not as they were set up")
    if manifest.get("emulator") != (version := emulator_version()):
        raise _unusable(device, f"it was set up for {manifest.get('emulator')}, this is {version}")
    return emulation, manifest


def _unusable(device: str, why: str) -> DeviceError:
    return DeviceError.of(device, f"{why}; run `{SETUP}`", command=QEMU)


def is_installed() -> bool:
    """Whether an emulated device can be used at once."""
    try:
        load_installation()
    except (DeviceError, MissingExtra):
        return False
    return True


def emulator() -> str:
    """The emulator's path.

    Raises:
        MissingExtra: it is not installed.
    """
    require_programs(QEMU)
    path = shutil.which(QEMU)
    assert path is not None
    return path


PACKAGES = {QEMU: "qemu-user", "gcc": "gcc", "apt-get": "apt", "dpkg-deb": "dpkg", "env": "coreutils"}
"""Programs of this machine and the Debian packages they come in."""


def require_programs(*programs: str) -> None:
    """Name what is missing on this machine, all at once.

    Raises:
        MissingExtra: something is.
    """
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        install = f"apt-get install {' '.join(PACKAGES[program] for program in missing)}"
        raise MissingExtra(f"{NAME}: needs {', '.join(missing)}; {install} (a Debian or Ubuntu machine)")


def emulator_version() -> str:
    """Its first line about itself.

    Raises:
        MissingExtra: it is not installed.
        DeviceError: it does not run.
    """
    return check_output((emulator(), "--version")).splitlines()[0]


def require_plugins() -> None:
    """A static build of the emulator loads no plug-ins: ``qemu-user-static``, and Debian 13's ``qemu-user``.

    Raises:
        MissingExtra: this is such a build.
    """
    if "-plugin" not in check_output((emulator(), "-h")):
        raise MissingExtra(
            f"{NAME}: {emulator()} is a static build, which loads no plug-ins; put one that does first in PATH: "
            "Debian 12's qemu-user, or QEMU built with --enable-plugins"
        )


def check_output(
    argv: Sequence[str], *, timeout_s: float = PROGRAM_S, environment: Mapping[str, str] | None = None
) -> str:
    """What a program of this machine prints.

    Raises:
        DeviceError: it cannot be run, fails, or takes too long.
    """
    return checked(NAME, argv, run_command(NAME, argv, timeout_s=timeout_s, environment=environment))
