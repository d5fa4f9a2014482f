"""What the layers of a model do while it runs: how often, in which order, into which sums and batch norms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import ReferenceType, ref

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from edgecompress.calibrating.shortcuts import watching_sums
from edgecompress.decompositions.base import is_conv
from edgecompress.models import Call, calibrated, evaluating, named_layers, observing, tensors_of
from edgecompress.models.datasets import Inputs


@dataclass(slots=True)
class Known:
    """Of a layer: runs for one input, what else is alive when it runs, and where its output goes."""

    held: int
    """Bytes of all tensors that are alive then, for one input."""
    runs: int = 1
    sums: bool = False
    norm: str = ""
    normed: bool = True
    """Does a batch norm that reads the output norm the layer's own channels?"""


def rehearsed(
    model: nn.Module, inputs: Inputs, names: Sequence[str], *, shortcuts: bool = True
) -> tuple[dict[str, Known], bool]:
    """What is known of those of the layers ``names`` that run once for an input, in their order.

    And whether the model changes what it is given in place. Without ``shortcuts`` sums are left out.
    """
    known: dict[str, Known] = {}
    reads, alive = Counter[str](), _Alive(model)

    def ran(call: Call) -> None:
        if call.name in known:
            known[call.name].runs += 1
        else:
            normed = is_conv(call.layer) or call.output.dim() == 2
            known[call.name] = Known(alive.bytes() // len(inputs[0]), normed=normed)

    def summed(name: str, norm: str, _own: Tensor, _other: Tensor) -> None:
        if shortcuts and (known[name].normed or not norm):
            known[name].sums = True

    def normed(name: str, norm: str) -> None:
        reads[norm] += 1
        if known[name].normed:
            known[name].norm = norm

    observed = observing(named_layers(model, names), after=ran)
    given = tuple(tensor.clone() for tensor in inputs)
    before = [tensor._version for tensor in given]
    with evaluating(model), torch.no_grad(), observed, watching_sums(model, names, summed, normed), alive:
        calibrated(model, given)
    for of_layer in known.values():
        _leave_shared(of_layer, reads)
    changed = [tensor._version for tensor in given] != before
    return {name: of_layer for name, of_layer in known.items() if of_layer.runs == 1}, changed


def _leave_shared(layer: Known, reads: Counter[str]) -> None:
    """The mean of a batch norm that reads several layers is not one layer's to move."""
    if layer.norm and reads[layer.norm] > 1:
        layer.norm, layer.sums = "", False


class _Alive(TorchFunctionMode):
    """Knows the tensors that functions gave while it is open, as long as they live."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.weights = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
        self.seen: list[ReferenceType[Tensor]] = []

    def __torch_function__(self, func: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.seen += map(ref, tensors_of(result))
        return result

    def bytes(self) -> int:
        """Of the storages of all that live."""
        living = [tensor for tensor in (known() for known in self.seen) if tensor is not None]
        self.seen = [ref(tensor) for tensor in living]
        storages = {storage.data_ptr(): storage.nbytes() for storage in (tensor.untyped_storage() for tensor in living)}
        return sum(size for at, size in storages.items() if at not in self.weights)
