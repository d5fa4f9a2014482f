"""LiteRT (once TensorFlow Lite): .tflite for XNNPACK, converted by litert-torch, quantized by ai-edge-quantizer.

Shapes are fixed, the batch is one. Inputs are NCHW as in PyTorch, at the price of one TRANSPOSE; ``channels_last``
takes NHWC, as cameras give it.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgecompress.errors import ExportError
from edgecompress.files import Json
from edgecompress.settings import Precision
from edgecompress.targets.base import NCHW, NHWC, Job, MadeFrom, in_layout
from edgecompress.targets.child_converter import ConversionJob, convert_program, require
from edgecompress.targets.mixed_precision import (
    WATCHED,
    Magnitudes,
    Operator,
    float_facts,
    float_operators,
    with_parents,
)
from edgecompress.targets.products import PRODUCTS
from edgecompress.targets.programs import layer_of
from edgecompress.targets.runtime_files import RuntimeFile

SIGNATURE = "serving_default"
FULL, RANGES = "litert.full.tflite", "litert.ranges.json"


class ChannelsLast(nn.Module):
    """A model that takes its images (N, C, H, W) as (N, H, W, C)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Tensor) -> Any:
        """The model's outputs."""
        return self.model(*(tensor.permute(0, 3, 1, 2) if tensor.dim() == 4 else tensor for tensor in inputs))


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
    made_from: MadeFrom = "program"
    layouts: tuple[str, ...] = (NCHW, NHWC)
    may_crash: bool = True

    def export(self, job: Job, path: Path) -> Json:
        """Trace here, convert in a child."""
        require(self)
        if job.channels_last:
            if not any(tensor.dim() == 4 for tensor in job.inputs):
                raise ExportError("litert: --channels-last is for image inputs (N, C, H, W); the model has none")
            inputs, calibration = (tuple(in_layout(each, NHWC) for each in of) for of in (job.inputs, job.calibration))
            job = replace(job, model=ChannelsLast(job.model), inputs=inputs, calibration=calibration)
        return convert_program(self, job, path)

    def convert(self, job: ConversionJob, path: Path) -> Json:
        """Float32 by litert-torch, then fewer bits."""
        whole = job.shared / FULL
        if not whole.is_file():
            _convert(job, whole)
        shutil.copyfile(whole, path)
        floats: Json = {}
        if job.precision == "fp16":
            _as_halves(path)
        elif job.precision == "int8":
            floats = _as_int8(job, path)
        operators = operators_of(path)
        return {
            "operators": dict(sorted(operators.items())),
            "transposes": operators["TRANSPOSE"],
            "batch": self.batch,
            **floats,
        }


def _convert(job: ConversionJob, path: Path) -> None:
    """Write the file in full precision."""
    import litert_torch

    program = job.program()
    example = tuple(torch.zeros(shape, dtype=kind) for shape, kind in zip(job.shapes, _dtypes(program), strict=True))
    litert_torch.convert(program.module(check_guards=False), example).export(str(path))


def _dtypes(program: torch.export.ExportedProgram) -> list[torch.dtype]:
    """Of the inputs."""
    names = set(program.graph_signature.user_inputs)
    return [node.meta["val"].dtype for node in program.graph.nodes if node.op == "placeholder" and node.name in names]


def _as_halves(path: Path) -> None:
    """Weights in half precision, in place."""
    from ai_edge_quantizer import qtyping, quantizer, recipe_manager

    recipe = recipe_manager.RecipeManager()
    half = qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT)
    recipe.add_quantization_config(
        regex=".*",
        operation_name=qtyping.TFLOperationName.ALL_SUPPORTED,
        op_config=qtyping.OpQuantizationConfig(
            weight_tensor_config=half, compute_precision=qtyping.ComputePrecision.FLOAT
        ),
        algorithm_key="float_casting",
    )
    made = quantizer.Quantizer(str(path), recipe.get_quantization_recipe()).quantize()
    made.export_model(str(path), overwrite=True)


def _as_int8(job: ConversionJob, path: Path) -> Json:
    """int8 throughout with float inputs and outputs, in place; facts about what stayed in float."""
    from ai_edge_quantizer import quantizer

    layers = {layer_of(node) for node in job.program().graph.nodes}
    operators, feeds = graph_of(path, layers), _feeds(job, path)
    floats = float_operators(operators, output_tensors(path), job.keep, wide_tensors(path, feeds[:WATCHED]))
    recipe = _recipe(())
    ranges = _ranges(path, feeds, recipe, job.shared / RANGES)
    recipe = _recipe(operator for operator in operators if operator.name in floats)
    made = quantizer.Quantizer(str(path), recipe.get_quantization_recipe()).quantize(ranges)
    made.export_model(str(path), overwrite=True)
    return float_facts(operators, floats)


def _feeds(job: ConversionJob, path: Path) -> list[dict[str, Any]]:
    kinds = _input_dtypes(path)
    return [
        {name: tensor.numpy().astype(kinds[name], copy=False) for name, tensor in zip(names, item, strict=True)}
        for names, item in ((_input_names(path), item) for item in job.calibration())
    ]


def _ranges(path: Path, feeds: list[dict[str, Any]], recipe: Any, known: Path) -> Any:
    """The least and largest values seen (the quantizer's default, moving averages, clips rare large ones).

    ``known`` keeps them for another try.
    """
    from ai_edge_quantizer import calibrator
    from ai_edge_quantizer.utils import qsv_utils

    watched = calibrator.Calibrator(str(path), num_threads=1, qsv_update_func=qsv_utils.min_max_update)
    if known.is_file():
        watched.load_model_qsvs(str(known))
    else:
        watched.calibrate({SIGNATURE: feeds}, recipe)
        watched.save_calibration_result(str(known))
    return watched.get_model_qsvs()


def _recipe(floats: Iterable[Operator]) -> Any:
    """int8 for all but these."""
    from ai_edge_quantizer import qtyping, recipe_manager

    recipe, names = recipe_manager.RecipeManager(), qtyping.TFLOperationName
    recipe.add_static_config(regex=".*", operation_name=names.ALL_SUPPORTED, activation_num_bits=8, weight_num_bits=8)
    for operator in floats:
        own = f"^{re.escape(';'.join(operator.outputs))};$"
        recipe.add_quantization_config(regex=own, operation_name=names.ALL_SUPPORTED, algorithm_key="no_quantize")
    for end in (names.INPUT, names.OUTPUT):
        recipe.add_quantization_config(regex=".*", operation_name=end, algorithm_key="no_quantize")
    return recipe


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
    return Counter(operator.kind for operator in graph_of(path))


def graph_of(path: Path, layers: Collection[str] = ()) -> list[Operator]:
    """The operators of a .tflite; of ``layers``, dotted names, those are found that tensors are named after."""
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model(str(path))
    found: list[Operator] = []
    computed: set[str] = set()
    for number, graph in enumerate(model.subgraphs):
        names = [bytes(tensor.name).decode() for tensor in graph.tensors]
        for index, operator in enumerate(graph.operators or ()):
            kind = str(flatbuffer_utils.opcode_to_name(model, operator.opcodeIndex))
            given, made = (tuple(names[i] for i in ends if i >= 0) for ends in (operator.inputs, operator.outputs))
            of = layers_in((*made, *(tensor for tensor in given if tensor not in computed)), layers)
            computed.update(made)
            label = f"{of[0]}/{kind}".lstrip("/") if of else kind
            found.append(Operator(f"{number}:{index}", kind, of, given, made, label, kind in PRODUCTS["litert"]))
    return found


def layers_in(tensors: Iterable[str], layers: Collection[str]) -> tuple[str, ...]:
    """Layers after whose modules tensors are named: ``pkg.Net/pkg.Sequential_body/pkg.Conv2d_0;1`` is ``body.0``."""
    scopes = [scope for tensor in tensors for scope in tensor.split(";") if "/" in scope]
    return tuple(dict.fromkeys(filter(None, (_layer_in(scope, layers) for scope in scopes))))


def _layer_in(scope: str, layers: Collection[str]) -> str:
    """As deep as the names fit: a class and the name it has in its parent are joined by the one of many underscores."""
    known = {above for layer in layers for above in with_parents(layer)}
    found = ""
    for part in scope.split("/")[1:]:
        words = part.rpartition(".")[2].split("_")
        names = (".".join(filter(None, (found, "_".join(words[at:])))) for at in range(1, len(words)))
        deeper = next((name for name in names if name in known), "")
        if not deeper:
            break
        found = deeper
    return found


def output_tensors(path: Path) -> list[str]:
    """Names of the tensors that are given back, in the order of the signature's outputs."""
    from ai_edge_litert.interpreter import Interpreter

    details = Interpreter(model_path=str(path)).get_output_details()
    return [str(detail["name"]) for detail in sorted(details, key=lambda detail: str(detail["name"]))]


def wide_tensors(path: Path, feeds: list[dict[str, Any]]) -> set[str]:
    """Tensors of which some numbers are infinite or so large that one int8 scale would leave nothing of the others."""
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    interpreter: Any = Interpreter(model_path=str(path), experimental_preserve_all_tensors=True)
    run = interpreter.get_signature_runner(SIGNATURE)
    found: dict[str, Magnitudes] = {}
    for feed in feeds:
        run(**feed)
        for tensor in interpreter.get_tensor_details():
            if tensor["dtype"] is np.float32 and tensor["name"]:
                with suppress(ValueError):  # no memory was given to a tensor that no operator uses
                    found.setdefault(tensor["name"], Magnitudes()).add(interpreter.get_tensor(tensor["index"]))
    return {name for name, magnitudes in found.items() if magnitudes.wide()}
