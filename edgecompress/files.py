"""Reading and writing files so that nothing half-written or untrusted is ever taken for good.

Every file is written aside and renamed; every document carries its kind and version; weights are
safetensors only.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecompress.errors import FileError, printable

if TYPE_CHECKING:
    from torch import Tensor

Json = dict[str, Any]

PACKAGE = Path(__file__).resolve().parent
CHUNK_BYTES = 1 << 20
MALFORMED = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What reading a field raises that is not there or of another type."""
LOCK = ".lock"
"""What keeps other processes out of a folder; nothing of a result."""
NUMBERS = re.compile(r"\[\s+(-?\d[-+.eE\d]*(?:,\s+-?\d[-+.eE\d]*)*)\s+\]")


def make_folder(folder: Path) -> Path:
    """Create ``folder`` (and its parents) and prove that it can be written to.

    Raises:
        FileError: the folder cannot be created or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise FileError(f"cannot write to {folder}: {reason(error)}; choose another folder with -o") from error
    return folder


@contextlib.contextmanager
def folder_made(folder: Path) -> Iterator[Path]:
    """:func:`make_folder`; what was not there before goes again in the end if nothing lies in it.

    Raises:
        FileError: the folder cannot be created or written to.
    """
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield make_folder(folder)
    finally:
        with contextlib.suppress(OSError):  # the first that holds something, and all above it, stay
            for path in new:
                path.rmdir()


def reason(error: OSError) -> str:
    """The operating system's words for an error, without the path Python adds."""
    return (error.strerror or str(error)).lower()


@contextlib.contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it is renamed to ``path``, else removed.

    Raises:
        FileError: the disk is full or the folder is not writable.
    """
    with _aside(path) as partial:
        yield partial
        partial.replace(path)


@contextlib.contextmanager
def several_aside(path: Path) -> Iterator[Path]:
    """Yield ``path``'s place in a temporary folder beside it; on success all that lies there moves, ``path`` last.

    Documents move first: they say whose the rest is, should the process end in between. Nothing is replaced.

    Raises:
        FileError: the disk is full, the folder is not writable, or one of the names is taken.
    """
    with _aside(path) as partial:
        partial.mkdir()
        yield partial / path.name
        moves = {made: path.with_name(made.name) for made in partial.iterdir()}
        for there in moves.values():
            if there.exists() or there.is_symlink():
                raise FileError(f"{there}: is in the way; move it or choose another folder")
        for made in sorted(moves, key=lambda made: (made.name == path.name, made.suffix != ".json")):
            made.rename(moves[made])


@contextlib.contextmanager
def _aside(path: Path) -> Iterator[Path]:
    """Yield the name for what is not whole yet; whatever still bears it in the end is removed."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise FileError(f"{path}: is no regular file, which is never replaced; choose another place")
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    _sweep(path)
    try:
        yield partial
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
        hint = "free some space or choose another folder" if full else "choose another place"
        raise FileError(f"cannot write {path}: {reason(error)}; {hint}") from error
    finally:
        remove(partial)


def remove(path: Path) -> None:
    """A file or a whole folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sweep(path: Path) -> None:
    """Remove what processes that were killed while writing ``path`` left beside it."""
    name = re.compile(rf"\.{re.escape(path.name)}\.(\d{{1,10}})\.partial")
    for left in path.parent.iterdir() if path.parent.is_dir() else ():
        found = name.fullmatch(left.name)
        if found and not _is_alive(int(found[1])):
            remove(left)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with written_aside(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write one JSON document atomically, keys in the given order."""
    write_text(path, dump_json(document) + "\n")


def dump_json(document: Mapping[str, Any]) -> str:
    """JSON text without NaN or Infinity (which are no JSON); a list of numbers stays on one line."""
    text = json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False)
    return NUMBERS.sub(lambda match: "[" + " ".join(match[1].split()) + "]", text)


def read_json(path: Path) -> Json:
    """Read a JSON object.

    Raises:
        FileError: missing, unreadable, not JSON, or not an object.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except FileNotFoundError:
        raise FileError(f"{path}: no such file") from None
    except OSError as error:
        raise FileError(f"{path}: {reason(error)}") from error
    except (ValueError, RecursionError) as error:
        raise FileError(f"{path}: not a JSON document ({str(error)[:200]})") from None
    if not isinstance(document, dict):
        raise FileError(f"{path}: holds a JSON {type(document).__name__}, an object was expected")
    return document


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def check_version(document: Json, kind: str, version: int) -> None:
    """Refuse a document of another kind or of a version this release does not know.

    Raises:
        FileError: the document says something else than ``kind`` and ``version``.
    """
    if not isinstance(document, dict) or document.get("kind") != kind:
        said = document.get("kind") if isinstance(document, dict) else document
        raise FileError(f"a document of kind {kind!r} was expected, this one says {said!r}")
    if document.get("version") != version:
        raise FileError(
            f"{kind} document of version {document.get('version')!r}: this release reads version {version}; "
            "write it again with this release"
        )


@contextlib.contextmanager
def reading_fields(what: str, *also: type[Exception]) -> Iterator[None]:
    """Turn whatever a missing or malformed field of a document raises into one line about ``what``.

    Raises:
        FileError: in place of any of :data:`MALFORMED`, and of ``also``.
    """
    malformed: tuple[type[Exception], ...] = (*MALFORMED, *also)
    try:
        yield
    except malformed as error:
        raise FileError(f"{what}: field missing or malformed: {printable(error)}") from None


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(file.stat().st_size for file in files_in(path))


def files_in(path: Path) -> list[Path]:
    """A file itself, or all files in a folder, sorted."""
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def sha256(path: Path) -> str:
    """Hex digest of a file, read in chunks; of a folder, that of its files' names and digests.

    Raises:
        FileError: a link in the folder, behind which anything may lie.
    """
    digest = hashlib.sha256()
    if path.is_dir():
        for link in (entry for entry in path.rglob("*") if entry.is_symlink()):
            raise FileError(f"{link}: is a symbolic link; put what it leads to in its place")
        for file in files_in(path):
            digest.update(f"{file.relative_to(path).as_posix()}\0{sha256(file)}\0".encode())
        return digest.hexdigest()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def zipped_bytes(*paths: Path) -> int:
    """Size in bytes after DEFLATE, as an app store would ship them."""
    compressor, size = zlib.compressobj(9), 0
    for file in (file for path in paths for file in files_in(path)):
        with file.open("rb") as stream:
            while chunk := stream.read(CHUNK_BYTES):
                size += len(compressor.compress(chunk))
    return size + len(compressor.flush())


def save_weights(path: Path, state: Mapping[str, Tensor]) -> None:
    """Write a ``state_dict`` as safetensors, atomically and byte-identical for equal input; nothing large is copied.

    Raises:
        FileError: the disk is full or the folder is not writable.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    known = set[int]()
    for name, tensor in state.items():
        own = tensor.detach().cpu().contiguous()
        at = own.untyped_storage().data_ptr()
        tensors[name] = own.clone() if at in known or own.nbytes < own.untyped_storage().nbytes() else own
        known.add(at)
    with _aside(path) as folder:
        folder.mkdir()  # safetensors itself writes beside the file first
        (made := folder / path.name).touch()
        mode = made.stat().st_mode
        try:
            save_file(tensors, made)
        except SafetensorError as error:
            raise _of_system(error) from error
        made.chmod(mode)
        made.replace(path)


def _of_system(error: Exception) -> OSError:
    """What the operating system told a library that has errors of its own."""
    number = re.search(r"os error (\d+)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(str(error))


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read safetensors; a pickle (``.pt``, ``.pth``) is refused, never opened.

    Raises:
        FileError: missing, truncated, or not safetensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise FileError(f"{path}: no such file")
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError) as error:
        with path.open("rb") as stream:
            head = stream.read(4)
        if head[:2] == b"\x80\x02" or head == b"PK\x03\x04":
            raise FileError(
                f"{path}: a pickle, which can run code when opened, where safetensors is expected; convert it with "
                "safetensors.torch.save_file(torch.load(FILE, weights_only=True), 'model.safetensors')"
            ) from None
        raise FileError(f"{path}: not a whole safetensors file ({error})") from None


def resource(name: str) -> Path:
    """The folder ``deploy`` or ``sample_models``: beside the package in a checkout, inside it in a wheel."""
    installed = PACKAGE / "_resources" / name
    return installed if installed.is_dir() else PACKAGE.parent / name
