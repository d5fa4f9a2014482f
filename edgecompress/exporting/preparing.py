"""A model as converters take it: plain tensors, inputs by name, outputs that are tensors."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgecompress.decompositions.base import is_transposed
from edgecompress.decompositions.kernels import groups_of, weight_of
from edgecompress.exporting.flow import bonds
from edgecompress.layers import put
from edgecompress.models import as_outputs, copied
from edgecompress.models.datasets import Inputs
from edgecompress.models.forms import leaves, names_of

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@dataclass(frozen=True, slots=True)
class Prepared:
    """The model, the names of its outputs (none: by number), and in words what is left out of it."""

    model: nn.Module
    names: tuple[str, ...]
    notices: tuple[str, ...]


def prepared(model: nn.Module, inputs: Inputs) -> Prepared:
    """A copy in eval mode that computes the same.

    Parameters, buffers and other tensors lie in memory in the order of their axes: converters take the bytes as they
    are, and some stumble over others. Batch norms are folded into transposed convolutions in groups, for which some
    have no rule. ``forward(*inputs)`` gets so many named inputs; outputs are tensors in a row, and what is no tensor is
    left out.
    """
    changed = copied(model).eval()
    _lay_out(changed)
    _fold_norms(changed, inputs)
    with torch.no_grad():
        outputs = changed(*(tensor.clone() for tensor in inputs))
    if not _is_row(outputs) or _takes_any_number(type(changed)):
        _wrap(changed, len(inputs))
    return Prepared(changed, getattr(changed, "output_names", ()) or names_of(outputs), _left_out(outputs))


def _is_row(outputs: Any) -> bool:
    """Whether these are a tensor, or a tuple or list of tensors."""
    row = outputs if type(outputs) in (tuple, list) else (outputs,)
    return all(isinstance(item, Tensor) for item in row)


def _left_out(outputs: Any) -> tuple[str, ...]:
    """A sentence on what of the outputs is no tensor."""
    every = {"_".join(path): leaf for path, leaf in leaves(outputs)}
    missing = [f"{name} is {_what(leaf)}" for name, leaf in every.items() if not isinstance(leaf, Tensor)]
    if not missing:
        return ()
    left = ", ".join(name for name, leaf in every.items() if isinstance(leaf, Tensor))
    which = ", ".join(missing)
    return (f"of the model's {len(every)} outputs {which} and left out; those in the file are {left}, in order",)


def _what(leaf: object) -> str:
    return "None" if leaf is None else f"a {type(leaf).__name__}"


def _fold_norms(model: nn.Module, inputs: Inputs) -> None:
    """Make batch norms that follow a transposed convolution in groups, and nothing else, part of it, in place."""
    norms = {layer: name for name, layer in model.named_modules() if type(layer) in NORMS and layer.track_running_stats}
    layers = [layer for layer in model.modules() if is_transposed(layer) and groups_of(layer) > 1]
    if not norms or not layers:
        return
    for before, after in bonds(model, [*layers, *norms], tuple(tensor.clone() for tensor in inputs)):
        if before in layers and after in norms:
            _fold(before, after)
            put(model, norms[after], nn.Identity())


def _fold(layer: nn.Module, norm: nn.Module) -> None:
    """Give a transposed convolution (C, T / groups, *taps) the scale and the shift of the batch norm after it."""
    assert isinstance(norm, NORMS)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    gain = torch.ones_like(norm.running_var) if norm.weight is None else norm.weight.detach()
    scale = gain / torch.sqrt(norm.running_var + norm.eps)
    shift = -norm.running_mean * scale if norm.bias is None else norm.bias.detach() - norm.running_mean * scale
    weight, groups = weight_of(layer).detach(), groups_of(layer)
    grouped = weight.unflatten(0, (groups, -1)) * scale.view(groups, 1, -1, *[1] * (weight.dim() - 2))
    own = layer.bias.detach() * scale if isinstance(layer.bias, Tensor) else 0
    layer.weight, layer.bias = nn.Parameter(grouped.flatten(0, 1)), nn.Parameter(shift + own)


def _lay_out(model: nn.Module) -> None:
    """Give every tensor of a model contiguous strides, in place."""
    kept = [value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor)]
    for tensor in (*model.parameters(), *model.buffers(), *kept):
        if tensor.layout == torch.strided and tensor.stride() != _strides(tensor):
            tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)


def _strides(tensor: Tensor) -> tuple[int, ...]:
    """Of a tensor of this shape whose last axis lies closest."""
    return torch.empty(tensor.shape, device="meta").stride()


def _takes_any_number(kind: type[nn.Module]) -> bool:
    """Whether ``forward`` is defined as ``forward(*inputs)``, or takes such beside others."""
    try:
        return any(given.kind in VARIADIC for given in inspect.signature(kind.forward).parameters.values())
    except (TypeError, ValueError):  # not written in Python
        return False


def _wrap(model: nn.Module, count: int) -> None:
    """Make ``forward`` take ``count`` named inputs and give the outputs that are there, in place.

    A class of its own, not a function on the object, so that a copy of the model runs the copy.
    """
    kind = type(model)

    def forward(self: nn.Module, *inputs: Tensor) -> Any:
        outputs = kind.forward(self, *inputs)
        return outputs if isinstance(outputs, Tensor) else as_outputs(outputs)

    names = _input_names(kind, count)
    order = inspect.Parameter.POSITIONAL_OR_KEYWORD
    forward.__signature__ = inspect.Signature([inspect.Parameter(name, order) for name in ("self", *names)])  # type: ignore[attr-defined]
    model.__class__ = type(kind.__name__, (kind,), {"forward": forward})


def _input_names(kind: type[nn.Module], count: int) -> list[str]:
    """As ``forward`` calls its inputs, and ``input_N`` where it takes any number."""
    own = [given for given in inspect.signature(kind.forward).parameters.values() if given.kind not in VARIADIC]
    names = [given.name for given in own if given.kind != inspect.Parameter.KEYWORD_ONLY][1 : count + 1]
    return names + [f"input_{index}" for index in range(len(names), count)]
