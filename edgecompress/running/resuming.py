"""Stages that are done once: what is finished is remembered with its inputs and outputs, and not done again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgecompress.errors import FileError
from edgecompress.files import Json, check_version, dump_json, make_folder, read_json, sha256, write_json
from edgecompress.finetuning.workers import shared
from edgecompress.processes import is_first

VERSION = 1
KIND = "edgecompress.stage"
STAGES = "stages"
"""The folder with a file for each finished stage."""


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
        self,
        name: str,
        inputs: Any,
        work: Callable[[], Json],
        outputs: tuple[str, ...] = (),
        *,
        together: bool = False,
        former: Any = None,
    ) -> Done:
        """The stage's result: remembered if inputs and output files are unchanged, else made by ``work``.

        ``inputs`` is anything JSON has that the stage depends on (keys of earlier stages among it);
        ``outputs`` are the paths, relative to the folder, of files and folders that ``work`` writes. Of several
        processes the first one works while the others wait, or all do (``together``); only the first one writes.
        ``former`` are the inputs as an earlier version had them: what was finished by those is finished, with its key.
        """
        key = key_of(name, inputs)
        for known in (key,) if former is None else (key, key_of(name, former)):
            remembered = shared(lambda: self._remembered(name, known))  # noqa: B023
            if remembered is not None:
                return Done(known, remembered)
        if is_first():
            self._file(name).unlink(missing_ok=True)
        made = work() if together else None
        return Done(key, shared(lambda: self._made(name, key, work if made is None else lambda: made, outputs)))

    def is_done(self, name: str, inputs: Any) -> bool:
        """Whether the stage was finished with these inputs and its files are still as it left them."""
        return self._remembered(name, key_of(name, inputs)) is not None

    def _made(self, name: str, key: str, work: Callable[[], Json], outputs: tuple[str, ...]) -> Json:
        """The result of ``work``, on disk."""
        file, result = self._file(name), work()
        written = {path: sha256(self.folder / path) for path in self._files(outputs)}
        document = {"kind": KIND, "version": VERSION, "key": key, "outputs": written, "result": result}
        document["sha256"] = key_of(key, written, json.loads(dump_json(result)))
        write_json(make_folder(file.parent) / file.name, document)
        return result

    def _file(self, name: str) -> Path:
        return self.folder / STAGES / f"{name}.json"

    def _files(self, outputs: tuple[str, ...]) -> list[str]:
        paths = [self.folder / output for output in outputs]
        files = [file for path in paths for file in ([path] if path.is_file() else sorted(path.rglob("*")))]
        return [str(file.relative_to(self.folder)) for file in files if file.is_file()]

    def _remembered(self, name: str, key: str) -> Json | None:
        """The result of the stage if it was finished with this key and its files are still as it left them."""
        document = self._document(self._file(name))
        if document is None or document["key"] != key:
            return None
        outputs = {self.folder / path: digest for path, digest in document["outputs"].items()}
        whole = all(path.is_file() and sha256(path) == digest for path, digest in outputs.items())
        return document["result"] if whole else None

    def _document(self, file: Path) -> Json | None:
        """What is remembered of a stage; None where that is missing, damaged, or names what lies outside the folder."""
        try:
            document = read_json(file)
            check_version(document, KIND, VERSION)
            key, outputs, result = (document[field] for field in ("key", "outputs", "result"))
            whole = document.get("sha256") in (None, key_of(key, outputs, result))
            inside = all(is_inside(path) for path in outputs)
        except (FileError, AttributeError, KeyError, TypeError):
            return None
        return document if whole and inside and isinstance(outputs, dict) and isinstance(result, dict) else None

    def forget(self) -> None:
        """Remove what stages have written and nobody has changed since, and that they are finished."""
        for file in sorted((self.folder / STAGES).glob("*.json")):
            document = self._document(file)
            if document is None:
                continue
            for path, digest in document["outputs"].items():
                self._forget_output(self.folder / path, digest)
            file.unlink()

    def _forget_output(self, path: Path, digest: str) -> None:
        if path.is_file() and not path.is_symlink() and sha256(path) == digest:
            path.unlink()
        if path.parent != self.folder and path.parent.is_dir() and not any(path.parent.iterdir()):
            path.parent.rmdir()


def key_of(*parts: Any) -> str:
    """A digest of anything JSON has."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def is_inside(path: str) -> bool:
    """Whether a relative path cannot lead out of its folder by its parts."""
    return not Path(path).is_absolute() and ".." not in Path(path).parts and bool(Path(path).parts)
