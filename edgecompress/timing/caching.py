"""Times that were measured before, in a file of the cache to which lines are only ever added.

A line is a JSON object: under what circumstances, of which layers and which chain, and what was measured. Several
processes may add at once: each writes whole lines while it holds the file's lock. Lines that cannot be read are left
out with a warning, and the file is written anew without them.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import Any

from edgecompress.devices.emulated.spec import cache_folder
from edgecompress.errors import FileError
from edgecompress.files import Json, reason
from edgecompress.plans import Ranks
from edgecompress.progress import notice

VERSION = 3
"""Of the lines and of the way that is measured."""
FOLDER = "timings"


@dataclass(frozen=True, slots=True)
class Timing:
    """What one layer with a chain takes more than dense, in its place (negative: less).

    Args:
        geometry: of the layer, as ``geometry_key`` says it.
        method: of the chain.
        ranks: of the chain.
        share: of the whole dense model's time.
        spread: standard error of ``share``.
        layers: so many were replaced at once.
        turns: so often was measured.
        load: of the machine meanwhile, processes that wanted a processor.
    """

    geometry: str
    method: str
    ranks: Ranks
    share: float
    spread: float
    layers: int
    turns: int
    load: float = 0.0

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> Timing:
        """Raises KeyError, TypeError or ValueError on nonsense."""
        numbers = [float(line[name]) for name in ("share", "spread")]
        ranks = tuple(map(int, line["ranks"]))
        return cls(str(line["geometry"]), str(line["method"]), ranks, numbers[0], numbers[1], int(line["layers"]),
                   int(line["turns"]), float(line["load"]))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Circumstances:
    """All that times depend on besides the chain: a changed one is another file.

    ``machine`` is the device's identity, ``context`` the digest of the whole dense graph, ``rewrites`` the version of
    the rewrites that it went through.
    """

    target: str
    precision: str
    runtime: str
    device: str
    machine: str
    threads: int
    batch: int
    rewrites: int
    context: str
    version: int = VERSION

    @property
    def digest(self) -> str:
        """Names the file."""
        return sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:20]


def timings_folder() -> Path:
    """In the cache."""
    return cache_folder() / FOLDER


@dataclass(frozen=True, slots=True)
class TimingFile:
    """The times of one circumstance."""

    circumstances: Circumstances

    @property
    def path(self) -> Path:
        """In the cache."""
        return timings_folder() / f"{self.circumstances.digest}.jsonl"

    def read(self) -> list[Timing]:
        """All whole lines; the file is mended where some are not.

        Raises:
            FileError: the cache cannot be read, or not be mended.
        """
        if not self.path.is_file():
            return []
        with _naming(self.path):
            found, damaged = self._read()
            if damaged:
                with _locked(self.path):
                    found, damaged = self._read()
                    self._rewrite(found)
                notice(f"{self.path}: {damaged} damaged line(s) left out; the file is written anew")
        return found

    def _read(self) -> tuple[list[Timing], int]:
        """All whole lines, and how many others there are."""
        head, *lines = [*self.path.read_text(encoding="utf-8", errors="replace").splitlines(), ""]
        found = [timing for line in lines if (timing := _timing(line)) is not None]
        return found, (head != self._head()) + len([line for line in lines if line]) - len(found)

    def add(self, timings: Iterable[Timing]) -> None:
        """At the end; whole lines, while no other process writes.

        Raises:
            FileError: the cache cannot be written to.
        """
        with _naming(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with _locked(self.path):
                text = "".join(f"{json.dumps(asdict(timing))}\n" for timing in timings)
                start = "" if self.path.exists() else f"{self._head()}\n"
                with self.path.open("a", encoding="utf-8") as stream:
                    stream.write(start + text)

    def _head(self) -> str:
        return json.dumps({"kind": "edgecompress.timings", **asdict(self.circumstances)})

    def _rewrite(self, timings: Iterable[Timing]) -> None:
        aside = self.path.with_suffix(f".{os.getpid()}")
        lines = [self._head(), *(json.dumps(asdict(timing)) for timing in timings)]
        aside.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        aside.replace(self.path)


def _timing(line: str) -> Timing | None:
    try:
        return Timing.from_json(json.loads(line))
    except (KeyError, TypeError, ValueError):
        return None


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Raises FileError for what the system refuses."""
    try:
        yield
    except OSError as error:
        why = f"cannot use {path}: {reason(error)}; set EDGECOMPRESS_CACHE to another folder"
        raise FileError(why) from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def known_files() -> list[Json]:
    """What ``list timings`` shows: the circumstances of each file, and how many times it has."""
    found = []
    for path in sorted(timings_folder().glob("*.jsonl")):
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
            head = json.loads(lines[0])
        except (OSError, ValueError, IndexError):
            continue
        found.append({**head, "timings": len(lines) - 1, "file": path.name})
    return found


def circumstances_of(facts: Mapping[str, Any]) -> Circumstances | None:
    """Of what :func:`known_files` gives; None where they are of another version."""
    names = [field.name for field in fields(Circumstances)]
    if facts.get("version") != VERSION or any(name not in facts for name in names):
        return None
    return Circumstances(**{name: facts[name] for name in names})
