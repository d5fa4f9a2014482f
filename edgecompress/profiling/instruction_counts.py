"""What was emulated: instructions of an ARM core, counted one by one. They are never turned into milliseconds.

A count is exact and repeatable, and knows nothing of caches, memory and clocks: compare counts with counts, under one
named core.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgecompress.devices.base import Counts
from edgecompress.files import Json, check_version, reading_fields
from edgecompress.profiling.comparisons import COMPARISON_KIND, Comparison, FilePair, Verdict
from edgecompress.profiling.facts import LENGTHS, VERSION, DeviceFacts
from edgecompress.profiling.profiles import FileProfile, Profile

PROFILE_KIND = "edgecompress.instructions"
UNIT = "instructions"


@dataclass(frozen=True, slots=True)
class InstructionProfile(FileProfile):
    """One model under one emulated core: storage, work, instructions."""

    counts: Counts

    def to_json(self) -> Json:
        """A JSON object with kind and version."""
        about = {"kind": PROFILE_KIND, "version": VERSION, "provenance": self.device.provenance, "unit": UNIT}
        return {**about, **self.common_fields(), "counts": self.counts.to_json()}

    def summary(self) -> Json:
        """The same: there are only a few counts."""
        return self.to_json()

    @classmethod
    def from_json(cls, document: Json) -> InstructionProfile:
        """The inverse of :meth:`to_json`.

        Raises:
            FileError: another kind or version, or a field is missing or malformed.
        """
        check_version(document, PROFILE_KIND, VERSION)
        with reading_fields("instructions"):
            fields = {key: {**LENGTHS, **document}[key] for key in cls.__dataclass_fields__}
            made = {"device": DeviceFacts(**fields["device"]), "counts": Counts.from_json(fields["counts"])}
            return cls(**fields | made)


@dataclass(frozen=True, slots=True)
class InstructionComparison(FilePair):
    """Instructions of two models under one emulated core. The ratio is exact to what a count repeats to."""

    baseline_counts: Counts
    candidate_counts: Counts

    @property
    def ratio(self) -> float:
        """Baseline over candidate: above 1, the candidate needs fewer."""
        return self.baseline_counts.least / self.candidate_counts.least

    @property
    def verdict(self) -> Verdict:
        """Always: instructions are no time."""
        return "no claim"

    def to_json(self) -> Json:
        """A JSON object with kind and version."""
        return {
            "kind": COMPARISON_KIND,
            "version": VERSION,
            **self.common_fields(),
            "unit": UNIT,
            "instruction_ratio": self.ratio,
            "verdict": self.verdict,
            "verified_on_arm": False,
            "baseline_counts": self.baseline_counts.to_json(),
            "candidate_counts": self.candidate_counts.to_json(),
        }

    def summary(self) -> Json:
        """The same: there are only a few counts."""
        return self.to_json()

    @classmethod
    def from_json(cls, document: Json) -> InstructionComparison:
        """The inverse of :meth:`to_json`.

        Raises:
            FileError: another kind or version, or a field is missing or malformed.
        """
        check_version(document, COMPARISON_KIND, VERSION)
        with reading_fields("comparison"):
            return cls(
                **cls.common_from(document),
                baseline_counts=Counts.from_json(document["baseline_counts"]),
                candidate_counts=Counts.from_json(document["candidate_counts"]),
            )


AnyProfile = Profile | InstructionProfile
AnyComparison = Comparison | InstructionComparison


def profile_from(document: Json) -> AnyProfile:
    """A profile of whichever kind.

    Raises:
        FileError: it is none, or of another version.
    """
    counted = isinstance(document, dict) and document.get("kind") == PROFILE_KIND
    return InstructionProfile.from_json(document) if counted else Profile.from_json(document)


def comparison_from(document: Json) -> AnyComparison:
    """A comparison of whichever kind.

    Raises:
        FileError: it is none, or of another version.
    """
    counted = isinstance(document, dict) and document.get("unit") == UNIT
    return InstructionComparison.from_json(document) if counted else Comparison.from_json(document)
