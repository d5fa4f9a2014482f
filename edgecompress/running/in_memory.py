"""Compressed: a model that is in memory, compressed by one call, and what can be done with it next."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from edgecompress.artifacts import Artifact
from edgecompress.bundling import bundle
from edgecompress.devices import device_named
from edgecompress.errors import DataError
from edgecompress.exporting import export
from edgecompress.models import Loss, Sample, Score, copied, tensors_of
from edgecompress.models.calling import call
from edgecompress.models.data_forms import given_data
from edgecompress.models.forms import flattened, in_own_form
from edgecompress.models.item_forms import Expected
from edgecompress.plans import CompressionPlan, Cost
from edgecompress.platforms import platform_named
from edgecompress.profiling import compare
from edgecompress.profiling.instruction_counts import AnyComparison
from edgecompress.progress import Progress, silent
from edgecompress.reporting.document import Compression, Report
from edgecompress.reporting.pairs import Pair
from edgecompress.reporting.showing import compression_html
from edgecompress.running.options import Options, usual_tuning
from edgecompress.running.pipeline import Pipeline
from edgecompress.running.stages import all_stages, first_stages, opened
from edgecompress.settings import USUAL_DEVICE, USUAL_EFFORT, USUAL_PLATFORM, USUAL_TARGET, ExportOptions, Precision
from edgecompress.sources.compressed_folder import PLAN_FILE, rebuilt

EXPORTS = Path("out")
"""Where files go if no folder is named: below the folder that is worked in, in one with the model's name."""


@dataclass(frozen=True)
class Compressed:
    """A model in memory and what :func:`edgecompress.compress` made of it; shows itself in a notebook.

    Args:
        sample: the model as it was given, with its example and data.
        folder: where the stages keep their results; one that goes when Python ends, unless it was named.
        figures: cost, scores and nearness, before and after.
        options: what it was made with.
        named: whether that folder was named, and is then where files go, too.
    """

    sample: Sample
    folder: Path
    figures: Compression
    options: Options = field(default_factory=Options, repr=False)
    named: bool = False
    _exported: dict[tuple[str, str, str], Artifact] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def model(self) -> nn.Module:
        """The compressed model, called as the one that was given; in eval mode."""
        return in_own_form(rebuilt(self.sample, self.folder).build())

    @cached_property
    def plan(self) -> CompressionPlan:
        """Method and ranks of every layer, and why the others stayed dense."""
        return CompressionPlan.load(self.folder / PLAN_FILE)

    @property
    def cost(self) -> Pair[Cost]:
        """Parameters, MACs and bytes of weights, ``dense`` and ``compressed``."""
        return self.figures.cost

    def export(
        self, target: str = USUAL_TARGET, folder: str | Path | None = None, *, quantize: Precision = "fp32"
    ) -> Artifact:
        """Write the compressed model for a runtime, proved to compute what it does in PyTorch.

        Args:
            target: a name in ``TARGETS``: onnx, litert, executorch ...
            folder: where to; the folder of :func:`edgecompress.compress`, else ``out/NAME`` here.
            quantize: "fp32", "fp16" or "int8".

        Returns:
            The file, at ``.path``, with its facts.

        Raises:
            ExportError: the exporter refused the model, or there is no such target.
            ParityError: the runtime computes something else than PyTorch.
            MissingExtra: the target's libraries are not installed.
        """
        return self._file("compressed", target, quantize, folder)

    def profile(
        self,
        baseline: nn.Module | Artifact | str | Path | None = None,
        *,
        target: str = USUAL_TARGET,
        quantize: Precision = "fp32",
        device: str = USUAL_DEVICE,
        threads: int = 1,
        seconds: float = USUAL_EFFORT.seconds,
    ) -> AnyComparison:
        """Measure the compressed model against a baseline, taking turns on one device.

        Args:
            baseline: an exported file, or another model with the same inputs; None: the dense model.
            target: the format and runtime that are measured.
            quantize: of the compressed model's file.
            device: where: ``local``, ``ssh:user@host``, ``adb:SERIAL``, ``emulated:CORE``.
            threads: of the runtime.
            seconds: of each file, at least.

        Returns:
            The speed-up with its 95 % interval and a verdict; of an emulated device, of counted instructions.

        Raises:
            DeviceError: the device, or what measures on it, failed.
            FileError: the files do not compare.
        """
        ours, theirs = self._file("compressed", target, quantize, None), self._baseline(baseline, target)
        return compare(ours.path, theirs, device_named(device), threads=threads, seconds=seconds)

    def _baseline(self, baseline: nn.Module | Artifact | str | Path | None, target: str) -> Path:
        """The exported file of what is compared with."""
        if isinstance(baseline, Artifact):
            return baseline.path
        if isinstance(baseline, str | Path):
            return Path(baseline)
        if baseline is None:
            return self._file("dense", target, "fp32", None).path
        other = replace(self.sample, build=lambda: copied(baseline), splits=None)
        return export(other.model(), other, Path(_passing_folder()), target=target, stem="baseline").path

    def bundle(self, platform: str = USUAL_PLATFORM, folder: str | Path | None = None) -> Path:
        """What an app ships: the model, a manifest, golden files and what checks them where it runs.

        Args:
            platform: a name in ``PLATFORMS``: android, ios, native, pi, web.
            folder: where to; ``PLATFORM`` beside the exported file by default.

        Returns:
            The path of its ``manifest.json``.

        Raises:
            FileError: there is no such platform, or the place is taken.
        """
        file = self.export(platform_named(platform).targets[0])
        return bundle(file.path, Path(folder) if folder else file.path.parent / platform, platform=platform)

    def report(self, **chosen: Any) -> Report:
        """Export, verify, measure, bundle and report; what was done is not done again.

        Args:
            **chosen: fields of :class:`edgecompress.Options`, as ``targets=("onnx", "litert")`` or ``device=``.

        Returns:
            The report, which shows itself in a notebook; ``report.html`` lies in the folder of :func:`compress`.

        Raises:
            EdgeCompressError: a stage failed.
        """
        with opened(self.sample, self.folder, self.options, **chosen) as pipeline:
            return all_stages(pipeline)

    def _file(self, role: str, target: str, quantize: Precision, folder: str | Path | None) -> Artifact:
        """The file of one of both models, exported once for each place."""
        place = Path(folder) if folder else self.folder / "files" if self.named else EXPORTS / self.sample.name
        key = (role, f"{target} {quantize}", str(place.resolve()))
        known = self._exported.get(key)
        if known is None or not known.path.is_file():
            sample = self.sample if role == "dense" else rebuilt(self.sample, self.folder)
            stem = "dense" if role == "dense" else "model"
            options = ExportOptions(precision=quantize, replaces="ours")
            known = self._exported[key] = export(
                sample.model(), sample, place, target=target, stem=stem, options=options
            )
        return known

    def __repr__(self) -> str:
        """Name, cost and place in a line: no numbers of tensors."""
        before, after = self.cost
        macs, params = f"{before.macs:,} -> {after.macs:,} MACs", f"{before.params:,} -> {after.params:,} parameters"
        return f"<{type(self).__name__} {self.sample.name}: {macs}, {params}, in {self.folder}>"

    def _repr_html_(self) -> str:
        """For notebooks."""
        return compression_html(self.figures)


def sample_in_memory(
    model: nn.Module,
    example: Any,
    data: Any = None,
    loss: Loss | None = None,
    score: Score | None = None,
    name: str = "",
) -> Sample:
    """A sample of a model that is in memory, which stays as it is.

    Raises:
        DataError: the example has no tensors, or the data are of none of the forms that are accepted.
    """
    name = name or type(model).__name__
    if not any(tensor.dim() for tensor in tensors_of(example)):
        raise DataError(
            f"{name}: the example is a {type(example).__name__} without tensors; give one input batch, as "
            "torch.zeros(1, 3, 224, 224), a tuple of several inputs, or a dict by name"
        )
    form, row = flattened(example, name)
    expected = Expected(form.names if form else ("",) * len(row), tuple(tensor.dim() for tensor in row))
    found = given_data(data, expected, name)
    return Sample(
        name,
        f"{name}, in memory",
        lambda: copied(model),
        example,
        found.splits,
        unlabelled=found.unlabelled,
        validation_seen=found.seen,
        **_loss_and_score(found.splits, loss, score, name),
    )


def _loss_and_score(splits: Any, loss: Loss | None, score: Score | None, name: str) -> dict[str, Any]:
    """Loss and score; targets that are no classes need a loss, whose negative is then the score."""
    if loss is not None:
        return {"loss": loss, "score": score or (lambda outputs, targets: -float(loss(outputs, targets)))}
    if splits is not None:
        target = call(name, "data('train')", lambda: splits("train")[0][1], DataError)
        if getattr(target, "is_floating_point", bool)():
            raise DataError(
                f"{name}: the targets are {str(target.dtype).removeprefix('torch.')}, no classes; give loss=, as "
                "torch.nn.functional.mse_loss"
            )
    return {} if score is None else {"score": score}


def compressed(
    sample: Sample,
    folder: str | Path | None,
    options: Options,
    epochs: int | None,
    progress: Progress = silent,
    *,
    force: bool,
) -> Compressed:
    """Compress a sample in a folder of its own, or a named one."""
    tuning = usual_tuning(sample, options.tuning, epochs)
    place, wanted = Path(folder or _passing_folder()), replace(options, tuning=tuning)
    with opened(sample, place, wanted, progress, force=force) as pipeline:
        figures = _first(pipeline)
    return Compressed(sample, place, figures, wanted, named=folder is not None)


def _first(pipeline: Pipeline) -> Compression:
    return first_stages(pipeline)[0]


def _passing_folder() -> str:
    """A folder that goes when Python ends."""
    folder = tempfile.mkdtemp(prefix="edgecompress-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
