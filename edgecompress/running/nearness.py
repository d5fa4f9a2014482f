"""How near the compressed model's outputs are to the dense one's, on inputs that nothing was fitted to."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from edgecompress.costs import cost
from edgecompress.exporting.inputs import probe
from edgecompress.exporting.outputs import Array, compare, run_in_batches
from edgecompress.models import Sample
from edgecompress.models.datasets import Inputs, first, raw_bytes, size, take
from edgecompress.reporting.scores import Nearness, SeenAs
from edgecompress.running.pipeline import Pipeline

MOST_INPUTS, FEWEST_INPUTS = 512, 64
MOST_MACS = 10**11
"""Of one model on all inputs, unless that were fewer than ``FEWEST_INPUTS``: some seconds of one core."""
MADE_INPUTS = 16
"""Where there are no data."""
BATCH = 32
MOST_LOOKED_AT = 4
"""Items that are looked at for each that is wanted: where most were used in calibration, few are fresh."""
FARTHEST_DB = 300.0


def nearness(pipeline: Pipeline, model: nn.Module) -> Nearness:
    """The outputs of ``model`` against those of the dense one, both in PyTorch."""
    sample, dense = pipeline.sample, pipeline.dense_model
    inputs, seen = _inputs(pipeline, _wanted(dense, sample))
    progress, count = pipeline.progress, len(inputs[0])
    found: list[Sequence[Array]] = []
    for done, each in enumerate((dense, model)):
        progress("compare outputs with the dense model's", done, 2, f"{count} inputs")
        found.append(run_in_batches(each, inputs, min(BATCH, count)))
    before, after = found
    return nearness_of(before, after, count, seen, classes=sample.kind == "classes")


def nearness_of(
    before: Sequence[Array], after: Sequence[Array], count: int, seen: SeenAs, *, classes: bool = True
) -> Nearness:
    """Two models' outputs on the same ``count`` inputs; ``classes``: may one output (N, classes, ...) hold scores?"""
    near = max(-FARTHEST_DB, compare(count, before, after).sqnr_db)
    return Nearness(count, seen, near, _agreement(before, after) if classes else None)


def _agreement(before: Sequence[Array], after: Sequence[Array]) -> float | None:
    """The share of answers that are the same; None where the outputs are no scores of classes."""
    scores = before[0]
    if len(before) != 1 or scores.dtype.kind != "f" or scores.ndim < 2 or scores.shape[1] < 2:
        return None
    return float((scores.argmax(1) == after[0].argmax(1)).mean())


def _wanted(dense: nn.Module, sample: Sample) -> int:
    """So many inputs as take some seconds."""
    affordable = MOST_MACS // max(1, cost(dense, sample.inputs).macs)
    return max(FEWEST_INPUTS, min(MOST_INPUTS, affordable))


def _inputs(pipeline: Pipeline, count: int) -> tuple[Inputs, SeenAs]:
    """Test inputs that are none of the calibration inputs; these where no others are left; noise without data."""
    if pipeline.data is None:
        if pipeline.calibration is not None:
            return first(pipeline.calibration.inputs, count), "fitted"
        return _made(pipeline.dense_model, pipeline.sample.inputs), "made"
    calibration = pipeline.calibration if pipeline.options.storage is None else None
    used = calibration.inputs if calibration else ()
    fresh = _fresh(pipeline, count, set(_digests(used)) if used else set())
    return (fresh, "fresh") if fresh else (first(used, count), "fitted")


def _made(dense: nn.Module, inputs: Inputs) -> Inputs:
    """Inputs of noise; the example where the model takes as many rows as it has alone, as one without a batch."""
    made = probe(inputs, MADE_INPUTS)
    try:
        run_in_batches(dense, made, MADE_INPUTS)
    except RuntimeError:
        return inputs
    return made


def _fresh(pipeline: Pipeline, count: int, used: set[bytes]) -> Inputs:
    """At most ``count`` test inputs, drawn without replacement, whose digests are not ``used``."""
    test = pipeline.sample.data("test")
    order = torch.randperm(size(test), generator=torch.Generator().manual_seed(pipeline.options.tuning.seed))
    found: list[Inputs] = []
    left = count
    for indices in torch.split(order[: count * MOST_LOOKED_AT], BATCH):
        drawn, _ = take(test, indices)
        rows = [row for row, digest in enumerate(_digests(drawn)) if digest not in used][:left]
        found += [tuple(tensor[rows] for tensor in drawn)] if rows else []
        left -= len(rows)
        if not left:
            break
    return tuple(map(torch.cat, zip(*found, strict=True)))


def _digests(inputs: Inputs) -> Iterator[bytes]:
    """Of each row."""
    for rows in zip(*inputs, strict=True):
        yield hashlib.blake2b(b"".join(map(raw_bytes, rows)), digest_size=16).digest()
