"""resolve(): what MODEL may be, and what a model file is.

A model file is a Python file with a few names, of which only ``model`` and ``example`` are required::

    def model() -> nn.Module: ...                       # built, trained weights loaded
    def example() -> Tensor | tuple[Tensor, ...]: ...   # one input batch (any batch size)
    def data(split) -> Dataset: ...                     # "train", "validation" or "test"; items (input, target)
    def loss(outputs, targets) -> Tensor: ...           # default: cross-entropy, averaged over the batch
    def score(outputs, targets) -> float: ...           # default: top-1 accuracy in percent; higher is better
    def augment(inputs, generator) -> Tensor: ...       # applied to each training batch
    preprocessing = {...}                               # goes into the manifest of a bundle
    validation_seen = False                             # were the weights trained on the validation split too?

The shipped samples are such files, resolved by the same code. The file's folder is importable until
another model file is loaded.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import json
import os
import sys
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from edgecompress.errors import FileError, ModelError
from edgecompress.files import resource, sha256
from edgecompress.models import Sample
from edgecompress.models.calling import call
from edgecompress.models.datasets import Inputs


@dataclass(frozen=True, slots=True)
class ShippedSample:
    """A model that comes with this package: its code is ours."""

    name: str


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A compressed model's folder: plain data, and the name of what it was made from."""

    path: Path


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A name in a Python file, whose code runs."""

    path: Path
    attribute: str


@dataclass(frozen=True, slots=True)
class ModelModule:
    """A name in a module that can be imported, whose code runs."""

    module: str
    attribute: str


Reference = ShippedSample | ModelFolder | ModelFile | ModelModule


def parse(text: str) -> Reference:
    """What a MODEL names. It is decided here alone: what is checked and what is used are the same value.

    Raises:
        ModelError: nothing that could be a model.
    """
    if text in sample_facts():
        return ShippedSample(text)
    if text.strip() and _is_folder(Path(text)):
        return ModelFolder(Path(text))
    path, attribute = _split(text)
    if path.suffix == ".py":
        return ModelFile(path, attribute or "model")
    if path.suffix == ".onnx":
        raise ModelError(
            f"{text}: an .onnx file cannot be compressed; give the PyTorch model it came from "
            "(verify, profile and bundle do take .onnx files)"
        )
    if ":" in text:
        module, _, attribute = text.rpartition(":")
        return ModelModule(module, attribute or "model")
    raise ModelError(_unknown(text))


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that is too long, or a folder that may not be looked into
        return False


def files_of(reference: Reference) -> tuple[Path, ...]:
    """The files that a reference names itself: nothing may be written over them."""
    match reference:
        case ModelFolder(path):
            return tuple(file for file in path.iterdir() if file.is_file())
        case ModelFile(path, _):
            return (path,)
    return ()


def folder_of(text: str) -> Path | None:
    """The compressed-model folder that a MODEL names, if it is one."""
    try:
        reference = parse(text)
    except ModelError:
        return None
    return reference.path.resolve() if isinstance(reference, ModelFolder) else None


def runs_code(reference: Reference) -> bool:
    """Whether using it runs code that did not come with this package, apart from what a folder names in turn."""
    return isinstance(reference, ModelFile | ModelModule)


def resolve(reference: str, *, trust: bool = False) -> Sample:
    """The sample that ``reference`` names, without building its model.

    ``reference`` is ``file.py``, ``file.py:name``, ``package.module:name``, the name of a shipped sample, or a
    compressed-model folder. Giving a file or a module means trusting its code; a folder may have come from
    anywhere, so the code it names runs only if it is a shipped sample or with ``trust``.

    Raises:
        ModelError: nothing of that name, or not a model.
        FileError: the weights of a shipped sample or a folder are damaged.
    """
    return sample_of(parse(reference), reference, trust=trust)


def sample_of(reference: Reference, text: str, *, trust: bool, above: tuple[Path, ...] = ()) -> Sample:
    """The sample of a parsed reference; ``text`` is how it was given, ``above`` the folders that name it in turn.

    Raises:
        ModelError: not there, or not a model.
        FileError: a shipped sample's weights are damaged.
    """
    match reference:
        case ShippedSample(name):
            if not is_whole(name):
                weights = sample_file(name, ".safetensors")
                raise FileError(f"{weights}: missing or damaged (its sha256 differs); install edgecompress again")
            return _from_file(sample_file(name, ".py"), "model", text, name=name)
        case ModelFolder(path):
            from edgecompress.sources.compressed_folder import load_compressed

            return load_compressed(path, trust=trust, above=above)
        case ModelFile(path, attribute):
            return _from_file(path, attribute, text)
        case ModelModule(module, attribute):
            return _from_module(module, attribute, text)


def code_digest(file: Path | None) -> str:
    """A digest of the Python files of ``file``'s folder that are loaded: the model file and its neighbours."""
    if file is None:
        return ""
    folder = file.resolve().parent
    return " ".join(sha256(loaded) for loaded in sorted(set(_loaded_under(folder).values())))


def _loaded_under(folder: Path) -> dict[str, Path]:
    """Loaded modules, with their files, that lie in ``folder``; what is installed below it is not meant."""
    files = {name: getattr(module, "__file__", None) for name, module in list(sys.modules.items())}
    real = {name: _real(file) for name, file in files.items() if isinstance(file, str) and file.endswith(".py")}
    paths = {name: Path(file) for name, file in real.items() if file.startswith(f"{folder}{os.sep}")}
    return {
        name: path
        for name, path in paths.items()
        if "site-packages" not in path.parts and name.split(".")[0] != "edgecompress" and path.is_file()
    }


@cache
def _real(file: str) -> str:
    """Where a module's file is once links are followed: asked for thousands of modules, again for each model file.

    Empty for a relative or made-up name, which some modules carry.
    """
    return str(Path(file).resolve()) if Path(file).is_absolute() else ""


def _file_of(module: ModuleType) -> Path | None:
    file = getattr(module, "__file__", None)
    return Path(file) if file else None


def sample_facts() -> dict[str, dict[str, Any]]:
    """The shipped samples by name, with their facts from ``sample_models/info.toml``."""
    return tomllib.loads((resource("sample_models") / "info.toml").read_text(encoding="utf-8"))


def presets(name: str) -> dict[str, dict[str, Any]]:
    """The committed settings of the sample ``name`` by preset: options of ``compress`` and their values."""
    table = tomllib.loads((resource("sample_models") / "presets.toml").read_text(encoding="utf-8"))
    found: dict[str, dict[str, Any]] = table.get(name, {})
    return found


def sample_file(name: str, suffix: str) -> Path:
    """A file of the shipped sample ``name``."""
    return resource("sample_models") / f"{name.replace('-', '_')}{suffix}"


def is_whole(name: str) -> bool:
    """Whether the weights of the shipped sample ``name`` are those that were shipped."""
    file = sample_file(name, ".safetensors")
    return file.is_file() and sha256(file) == sample_facts()[name]["sha256"]


def _split(reference: str) -> tuple[Path, str]:
    """``file.py:name`` into path and name; anything else has no name."""
    head, _, tail = reference.rpartition(":")
    return (Path(head), tail) if head.endswith(".py") else (Path(reference), "")


def _unknown(reference: str) -> str:
    names = sorted(sample_facts())
    close = difflib.get_close_matches(reference, names, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    return (
        f"no model {reference!r}{hint} A model is a sample ({', '.join(names)}), a file.py, file.py:name, "
        "package.module:name or a compressed-model folder"
    )


def _from_file(path: Path, attribute: str, reference: str, name: str = "") -> Sample:
    if not path.is_file():
        raise ModelError(f"{path}: no such file")
    source = name or (f"{path.resolve()}:{attribute}" if attribute != "model" else str(path.resolve()))
    return _from_namespace(_load_file(path), attribute, name or path.stem, source, reference)


def _load_file(path: Path) -> ModuleType:
    _make_importable(path.resolve().parent)
    spec = importlib.util.spec_from_file_location(f"edgecompress_model_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ModelError(f"{path}: Python cannot load this file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    call(str(path), "loading the file", lambda: spec.loader.exec_module(module))  # type: ignore[union-attr]
    return module


_IMPORTABLE: dict[Path, set[str]] = {}
"""The model folder on ``sys.path``, with the names of the modules that were loaded before it."""


def _make_importable(folder: Path) -> None:
    """Let the files of ``folder`` be imported; forget those of the model folder before it, names may be the same."""
    if folder in _IMPORTABLE:
        return
    for other, earlier in list(_IMPORTABLE.items()):
        for name in set(_loaded_under(other)) - earlier:
            del sys.modules[name]
        del _IMPORTABLE[other]
        if str(other) in sys.path:  # a model file may have changed it
            sys.path.remove(str(other))
    _IMPORTABLE[folder] = set(sys.modules)
    sys.path.insert(0, str(folder))


def _from_module(module_name: str, attribute: str, reference: str) -> Sample:
    working = str(Path.cwd())
    if working not in sys.path:  # behind everything that is installed
        sys.path.append(working)
    try:
        module = call(reference, "importing it", lambda: importlib.import_module(module_name))
    except ModelError as error:
        raise ModelError(f"{reference}: cannot import {module_name!r}: {error.__cause__}") from error
    return _from_namespace(module, attribute, reference, reference, reference)


def _from_namespace(module: ModuleType, attribute: str, name: str, source: str, reference: str) -> Sample:
    found = getattr(module, attribute, None)
    if found is None or not (callable(found) or isinstance(found, nn.Module)):
        raise ModelError(
            f"{reference}: defines no {attribute!r}; write `def {attribute}() -> torch.nn.Module: ...`, "
            "or name another function after a colon (file.py:name)"
        )
    build = (lambda: found) if isinstance(found, nn.Module) else found
    splits = cache(module.data) if hasattr(module, "data") else None
    optional = {key: getattr(module, key) for key in ("loss", "score", "augment") if hasattr(module, key)}
    return Sample(
        name,
        source,
        build,
        _example(module, reference),
        splits,
        file=_file_of(module),
        preprocessing=_preprocessing(module, reference),
        validation_seen=bool(getattr(module, "validation_seen", False)),
        **optional,
    )


def _preprocessing(module: ModuleType, reference: str) -> dict[str, Any]:
    """The module's preprocessing, proved to be JSON: it goes into manifests."""
    given = getattr(module, "preprocessing", {})
    try:
        json.dumps(given, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ModelError(f"{reference}: preprocessing must be numbers, text, lists and dicts: {error}") from None
    if not isinstance(given, dict):
        raise ModelError(f"{reference}: preprocessing must be a dict, it is a {type(given).__name__}")
    return given


def _example(module: ModuleType, reference: str) -> Inputs:
    example = getattr(module, "example", None)
    value = call(reference, "example()", example) if callable(example) else example
    inputs = value if isinstance(value, tuple | list) else (value,)
    if not inputs or not all(isinstance(item, Tensor) and item.dim() > 0 for item in inputs):
        raise ModelError(
            f"{reference}: defines no usable 'example'; write `def example(): return torch.zeros(1, 3, 32, 32)` "
            "(a tensor or a tuple of tensors, batch first)"
        )
    return tuple(inputs)
