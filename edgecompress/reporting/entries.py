"""The parts of a report: training, layers, files, plans tried.

``from_json`` raises KeyError, TypeError or ValueError where a field is missing or malformed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from edgecompress.fields import flag, number, optional, text, whole
from edgecompress.files import Json
from edgecompress.profiling.ratios import Ratio
from edgecompress.reporting.pairs import Known, Pair, known


@dataclass(frozen=True, slots=True)
class Fitting:
    """How factors were fitted: on how many inputs, each layer behind compressed ones, and batch norms afterwards."""

    items: int
    asymmetric: bool
    recalibrated: bool

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Fitting:
        """The inverse of ``asdict``."""
        return cls(whole(document["items"]), flag(document["asymmetric"]), flag(document["recalibrated"]))


@dataclass(frozen=True, slots=True)
class Epoch:
    """What one epoch ended with: the mean training loss and the score on the validation split."""

    epoch: int
    loss: float
    score: float

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Epoch:
        """The inverse of ``asdict``."""
        return cls(whole(document["epoch"]), number(document["loss"]), number(document["score"]))


@dataclass(frozen=True, slots=True)
class Training:
    """Fine-tuning; ``best_epoch`` is that whose weights were kept, 0 for the model as it was."""

    epochs: int
    best_epoch: int
    history: tuple[Epoch, ...]

    def to_json(self) -> Json:
        """A JSON object."""
        history = [asdict(epoch) for epoch in self.history]
        return {"epochs": self.epochs, "best_epoch": self.best_epoch, "history": history}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Training:
        """The inverse of :meth:`to_json`."""
        history = tuple(map(Epoch.from_json, document["history"]))
        return cls(whole(document["epochs"]), whole(document["best_epoch"]), history)


@dataclass(frozen=True, slots=True)
class LayerCost:
    """Work, storage and time of a layer or its chain; None where not counted or not timed."""

    macs: int | None
    params: int | None
    bytes: int | None
    wall_ms: float | None = None

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> LayerCost:
        """The inverse of ``asdict``."""
        macs, params, size = (optional(whole, document[key]) for key in ("macs", "params", "bytes"))
        return cls(macs, params, size, optional(number, document.get("wall_ms")))


@dataclass(frozen=True, slots=True)
class LayerEntry:
    """A layer and what became of it; without a ``method`` it stays dense, for a ``reason``.

    ``error`` is the predicted relative squared error. ``slower`` is None where that is not known; ``ablation`` is the
    time of the whole compressed file with the dense layer in place of the chain over that of the file.
    """

    name: str
    kind: str
    method: str | None
    ranks: tuple[int, ...] | None
    error: float | None
    reason: str | None
    costs: Pair[LayerCost]
    slower: bool | None = None
    ablation: Ratio | None = None

    def to_json(self) -> Json:
        """A JSON object."""
        return {
            "name": self.name,
            "kind": self.kind,
            "method": self.method,
            "ranks": None if self.ranks is None else list(self.ranks),
            "error": self.error,
            "reason": self.reason,
            **self.costs.to_json(asdict),
            "slower": self.slower,
            **({"ablation": {"speedup": self.ablation.value, "ci95": self.ablation.ci95}} if self.ablation else {}),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> LayerEntry:
        """The inverse of :meth:`to_json`; what is known of times may be missing."""
        ranks, ablation = document["ranks"], document.get("ablation")
        return cls(
            text(document["name"]),
            text(document["kind"]),
            optional(text, document["method"]),
            None if ranks is None else tuple(map(whole, ranks)),
            optional(number, document["error"]),
            optional(text, document["reason"]),
            Pair.from_json(document, LayerCost.from_json),
            optional(flag, document.get("slower")),
            Ratio(ablation["speedup"], *ablation["ci95"]) if ablation else None,
        )


@dataclass(frozen=True, slots=True)
class FileTimesEntry:
    """Milliseconds of both files: outside all operators, and in all, when taking turns."""

    outside_operators: Known
    whole: Known

    def to_json(self) -> Json:
        """A JSON object."""
        return {"outside_operators": self.outside_operators.to_json(), "whole": self.whole.to_json()}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> FileTimesEntry:
        """The inverse of :meth:`to_json`."""
        nothing: Known = Pair(None, None)
        return cls(known(document.get("outside_operators")) or nothing, known(document.get("whole")) or nothing)


FILE_KEYS = (
    "role",
    "target",
    "precision",
    "status",
    "path",
    "parts",
    "size_bytes",
    "sha256",
    "max_abs_error",
    "sqnr_db",
    "score",
    "approximation",
    "graph",
    "notices",
)
"""The order of a file's keys in a report."""


@dataclass(frozen=True, slots=True)
class FileEntry:
    """An exported file; ``path`` is relative to the run's folder, ``zipped_bytes`` after DEFLATE.

    Without ``max_abs_error`` and ``sqnr_db`` it was not run on this machine. ``facts`` is the rest of
    its artifact's summary.
    """

    role: str
    target: str
    path: str
    size_bytes: int
    zipped_bytes: int
    sha256: str
    max_abs_error: float | None
    sqnr_db: float | None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def notices(self) -> tuple[str, ...]:
        """What a user should know of how the file came about, in words."""
        return tuple(map(text, self.facts.get("notices", ())))

    def to_json(self) -> Json:
        """A JSON object, in the order of an artifact's summary."""
        own = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "facts"}
        all_facts = {**own, **self.facts}
        return {name: all_facts[name] for name in (*FILE_KEYS, *self.facts, "zipped_bytes") if name in all_facts}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> FileEntry:
        """The inverse of :meth:`to_json`."""
        found = cls(
            text(document["role"]),
            text(document["target"]),
            text(document["path"]),
            whole(document["size_bytes"]),
            whole(document["zipped_bytes"]),
            text(document["sha256"]),
            optional(number, document["max_abs_error"]),
            optional(number, document["sqnr_db"]),
            {name: value for name, value in document.items() if name not in cls.__dataclass_fields__},
        )
        _ = found.notices  # malformed ones are found here, not when they are shown
        return found


@dataclass(frozen=True, slots=True)
class Failure:
    """A target that gave no file, and why."""

    role: str
    target: str
    reason: str

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Failure:
        """The inverse of ``asdict``."""
        return cls(text(document["role"]), text(document["target"]), text(document["reason"]))


@dataclass(frozen=True, slots=True)
class TriedPlan:
    """A plan that was tried in a folder, and what it came to; ``place`` is where it was timed.

    ``key`` identifies the options; ``chosen`` is the run's own; ``seconds`` is what making it took.
    """

    key: str
    name: str
    accuracy: float | None
    macs: int | None
    size_bytes: int | None
    wall_ms: float | None
    place: str
    chosen: bool = False
    seconds: float | None = None

    def to_json(self) -> Json:
        """A JSON object."""
        document = asdict(self)
        seconds = document.pop("seconds")
        return document if seconds is None else {**document, "seconds": seconds}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> TriedPlan:
        """The inverse of :meth:`to_json`."""
        return cls(
            text(document.get("key", "")),
            text(document["name"]),
            optional(number, document["accuracy"]),
            optional(whole, document["macs"]),
            optional(whole, document["size_bytes"]),
            optional(number, document["wall_ms"]),
            text(document["place"]),
            flag(document["chosen"]),
            optional(number, document.get("seconds")),
        )


@dataclass(frozen=True, slots=True)
class BundleEntry:
    """A bundle: the path of its manifest, and the model's bytes beside those of the library that runs it.

    ``library_bytes`` and ``library_bytes_compressed`` are None where they are not known.
    """

    platform: str
    manifest: str
    model_bytes: int
    runtime: str
    version: str | None
    library_bytes: int | None
    library_bytes_compressed: int | None
    source: str | None

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> BundleEntry:
        """The inverse of ``asdict``."""
        return cls(
            platform=text(document["platform"]),
            manifest=text(document["manifest"]),
            model_bytes=whole(document["model_bytes"]),
            runtime=text(document["runtime"]),
            version=optional(text, document["version"]),
            library_bytes=optional(whole, document["library_bytes"]),
            library_bytes_compressed=optional(whole, document["library_bytes_compressed"]),
            source=optional(text, document["source"]),
        )
