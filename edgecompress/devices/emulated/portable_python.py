"""write_python_bundle(): a folder with a whole Python for a phone, to be given as ``--python-bundle``.

It is taken from the emulated ARM device, which ``edgecompress doctor --setup emulated`` fetches: Debian's loader, C
library and CPython, and wheels of the Python Package Index. Its byte code, which halves the time to start, still names
the folder it was made in; Python puts that right when it loads it.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from edgecompress.devices.emulated.spec import Emulation, load_installation, recipe
from edgecompress.errors import FileError
from edgecompress.files import resource, written_aside

ARCHITECTURE = "aarch64-linux-gnu"
LEFT_OUT = shutil.ignore_patterns(
    "config-*",
    "distutils",
    "ensurepip",
    "idlelib",
    "lib2to3",
    "pydoc_data",
    "sitecustomize.py",
    "test",
    "tests",
    "tkinter",
    "turtledemo",
    "_test*",
    "_xx*",
    "xxlimited*",
)
"""Of Python and the wheels: tests, what a phone has no use for, and what leads out of the folder."""


def write_python_bundle(folder: Path, modules: Sequence[str] = ("numpy", "onnxruntime")) -> Path:
    """Write a new ``folder`` with a Python that can import ``modules``; start it with ``sh FOLDER/run.sh``.

    Raises:
        DeviceError: the emulated device is not set up; the message says how to.
        FileError: ``folder`` is there already or cannot be written, or a module is not among those of the device.
    """
    if folder.exists():
        raise FileError(f"{folder}: is there already; give a new folder")
    if unknown := [module for module in modules if module not in recipe().modules]:
        raise FileError(f"no {', '.join(unknown)} for a phone; there are {', '.join(recipe().modules)}")
    emulation, _ = load_installation()
    with written_aside(folder) as partial:
        _copy_libraries(emulation.system, partial / "lib")
        _copy_python(emulation, partial / "python")
        for module in modules:
            _copy_wheel(emulation.site, module, partial / "site")
        shutil.copy(resource("deploy") / "python_bundle" / "run.sh", partial / "run.sh")
    return folder


def _copy_libraries(system: Path, target: Path) -> None:
    """The loader and all libraries, each as a file of the one name that programs ask for."""
    target.mkdir(parents=True)
    for folder in (system / "lib" / ARCHITECTURE, system / "usr" / "lib" / ARCHITECTURE):
        entries = [entry for entry in folder.glob("*.so*") if entry.is_file()]
        aimed_at = {entry.resolve() for entry in entries if entry.is_symlink()}
        for entry in entries:
            if entry.is_symlink() or entry.resolve() not in aimed_at:
                shutil.copy(entry.resolve(), target / entry.name)


def _copy_python(emulation: Emulation, target: Path) -> None:
    """The interpreter and its standard library."""
    (target / "bin").mkdir(parents=True)
    shutil.copy(emulation.python.resolve(), target / "bin" / "python")
    version = f"python{recipe().debian['python']}"
    shutil.copytree(emulation.system / "usr" / "lib" / version, target / "lib" / version, ignore=LEFT_OUT)


def _copy_wheel(site: Path, module: str, target: Path) -> None:
    """The module, the libraries that came with it, and its licences."""
    for entry in site.iterdir():
        if entry.name in (module, f"{module}.libs") or entry.name.startswith(f"{module}-"):
            shutil.copytree(entry, target / entry.name, ignore=LEFT_OUT)
