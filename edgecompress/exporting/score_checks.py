"""Does an exported file score what PyTorch's model does, and how far is a compressed model from the dense one?"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgecompress.artifacts import Approximation, Scored, TensorSpec
from edgecompress.errors import DataError, ParityError
from edgecompress.exporting.caching import feed_of, takes_cache
from edgecompress.exporting.inputs import probe
from edgecompress.exporting.outputs import compare, run_model, run_rows
from edgecompress.exporting.tolerances import TOLERANCES, Tolerance
from edgecompress.models import Sample, top1
from edgecompress.models.datasets import origin, size
from edgecompress.models.forms import filled
from edgecompress.models.stepping import LOGITS
from edgecompress.progress import Progress, silent
from edgecompress.scoring import split_score
from edgecompress.split_scores import Difference, SplitScore, difference
from edgecompress.targets import Target


def check_score(
    target: Target,
    path: Path,
    specs: tuple[TensorSpec, ...],
    model: nn.Module,
    sample: Sample,
    allowed: Tolerance = TOLERANCES["fp32"],
    *,
    known: SplitScore | None = None,
    batch: int | None = None,
    progress: Progress = silent,
) -> Scored | None:
    """Score PyTorch (unless ``known``) and the file on the whole test split; None where there is no data.

    A file is never refused for a better score, and for a worse one only if it is surely worse by more than allowed:
    on the same items, with 99 % confidence. Where no interval can be made, the plain difference decides.

    Raises:
        ParityError: the file's score is worse than PyTorch's by more than the tolerance.
    """
    try:
        test = sample.data("test")
    except DataError:
        return None
    ours = split_score(model, sample, progress=progress) if known is None else known
    with torch.no_grad():
        example = model(*probe(sample.inputs, batch or 1))
    run = predict_with_file(path, target, specs, like=example)
    theirs = split_score(run, sample, batch_size=64, progress=progress)
    apart = difference(ours, theirs)
    tolerance = allowed.points if sample.score is top1 else allowed.points / 100 * abs(ours.value)
    if apart.worse_by_more_than(tolerance):
        raise ParityError(
            f"{target.name}: {path.name} scores {theirs.value:.4g} on the {theirs.items:,} items of the test split, "
            f"PyTorch {ours.value:.4g}: {_surely_worse(apart)}, allowed {tolerance:.2g}",
            target=target.name,
            max_abs_error=abs(apart.value),
            sqnr_db=-math.inf,
            tolerance=tolerance,
        )
    return Scored(size(test), origin(test), ours.value, theirs.value, apart, (ours, theirs))


def _surely_worse(apart: Difference) -> str:
    flips = f"{apart.flips[0]:,} of them became wrong and {apart.flips[1]:,} right, " if apart.flips else ""
    if apart.at_best is None:
        return f"{-apart.value:.3g} worse (no interval: {apart.why_not})"
    return f"{flips}with 99 % confidence at least {-apart.at_best:.3g} worse"


def predict_with_file(
    path: Path, target: Target, specs: tuple[TensorSpec, ...], *, threads: int = 0, like: Any = None
) -> Callable[..., Any]:
    """An exported file as a function from a batch of inputs to a batch of outputs.

    ``threads`` 0: one where items are run one by one, else the runtime's choice. ``like`` is an output of PyTorch's
    model, whose form and dtypes the outputs get.
    """
    run = target.load(path, threads=threads or int(target.batch is not None))

    cached = takes_cache(specs)

    def predict(*inputs: Tensor) -> Any:
        found = run_rows(run, specs, feed_of(specs, inputs))
        outputs = [torch.from_numpy(array) for name, array in found.items() if not (cached and name != LOGITS)]
        if like is None:
            return outputs[0] if len(outputs) == 1 else tuple(outputs)
        return filled(like, outputs)

    return predict


def approximation(
    model: nn.Module,
    sample: Sample,
    dense_score: SplitScore | None,
    own_score: SplitScore | None,
    batch: int,
) -> Approximation | None:
    """The distance of a compressed model to the dense one it was made from; None for a dense model."""
    if sample.dense is None:
        return None
    fed = probe(sample.inputs, batch)
    parity = compare(len(fed[0]), run_model(sample.dense.model(), fed), run_model(model, fed))
    dense, own = (one.value if one else None for one in (dense_score, own_score))
    apart = difference(dense_score, own_score) if dense_score and own_score else None
    return Approximation(parity, dense, own, apart)
