"""Stages that are done once: what is finished is remembered with its inputs and outputs, and not done again."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecompress.errors import FileError
from edgecompress.files import Json, check_version, make_folder, read_json, sha256, write_json
from edgecompress.processes import is_first
from edgecompress.training.workers import shared

VERSION = 1
KIND = "edgecompress.stage"


@dataclass(frozen=True, slots=True)
class Done:
    """A finished stage: its key, which the next stages build on, and its small JSON result."""

    key: str
    result: Json


@dataclass(frozen=True, slots=True)
class Stages:
    """The finished stages of a folder, one file each in ``folder/stages``."""

    folder: Path

    def do(
        self, name: str, inputs: Any, work: Callable[[], Json], outputs: tuple[str, ...] = (), *, together: bool = False
    ) -> Done:
        """The stage's result: remembered if inputs and output files are unchanged, else made by ``work``.

        ``inputs`` is anything JSON can say that the stage depends on (keys of earlier stages among it);
        ``outputs`` are the paths, relative to the folder, of files and folders that ``work`` writes. Of several
        processes the first one works while the others wait, or all do (``together``); only the first one writes.
        """
        key = key_of(name, inputs)
        remembered = shared(lambda: self._remembered(name, key))
        if remembered is not None:
            return Done(key, remembered)
        if is_first():
            self._file(name).unlink(missing_ok=True)
        made = work() if together else None
        return Done(key, shared(lambda: self._made(name, key, work if made is None else lambda: made, outputs)))

    def _made(self, name: str, key: str, work: Callable[[], Json], outputs: tuple[str, ...]) -> Json:
        """The result of ``work``, on disk."""
        file, result = self._file(name), work()
        written = {path: sha256(self.folder / path) for path in self._files(outputs)}
        document = {"kind": KIND, "version": VERSION, "key": key, "outputs": written, "result": result}
        write_json(make_folder(file.parent) / file.name, document)
        return result

    def _file(self, name: str) -> Path:
        return self.folder / "stages" / f"{name}.json"

    def _files(self, outputs: tuple[str, ...]) -> list[str]:
        paths = [self.folder / output for output in outputs]
        files = [file for path in paths for file in ([path] if path.is_file() else sorted(path.rglob("*")))]
        return [str(file.relative_to(self.folder)) for file in files if file.is_file()]

    def _remembered(self, name: str, key: str) -> Json | None:
        """The result of the stage if it was finished with this key and its files are still as it left them."""
        try:
            document = read_json(self._file(name))
            check_version(document, KIND, VERSION)
            outputs = {self.folder / path: digest for path, digest in document["outputs"].items()}
            key_then, result = document["key"], document["result"]
        except (FileError, AttributeError, KeyError, TypeError):
            return None
        whole = all(path.is_file() and sha256(path) == digest for path, digest in outputs.items())
        return result if key_then == key and whole and isinstance(result, dict) else None


def key_of(*parts: Any) -> str:
    """A digest of anything JSON can say."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


@contextlib.contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold the folder for this process; released when it ends, however it ends.

    Raises:
        FileError: another process works in the folder, or it cannot be written to.
    """
    if not is_first():
        yield
        return
    with (make_folder(folder) / ".lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise FileError(
                f"{folder}: another edgecompress is at work there; wait for it or choose another -o"
            ) from None
        yield
