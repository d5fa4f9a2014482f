"""Operators with stored weights as layers of PyTorch; anything else is a call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from edgecompress.sources.onnx_graphs.layers import CONVOLUTIONS, NORMS, TRANSPOSED
from edgecompress.sources.programs.operators import Call, Slot


@dataclass(frozen=True, slots=True)
class Held:
    """Weights that a call is given.

    Args:
        tensors: by their names in the graph.
        turned: values that are a matrix among them with its axes exchanged.
        ranks: how many axes values have.
        parameter: makes the parameter of a name, once; of a matrix with its axes exchanged where that is asked for.
    """

    tensors: Mapping[str, Tensor]
    turned: Mapping[str, str]
    ranks: Mapping[str, int]
    parameter: Callable[[str, bool], nn.Parameter]

    def name(self, call: Call, argument: str) -> str:
        """The name of the weight that an argument is; empty of anything else."""
        given = call.argument(argument)
        name = call.names[given.index] if isinstance(given, Slot) else ""
        usable = name in self.tensors and self.tensors[name].dtype == torch.float32
        return name if usable else ""

    def tensor(self, call: Call, argument: str) -> Tensor | None:
        """That weight."""
        return self.tensors.get(self.name(call, argument))

    def is_missing(self, call: Call, *arguments: str) -> bool:
        """Whether one of the arguments is computed; one that is left out is not."""
        return any(call.argument(name) is not None and not self.name(call, name) for name in arguments)

    def fill(self, layer: nn.Module, call: Call, **arguments: str) -> nn.Module:
        """Give a layer the parameters of arguments; of its parameters by name, those that are not left out."""
        for own, argument in arguments.items():
            if name := self.name(call, argument):
                setattr(layer, own, self.parameter(name, False))
        return layer


@dataclass(frozen=True, slots=True)
class Made:
    """A layer, the name of its weight, and the argument that it is called with."""

    layer: nn.Module
    weight: str
    given: str = "input"


def layer_for(call: Call, held: Held) -> Made | None:
    """The layer of a call; None where there is none."""
    maker = MAKERS.get(call.node.kind)
    return maker(call, held) if maker else None


def _convolution(call: Call, held: Held) -> Made | None:
    weight, transposed = held.tensor(call, "weight"), _is_transposed(call)
    if weight is None or weight.dim() - 2 not in CONVOLUTIONS or held.is_missing(call, "bias"):
        return None
    kind: Any = (TRANSPOSED if transposed else CONVOLUTIONS)[weight.dim() - 2]
    groups, (first, second) = int(call.argument("groups")), weight.shape[:2]
    channels = (first, second * groups) if transposed else (second * groups, first)
    more = {"output_padding": tuple(call.argument("output_padding"))} if transposed else {}
    padding = call.argument("padding")
    layer = skip_init(
        kind,
        *channels,
        tuple(weight.shape[2:]),
        stride=_each(call.argument("stride"), weight),
        padding=padding if isinstance(padding, str) else _each(padding, weight),
        dilation=_each(call.argument("dilation"), weight),
        groups=groups,
        bias=call.argument("bias") is not None,
        **{key: _each(value, weight) for key, value in more.items()},
    )
    return Made(held.fill(layer, call, weight="weight", bias="bias"), held.name(call, "weight"))


def _is_transposed(call: Call) -> bool:
    if call.node.kind == "convolution.default":
        return bool(call.argument("transposed"))
    return call.node.kind.startswith("conv_transpose")


def _each(sizes: Any, weight: Tensor) -> tuple[int, ...]:
    """A size for each axis, of which one may stand for all."""
    several = list(sizes) if isinstance(sizes, list | tuple) else [sizes]
    return tuple(several * (weight.dim() - 2) if len(several) == 1 else several)


def _linear(call: Call, held: Held) -> Made | None:
    weight = held.tensor(call, "weight")
    if weight is None or weight.dim() != 2 or held.is_missing(call, "bias"):
        return None
    layer = skip_init(nn.Linear, weight.shape[1], weight.shape[0], bias=call.argument("bias") is not None)
    return Made(held.fill(layer, call, weight="weight", bias="bias"), held.name(call, "weight"))


def _product(call: Call, held: Held) -> Made | None:
    """A product with a matrix, or with a turned one, which decompositions make of Linear; ``addmm`` adds a bias."""
    biased, given = call.node.kind == "addmm.default", call.argument(PRODUCTS[call.node.kind])
    value = call.names[given.index] if isinstance(given, Slot) else ""
    name = held.turned.get(value, value)
    weight = held.tensors.get(name)
    if weight is None or weight.dtype != torch.float32 or weight.dim() != 2:
        return None
    outputs, inputs = weight.shape if value in held.turned else weight.shape[::-1]
    if biased and not (_is_bias(held.tensor(call, "self"), outputs) and _adds_up(call)):
        return None
    layer = skip_init(nn.Linear, inputs, outputs, bias=biased)
    layer.weight = held.parameter(name, value not in held.turned)
    return Made(held.fill(layer, call, bias="self") if biased else layer, name, "mat1" if biased else "self")


def _adds_up(call: Call) -> bool:
    return bool(call.argument("alpha") == 1 and call.argument("beta") == 1)


def _is_bias(tensor: Tensor | None, outputs: int) -> bool:
    return tensor is not None and tensor.shape == (outputs,)


def _norm(call: Call, held: Held) -> Made | None:
    """Of the rank of its input, which the call does not say: that of its values when it was exported."""
    found = [held.tensor(call, name) for name in ("weight", "bias", "running_mean", "running_var")]
    training = call.node.kind == "batch_norm.default" and call.argument("training")
    given = call.argument("input")
    rank = held.ranks.get(call.names[given.index], 0) if isinstance(given, Slot) else 0
    if training or rank not in NORMS or any(item is None for item in found):
        return None
    mean, variance = found[2:]
    assert mean is not None
    assert variance is not None
    layer = skip_init(NORMS[rank], len(mean), eps=float(call.argument("eps")))
    layer.running_mean, layer.running_var = mean.clone(), variance.clone()
    layer.num_batches_tracked = torch.tensor(0)
    return Made(held.fill(layer, call, weight="weight", bias="bias"), held.name(call, "weight"))


def _embedding(call: Call, held: Held) -> Made | None:
    table = held.tensor(call, "weight")
    if table is None:
        return None
    layer = skip_init(nn.Embedding, *table.shape)
    return Made(held.fill(layer, call, weight="weight"), held.name(call, "weight"), "indices")


CONVOLUTION = [f"conv{rank}d.{form}" for rank in (1, 2, 3) for form in ("default", "padding")]
TRANSPOSE = ["conv_transpose1d.default", "conv_transpose2d.input", "conv_transpose3d.input"]
PRODUCTS = {"addmm.default": "mat2", "mm.default": "mat2", "matmul.default": "other"}
MAKERS: dict[str, Callable[[Call, Held], Made | None]] = {
    **dict.fromkeys([*CONVOLUTION, *TRANSPOSE, "convolution.default"], _convolution),
    "linear.default": _linear,
    **dict.fromkeys(PRODUCTS, _product),
    **dict.fromkeys(["batch_norm.default", "_native_batch_norm_legit_no_training.default"], _norm),
    "embedding.default": _embedding,
}
"""By operator and overload of ATen."""
