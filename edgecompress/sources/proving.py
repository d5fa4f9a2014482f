"""Code that is loaded only as it was: a module is compiled from the very bytes whose digest is known, or refused.

No compiled file beside it is used, and no folder becomes importable: of the user's modules those are found that are
known, and no others.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType
from typing import NamedTuple

from edgecompress.errors import ModelError


class Known(NamedTuple):
    """A module's file with its digest; without a file it is a folder that holds modules."""

    file: str
    sha256: str

    @property
    def changed(self) -> bool:
        """Whether the file is not as it was, or not there."""
        return bool(self.file) and _digest(self.file) != self.sha256


def _digest(file: str) -> str:
    try:
        return sha256(Path(file).read_bytes()).hexdigest()
    except OSError:
        return ""


class _ProvedFile(SourceFileLoader):
    """Compiles what it proved, and nothing that it has not."""

    def __init__(self, name: str, known: Known) -> None:
        super().__init__(name, known.file)
        self._sha256 = known.sha256

    def get_code(self, fullname: str) -> CodeType:
        """Of the bytes that were proved: compiled files beside them are of unknown origin."""
        del fullname
        data = Path(self.path).read_bytes()
        if sha256(data).hexdigest() != self._sha256:
            raise ModelError(f"{self.path}: has changed while it was loaded")
        code: CodeType = self.source_to_code(data, self.path)
        return code


class _KnownModules(MetaPathFinder):
    """Finds the known modules by name, before any other finder does."""

    def __init__(self, modules: Mapping[str, Known]) -> None:
        self.modules = modules

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Packages have no folder in which more could be found."""
        del path, target
        known = self.modules.get(fullname)
        if known is None:
            return None
        if not known.file:
            return ModuleSpec(fullname, None, is_package=True)
        return proved_spec(fullname, known)


def proved_spec(name: str, known: Known) -> ModuleSpec | None:
    """How a module is loaded from its file, once that is proved."""
    places: list[str] | None = [] if Path(known.file).name == "__init__.py" else None
    return spec_from_file_location(name, known.file, loader=_ProvedFile(name, known), submodule_search_locations=places)


_LOADING: list[Mapping[str, Known]] = []
"""The modules that the model that is being loaded may consist of; none where the user named its file."""


@contextmanager
def only(modules: Mapping[str, Known]) -> Iterator[None]:
    """A model that is loaded meanwhile consists of these modules; they can be imported until another is loaded."""
    forget()
    sys.meta_path.insert(0, _KnownModules(modules))
    _LOADING.append(modules)
    try:
        yield
    finally:
        _LOADING.pop()


def loading() -> Mapping[str, Known] | None:
    """The modules that the model that is being loaded may consist of; None: any."""
    return _LOADING[-1] if _LOADING else None


def forget() -> None:
    """Find no known modules any longer."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _KnownModules)]


_BEGAN: dict[Path, int] = {}
"""When the loading of a model file began, in nanoseconds, and that of the first of a folder."""


def note(file: str | Path | None, began: int | None = None) -> None:
    """The loading of a model file begins, or did."""
    if file is not None:
        path, now = Path(file).resolve(), began or time.time_ns()
        _BEGAN[path] = now
        _BEGAN.setdefault(path.parent, now)


def is_as_loaded(file: Path, main: Path) -> bool:
    """Whether a file is what was loaded as, or for, the model file ``main``: it has not been written since.

    By the time that the system keeps of any change, which, unlike that of the contents, nobody sets.
    """
    began = _BEGAN.get(main if file == main else main.parent, 0)
    return file.stat().st_ctime_ns <= began
