"""Core ML: .mlpackage (an ML Program). It is converted anywhere but runs on Apple's systems only: not proved here."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgecompress.artifacts import TensorSpec
from edgecompress.errors import ExportError, FileError, first_line
from edgecompress.files import Json
from edgecompress.settings import Precision
from edgecompress.targets.base import Job, MadeFrom, Run
from edgecompress.targets.child_converter import ConversionJob, convert_program, require
from edgecompress.targets.runtime_files import SingleFile
from edgecompress.targets.runtimes import hushed

DTYPES = {65568: "float32", 65552: "float16", 131104: "int32"}
"""Of Core ML's ArrayFeatureType."""


@dataclass(frozen=True, slots=True)
class CoreML(SingleFile):
    """Converted from PyTorch's traced program, for iOS 16 and later."""

    name: str = "coreml"
    suffix: str = ".mlpackage"
    summary: str = "Core ML's .mlpackage; fixed batch 1; converts here, runs on Apple's systems only"
    extra: str = "coreml"
    needs: dict[str, str] = field(default_factory=lambda: {"coremltools": "9.0"})
    precisions: tuple[Precision, ...] = ("fp32", "fp16")
    batch: int | None = 1
    made_from: MadeFrom = "program"

    @property
    def runs_here(self) -> bool:  # type: ignore[override]
        """On macOS only."""
        return sys.platform == "darwin"

    def export(self, job: Job, path: Path) -> Json:
        """Trace here, convert in a child, compare the number of products."""
        require(self)
        return convert_program(self, job, path)

    def convert(self, job: ConversionJob, path: Path) -> Json:
        """An ML Program in the requested precision; inputs and outputs stay float32."""
        import coremltools
        import numpy as np

        half = coremltools.precision.FLOAT16 if job.precision == "fp16" else coremltools.precision.FLOAT32
        program = job.program()
        count = len(program.graph_signature.user_outputs)
        model = coremltools.convert(
            program.run_decompositions({}),
            convert_to="mlprogram",
            compute_precision=half,
            minimum_deployment_target=coremltools.target.iOS16,
            outputs=[coremltools.TensorType(dtype=np.float32) for _ in range(count)],
        )
        model.save(str(path))
        (main,) = model.get_spec().mlProgram.functions.values()
        (block,) = main.block_specializations.values()
        operators = Counter(operation.type for operation in block.operations if operation.type != "const")
        return {"operators": dict(sorted(operators.items())), "batch": self.batch, "minimum": "iOS 16"}

    def signature(self, path: Path) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        """As the package declares them."""
        try:
            with hushed():
                import coremltools

                description = coremltools.models.MLModel(str(path), skip_model_load=True).get_spec().description
        except Exception as error:  # whatever the library raises for a package it cannot read
            raise FileError(f"{path}: not a whole .mlpackage ({first_line(error)[:200]})") from error
        return tuple(map(_spec, description.input)), tuple(map(_spec, description.output))

    def load(self, path: Path, *, threads: int = 0) -> Run:
        """By Core ML, on the CPU; how many threads is Core ML's own choice."""
        del threads
        import coremltools

        if not self.runs_here:
            raise ExportError(f"{self.name}: {path.name} runs on Apple's systems only")
        model: Any = coremltools.models.MLModel(str(path), compute_units=coremltools.ComputeUnit.CPU_ONLY)
        return lambda feed: dict(model.predict(feed))

    def weight_bytes(self, path: Path) -> int | None:
        """Size of the weight files in the package."""
        return sum(file.stat().st_size for file in path.rglob("weight.bin"))


def _spec(value: Any) -> TensorSpec:
    array = value.type.multiArrayType
    return TensorSpec(value.name, DTYPES.get(array.dataType, str(array.dataType)), tuple(map(int, array.shape)))
