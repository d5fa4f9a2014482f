"""Which inputs a network is built on: of the shapes a file says, and of sizes that work where it leaves them free."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgecompress.errors import ModelError
from edgecompress.sources.onnx_graphs.building import Building
from edgecompress.sources.onnx_graphs.network import Network
from edgecompress.sources.onnx_graphs.reading import Graph, Input

IMAGES = ((224, 224), (48, 320), (64, 64), (32, 128), (256, 256), (320, 320), (512, 512))
ROWS = (16, 64, 32, 128, 576, 512, 256, 1024)
"""Sizes that are tried for free axes of images, and of anything else."""
MOST_NUMBERS = 2**28
"""In one input."""
TOLERANCE = 1e-4
"""Of the largest number: what an item may differ by when it runs beside another."""

Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Built:
    """A network with the shapes it was built for, batch first, and whether it takes any batch."""

    network: Network
    shapes: Shapes
    free: bool


def built(graph: Graph, given: Shapes = ()) -> Built:
    """The network of a graph, for the shapes that are ``given``, or for the first that it runs on.

    Raises:
        ModelError: it does not run on any.
    """
    error: ModelError | None = None
    for shapes in [given] if given else candidates(graph.inputs):
        try:
            return _attempt(graph, shapes)
        except ModelError as raised:
            error = error or raised
    assert error is not None
    raise error


def candidates(inputs: Sequence[Input]) -> Iterator[Shapes]:
    """Shapes to try, batch first: 1 or what the file says."""
    free = any(isinstance(size, str) for item in inputs for size in item.dims[1:])
    image = any(len(item.dims) > 3 for item in inputs)
    sizes = IMAGES if image else [(side, side) for side in ROWS]
    for pair in sizes if free else [(1, 1)]:
        yield tuple(_shape(item, pair) for item in inputs)


def _shape(item: Input, pair: tuple[int, int]) -> tuple[int, ...]:
    """The last axis, where it is free, has the second size; all others have the first."""
    last = len(item.dims) - 1
    sizes = (pair[axis == last] if axis else 1 for axis in range(len(item.dims)))
    return tuple(size if isinstance(dim, str) else dim for dim, size in zip(item.dims, sizes, strict=True))


def is_free(inputs: Sequence[Input]) -> bool:
    """Whether the first axis of all inputs is free."""
    return all(item.dims and isinstance(item.dims[0], str) for item in inputs)


def _attempt(graph: Graph, shapes: Shapes) -> Built:
    if any(len(shape) == 0 for shape in shapes):
        name = next(item.name for item, shape in zip(graph.inputs, shapes, strict=True) if not shape)
        raise ModelError(f"its input {name!r} has no axes; export the model with that number in it")
    if is_free(graph.inputs):
        network = Building(graph, [example(graph.inputs, shapes, batch) for batch in (2, 3)]).built()
        return Built(network, shapes, True)
    return _freed(graph, shapes) or Built(Building(graph, [example(graph.inputs, shapes)]).built(), shapes, False)


def _freed(graph: Graph, shapes: Shapes) -> Built | None:
    """The network for any batch, of a file that is written for one item; None where items come out otherwise."""
    if any(shape[0] != 1 for shape in shapes):
        return None
    try:
        network = Building(graph, [example(graph.inputs, shapes, batch) for batch in (1, 2)], fixed=1).built()
        if items_are_apart(network, example(graph.inputs, shapes, 3)):
            return Built(network, shapes, True)
    except ModelError:
        pass
    return None


def items_are_apart(network: Network, inputs: tuple[Tensor, ...]) -> bool:
    """Whether three items come out together as they do one by one."""
    with torch.no_grad():
        try:
            inputs = telling(network, inputs)
            together = _outputs(network, inputs)
            alone = [_outputs(network, tuple(item[index : index + 1] for item in inputs)) for index in range(3)]
        except RuntimeError:
            return False
    return all(
        whole.shape[:1] == (3,) and _near(whole[index : index + 1], alone[index][place])
        for place, whole in enumerate(together)
        for index in range(3)
    )


def _outputs(network: Network, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    found = network(*inputs)
    return found if isinstance(found, tuple) else (found,)


def _near(ours: Tensor, theirs: Tensor) -> bool:
    if ours.shape != theirs.shape:
        return False
    scale = float(theirs.nan_to_num(0, 0, 0).abs().max()) if theirs.numel() else 0.0
    return torch.allclose(ours.double(), theirs.double(), rtol=0, atol=TOLERANCE * scale, equal_nan=True)


def example(inputs: Sequence[Input], shapes: Shapes, batch: int = 0) -> tuple[Tensor, ...]:
    """Seeded inputs: normal numbers, zeros and ones where they are whole, masks.

    Raises:
        ModelError: they would be larger than any model's.
    """
    generator = torch.Generator().manual_seed(0)
    return tuple(
        _values(item, (batch or shape[0], *shape[1:]), generator) for item, shape in zip(inputs, shapes, strict=True)
    )


def telling(network: Network, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Inputs with masks the other way round where these leave so much out that there are no numbers."""
    turned = tuple(~item if item.dtype == torch.bool else item for item in inputs)
    is_better = any(item.dtype == torch.bool for item in inputs) and not _gives_numbers(network, inputs)
    return turned if is_better and _gives_numbers(network, turned) else inputs


def _gives_numbers(network: Network, inputs: tuple[Tensor, ...]) -> bool:
    with torch.no_grad():
        return all(bool(torch.isfinite(item).all()) for item in _outputs(network, inputs))


def _values(item: Input, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    if torch.Size(shape).numel() > MOST_NUMBERS:
        raise ModelError(f"its input {item.name!r} would hold {torch.Size(shape).numel():,} numbers")
    if item.dtype == torch.bool:
        return _mask(shape)
    if not item.dtype.is_floating_point:
        return torch.randint(0, 2, shape, generator=generator).to(item.dtype)
    return torch.randn(shape, generator=generator).to(item.dtype)


def _mask(shape: tuple[int, ...]) -> Tensor:
    """True in three quarters of each row: something is left, whichever of both is left out."""
    width = shape[-1] if shape else 1
    return (torch.arange(width) < max(1, 3 * width // 4)).expand(shape).contiguous()
