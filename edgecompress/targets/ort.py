"""ORT format: what the ONNX Runtime Mobile builds read, with the operators a reduced build needs.

Two files are written, as ONNX Runtime's documentation advises: ``Fixed`` (all optimizations done; for its own CPU
kernels) is the artifact, ``.with_runtime_opt.ort`` (for NNAPI and Core ML, which take over parts of the graph) lies
beside it. The operators, with the types each is used with, are in ``.required_operators_and_types.config``.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

from edgecompress.files import Json, write_text
from edgecompress.settings import Precision
from edgecompress.targets.base import Job, Run
from edgecompress.targets.child_converter import ConversionJob, convert_onnx
from edgecompress.targets.runtime_files import RuntimeFile

RUNTIME_STYLE, OPERATORS = ".with_runtime_opt.ort", ".required_operators_and_types.config"
PLATFORM = "arm"  # never a layout that only one kind of x86 processor has


@dataclass(frozen=True, slots=True)
class Ort(RuntimeFile):
    """Converted from the checked .onnx by ONNX Runtime's own tool.

    No fp16: its CPU kernels compute in float32, so that the optimised graph holds float32 weights again.
    """

    name: str = "ort"
    suffix: str = ".ort"
    summary: str = "ONNX Runtime Mobile's .ort in both styles, with the operators a reduced build needs"
    extra: str = ""
    needs: dict[str, str] = field(default_factory=lambda: {"onnxruntime": "1.31.1"})
    precisions: tuple[Precision, ...] = ("fp32", "int8")
    batch: int | None = None
    free_length: bool = True
    caches: bool = True

    def export(self, job: Job, path: Path) -> Json:
        """Write the .onnx, have it converted."""
        return convert_onnx(self, job, path)

    def convert(self, job: ConversionJob, path: Path) -> Json:
        """Both styles, with type reduction."""
        without_pytorch()
        from onnxruntime.tools.convert_onnx_models_to_ort import OptimizationStyle, convert_onnx_models_to_ort

        with TemporaryDirectory(dir=job.folder) as folder:
            made, stem = Path(folder), job.source.stem
            convert_onnx_models_to_ort(
                job.source,
                made,
                optimization_styles=[OptimizationStyle.Fixed, OptimizationStyle.Runtime],
                target_platform=PLATFORM,
                enable_type_reduction=True,
            )
            for ending in (RUNTIME_STYLE, self.suffix):
                shutil.copyfile(made / f"{stem}{ending}", self._beside(path, ending))
            lines = (made / f"{stem}{OPERATORS}").read_text(encoding="utf-8").splitlines()
        needed = [line for line in lines if line and not line.startswith("#")]  # comments name the temporary folder
        write_text(self._beside(path, OPERATORS), "".join(f"{line}\n" for line in needed))
        return {"required_operators": needed}

    def load(self, path: Path, *, threads: int = 0) -> Run:
        """A session on the CPU provider, as of a .onnx."""
        from edgecompress.targets.onnx import sessions

        return sessions.load(path, threads)

    def companions(self, path: Path) -> tuple[Path, ...]:
        """The other style, and the operators a reduced build needs."""
        return self._beside(path, RUNTIME_STYLE), self._beside(path, OPERATORS)

    def _beside(self, path: Path, ending: str) -> Path:
        return path.with_name(path.name.removesuffix(self.suffix) + ending)


def without_pytorch() -> None:
    """Let ONNX Runtime's tools, which import PyTorch for a part that is not used here, find that part empty.

    It saves the converter's child seconds; only for this process.
    """
    helpers = ModuleType("onnxruntime.tools.pytorch_export_helpers")
    helpers.infer_input_info = None  # type: ignore[attr-defined]
    sys.modules.setdefault(helpers.__name__, helpers)
