"""The stages in a row, in a folder that no other process works in meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgecompress.models import Sample
from edgecompress.plans import CompressionPlan
from edgecompress.processes import is_first
from edgecompress.progress import Progress, silent
from edgecompress.reporting.document import Compression, Report
from edgecompress.reporting.pairs import Pair
from edgecompress.running.alternatives import front_in, other_plans
from edgecompress.running.budgeting import refuse_lost
from edgecompress.running.claiming import owner_of, release
from edgecompress.running.compression import compare_outputs, score_dense, start, store, tune
from edgecompress.running.delivery import bundle_files, export_files, profile_files, report_on
from edgecompress.running.history import tried
from edgecompress.running.locking import locked
from edgecompress.running.options import Options
from edgecompress.running.pipeline import Pipeline
from edgecompress.running.preflight import check
from edgecompress.running.results import compression_of, report_of
from edgecompress.running.resuming import Done
from edgecompress.sources.compressed_folder import PLAN_FILE


@contextmanager
def opened(
    sample: Sample,
    place: Path,
    options: Options,
    progress: Progress = silent,
    *,
    force: bool = False,
    **chosen: Any,
) -> Iterator[Pipeline]:
    """The context of a run; no other process works in its folder meanwhile."""
    wanted = replace(options, **chosen)
    if wanted.given is not None:
        sample = replace(sample, adapters=wanted.given.adapters)
    with locked(place):
        claimed = owner_of(place) is not None
        try:
            yield Pipeline(sample, place, wanted, progress, force)
        except Exception:
            if is_first() and not claimed:
                release(place)
            raise


def first_stages(pipeline: Pipeline) -> tuple[Compression, Done, Done]:
    """Plan, decompose, fine-tune: what they came to, the dense model's score, and the last of them."""
    check(pipeline)
    done = _compressed(pipeline)
    training = done[2].result.get("training")
    refuse_lost(pipeline.options.selector, CompressionPlan.load(pipeline.folder / PLAN_FILE), training)
    return done


def all_stages(pipeline: Pipeline) -> Report:
    """Those, then export, measure, bundle; returns the report."""
    check(pipeline, exports=True)
    return _run(pipeline)


def _compressed(pipeline: Pipeline) -> tuple[Compression, Done, Done]:
    """What the first stages came to, the dense model's score, and the last of them."""
    dense, decomposed = score_dense(pipeline), start(pipeline)
    tuned = tune(pipeline, decomposed)
    storage = pipeline.options.storage
    stored = None if storage is None else store(pipeline, tuned, storage)
    last = stored or tuned
    compared = compare_outputs(pipeline, last)
    return compression_of(pipeline, dense, decomposed, tuned, stored, compared), dense, last


def _run(pipeline: Pipeline) -> Report:
    """All stages; returns the report."""
    compressed, dense, last = _compressed(pipeline)
    files = Pair(export_files(pipeline, "dense", dense, dense), export_files(pipeline, "compressed", dense, last))
    measured = profile_files(pipeline, files.dense, files.compressed)
    bundled = bundle_files(pipeline, measured)
    report = report_of(pipeline, compressed, files, measured, bundled)
    report = replace(report, front=front_in(pipeline, other_plans(pipeline)))
    report = replace(report, tried=tried(pipeline.folder, pipeline.dense_key, report))
    report_on(pipeline, report, measured.key)
    return report
