"""Files that hold weights or sealed programs, not a model: what they are, without unpickling, and what makes one."""

from __future__ import annotations

import json
import pickletools
import shlex
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from edgecompress.errors import FileError, printable

SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".jit", ".safetensors")
LARGEST = 2**26
"""Bytes of a pickle or a header that are looked at."""
PLAIN = ("torch._utils", "torch.storage", "collections", "torch.nn.parameter", "torch.serialization", "torch", "numpy")
"""Modules that a pickled state dict names."""

LINES = '''"""A model for edgecompress: try `edgecompress inspect {name}`, then `edgecompress run {name} -o out`."""

from pathlib import Path

import torch
{more}from their_code import Net  # the class of your model


def model():  # built, with its trained weights
    net = Net()
{load}    return net


def example():  # one input batch, of the shape that your model takes
    return torch.zeros(1, 3, 224, 224)


# def data(split):  # "train", "validation" or "test": (input, target) pairs; without it no training and no score
#     return torchvision.datasets.ImageFolder(f"data/{{split}}", transform)
'''
"""A model file that is to be filled in."""
SCRIPTED = "a TorchScript program, whose layers are sealed"
WRAPPED = "module."
"""Before all names of weights that were saved with `nn.DataParallel` or `DistributedDataParallel` around the model."""
UNWRAPPED = "{{{{name.removeprefix({wrapped!r}): tensor for name, tensor in {load}.items()}}}}"
UNSAFE = ""
"""In place of an expression: what would run code of the file's is not written down for anyone."""
STATE_DICT = "where it was made, `torch.save(model.state_dict(), 'weights.pth')` writes what can be loaded safely"
SAFETENSORS = "from safetensors.torch import load_file\n"


def is_weights(text: str) -> bool:
    """By the ending; of a TorchScript program, which has any, by what is in it."""
    return Path(text).suffix in SUFFIXES or (_is_zip(text) and _kind(Path(text))[0] == SCRIPTED)


def _is_zip(text: str) -> bool:
    try:
        return Path(text).is_file() and zipfile.is_zipfile(text)
    except (OSError, ValueError):  # no name of a file at all
        return False


def described(text: str) -> str:
    """What a file is and how it becomes a model, in one line."""
    path = Path(text)
    if not path.is_file():
        return f"{text}: no such file"
    what, load = _kind(path)
    if load == UNSAFE:
        return f"{text}: is {what}; {STATE_DICT}"
    return (
        f"{text}: is {what}, no model; `edgecompress init my_model.py --weights {shlex.quote(text)}` writes "
        "the ten lines that load it: name your class in them and give my_model.py"
    )


def model_file(file: Path, weights: Path | None) -> str:
    """The text of a model file with the name ``file`` that loads ``weights``, or none.

    Raises:
        FileError: the weights are not there, no file of weights, or run code when they are loaded.
    """
    if weights is None:
        return LINES.format(name=file.name, more="", load="")
    if not weights.is_file() or not is_weights(str(weights)):
        what = f"no file of weights ({', '.join(SUFFIXES)})" if weights.is_file() else "no such file"
        raise FileError(f"{weights}: {what}")
    fact, load = _kind(weights)
    if load == UNSAFE:
        raise FileError(f"{weights}: is {fact}; {STATE_DICT}")
    place = weights.resolve()
    near = place.is_relative_to(file.resolve().parent)
    path = f'Path(__file__).parent / "{place.relative_to(file.resolve().parent)}"' if near else repr(str(place))
    more = SAFETENSORS if "load_file(" in load else ""
    return LINES.format(name=file.name, more=more, load=f"    net.load_state_dict({load.format(path=path)})\n")


def _kind(path: Path) -> tuple[str, str]:
    """What a file is, and the expression that gives its weights."""
    try:
        if path.suffix == ".safetensors":
            names = _header(path)
            return f"a state dict ({_shown(names)})", _unwrapped("load_file({path})", names)
        if zipfile.is_zipfile(path):
            return _archive(path)
        with path.open("rb") as file:
            return _pickle(file)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return "no file of PyTorch, or damaged", "torch.load({path}, weights_only=True)"


def _header(path: Path) -> list[str]:
    """Names of the tensors in a .safetensors file."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > LARGEST:
            raise ValueError(size)
        return [name for name in json.loads(file.read(size)) if name != "__metadata__"]


def _archive(path: Path) -> tuple[str, str]:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if any("/code/" in name for name in names):
            return SCRIPTED, "torch.jit.load({path}).state_dict()"
        if any(name.endswith(("archive_format", "serialized_exported_program.json")) for name in names):
            fact = "a program of torch.export, which is read where its name ends in .pt2"
            return fact, "torch.export.load({path}).state_dict"
        pickles = [name for name in names if name.endswith("data.pkl")]
        if not pickles or archive.getinfo(pickles[0]).file_size > LARGEST:
            raise ValueError(path)
        return _pickle(BytesIO(archive.read(pickles[0])))


def _pickle(file: BinaryIO) -> tuple[str, str]:
    """By the classes and names that a pickle mentions; nothing of it is run."""
    classes, texts = [], []
    for code, argument in _operations(file):
        if code == "GLOBAL":
            classes.append(str(argument).replace(" ", "."))
        elif code in ("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"):
            texts.append(str(argument))
    foreign = [name for name in classes if name.rpartition(".")[0] not in PLAIN]
    if foreign:
        fact = f"a pickled object of {printable(foreign[0])}, which runs code of its own when it is loaded"
        return fact, UNSAFE
    names = [text for text in texts if text.rpartition(".")[2] in ("weight", "bias", "running_mean")]
    return f"a state dict ({_shown(names)})", _unwrapped("torch.load({path}, weights_only=True)", names)


def _unwrapped(load: str, names: list[str]) -> str:
    """An expression that gives the weights by their names in the model itself."""
    wrapped = bool(names) and all(name.startswith(WRAPPED) for name in names)
    return UNWRAPPED.format(wrapped=WRAPPED, load=load) if wrapped else load


def _operations(file: BinaryIO) -> Iterator[tuple[str, object]]:
    """Of the pickles at the start of a file, of which older files have several."""
    data = BytesIO(file.read(LARGEST))
    for _ in range(5):
        try:
            for operation, argument, _place in pickletools.genops(data):
                yield operation.name, argument
        except ValueError:
            return


def _shown(names: list[str]) -> str:
    return f"{len(names)} tensors: {printable(', '.join(names[:3]))} ..." if names else "no names of layers in it"
