"""A name in a Python file, whose code runs. The file's folder is importable until another model file is loaded.

Under a seal (``sealing.py``) nothing becomes importable but the modules that were sealed.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from edgecompress.errors import ModelError
from edgecompress.files import sha256
from edgecompress.models import Sample
from edgecompress.models.calling import call
from edgecompress.sources import proving
from edgecompress.sources.definitions import sample_in


class PythonFile:
    """``file.py`` or ``file.py:name``."""

    name = "file"
    form = "a file.py, file.py:name"
    summary = "file.py or file.py:name: a Python file that defines model(), or name(), and example()."
    runs_code = True

    def matches(self, text: str) -> bool:
        """By the ending, whether the file is there or not."""
        return _split(text)[0].suffix == ".py"

    def files(self, text: str) -> tuple[Path, ...]:
        """The file itself."""
        return (_split(text)[0],)

    def resolve(self, text: str, *, trust: bool, above: tuple[Path, ...] = ()) -> Sample:
        """What the file defines; naming it means trusting it."""
        del trust, above
        path, attribute = _split(text)
        return from_file(path, attribute or "model", text)


def _split(text: str) -> tuple[Path, str]:
    """``file.py:name`` into path and name; anything else has no name."""
    head, _, tail = text.rpartition(":")
    return (Path(head), tail) if head.endswith(".py") else (Path(text), "")


def from_file(path: Path, attribute: str, reference: str, name: str = "") -> Sample:
    """The sample that a Python file defines.

    Args:
        path: the file, whose code runs.
        attribute: the function or module in it.
        reference: how it was given, for messages.
        name: of a shipped sample, by which it can be resolved again; a user's file is by its path.

    Raises:
        ModelError: not there, its code fails, or it defines no model.
    """
    if not path.is_file():
        raise ModelError(f"{path}: no such file; `edgecompress init {path.name}` writes one to fill in")
    source = name or (f"{path.resolve()}:{attribute}" if attribute != "model" else str(path.resolve()))
    if not name and proving.loading() is None and path.resolve().is_relative_to(Path.cwd()):
        _make_found(Path.cwd())
    return sample_in(_load(path), attribute, name or path.stem, source, reference)


def _load(path: Path) -> ModuleType:
    """The module; one beside an ``__init__.py`` may import its package's own relatively."""
    _make_importable(path.resolve().parent)
    package = _package_of(path.resolve().parent)
    proving.note(path)
    spec = _spec(f"{package}.{PREFIX}{path.stem}" if package else f"{PREFIX}{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ModelError(f"{path}: Python cannot load this file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        call(str(path), "loading the file", lambda: spec.loader.exec_module(module))  # type: ignore[union-attr]
    except ModelError as error:
        if package or RELATIVE not in str(error):
            raise
        raise ModelError(f"{error}; put an empty __init__.py beside it, or import without the dot") from error
    return module


PREFIX = "edgecompress_model_"
RELATIVE = "attempted relative import"


def _spec(name: str, path: Path) -> ModuleSpec | None:
    """How the file is loaded: as it is, or as it was sealed."""
    modules = proving.loading()
    if modules is None:
        return importlib.util.spec_from_file_location(name, path)
    if name not in modules or Path(modules[name].file) != path.resolve():
        raise ModelError(f"{path}: is not the file that was compressed here")
    return proving.proved_spec(name, modules[name])


def _package_of(folder: Path) -> str:
    """The package that a folder is, with those around it, importable from now on; empty if it is none."""
    names: list[str] = []
    while (folder / "__init__.py").is_file() and folder.name.isidentifier():
        names.insert(0, folder.name)
        folder = folder.parent
    if names and proving.loading() is None:
        _make_found(folder)
    return ".".join(names)


def _make_found(folder: Path) -> None:
    """Let what lies in a folder be imported, behind all that is installed."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


_IMPORTABLE: dict[Path, set[str]] = {}
"""The model folder on ``sys.path``, with the names of the modules that were loaded before it."""


def _make_importable(folder: Path) -> None:
    """Let the files of ``folder`` be imported; forget those of the model folder before it, names may be the same."""
    _forget_others(folder)
    _IMPORTABLE.setdefault(folder, set(sys.modules))
    if proving.loading() is not None:
        return
    proving.forget()
    if str(folder) not in sys.path:  # whoever loaded a model before may have put it back as it was
        sys.path.insert(0, str(folder))


def _forget_others(folder: Path) -> None:
    for other, earlier in [(other, names) for other, names in _IMPORTABLE.items() if other != folder]:
        for name in set(_loaded_under(other)) - earlier:
            del sys.modules[name]
        del _IMPORTABLE[other]
        if str(other) in sys.path:  # a model file may have changed it
            sys.path.remove(str(other))


def code_digest(file: Path | None) -> str:
    """A digest of the Python files of ``file``'s folder that are loaded: the model file and its neighbours."""
    if file is None:
        return ""
    folder = file.resolve().parent
    return " ".join(sha256(loaded) for loaded in sorted(set(_loaded_under(folder).values())))


def _loaded_under(folder: Path) -> dict[str, Path]:
    """Loaded modules, with their files, that lie in ``folder``; what is installed below it is not meant."""
    files = {name: getattr(module, "__file__", None) for name, module in list(sys.modules.items())}
    real = {name: real_file(file) for name, file in files.items() if isinstance(file, str) and file.endswith(".py")}
    paths = {name: Path(file) for name, file in real.items() if file.startswith(f"{folder}{os.sep}")}
    return {
        name: path
        for name, path in paths.items()
        if "site-packages" not in path.parts and name.split(".")[0] != "edgecompress" and path.is_file()
    }


@cache
def real_file(file: str) -> str:
    """Where a module's file is once links are followed: needed for thousands of modules, again for each model file.

    Empty for a relative or made-up name, which some modules carry.
    """
    path = Path(file)
    if not path.is_absolute():
        return ""
    return os.path.realpath(file) if path.is_symlink() else f"{_real_folder(str(path.parent))}{os.sep}{path.name}"


@cache
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)
