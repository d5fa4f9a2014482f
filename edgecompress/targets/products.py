"""What each format calls a convolution or matrix product: one table, and the notice that a file has others.

Whether a file is right is decided by its numbers. A count says only that a converter merged or split something; it
refuses a file where no number can be had.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from edgecompress.errors import ExportError

if TYPE_CHECKING:
    import torch

TORCH = ("aten.conv", "aten.linear", "aten.matmul", "aten.mm", "aten.bmm", "aten.addmm", "aten.baddbmm")
"""How the names of PyTorch's own begin, in a traced program."""
ATTENTION = "aten.scaled_dot_product_attention"
"""Two matrix products in one."""

PRODUCTS: dict[str, frozenset[str]] = {
    "onnx": frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"}),
    "litert": frozenset(
        {"CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "CONV_3D", "CONV_3D_TRANSPOSE", "FULLY_CONNECTED",
         "BATCH_MATMUL"}
    ),
    "openvino": frozenset(
        {"Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData", "MatMul"}
    ),
    "ncnn": frozenset(
        {kind + depthwise + dimensions for kind in ("Convolution", "Deconvolution") for depthwise in ("", "DepthWise")
         for dimensions in ("", "1D", "3D")} | {"InnerProduct", "Gemm", "MatMul"}
    ),
    "coreml": frozenset({"conv", "conv_transpose", "linear", "matmul"}),
}  # fmt: skip
"""By target; the others tell no operators, or name them by the .onnx they are made from."""

WHOLES = {"ncnn": frozenset({"MultiHeadAttention", "SDPA", "RNN", "LSTM", "GRU"}), "coreml": frozenset({"lstm", "gru"})}
"""Operators that hold several products each, which are not counted."""


def products_of(program: torch.export.ExportedProgram) -> int:
    """Convolutions and matrix products in a traced program, but those of constants, which converters compute."""
    varying = set(program.graph_signature.user_inputs)
    found = 0
    for node in program.graph.nodes:
        if node.op == "call_function" and any(given.name in varying for given in node.all_input_nodes):
            varying.add(node.name)
            found += str(node.target).startswith(TORCH) + 2 * str(node.target).startswith(ATTENTION)
    return found


def is_product(name: str) -> bool:
    """Whether an operator of PyTorch's, as ``aten.linear`` or ``aten_linear``, is a convolution or matrix product."""
    return name.replace("_", ".", 1).startswith(TORCH)


def counted(target: str, operators: Mapping[str, int]) -> int | None:
    """Convolutions and matrix products among the operators of a file; None where they cannot be counted."""
    kinds = PRODUCTS.get(target)
    if kinds is None or WHOLES.get(target, frozenset()).intersection(operators):
        return None
    return sum(count for name, count in operators.items() if name in kinds)


def product_notices(target: str, operators: Mapping[str, int], expected: int, *, proved: bool) -> list[str]:
    """A notice where a file has not the ``expected`` number of products; ``proved`` by numbers it will be.

    Raises:
        ExportError: it has fewer, and no runtime here could tell whether the file is right.
    """
    found = counted(target, operators)
    if found is None or found == expected:
        return []
    fact = f"the model has {expected} convolutions and matrix products, the file {found}"
    if found < expected and not proved:
        raise ExportError(
            f"{target}: {fact}: the converter merged or lost some, and its runtime is not for this machine to tell "
            "whether the file is right; export it where it is, or as another target"
        )
    return [f"{fact}: the converter merged or split some"]
