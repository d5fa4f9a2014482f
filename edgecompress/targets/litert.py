"""LiteRT (once TensorFlow Lite): .tflite for XNNPACK, converted by litert-torch, quantized by ai-edge-quantizer.

Shapes are fixed, the batch is one. Inputs are NCHW as in PyTorch, at the price of one TRANSPOSE; ``channels_last``
takes NHWC, as cameras give it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgecompress.errors import ExportError
from edgecompress.files import Json
from edgecompress.targets.base import Job, Precision
from edgecompress.targets.converting import Given, converted, require, traced
from edgecompress.targets.files import RuntimeFile

SIGNATURE = "serving_default"


class ChannelsLast(nn.Module):
    """A model that takes its images (N, C, H, W) as (N, H, W, C)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> Any:
        """The model's outputs."""
        return self.model(*(tensor.permute(0, 3, 1, 2) if tensor.dim() == 4 else tensor for tensor in inputs))


def channels_last(tensor: Tensor) -> Tensor:
    """(N, C, H, W) as (N, H, W, C); others as they are."""
    return tensor.permute(0, 2, 3, 1).contiguous() if tensor.dim() == 4 else tensor


@dataclass(frozen=True, slots=True)
class LiteRT(RuntimeFile):
    """Converted from PyTorch's traced program."""

    name: str = "litert"
    suffix: str = ".tflite"
    summary: str = "LiteRT's .tflite for XNNPACK; fixed batch 1; NHWC images by --channels-last"
    extra: str = "litert"
    needs: dict[str, str] = field(default_factory=lambda: {"litert-torch": "0.10.0", "ai-edge-litert": "2.3.0"})
    precisions: tuple[Precision, ...] = ("fp32", "fp16", "int8")
    batch: int | None = 1

    def export(self, job: Job, path: Path) -> Json:
        """Trace here, convert in a child."""
        require(self)
        if job.channels_last:
            if not any(tensor.dim() == 4 for tensor in job.inputs):
                raise ExportError("litert: --channels-last is for image inputs (N, C, H, W); the model has none")
            inputs, calibration = (tuple(map(channels_last, of)) for of in (job.inputs, job.calibration))
            job = replace(job, model=ChannelsLast(job.model), inputs=inputs, calibration=calibration)
        return converted(self, job, path, program=traced(job, self.name))

    def convert(self, given: Given, path: Path) -> Json:
        """Float32 by litert-torch, then fewer bits."""
        import litert_torch

        program = given.program()
        example = tuple(
            torch.zeros(shape, dtype=kind) for shape, kind in zip(given.shapes, _dtypes(program), strict=True)
        )
        litert_torch.convert(program.module(check_guards=False), example).export(str(path))
        if given.precision != "fp32":
            _quantize(given, path)
        operators = operators_of(path)
        return {
            "operators": dict(sorted(operators.items())),
            "transposes": operators["TRANSPOSE"],
            "batch": self.batch,
        }


def _dtypes(program: torch.export.ExportedProgram) -> list[torch.dtype]:
    """Of the inputs."""
    names = set(program.graph_signature.user_inputs)
    return [node.meta["val"].dtype for node in program.graph.nodes if node.op == "placeholder" and node.name in names]


def _quantize(given: Given, path: Path) -> None:
    """Half-precision weights, or int8 throughout with float inputs and outputs; in place.

    Ranges are the least and largest values seen; the quantizer's default, moving averages, clips rare large ones.
    """
    from ai_edge_quantizer import calibrator, quantizer, recipe_manager
    from ai_edge_quantizer.utils import qsv_utils

    recipe = recipe_manager.RecipeManager()
    ranges = None
    if given.precision == "fp16":
        _as_halves(recipe)
    else:
        _as_int8(recipe)
        names = _input_names(path)
        kinds = _input_dtypes(path)
        feeds = [
            {n: t.numpy().astype(kinds[n], copy=False) for n, t in zip(names, item, strict=True)}
            for item in given.calibration()
        ]
        watched = calibrator.Calibrator(str(path), num_threads=1, qsv_update_func=qsv_utils.min_max_update)
        watched.calibrate({SIGNATURE: feeds}, recipe)
        ranges = watched.get_model_qsvs()
    made = quantizer.Quantizer(str(path), recipe.get_quantization_recipe()).quantize(ranges)
    made.export_model(str(path), overwrite=True)


def _as_halves(recipe: Any) -> None:
    from ai_edge_quantizer import qtyping

    half = qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT)
    recipe.add_quantization_config(
        regex=".*",
        operation_name=qtyping.TFLOperationName.ALL_SUPPORTED,
        op_config=qtyping.OpQuantizationConfig(
            weight_tensor_config=half, compute_precision=qtyping.ComputePrecision.FLOAT
        ),
        algorithm_key="float_casting",
    )


def _as_int8(recipe: Any) -> None:
    from ai_edge_quantizer import qtyping

    names = qtyping.TFLOperationName
    recipe.add_static_config(regex=".*", operation_name=names.ALL_SUPPORTED, activation_num_bits=8, weight_num_bits=8)
    for end in (names.INPUT, names.OUTPUT):
        recipe.add_quantization_config(regex=".*", operation_name=end, algorithm_key="no_quantize")


def _input_names(path: Path) -> list[str]:
    from ai_edge_litert.interpreter import Interpreter

    names: list[str] = Interpreter(model_path=str(path)).get_signature_list()[SIGNATURE]["inputs"]
    return names


def _input_dtypes(path: Path) -> dict[str, Any]:
    """By name; a .tflite may take int32 where PyTorch takes int64."""
    from ai_edge_litert.interpreter import Interpreter

    details = Interpreter(model_path=str(path)).get_signature_runner().get_input_details()
    return {name: about["dtype"] for name, about in details.items()}


def operators_of(path: Path) -> Counter[str]:
    """How often each operator is in a .tflite."""
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model(str(path))
    return Counter(
        str(flatbuffer_utils.opcode_to_name(model, operator.opcodeIndex))
        for graph in model.subgraphs
        for operator in graph.operators or ()
    )
