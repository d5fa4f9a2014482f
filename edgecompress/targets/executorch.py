"""ExecuTorch: .pte whose convolutions and products run in XNNPACK; int8 by PT2E quantization."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from edgecompress.files import Json
from edgecompress.targets.base import Job, Precision
from edgecompress.targets.converting import Given, converted, require, traced
from edgecompress.targets.files import RuntimeFile
from edgecompress.targets.products import is_product


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

    def export(self, job: Job, path: Path) -> Json:
        """Trace here, lower in a child."""
        require(self)
        return converted(self, job, path, program=traced(job, self.name))

    def convert(self, given: Given, path: Path) -> Json:
        """Quantize if asked for, delegate to XNNPACK, and tell which products it left."""
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.devtools.backend_debug import get_delegation_info
        from executorch.exir import to_edge_transform_and_lower

        program = _quantized(given) if given.precision == "int8" else given.program()
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
        }


def _slow(left: dict[str, int]) -> list[str]:
    """A notice of the products that the delegate left to ExecuTorch's own kernels, which are right but slow."""
    slow = sorted(filter(is_product, left))
    return [f"XNNPACK does not take {', '.join(slow)}, which run in slow portable kernels"] if slow else []


def _quantized(given: Given) -> torch.export.ExportedProgram:
    """Symmetric int8, weights per output channel, activations by the ranges of the calibration inputs."""
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    model: Any = prepare_pt2e(given.program().module(check_guards=False), quantizer)
    item: Any = ()
    with torch.no_grad():
        for item in given.calibration():
            model(*item)
        return torch.export.export(convert_pt2e(model), tuple(item))
