"""Cost: parameters, multiply-accumulates and bytes of a model. The one place that counts.

A MAC is one multiply-accumulate of convolutions and matrix products, for one input (batch 1); 1 MAC = 2 FLOPs.
Biases, normalisation, activations and pooling are not counted as MACs, exactly as in
``torch.utils.flop_counter``; nor is the computation of a weight from factors, which happens once. Shapes are found
by running the model on the meta device: no arithmetic is done.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from edgecompress.codecs.ada_tucker import baked
from edgecompress.codecs.coding import code_bits
from edgecompress.codecs.payload import Stored, heads_of, sequences_of
from edgecompress.decompositions.base import RECURRENT
from edgecompress.errors import ModelError
from edgecompress.models import Call, check_runs, copied, observing, unfused_attention, without_numbers
from edgecompress.models.accepting import unwrapped
from edgecompress.models.data_forms import example_of
from edgecompress.models.datasets import Inputs, first
from edgecompress.plans import Cost

Shape = tuple[int, ...]
TRANSPOSED = nn.ConvTranspose1d | nn.ConvTranspose2d
View = nn.Flatten | nn.Unflatten
"""Layers that only name the same numbers by other axes."""


def cost(model: nn.Module, inputs: Inputs) -> Cost:
    """Count a whole model for one input.

    Args:
        model: is run once, in eval mode.
        inputs: an example, a tensor or a tuple of them, batch first, of any batch size.

    Returns:
        Parameters, MACs of one input, bytes of all weights and buffers.

    Raises:
        ModelError: the model does not run on ``inputs``.
    """
    return cost_and_shapes(model, example_of(inputs, type(model).__name__))[0]


def weight_bytes(model: nn.Module) -> int:
    """Bytes of all parameters and buffers, shared ones once."""
    return bytes_of((*model.parameters(), *model.buffers()))


def param_bytes(model: nn.Module) -> int:
    """Bytes of all parameters, shared ones once."""
    return bytes_of(tuple(model.parameters()))


def bytes_of(tensors: tuple[Tensor, ...]) -> int:
    """Bytes of tensors, shared ones once."""
    return sum(t.numel() * t.element_size() for t in {id(t): t for t in tensors}.values())


def coded_bytes(stored: Stored) -> dict[str, int]:
    """Bytes of each layer in a file of codes: its head, and its codes at the length they are coded in.

    A shared core counts for the first layer that has it. What is not a layer's (other tensors, checksum) is left out.
    """
    heads, found = iter(heads_of(stored)), {}
    bits = code_bits(sequences_of(stored))
    taken = iter(bits)
    for at, layer in enumerate(stored.layers):
        count = len(layer.codes) - bool(stored.shared and at) + bool(len(layer.bias))
        found[layer.name] = len(next(heads)) + math.ceil(sum(next(taken) for _ in range(count)) / 8)
    return found


def input_shapes(model: nn.Module, inputs: Inputs) -> dict[str, list[Shape]]:
    """The shapes of the input (batch 1) to every leaf module, one for each time it runs, by dotted name.

    Raises:
        ModelError: the model does not run on ``inputs``.
    """
    return cost_and_shapes(model, inputs)[1]


def cost_and_shapes(model: nn.Module, inputs: Inputs) -> tuple[Cost, dict[str, list[Shape]]]:
    """:func:`cost` and :func:`input_shapes`, by one run.

    Raises:
        ModelError: the model does not run on ``inputs``.
    """
    model, counter = unwrapped(model), FlopCounterMode(display=False)
    seen: dict[str, list[Shape]] = {}

    def begun(call: Call) -> None:
        given = next((value for value in (*call.args, *call.kwargs.values()) if isinstance(value, Tensor)), None)
        if given is not None and given.dim():
            seen.setdefault(call.name, []).append(tuple(given.shape))

    @contextmanager
    def watch(ran: nn.Module) -> Iterator[None]:
        seen.clear()
        with observing(_leaves(ran), before=begun), counter:
            yield

    batch = _watch_run(model, inputs, watch)
    params = sum(parameter.numel() for parameter in model.parameters())
    total = Cost(params, counter.get_total_flops() // 2 // batch, weight_bytes(model))
    return total, {name: [_of_one(shape, batch) for shape in shapes] for name, shapes in seen.items()}


def _of_one(shape: Shape, batch: int) -> Shape:
    """The shape for one input, where the first axis counts those of a batch (and what else lies along it)."""
    return shape if shape[0] % batch else (shape[0] // batch, *shape[1:])


def chain_cost(chain: nn.Module, shapes: list[Shape]) -> Cost:
    """Count a layer or a chain of layers that runs on inputs of the given ``shapes``, by closed forms."""
    links = list(chain) if isinstance(chain, nn.Sequential) else [chain]
    params = sum(p.numel() for p in chain.parameters())
    return Cost(params, sum(_links_macs(links, shape) for shape in shapes), weight_bytes(chain))


def _links_macs(links: list[nn.Module], shape: Shape) -> int:
    macs = 0
    for link in links:
        given, shape = shape, output_shape(link, shape)
        macs += layer_macs(link, given, shape)
    return macs


def layer_macs(layer: nn.Module, given: Shape, output: Shape) -> int:
    """MACs of one layer from the shapes of its input and output.

    Every output number is one dot product; of a transposed convolution every input number is multiplied with its
    filter.

    Raises:
        TypeError: a layer whose MACs have no closed form here.
    """
    if isinstance(layer, nn.Linear):
        return prod(output) * layer.in_features
    if isinstance(layer, RECURRENT):
        return prod(given[:-1]) * sum(weight.numel() for weight in layer.parameters() if weight.dim() == 2)
    if isinstance(layer, View | nn.Embedding):
        return 0
    if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return prod(output) * (layer.in_channels // layer.groups) * prod(layer.kernel_size)
    if isinstance(layer, TRANSPOSED):
        return prod(given) * (layer.out_channels // layer.groups) * prod(layer.kernel_size)
    raise TypeError(f"no closed form for the MACs of {type(layer).__name__}")


def output_shape(layer: nn.Module, shape: Shape) -> Shape:
    """Shape of the output of a Linear, a ConvNd or a view for an input of ``shape`` (batch first).

    Raises:
        TypeError: a layer whose output has no closed form here.
    """
    if isinstance(layer, nn.Linear):
        return (*shape[:-1], layer.out_features)
    if isinstance(layer, nn.Embedding):
        return (*shape, layer.embedding_dim)
    if isinstance(layer, RECURRENT):
        return (*shape[:-1], _recurrent_width(layer))
    if isinstance(layer, View):
        return _viewed(layer, shape)
    if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d | TRANSPOSED):
        axes = range(len(layer.kernel_size))
        leading = shape[: -len(axes) - 1]
        spatial = shape[-len(axes) :]
        length = _transposed_length if isinstance(layer, TRANSPOSED) else _conv_length
        return (*leading, layer.out_channels, *(length(layer, axis, spatial[axis]) for axis in axes))
    raise TypeError(f"no closed form for the output of {type(layer).__name__}")


def _recurrent_width(layer: RECURRENT) -> int:
    """Numbers that a recurrent layer gives at each position."""
    if isinstance(layer, nn.RNNCellBase):
        return layer.hidden_size
    return (layer.proj_size or layer.hidden_size) * (2 if layer.bidirectional else 1)


def _viewed(view: View, shape: Shape) -> Shape:
    """Axes merged into one by a Flatten, or one split by an Unflatten, of whose sizes one may be -1."""
    if isinstance(view, nn.Flatten):
        first, last = view.start_dim % len(shape), view.end_dim % len(shape)
        return (*shape[:first], prod(shape[first : last + 1]), *shape[last + 1 :])
    assert isinstance(view.dim, int)
    axis = view.dim % len(shape)
    free = shape[axis] // abs(prod(view.unflattened_size))
    sizes = (free if size == -1 else size for size in view.unflattened_size)
    return (*shape[:axis], *sizes, *shape[axis + 1 :])


def _transposed_length(layer: nn.modules.conv._ConvNd, axis: int, length: int) -> int:
    """Length of one spatial axis after a transposed convolution."""
    assert not isinstance(layer.padding, str)
    reach = layer.dilation[axis] * (layer.kernel_size[axis] - 1) + 1
    return (length - 1) * layer.stride[axis] - 2 * layer.padding[axis] + reach + layer.output_padding[axis]


def _conv_length(layer: nn.modules.conv._ConvNd, axis: int, length: int) -> int:
    """Length of one spatial axis after a convolution."""
    if layer.padding == "same":
        return length
    padding = 0 if isinstance(layer.padding, str) else layer.padding[axis]
    reach = layer.dilation[axis] * (layer.kernel_size[axis] - 1) + 1
    return (length + 2 * padding - reach) // layer.stride[axis] + 1


def _watch_run(model: nn.Module, inputs: Inputs, watch: Callable[[nn.Module], AbstractContextManager[Any]]) -> int:
    """Run a copy of ``model`` on one input under ``watch(copy)``, without arithmetic where that is possible.

    A model that looks at values cannot run on the meta device; a real copy is run instead. One that cannot run on a
    single input, as with batch norms that keep no statistics, runs on all of them. Returns the size of the batch.

    Raises:
        ModelError: it runs on neither.
    """
    _refuse_others(model, inputs)
    for batch in (first(inputs, 1), inputs):
        for dry in (True, False):
            if _ran(model, batch, watch, dry=dry):
                return len(batch[0])
    check_runs(model, inputs, type(model).__name__)
    raise ModelError(f"{type(model).__name__}: a copy of it does not run on the example, where the model itself does")


def _refuse_others(model: nn.Module, inputs: Inputs) -> None:
    for given in inputs:
        if not isinstance(given, Tensor):
            raise ModelError(
                f"{type(model).__name__}: takes a {type(given).__name__}; inputs are tensors, batch first: wrap the "
                "model so that it takes those"
            )


def _ran(
    model: nn.Module, inputs: Inputs, watch: Callable[[nn.Module], AbstractContextManager[Any]], *, dry: bool
) -> bool:
    """Run a copy under ``watch``; ``dry``: on the meta device. A model fails in its own way on what it cannot see."""
    try:
        if dry:
            inputs = tuple(tensor.to("meta") for tensor in inputs)
            _run(without_numbers(model), inputs, lambda _: nullcontext())
        _run(without_numbers(model) if dry else copied(model), inputs, watch)
    except Exception:
        return False
    return True


def _run(model: nn.Module, inputs: Inputs, watch: Callable[[nn.Module], AbstractContextManager[Any]]) -> None:
    """One run of a copy in eval mode, weights plain, without PyTorch's fused attention, whose products no counter sees.

    Nor are there gradients: the counter asks for those of a weight that a layer is given as its input.
    """
    baked(model)
    model.requires_grad_(requires_grad=False)
    with unfused_attention(), watch(model.eval()), torch.no_grad():
        model(*inputs)


def _leaves(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return ((name, module) for name, module in model.named_modules() if not list(module.children()))
