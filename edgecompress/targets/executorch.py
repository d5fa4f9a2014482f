"""ExecuTorch: .pte whose convolutions and products run in XNNPACK; int8 by PT2E quantization."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from edgecompress.files import Json
from edgecompress.settings import Precision
from edgecompress.targets.base import Job, MadeFrom
from edgecompress.targets.child_converter import ConversionJob, convert_program, require
from edgecompress.targets.mixed_precision import WATCHED, float_facts, float_operators
from edgecompress.targets.products import is_product
from edgecompress.targets.programs import operators_of, outputs_of, wide_nodes
from edgecompress.targets.runtime_files import RuntimeFile


@dataclass(frozen=True, slots=True)
class ExecuTorch(RuntimeFile):
    """Lowered from PyTorch's traced program. No fp16: the XNNPACK serializer keeps weights in float32 then."""

    name: str = "executorch"
    suffix: str = ".pte"
    summary: str = "ExecuTorch's .pte for XNNPACK; fixed batch 1"
    extra: str = "executorch"
    needs: dict[str, str] = field(default_factory=lambda: {"executorch": "1.5.1"})
    precisions: tuple[Precision, ...] = ("fp32", "int8")
    batch: int | None = 1
    made_from: MadeFrom = "program"
    may_crash: bool = True

    def export(self, job: Job, path: Path) -> Json:
        """Trace here, lower in a child."""
        require(self)
        return convert_program(self, job, path)

    def convert(self, job: ConversionJob, path: Path) -> Json:
        """Quantize if requested, delegate to XNNPACK, and report which products it left."""
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.devtools.backend_debug import get_delegation_info
        from executorch.exir import to_edge_transform_and_lower

        program, floats = _quantized(job) if job.precision == "int8" else (job.program(), {})
        lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
        info = get_delegation_info(lowered.exported_program().graph_module)
        left = {
            name.removesuffix("_default"): counts.non_delegated
            for name, counts in info.delegation_by_operator.items()
            if counts.non_delegated and name != "getitem"
        }
        path.write_bytes(lowered.to_executorch().buffer)
        delegated, others = info.num_delegated_nodes, info.num_non_delegated_nodes
        return {
            "delegated_nodes": delegated,
            "delegated_share": delegated / (delegated + others),
            "delegates": info.num_delegated_subgraphs,
            "not_delegated": dict(sorted(left.items())),
            "batch": self.batch,
            "notices": _slow(left),
            **floats,
        }


def _slow(left: dict[str, int]) -> list[str]:
    """A notice of the products that the delegate left to ExecuTorch's own kernels, which are right but slow."""
    slow = sorted(filter(is_product, left))
    return [f"XNNPACK does not take {', '.join(slow)}, which run in slow portable kernels"] if slow else []


def _quantized(job: ConversionJob) -> tuple[torch.export.ExportedProgram, Json]:
    """Symmetric int8, and facts about what stayed in float.

    Weights have a scale per output channel, activations the ranges of the calibration inputs.
    """
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    module: Any = job.program().module(check_guards=False)
    operators = operators_of(module)
    wide = wide_nodes(module, islice(job.calibration(), WATCHED))
    floats = float_operators(operators, outputs_of(module), job.keep, wide)
    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    _leave_alone(quantizer, floats)
    model: Any = prepare_pt2e(module, quantizer)
    item: Any = ()
    with torch.no_grad():
        for item in job.calibration():
            model(*item)
        return torch.export.export(convert_pt2e(model), tuple(item)), float_facts(operators, floats)


def _leave_alone(quantizer: Any, names: Collection[str]) -> None:
    """Have a quantizer find these nodes marked as done, with nothing to quantize; its filter does not see all."""
    from torchao.quantization.pt2e.quantizer import QuantizationAnnotation
    from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

    annotate = quantizer.annotate

    def marked(module: torch.fx.GraphModule) -> torch.fx.GraphModule:
        for node in module.graph.nodes:
            if node.name in names:
                node.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(_annotated=True)
        found: torch.fx.GraphModule = annotate(module)
        return found

    quantizer.annotate = marked
