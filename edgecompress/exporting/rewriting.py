"""Which rewrites of the graph a file keeps: those with which it is measured to be no slower on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from torch import nn

from edgecompress.exporting.inputs import probe
from edgecompress.exporting.outputs import as_feed
from edgecompress.exporting.proving import Written, write_and_compare
from edgecompress.files import Json
from edgecompress.models import Sample
from edgecompress.models.datasets import Inputs
from edgecompress.profiling.ratios import Ratio
from edgecompress.profiling.turns import in_turns, ratio_of
from edgecompress.targets import Job, Target
from edgecompress.targets.onnx.rewrites import REWRITES

SLOWER = 0.995
"""A ratio whose whole interval lies below is a slower file; two loads of one file differ by as much."""


@dataclass(frozen=True, slots=True)
class Tried:
    """A rewrite, at how many places, how many times as fast the file became (None: not measured), and was it kept?"""

    name: str
    places: int
    ratio: Ratio | None = None
    kept: bool = True

    def to_json(self) -> Json:
        """A JSON object."""
        speedup = {"speedup": self.ratio.value, "ci95": self.ratio.ci95} if self.ratio else {"speedup": None}
        return {"rewrite": self.name, "places": self.places, "kept": self.kept, **speedup}

    def sentence(self) -> str:
        """What was rewritten, and what it brought."""
        what = f"{self.places} {REWRITES[self.name].summary}"
        if self.ratio is None:
            return f"rewritten: {what}; not measured"
        times = f"{self.ratio.value:.2f}x ({self.ratio.low:.2f} to {self.ratio.high:.2f})"
        measured = f"{times} as fast here, one thread, CPU time in turns"
        return f"rewritten: {what}: {measured}" if self.kept else f"not rewritten: {what}: {measured}"


def written_for_runtime(
    target: Target, path: Path, job: Job, model: nn.Module, sample: Sample, mode: Literal["auto", "on", "off"]
) -> Written:
    """Write ``path`` and compare it with PyTorch, with the rewrites that ``mode`` lets it have.

    Raises:
        ParityError: the numbers are not ``model``'s.
        ExportError: the exporter refused, or the file does not run.
    """
    if job.free or mode == "off" or target.made_from != "onnx" or job.precision == "int8":
        return write_and_compare(target, path, job, model, sample)
    written = write_and_compare(target, path, replace(job, rewrites=tuple(REWRITES)), model, sample)
    found = written.graph.pop("rewritten", {})
    if not found:
        return written
    tried = [Tried(name, places) for name, places in found.items()]
    if mode == "auto" and target.runs_here:
        tried = _measured(target, path, job, written, sample.inputs, tried)
    if not all(one.kept for one in tried):
        kept = tuple(one.name for one in tried if one.kept)
        written = write_and_compare(target, path, replace(job, rewrites=kept), model, sample)
        written.graph.pop("rewritten", None)
    return replace(written, graph=_with_facts(written.graph, tried))


def _with_facts(graph: Json, tried: Sequence[Tried]) -> Json:
    notices = [*graph.get("notices", ()), *(one.sentence() for one in tried)]
    return {**graph, "rewritten": [one.to_json() for one in tried], "notices": notices}


def _measured(
    target: Target, path: Path, job: Job, written: Written, example: Inputs, tried: Sequence[Tried]
) -> list[Tried]:
    """One after the other: the file with a rewrite more against that without, which stays where it is not slower."""
    feed = as_feed(written.inputs, probe(example, job.batch or target.batch or 1))
    found: list[Tried] = []
    with TemporaryDirectory() as folder:

        def file_with(names: Sequence[str], name: str) -> Path:
            made = Path(folder) / name / path.name
            made.parent.mkdir()
            target.export(replace(job, rewrites=tuple(names)), made)
            return made

        kept: list[str] = []
        without = file_with(kept, "none")
        for one in tried:
            whole = [*kept, one.name] == [other.name for other in tried]
            candidate = path if whole else file_with([*kept, one.name], one.name)
            runs = [target.load(file, threads=1) for file in (without, candidate)]
            times = in_turns([lambda run=run: run(feed) for run in runs])  # type: ignore[misc]
            ratio = ratio_of(*times)
            found.append(replace(one, ratio=ratio, kept=ratio.high >= SLOWER))
            if found[-1].kept:
                kept.append(one.name)
                without = candidate
    return found
