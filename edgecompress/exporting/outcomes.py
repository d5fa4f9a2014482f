"""What became of an export to several targets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgecompress.artifacts import Artifact
from edgecompress.errors import EdgeCompressError, MissingExtra, ModelError
from edgecompress.files import Json
from edgecompress.progress import Progress
from edgecompress.targets import Target, target_named
from edgecompress.targets.child_converter import require


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one of several targets: an artifact, or the reason why not."""

    target: str
    artifact: Artifact | None = None
    error: EdgeCompressError | None = None

    def to_json(self) -> Json:
        """The artifact's summary, or ``status`` (missing, failed) and ``reason``."""
        if self.artifact is not None:
            return self.artifact.summary()
        status = "missing" if isinstance(self.error, MissingExtra) else "failed"
        return {"target": self.target, "status": status, "reason": str(self.error)}


def outcomes_of(
    export: Callable[[Target, Progress], Artifact], targets: Sequence[str], progress: Progress
) -> list[Outcome]:
    """What became of each target.

    Raises:
        ModelError: the model does not run, which the first target shows.
    """
    outcomes: list[Outcome] = []
    for done, target in enumerate(targets):
        progress(f"export to {target}", done, len(targets), "")
        try:
            outcomes.append(Outcome(target, export(target_named(target), progress)))
        except EdgeCompressError as error:
            if isinstance(error, ModelError) and not outcomes:
                raise  # it is of the model, and no file is lost by it
            outcomes.append(Outcome(target, error=error))
    return outcomes


def fatal(outcomes: Sequence[Outcome], required: Sequence[str] = ()) -> EdgeCompressError | None:
    """The error that makes an export a failure: that of a required target, or any if nothing was made."""
    errors = [outcome for outcome in outcomes if outcome.error is not None]
    needed = [outcome.error for outcome in errors if outcome.target in required or len(errors) == len(outcomes)]
    return next(iter(needed), None)


def without_extras(targets: Sequence[str], required: Sequence[str] = ()) -> list[Outcome]:
    """The targets whose libraries are not installed, where that makes an export a failure before any work; or none."""
    lacking: list[Outcome] = []
    for target in targets:
        try:
            require(target_named(target))
        except MissingExtra as error:
            lacking.append(Outcome(target, error=error))
    return lacking if len(lacking) == len(targets) or {one.target for one in lacking} & set(required) else []
