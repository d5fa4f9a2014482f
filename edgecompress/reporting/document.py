"""Report: what a run did and what came of it, as ``report.json`` holds it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, TypeVar

from edgecompress.fields import optional, text
from edgecompress.files import Json, check_version, reading_fields
from edgecompress.plans import Cost
from edgecompress.profiling.comparisons import ComparisonSummary, TimedPair
from edgecompress.profiling.instruction_counts import AnyComparison, AnyProfile, comparison_from, profile_from
from edgecompress.reporting.entries import (
    BundleEntry,
    Failure,
    FileEntry,
    FileTimesEntry,
    Fitting,
    LayerEntry,
    Training,
    TriedPlan,
)
from edgecompress.reporting.fronts import Front
from edgecompress.reporting.pairs import ROLES, Known, Pair, known
from edgecompress.reporting.scores import Nearness, Scores, Split, TaskMetric
from edgecompress.settings import NO_RECIPE
from edgecompress.split_scores import Difference, SplitScore, unpaired

T = TypeVar("T")

KIND = "edgecompress.report"
VERSION = 2


@dataclass(frozen=True)
class Compression:
    """What planning, decomposing and fine-tuning came to.

    ``data`` and ``scores`` are None of a model without data; ``scored`` are both models' scores as they can be paired,
    ``difference`` what sets them apart. ``calibration`` is how factors were fitted (None: to the weights alone),
    ``recipe`` how ranks were found, ``storage`` what weights stored as codes take, ``outputs`` how near those of the
    compressed model are to the dense one's (None: written before that was compared).
    """

    model: str
    data: Mapping[str, Split] | None
    metric: TaskMetric
    scores: Scores | None
    scored: Pair[SplitScore | None]
    difference: Difference | None
    calibration: Fitting | None
    recipe: Mapping[str, Any]
    training: Training | None
    cost: Pair[Cost]
    storage: Mapping[str, Any] | None
    outputs: Nearness | None

    @property
    def test(self) -> Split | None:
        """The split that scores are taken on."""
        return (self.data or {}).get("test")

    def _repr_html_(self) -> str:
        """For notebooks."""
        from edgecompress.reporting.showing import compression_html

        return compression_html(self)

    @property
    def before_and_after(self) -> tuple[float | None, float | None]:
        """The score of the dense model and of the last stage."""
        return self.scores.before_and_after if self.scores else (None, None)

    @property
    def score_difference(self) -> Difference | None:
        """What sets the two scores apart; None where one is not known."""
        before, after = self.before_and_after
        if before is None or after is None:
            return None
        return self.difference or unpaired(before, after, self.test.items if self.test and self.metric.unit else 0)

    def to_json(self) -> Json:
        """A JSON object."""
        return {
            "model": self.model,
            "data": None if self.data is None else {name: asdict(split) for name, split in self.data.items()},
            "metric": asdict(self.metric),
            "accuracy": self.scores.to_json() if self.scores else None,
            "scored": self.scored.to_json(lambda score: score and score.to_json()),
            "accuracy_difference": self.difference.to_json() if self.difference else None,
            "calibration": asdict(self.calibration) if self.calibration else None,
            "recipe": dict(self.recipe),
            "training": self.training.to_json() if self.training else None,
            "cost": self.cost.to_json(Cost.to_json),
            **({} if self.storage is None else {"storage": dict(self.storage)}),
            **({} if self.outputs is None else {"outputs": asdict(self.outputs)}),
        }

    @classmethod
    def compression_from(cls, document: Json) -> dict[str, Any]:
        """The fields out of :meth:`to_json`; KeyError, TypeError or ValueError where one is missing or malformed."""
        data, scored = document["data"], document.get("scored") or {}
        return {
            "model": text(document["model"]),
            "data": None if data is None else {name: Split.from_json(split) for name, split in data.items()},
            "metric": TaskMetric.from_json(document.get("metric")),
            "scores": optional(Scores.from_json, document["accuracy"]),
            "scored": Pair(*(SplitScore.from_json(scored.get(role)) for role in ("dense", "compressed"))),
            "difference": optional(Difference.from_json, document.get("accuracy_difference")),
            "calibration": optional(Fitting.from_json, document["calibration"]),
            "recipe": dict(document.get("recipe") or {"name": NO_RECIPE}),
            "training": optional(Training.from_json, document["training"]),
            "cost": Pair.from_json(document["cost"], Cost.from_json),
            "storage": optional(dict, document.get("storage")),
            "outputs": optional(Nearness.from_json, document.get("outputs")),
        }


@dataclass(frozen=True)
class Report(Compression):
    """All that a run did and measured, as ``report.json`` holds it; made by :func:`edgecompress.run`.

    Args:
        model: the model's name.
        data: its splits; None of a model without data.
        metric: name and unit of the task score.
        scores: the task score after each stage, in the metric's unit; None without data.
        scored: both models' scores as they can be paired.
        difference: what sets these apart, in the metric's unit (points where that is percent).
        calibration: how factors were fitted; None: to the weights alone.
        recipe: how ranks were found, by ``name``.
        training: the epochs of fine-tuning; None without one.
        cost: parameters, MACs of one input and bytes of both models.
        storage: what weights stored as codes take, in bytes; None where they are not.
        outputs: how near the compressed model's are to the dense one's; None: written before that was compared.
        arguments: the options of the run.
        versions: those of the libraries.
        layers: every layer and what became of it.
        outside_layers: milliseconds in operators of no layer.
        file_times: milliseconds of the whole files; None: written before the profiler's part was known.
        artifacts: the exported files, of each model that of the measured target first.
        failed: the targets that gave no file.
        profiles: both files, each alone on the device.
        comparison: both taking turns.
        threads: comparisons with other numbers of threads.
        bundle: the path of the first bundle's manifest in the run's folder.
        bundles: all of them; none: written before they were recorded.
        tried: plans that were tried in the folder.
        command: what was typed to make it; empty of a run from Python.
        suggestion: the lowest budget that is expected to hold the outputs, where this one did not; else empty.
        front: the plans that were measured for a latency; None where there was no limit on one.
    """

    arguments: Mapping[str, Any]
    versions: Mapping[str, str]
    layers: tuple[LayerEntry, ...]
    outside_layers: Known | None
    file_times: FileTimesEntry | None
    artifacts: tuple[FileEntry, ...]
    failed: tuple[Failure, ...]
    profiles: Pair[AnyProfile] | None
    comparison: AnyComparison | None
    threads: tuple[TimedPair, ...]
    bundle: str | None
    tried: tuple[TriedPlan, ...] = ()
    bundles: tuple[BundleEntry, ...] = ()
    command: str = ""
    suggestion: str = ""
    front: Front | None = None

    @cached_property
    def files(self) -> Pair[FileEntry | None]:
        """The first exported file of each model."""
        return Pair(*(next((one for one in self.artifacts if one.role == role), None) for role in ROLES))

    def to_json(self) -> Json:
        """A JSON object with kind and version."""
        compression = super().to_json()
        if self.scores:
            compression["accuracy"] |= {"artifact": self.scores.artifact}
        return {
            "kind": KIND,
            "version": VERSION,
            **compression,
            "arguments": dict(self.arguments),
            "versions": dict(self.versions),
            "layers": [layer.to_json() for layer in self.layers],
            "outside_layers": self.outside_layers.to_json() if self.outside_layers else None,
            **({"file_times": self.file_times.to_json()} if self.file_times else {}),
            "artifacts": [file.to_json() for file in self.artifacts],
            "failed": [asdict(failure) for failure in self.failed],
            "profiles": self.profiles.to_json(lambda profile: profile.to_json()) if self.profiles else None,
            "comparison": self.comparison.to_json() if self.comparison else None,
            "threads": [other.summary() for other in self.threads],
            "bundle": self.bundle,
            **({"bundles": [asdict(one) for one in self.bundles]} if self.bundles else {}),
            "tried": [plan.to_json() for plan in self.tried],
            **({"command": self.command} if self.command else {}),
            **({"suggestion": self.suggestion} if self.suggestion else {}),
            **({"front": self.front.to_json()} if self.front else {}),
        }

    def _repr_html_(self) -> str:
        """For notebooks."""
        from edgecompress.reporting.showing import report_html

        return report_html(self)

    def summary(self) -> Json:
        """:meth:`to_json` without the single timings and items, which stay in the folder's files."""
        profiles = self.profiles.to_json(lambda profile: profile.summary()) if self.profiles else None
        comparison = self.comparison.summary() if self.comparison else None
        return {**self.to_json(), "scored": None, "profiles": profiles, "comparison": comparison}

    @classmethod
    def from_json(cls, document: Json) -> Report:
        """The inverse of :meth:`to_json`.

        Raises:
            FileError: another kind or version, or a field is missing or malformed.
        """
        check_version(document, KIND, VERSION)
        with reading_fields("report"):
            return cls(**cls.compression_from(document), **cls._run_from(document))

    @staticmethod
    def _run_from(document: Json) -> dict[str, Any]:
        def each(of: Callable[[Any], T], key: str) -> tuple[T, ...]:
            return tuple(map(of, document.get(key) or ()))

        return {
            "arguments": dict(document["arguments"]),
            "versions": {text(name): text(version) for name, version in document["versions"].items()},
            "layers": tuple(map(LayerEntry.from_json, document["layers"])),
            "outside_layers": known(document.get("outside_layers")),
            "file_times": optional(FileTimesEntry.from_json, document.get("file_times")),
            "artifacts": tuple(map(FileEntry.from_json, document["artifacts"])),
            "failed": each(Failure.from_json, "failed"),
            "profiles": optional(lambda pair: Pair.from_json(pair, profile_from), document["profiles"] or None),
            "comparison": optional(comparison_from, document["comparison"]),
            "threads": each(ComparisonSummary.from_json, "threads"),
            "bundle": optional(text, document.get("bundle")),
            "bundles": each(BundleEntry.from_json, "bundles"),
            "tried": each(TriedPlan.from_json, "tried"),
            "command": text(document.get("command", "")),
            "suggestion": text(document.get("suggestion", "")),
            "front": optional(Front.from_json, document.get("front")),
        }
