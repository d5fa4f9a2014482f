"""Figures of one compressed model, from a run or a profile: what ``compare`` and ``check`` look at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgecompress.errors import FileError
from edgecompress.files import Json
from edgecompress.profiling.comparisons import Comparison
from edgecompress.profiling.instruction_counts import (
    AnyComparison,
    AnyProfile,
    InstructionProfile,
    comparison_from,
    profile_from,
)
from edgecompress.profiling.latencies import Latency
from edgecompress.reporting.document import KIND, Report
from edgecompress.reporting.scores import TaskMetric
from edgecompress.split_scores import Difference, SplitScore

CIRCUMSTANCES = ("device", "processor", "provenance", "runtime", "threads", "batch", "length", "past")


@dataclass(frozen=True, slots=True)
class Figures:
    """What a run's folder, its report, or a document of ``profile -o`` holds of one compressed model.

    ``comparison`` is against the dense model, ``accuracy`` before and after in the metric's unit on ``items`` items,
    ``lost`` what sets both apart, ``scored`` the score after as it can be paired with that of another run.
    """

    source: Path
    profile: AnyProfile
    comparison: AnyComparison | None
    accuracy: tuple[float | None, float | None] = (None, None)
    metric: TaskMetric | None = None
    items: int = 0
    lost: Difference | None = None
    scored: SplitScore | None = None

    @property
    def latency(self) -> Latency | None:
        """Every run, when taking turns with the dense model if it did; None of an emulated core."""
        if isinstance(self.profile, InstructionProfile):
            return None
        return self.comparison.candidate_latency if isinstance(self.comparison, Comparison) else self.profile.latency

    @property
    def latency_ms(self) -> float | None:
        """Median wall time of one run."""
        return self.latency.statistics.wall.p50 if self.latency else None

    @property
    def circumstances(self) -> Json:
        """What must be equal for figures to compare."""
        device = self.profile.device
        known = (device.name, device.processor, device.provenance, dict(self.profile.runtime))
        profile = self.profile
        fed = profile.threads, profile.batch, profile.length, profile.past
        return dict(zip(CIRCUMSTANCES, (*known, *fed), strict=True))


def figures_in(path: Path, document: Json) -> Figures:
    """Figures out of a report, a profile, or a document of ``profile -o``, which was read from ``path``.

    Raises:
        FileError: it is none of these, or nothing was measured in the run.
    """
    if path.is_dir() or document.get("kind") == KIND:
        return figures_of_report(path, Report.from_json(document))
    pair = document.get("comparison")
    return Figures(path, profile_from(document.get("profile", document)), comparison_from(pair) if pair else None)


def figures_of_report(path: Path, report: Report) -> Figures:
    """Figures of a run's compressed model; ``path`` is where they come from.

    Raises:
        FileError: nothing was measured in the run.
    """
    if report.profiles is None:
        raise FileError("nothing was measured in this run")
    return Figures(
        path,
        report.profiles.compressed,
        report.comparison,
        report.before_and_after,
        report.metric,
        report.test.items if report.test else 0,
        report.score_difference,
        report.scored.compressed,
    )
