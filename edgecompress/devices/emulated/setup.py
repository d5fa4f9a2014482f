"""planned() and set_up(): build the emulated ARM device of ``deploy/emulated_arm/`` in the cache, once.

Nothing of this machine is touched but that one folder: no root rights, no foreign architecture in dpkg, no binfmt. It
is built aside and renamed when it is whole, so it can be interrupted at any time and started again.
"""

from __future__ import annotations

import fcntl
import importlib.util
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from edgecompress.devices.emulated.spec import (
    KIND,
    NAME,
    QEMU,
    VERSION,
    Core,
    Emulation,
    Wheel,
    check_output,
    emulation_folder,
    emulator_version,
    is_installed,
    load_installation,
    recipe,
    recipe_folder,
    require_plugins,
    require_programs,
)
from edgecompress.errors import FileError, MissingExtra
from edgecompress.files import Json, reason, remove, write_json, written_aside
from edgecompress.progress import Progress, silent

__all__ = ["Download", "SetUpPlan", "build_plugin", "is_installed", "planned", "plugin_api", "set_up"]

DOWNLOAD_S = 1800.0
"""Seconds a download may take."""
ARM_LIMITED = 0x41
"""The implementer of all cores here, as in their identification register."""


@dataclass(frozen=True, slots=True)
class Download:
    """One thing to fetch: what it is, who serves it, and its size."""

    what: str
    source: str
    bytes: int


@dataclass(frozen=True, slots=True)
class SetUpPlan:
    """What setting up would fetch and take on disk; sizes of Debian's packages are those of one build."""

    folder: Path
    downloads: tuple[Download, ...]
    disk_bytes: int

    @property
    def bytes(self) -> int:
        """All downloads together."""
        return sum(download.bytes for download in self.downloads)

    def to_json(self) -> Json:
        """A JSON object; sizes in bytes."""
        return {**asdict(self), "folder": str(self.folder), "bytes": self.bytes}


def planned() -> SetUpPlan:
    """What :func:`set_up` will download and how big it is. Fetches nothing."""
    ours = recipe()
    debian, release = ours.debian, f"Debian {ours.debian['release']}"
    packages = debian["packages"]
    downloads = (
        Download(f"list of the packages of {release} for arm64", "deb.debian.org", debian["index_bytes"]),
        Download(f"{len(packages)} packages: {', '.join(packages)}", "deb.debian.org", debian["packages_bytes"]),
        *(Download(f"{wheel.name} {wheel.version} for aarch64", "PyPI", wheel.bytes) for wheel in ours.wheels),
    )
    return SetUpPlan(emulation_folder(), downloads, ours.disk_bytes)


def set_up(progress: Progress = silent) -> Path:
    """Build the device where it is not ready; returns its folder.

    Raises:
        MissingExtra: a program of this machine is missing; the message says how to get it.
        DeviceError: a download or a program failed; what was there before stays.
        FileError: the cache cannot be written to.
    """
    _require_all()
    folder = emulation_folder()
    with _alone(folder):
        if not is_installed():
            with written_aside(folder) as partial:
                partial.mkdir()
                _build(Emulation(partial), progress)
                remove(folder)
    load_installation()
    return folder


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process is setting up the same folder."""
    lock = folder.with_name(f"{folder.name}.lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        stream = lock.open("w")
    except OSError as error:
        message = f"cannot write to {lock.parent}: {reason(error)}; set EDGECOMPRESS_CACHE to another folder"
        raise FileError(message) from error
    with stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _require_all() -> None:
    require_programs(QEMU, "gcc", "apt-get", "dpkg-deb", "env")
    require_plugins()
    for line in (recipe_folder() / "debian.sources").read_text(encoding="utf-8").splitlines():
        if line.startswith("Signed-By:") and not Path(line.split()[1]).exists():
            raise MissingExtra(f"{NAME}: needs {line.split()[1]}; apt-get install debian-archive-keyring")
    if importlib.util.find_spec("pip") is None:
        raise MissingExtra(f"{NAME}: needs pip in this Python ({sys.executable}); {sys.executable} -m ensurepip")


def _build(emulation: Emulation, progress: Progress) -> None:
    """Every step, the cheap ones that may fail first."""
    steps: dict[str, Callable[[Emulation], None]] = {
        "counting plug-in": _build_plugin,
        "cores": _describe_cores,
        "Debian packages": _unpack_packages,
        "wheels": _install_wheels,
        "first start": _start_once,
        "digests": _seal,
    }
    for number, (name, step) in enumerate(steps.items()):
        progress(NAME, number, len(steps), name)
        step(emulation)
    progress(NAME, len(steps), len(steps), "")


def _seal(emulation: Emulation) -> None:
    packages = dict(name.split("_")[:2] for name in emulation.packages.read_text(encoding="utf-8").split())
    made = {"recipe": recipe().digest, "emulator": emulator_version(), "packages": packages}
    write_json(emulation.manifest, {"kind": KIND, "version": VERSION, **made, "sha256": emulation.digests()})


def _build_plugin(emulation: Emulation) -> None:
    build_plugin(emulation.plugin)


def build_plugin(path: Path) -> None:
    """Compile the plug-in for the emulator of this machine.

    Raises:
        DeviceError: it does not compile.
    """
    api, source = plugin_api(emulator_version()), recipe_folder() / "count.c"
    check_output(("gcc", "-shared", "-fPIC", "-O2", f"-DQEMU_API={api}", "-o", str(path), str(source)))


def plugin_api(version: str) -> int:
    """The plug-in interface of an emulator, by its first line about itself; see ``count.c``."""
    numbers = re.search(r"version (\d+)\.(\d+)", version)
    release = (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)
    return 3 if release >= (9, 1) else 2 if release >= (9, 0) else 1


def _unpack_packages(emulation: Emulation) -> None:
    """Fetch by an apt of our own, which checks signatures, and unpack without running any of their scripts."""
    work = emulation.folder / "apt"
    for part in ("lists/partial", "archives/partial", "sources", "debs"):
        (work / part).mkdir(parents=True)
    (work / "status").touch()
    sources = work / "sources" / "debian.sources"
    sources.write_bytes((recipe_folder() / "debian.sources").read_bytes())
    check_output(("apt-get", *apt_options(work, "arm64"), "update"), timeout_s=DOWNLOAD_S)
    download = ("env", "-C", str(work / "debs"), "apt-get", *apt_options(work, "arm64"), "download")
    check_output((*download, *recipe().debian["packages"]), timeout_s=DOWNLOAD_S)
    debs = sorted((work / "debs").glob("*.deb"))
    for deb in debs:
        check_output(("dpkg-deb", "-x", str(deb), str(emulation.system)))
    emulation.packages.write_text("".join(f"{deb.stem}\n" for deb in debs), encoding="utf-8")
    remove(work)


def apt_options(work: Path, architecture: str) -> list[str]:
    """Those of an apt of its own in the folder ``work``: it changes nothing of the system, and checks signatures."""
    settings = {
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "APT::Get::AllowUnauthenticated": "false",
        "APT::Sandbox::User": "root",
        "APT::Update::Error-Mode": "any",
        "Acquire::AllowInsecureRepositories": "false",
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
        "Debug::NoLocking": "true",
        "Dir::Cache": work,
        "Dir::Cache::archives": work / "archives",
        "Dir::Etc::sourcelist": "/dev/null",
        "Dir::Etc::sourceparts": work / "sources",
        "Dir::State": work,
        "Dir::State::lists": work / "lists",
        "Dir::State::status": work / "status",
    }
    return [part for key, value in settings.items() for part in ("-o", f"{key}={value}")] + ["-q"]


def _install_wheels(emulation: Emulation) -> None:
    """Fetch by pip, which checks the pinned digests."""
    ours = recipe()
    pins = emulation.folder / "requirements.txt"
    pins.write_text("".join(map(_pin, ours.wheels)), encoding="utf-8")
    python = ours.debian["python"]
    options = ["--target", str(emulation.site), "--requirement", str(pins), "--require-hashes", "--no-deps"]
    options += ["--only-binary=:all:", "--no-compile", "--no-input", "--disable-pip-version-check", "--quiet"]
    options += ["--implementation", "cp", "--python-version", python, "--abi", f"cp{python.replace('.', '')}"]
    options += [part for platform in ours.platforms for part in ("--platform", platform)]
    check_output((sys.executable, "-m", "pip", "install", *options), timeout_s=DOWNLOAD_S)


def _pin(wheel: Wheel) -> str:
    return f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.sha256}\n"


def _start_once(emulation: Emulation) -> None:
    """Import everything under one core: proves that it runs, and leaves byte code behind for quicker starts."""
    (core, *_) = recipe().cores
    imports = "".join(f"import {module}\n" for module in recipe().modules)
    argv = (*emulation.command(core), str(emulation.python), "-c", imports)
    with tempfile.TemporaryDirectory(prefix="edgecompress-") as scratch:
        environment = emulation.environment(Path(scratch))
        del environment["PYTHONDONTWRITEBYTECODE"]
        check_output(argv, timeout_s=DOWNLOAD_S, environment=environment)


def _describe_cores(emulation: Emulation) -> None:
    """A root for each core: links to the one system, and the files in which the kernel would describe that core."""
    for core in recipe().cores.values():
        root = emulation.root(core.name)
        (root / "etc").mkdir(parents=True)
        (root / "etc" / "ld.so.cache").touch()
        for name in ("lib", "usr"):
            (root / name).symlink_to(Path("..") / ".." / emulation.system.name / name)
        for name, text in sysfs_files(core).items():
            file = root / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text + "\n", encoding="ascii")


def sysfs_files(core: Core) -> dict[str, str]:
    """The files of ``/proc`` and ``/sys`` that describe one such core, by path: libraries choose code and tiles by it.

    All four caches that a machine usually has are described, if need be as level 0: a file that is not here would be
    read from this machine.
    """
    cpu = "sys/devices/system/cpu"
    files = {"proc/cpuinfo": _cpuinfo(core)} | {f"{cpu}/{name}": "0" for name in ("possible", "present", "online")}
    kinds = (("data", 1, "Data"), ("instruction", 1, "Instruction"), ("level2", 2, "Unified"), ("level3", 3, "Unified"))
    for index, (key, level, kind) in enumerate(kinds):
        size = core.caches_kib[key]
        facts = {"level": str(level if size else 0), "type": kind, "size": f"{size}K", "shared_cpu_list": "0"}
        files |= {f"{cpu}/cpu0/cache/index{index}/{name}": text for name, text in facts.items()}
    return files


def _cpuinfo(core: Core) -> str:
    lines = {
        "processor": "0",
        "BogoMIPS": "108.00",
        "Features": core.features,
        "CPU implementer": f"{ARM_LIMITED:#04x}",
        "CPU architecture": "8",
        "CPU variant": f"{core.variant:#x}",
        "CPU part": f"{core.part:#05x}",
        "CPU revision": str(core.revision),
    }
    return "".join(f"{name}\t: {value}\n" for name, value in lines.items())
