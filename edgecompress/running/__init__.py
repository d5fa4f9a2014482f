"""compress() and run(): the stages in a row, and what came of them as a value."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, overload

from torch import nn

from edgecompress.errors import DataError
from edgecompress.models import Sample
from edgecompress.progress import Progress, silent
from edgecompress.reporting.document import Compression, Report
from edgecompress.running.in_memory import Compressed, compressed, sample_in_memory
from edgecompress.running.options import Options
from edgecompress.running.stages import all_stages, first_stages, opened
from edgecompress.selectors import Budget
from edgecompress.sources import resolve

OWN = ("loss", "score", "name", "trust")
"""What :func:`compress` takes beside the fields of its options."""


@overload
def compress(
    model: nn.Module,
    example: Any,
    options: Options | None = None,
    *,
    keep: float | None = None,
    data: Any = None,
    epochs: int | None = None,
    folder: str | Path | None = None,
    progress: Progress = silent,
    force: bool = False,
    **chosen: Any,
) -> Compressed: ...


@overload
def compress(
    model: str | Path | Sample,
    example: None = None,
    options: Options | None = None,
    *,
    keep: float | None = None,
    epochs: int | None = None,
    progress: Progress = silent,
    **chosen: Any,
) -> Compressed: ...


@overload
def compress(
    model: str | Path | Sample,
    example: str | Path,
    options: Options | None = None,
    *,
    keep: float | None = None,
    epochs: int | None = None,
    progress: Progress = silent,
    force: bool = False,
    **chosen: Any,
) -> Compression: ...


@overload
def compress(
    model: str | Path | Sample,
    *,
    options: Options | None = None,
    keep: float | None = None,
    epochs: int | None = None,
    folder: str | Path,
    progress: Progress = silent,
    force: bool = False,
    **chosen: Any,
) -> Compression: ...


def compress(
    model: nn.Module | str | Path | Sample,
    example: Any = None,
    options: Options | None = None,
    *,
    keep: float | None = None,
    data: Any = None,
    epochs: int | None = None,
    folder: str | Path | None = None,
    progress: Progress = silent,
    force: bool = False,
    **chosen: Any,
) -> Compressed | Compression:
    """Plan, decompose and fine-tune a model: ``small = ec.compress(model, example, keep=0.5, data=loader)``.

    ``small.model`` is the compressed module, ``small.export("onnx")`` a proved file, ``small.profile()`` a verdict; the
    model itself stays as it is. Of a MODEL by name and a folder, ``ec.compress("resnet20", "small", keep=0.4)``, it is
    what the command does: the folder is then a MODEL, and interrupted, the same call goes on where it was.

    Args:
        model: an ``nn.Module``; or what :func:`edgecompress.resolve` takes (``"lenet5"``, ``"model.py"``), or gives.
        example: one input batch of the module: a tensor, a tuple, or a dict by name; of a MODEL by name the folder.
        options: what to do; those of :class:`~edgecompress.running.options.Options` by default.
        keep: the fraction of MACs that may remain: ``selector=Budget(keep)``.
        data: labelled items fine-tune and score, others calibrate: a tensor, ``(inputs, labels)``, a list of batches, a
            Dataset, a DataLoader, dicts by name, or a dict of these by split. Of one dataset a tenth each is held back
            for validation and test.
        epochs: of fine-tuning; 3 with labelled data, else 0.
        folder: where all of it is kept; a passing one for a module.
        progress: listens to long work, as ``print`` does.
        force: replace another model's results in the folder.
        **chosen: fields of ``options`` that differ from it. Of a module also ``loss`` of outputs and targets (else
            cross-entropy), ``score`` of the same (else accuracy, or minus the loss) and ``name``; of a MODEL by name
            ``trust``, to run the code that a compressed folder names.

    Returns:
        A :class:`~edgecompress.running.in_memory.Compressed`. Of a MODEL by name and a folder scores and cost before
        and after, whose ``to_json()`` is what ``edgecompress compress --json`` prints.

    Raises:
        TypeError: ``chosen`` has a name that is no field of ``Options``.
        EdgeCompressError: the model, the folder, the data or the options do not fit; before any long work.
    """
    own = {key: chosen.pop(key) for key in OWN if key in chosen}
    budget: dict[str, Any] = {} if keep is None else {"selector": Budget(keep)}
    wanted = replace(options or Options(), **budget, **chosen)
    if isinstance(model, nn.Module):
        own.pop("trust", None)
        sample = sample_in_memory(model, example, data, **own)
        return compressed(sample, folder, wanted, epochs, progress, force=force)
    _refuse_other_data(model, data=data, **own)
    sample, place = _resolved(model, trust=own.get("trust", False)), folder or example
    if place is None:
        return compressed(sample, None, wanted, epochs, progress, force=force)
    if epochs is not None:
        wanted = replace(wanted, tuning=replace(wanted.tuning, epochs=epochs))
    with opened(sample, Path(place), wanted, progress, force=force) as pipeline:
        return first_stages(pipeline)[0]


def _refuse_other_data(model: str | Path | Sample, **own: Any) -> None:
    """A MODEL by name has these."""
    given = [key for key in ("data", "loss", "score", "name") if own.get(key) is not None]
    if given:
        name = model.name if isinstance(model, Sample) else model
        raise DataError(f"{name}: brings its own {given[0]}; give the nn.Module itself to use another")


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
    wanted = replace(options or Options(), **chosen)
    with opened(_resolved(model, trust=trust), Path(folder), wanted, progress, force=force) as pipeline:
        return all_stages(pipeline)


def _resolved(model: str | Path | Sample, *, trust: bool) -> Sample:
    return model if isinstance(model, Sample) else resolve(str(model), trust=trust)
