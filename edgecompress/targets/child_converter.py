"""Converters run in a child process: they are noisy, some crash or hang, and one must not take the others along.

The parent hands over files (a traced program or a .onnx, and calibration inputs), the child writes the result. What
the child prints goes to a log, which is kept and named only if it fails. PyTorch is imported where it is needed: half
of the converters run without it.
"""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Protocol

from edgecompress.errors import ExportError, MissingExtra, first_line
from edgecompress.files import PACKAGE, Json, read_json, write_json
from edgecompress.replacing import LOG_HEADING
from edgecompress.settings import Precision
from edgecompress.targets.base import NHWC, Job, Target
from edgecompress.targets.mixed_precision import KeepFloat
from edgecompress.targets.products import counted, product_notices, products_of
from edgecompress.targets.refusing import naming
from edgecompress.targets.runtimes import crashed

if TYPE_CHECKING:
    import onnx
    import torch

    from edgecompress.models.datasets import Inputs

TIMEOUT_S = 1800.0
PROGRAM, SOURCE = "program.pt2", "model.onnx"
JOB, FACTS, REASON, CALIBRATION = "job.json", "facts.json", "reason.txt", "calibration.safetensors"


class Converter(Protocol):
    """A target whose file is written by a child process."""

    @property
    def name(self) -> str:
        """The key in ``TARGETS``."""

    @property
    def runs_here(self) -> bool:
        """Whether its files can be proved on this machine."""

    def convert(self, job: ConversionJob, path: Path) -> Json:
        """In the child: write ``path``; returns facts about the graph."""


class ConversionJob:
    """In the child: the files that :func:`write_job` wrote into ``folder``, read.

    ``shapes`` are the inputs' with the batch in front; files in ``shared`` serve another try of the same job, too.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        job = read_json(folder / JOB)
        self.precision: Precision = job["precision"]
        self.shapes: list[list[int]] = job["shapes"]
        self.keep = KeepFloat.from_json(job["keep"])
        self.shared = Path(job["shared"] or folder)

    @property
    def source(self) -> Path:
        """The .onnx file."""
        return self.folder / SOURCE

    def program(self) -> torch.export.ExportedProgram:
        """The traced model, for a batch of one."""
        import torch

        return torch.export.load(self.folder / PROGRAM)

    def calibration(self) -> Iterator[Inputs]:
        """Calibration inputs, in batches of the program's size."""
        from safetensors.torch import load_file

        from edgecompress.models.datasets import in_batches

        tensors = tuple(tensor for _, tensor in sorted(load_file(self.folder / CALIBRATION).items()))
        yield from in_batches(tensors, self.shapes[0][0])


def missing(target: Target) -> list[str]:
    """The distributions a target needs that are not installed."""
    return [name for name in target.needs if not installed(name)]


def installed(distribution: str) -> str:
    """Its version, or nothing."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def require(target: Target) -> None:
    """Prove that everything a target needs is there.

    Raises:
        MissingExtra: it is not; the message holds the pip command.
    """
    if lacking := missing(target):
        raise MissingExtra(f"{target.name}: needs {', '.join(lacking)}; pip install 'edgecompress[{target.extra}]'")


def convert_program(converter: Converter, job: Job, path: Path) -> Json:
    """Have a child write ``path`` from PyTorch's traced program, for a batch of the job's size or of one.

    Raises:
        ExportError: PyTorch cannot trace the model; or as of :func:`convert_onnx`.
    """
    with naming(converter.name):
        program = program_of(job)

    import torch

    def write(file: Path) -> None:
        torch.export.save(program, file)

    facts = _converted(converter, job, path, PROGRAM, write)
    return _with_notices(converter, facts, products_of(program))


def program_of(job: Job) -> torch.export.ExportedProgram:
    """PyTorch's program of a job's model, traced once for all that share it.

    Raises:
        ExportError: PyTorch cannot trace the model.
    """
    from edgecompress.models.datasets import of_batch
    from edgecompress.targets.programs import trace

    def make() -> torch.export.ExportedProgram:
        return trace(job.model.eval(), of_batch(job.inputs, job.batch or 1))

    layout = f"{PROGRAM} {NHWC}" if job.channels_last else PROGRAM
    return make() if job.shared is None else job.shared.once(layout, make)


def convert_onnx(converter: Converter, job: Job, path: Path) -> Json:
    """Have a child write ``path`` from the .onnx of the model.

    A .onnx is handed over in float32 where half precision is requested: converters halve the weights themselves.

    Raises:
        ExportError: the converter refused, crashed or hung, and its log is kept; or it lost a product, unproved.
    """
    from edgecompress.targets.onnx import Onnx

    source: Json = {}
    precision: Precision = "int8" if job.precision == "int8" else "fp32"

    def write(file: Path) -> None:
        with naming(converter.name):
            source.update(Onnx().export(replace(job, precision=precision), file))

    facts = _converted(converter, job, path, SOURCE, write)
    notices = [*source.get("notices", ()), *facts.get("notices", ())]
    return _with_notices(converter, {**source, **facts, "notices": notices}, counted("onnx", source["operators"]))


def convert_graphs(converter: Converter, job: Job, graphs: Mapping[Path, onnx.ModelProto]) -> None:
    """Have one child write each path from its graph; of the ``job`` all but the model counts.

    Raises:
        ExportError: the converter refused, crashed or hung.
    """
    import onnx

    with TemporaryDirectory() as folder:
        works = {path: Path(folder) / str(number) for number, path in enumerate(graphs)}
        for path, work in works.items():
            work.mkdir()
            onnx.save_model(graphs[path], work / SOURCE)
            write_job(job, work)
        _run(converter.name, {work: path for path, work in works.items()}, job.log)


def _converted(converter: Converter, job: Job, path: Path, name: str, write: Callable[[Path], None]) -> Json:
    """The facts that a child returned, which made ``path`` from the file ``name`` that ``write`` writes."""
    with TemporaryDirectory() as folder:
        work = Path(folder)
        write(work / name)
        write_job(job, work)
        _run(converter.name, {work: path}, job.log)
        return read_json(work / FACTS)


def _with_notices(converter: Converter, facts: Json, expected: int | None) -> Json:
    """With a notice where the file has not the ``expected`` number of convolutions and matrix products."""
    notices = product_notices(converter.name, facts.get("operators", {}), expected or 0, proved=converter.runs_here)
    return {**facts, "notices": [*facts.get("notices", ()), *notices]}


def write_job(job: Job, work: Path) -> None:
    """Write what :class:`ConversionJob` reads, but for the model."""
    shapes = [[job.batch or 1, *tensor.shape[1:]] for tensor in job.inputs]
    shared = str(job.shared.folder.absolute()) if job.shared is not None else ""
    facts = {"precision": job.precision, "shapes": shapes, "keep": job.keep.to_json(), "shared": shared}
    write_json(work / JOB, facts)
    if job.precision == "int8":
        _save(work / CALIBRATION, job.calibration)


def _save(file: Path, tensors: Inputs) -> None:
    from safetensors.torch import save_file

    save_file({f"{index:03}": tensor.contiguous().clone() for index, tensor in enumerate(tensors)}, file)


def _run(name: str, works: Mapping[Path, Path], log: Path | None) -> None:
    """A child that writes the paths in ``works`` from the folders there, one after the other."""
    first = next(iter(works))
    output = first / "log.txt"
    pairs = [str(each) for work, path in works.items() for each in (work, path.absolute())]
    argv = [sys.executable, "-m", __spec__.name, name, *pairs]
    paths = [str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]  # also where it is not installed
    with output.open("wb") as stream:
        try:
            code = subprocess.run(
                argv,
                stdout=stream,
                stderr=stream,
                stdin=subprocess.DEVNULL,
                timeout=TIMEOUT_S * len(works),
                check=False,
                cwd=first,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            ).returncode
            reason = _reason(works, code) if code else ""
        except subprocess.TimeoutExpired:
            reason = f"did not end within {TIMEOUT_S * len(works):.0f} s"
    if reason:
        if log is not None:
            log.write_bytes(LOG_HEADING.encode() + output.read_bytes())
        kept = f"; its output is in {log}" if log else ""
        raise ExportError(f"{name}: the converter {reason}{kept}; try another target")


def _reason(works: Iterable[Path], code: int) -> str:
    """Why a child ended with ``code``: what it wrote down, or the signal that killed it."""
    for written in (work / REASON for work in works):
        if written.is_file():
            return f"refused the model: {written.read_text(encoding='utf-8')}"
    return crashed(code) if code < 0 else f"ended with {code}"


def main(arguments: list[str]) -> int:
    """In the child: ``TARGET FOLDER PATH [FOLDER PATH ...]``."""
    from edgecompress.targets import TARGETS

    name, *pairs = arguments
    converter: Any = TARGETS[name]
    for folder, path in zip(map(Path, pairs[::2]), map(Path, pairs[1::2]), strict=True):
        try:
            facts = converter.convert(ConversionJob(folder), path)
        except Exception as error:  # whatever a converter raises is its reason
            traceback.print_exc()
            text = first_line(error)[:300]
            reason = text if isinstance(error, ExportError) else f"{type(error).__name__}: {text}"
            (folder / REASON).write_text(reason, encoding="utf-8")
            return 1
        write_json(folder / FACTS, facts)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
