"""The seal in ``model.json``: this user compressed the folder here, from this code, which may run again without asking.

An HMAC (RFC 2104) with the user's own key over all that ``model.json`` says, the place of the folder, and the digests
of the Python files that the model was loaded from. A folder from elsewhere, one that was moved, and code that has
changed since have no seal that holds: they need ``trust``, as does code that runs what no digest is known of.
"""

from __future__ import annotations

import ast
import hmac
import json
import re
import site
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from edgecompress.errors import LIBRARIES, PACKAGE, FileError
from edgecompress.files import Json, read_json, reading_fields, resource, sha256
from edgecompress.models import Sample
from edgecompress.sources.own_key import made_key, own_key
from edgecompress.sources.proving import Known, is_as_loaded
from edgecompress.sources.python_file import real_file

MODEL_FILE = "model.json"
SEAL = "seal"
PURPOSE = "edgecompress.seal.1"
RUNS_MORE = re.compile(
    r"__import__|addsitedir|allow_pickle|cffi|cloudpickle|cpp_extension|ctypes|dill|exec|exec_module|execfile|"
    r"fork_exec|FullLoader|hub|joblib|load_inline|load_library|marshal|meta_path|PackageImporter|path_hooks|"
    r"pickle|popen|Popen|pty|read_pickle|runpy|shelve|SourceFileLoader|spec_from_file_location|subprocess|"
    r"system|trust_remote_code|unsafe_load|UnsafeLoader|zipimport"
)
"""Names by which Python runs code that is not imported from a Python file in the usual way."""


def sealed(folder: Path, document: Json, sample: Sample) -> Json:
    """``document``, with a seal where the model is made of code that this user has run here, and the key is there."""
    code = _code_of(sample)
    key = made_key() if code else None
    if not code or key is None:
        return document
    modules = {name: list(known) for name, known in code.items()}
    return {**document, SEAL: {"modules": modules, "mac": _mac(key, folder, document, modules)}}


def unsealed(folders: tuple[Path, ...]) -> dict[str, Known] | None:
    """The modules of the model that the last of ``folders`` was made from, if this user compressed every one here.

    Args:
        folders: outermost first; each names the next, the last names the code.

    Returns:
        The modules by name, with the digests they have to have; None where a folder has no seal that holds.
    """
    found = [_holds(folder) for folder in folders]
    return found[-1] if found and all(one is not None for one in found) else None


def _holds(folder: Path) -> dict[str, Known] | None:
    """The modules under a folder's seal, or None: no seal, or not one of this user, for this place and text."""
    try:
        document = read_json(folder / MODEL_FILE)
        with reading_fields(MODEL_FILE):
            seal = document.pop(SEAL)
            modules, mac = dict(seal["modules"]), str(seal["mac"])
            key = own_key()
            if key is None or not hmac.compare_digest(mac.encode(), _mac(key, folder, document, modules).encode()):
                return None
            return {str(name): Known(*map(str, known)) for name, known in modules.items()}
    except FileError:
        return None


def _mac(key: bytes, folder: Path, document: Json, modules: Mapping[str, list[str]]) -> str:
    text = json.dumps([PURPOSE, str(folder.resolve()), document, modules], sort_keys=True)
    return hmac.digest(key, text.encode(), "sha256").hex()


def _code_of(sample: Sample) -> dict[str, Known]:
    """The modules that a model of the user's was loaded from; none if it is no such model, or runs more than them."""
    main = sample.file.resolve() if sample.file else None
    if main is None or main.is_relative_to(resource("sample_models").resolve()):
        return {}
    modules = _modules(main)
    files = [file for file in modules.values() if file]
    if main not in files or any(runs_more(file) or not is_as_loaded(file, main) for file in files):
        return {}
    return {name: Known(str(file or ""), sha256(file) if file else "") for name, file in modules.items()}


def _modules(main: Path) -> dict[str, Path | None]:
    """Loaded modules by name: the model's, and what lies in the folders that loading it made importable."""
    folders = _importable(main)
    found: dict[str, Path | None] = {}
    for name, module in list(sys.modules.items()):
        file = _file_of(module)
        if file is not None and name != "__main__" and (file == main or _is_the_users(file, folders)):
            found[name] = file
    parents = {name.rpartition(".")[0] for name in found} - found.keys() - {""}
    return found | {name: None for name in sorted(parents) if name in sys.modules and not _file_of(sys.modules[name])}


def _importable(main: Path) -> list[Path]:
    top, working = main.parent, Path.cwd()
    while (top / "__init__.py").is_file():
        top = top.parent
    return [top, working] if main.is_relative_to(working) else [top]


def _file_of(module: object) -> Path | None:
    file = getattr(module, "__file__", None)
    real = str(real_file(file)) if isinstance(file, str) and file.endswith(".py") else ""
    return Path(real) if real and Path(real).is_file() else None


def _is_the_users(file: Path, folders: list[Path]) -> bool:
    return any(map(file.is_relative_to, folders)) and not any(map(file.is_relative_to, _installed()))


@cache
def _installed() -> tuple[Path, ...]:
    places: list[str] = [*LIBRARIES, *site.getsitepackages(), site.getusersitepackages(), str(PACKAGE)]
    return tuple(Path(place).resolve() for place in places)


def runs_more(file: Path) -> bool:
    """Whether code says that it runs what no digest is known of: other files' code, pickles, programs."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return True
    return any(_names(node) for node in ast.walk(tree))


def _names(node: ast.AST) -> bool:
    """Whether a node names what runs more; imports by another name than their own are seen through."""
    match node:
        case ast.keyword(arg="weights_only", value=value):
            return not (isinstance(value, ast.Constant) and value.value is True)
        case ast.Attribute(value=ast.Name(id="sys"), attr="path" | "modules") | ast.Name(id="eval" | "compile"):
            return True
        case ast.Attribute(value=ast.Attribute(attr="export"), attr="load"):  # a .pt2 holds pickles
            return True
        case ast.Name(id=name) | ast.Attribute(attr=name) | ast.keyword(arg=str(name)):
            return RUNS_MORE.fullmatch(name) is not None
        case ast.Import(names=names) | ast.ImportFrom(names=names):
            return _imports(getattr(node, "module", None) or "", names)
    return False


def _imports(module: str, names: list[ast.alias]) -> bool:
    parts = {*module.split("."), *(part for alias in names for part in alias.name.split("."))}
    other_sys = any(alias.name == "sys" and alias.asname for alias in names)
    paths = module == "sys" and not parts.isdisjoint({"path", "modules"})
    return other_sys or paths or any(map(RUNS_MORE.fullmatch, parts))
