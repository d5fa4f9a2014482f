"""compress() and run(): the stages in a row, and what came of them as a value."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgecompress.models import Sample
from edgecompress.processes import is_first
from edgecompress.progress import Progress, silent
from edgecompress.reporting.document import Compression, Report
from edgecompress.reporting.pairs import Pair
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
from edgecompress.sources import resolve


def compress(
    model: str | Path | Sample,
    folder: str | Path,
    options: Options | None = None,
    *,
    progress: Progress = silent,
    force: bool = False,
    trust: bool = False,
    **chosen: Any,
) -> Compression:
    """Plan, decompose and fine-tune a model; interrupted, the same call goes on where it was.

    ``compress("resnet20", "small", selector=Budget(0.4))`` keeps 40 percent of the MACs. The folder is then a MODEL.

    Args:
        model: what :func:`edgecompress.resolve` takes (``"lenet5"``, ``"model.py"``, a folder), or what it gives.
        folder: where the compressed model is written; made if it is not there.
        options: what to do; those of :class:`~edgecompress.running.options.Options` by default.
        progress: listens to long work.
        force: replace another model's results in the folder.
        trust: run the code that a compressed folder names.
        **chosen: fields of ``options`` that differ from it.

    Returns:
        Scores and cost before and after; its ``to_json()`` is what ``edgecompress compress --json`` prints.

    Raises:
        TypeError: ``chosen`` has a name that is no field of ``Options``.
        EdgeCompressError: the model, the folder or the options do not fit; before any long work.
    """
    with _pipeline(model, folder, options, progress, force=force, trust=trust, **chosen) as pipeline:
        check(pipeline)
        return _compressed(pipeline)[0]


def run(
    model: str | Path | Sample,
    folder: str | Path,
    options: Options | None = None,
    *,
    progress: Progress = silent,
    force: bool = False,
    trust: bool = False,
    **chosen: Any,
) -> Report:
    """Plan, decompose, fine-tune, export, verify, measure, bundle and report; a second call redoes nothing.

    ``run("lenet5", "out", selector=Budget(0.25), targets=("onnx", "litert"))`` leaves ``out/report.html``.

    Args:
        model: what :func:`edgecompress.resolve` takes (``"lenet5"``, ``"model.py"``, a folder), or what it gives.
        folder: where everything is written; made if it is not there.
        options: what to do; those of :class:`~edgecompress.running.options.Options` by default.
        progress: listens to long work.
        force: replace another model's results in the folder.
        trust: run the code that a compressed folder names.
        **chosen: fields of ``options`` that differ from it.

    Returns:
        The report; its ``to_json()`` is ``report.json``.

    Raises:
        TypeError: ``chosen`` has a name that is no field of ``Options``.
        EdgeCompressError: the model, the folder or the options do not fit (before any long work), or a stage failed.
    """
    with _pipeline(model, folder, options, progress, force=force, trust=trust, **chosen) as pipeline:
        check(pipeline, exports=True)
        return _run(pipeline)


@contextmanager
def _pipeline(
    model: str | Path | Sample,
    folder: str | Path,
    options: Options | None,
    progress: Progress,
    *,
    force: bool,
    trust: bool,
    **chosen: Any,
) -> Iterator[Pipeline]:
    """The context of a run; no other process works in its folder meanwhile."""
    sample = model if isinstance(model, Sample) else resolve(str(model), trust=trust)
    wanted = replace(options or Options(), **chosen)
    if wanted.given is not None:
        sample = replace(sample, adapters=wanted.given.adapters)
    place = Path(folder)
    with locked(place):
        claimed = owner_of(place) is not None
        try:
            yield Pipeline(sample, place, wanted, progress, force)
        except Exception:
            if is_first() and not claimed:
                release(place)
            raise


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
    report = replace(report, tried=tried(pipeline.folder, pipeline.dense_key, report))
    report_on(pipeline, report, measured.key)
    return report
