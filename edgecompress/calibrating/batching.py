"""How many calibration inputs are run at a time: by the bytes that they take, not by their number."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from edgecompress.errors import ModelError
from edgecompress.models import Call, calibrated, evaluating, observing
from edgecompress.models.datasets import Inputs, first

MOST_AT_ONCE = 64
"""Inputs run at a time, however small."""

MOST_RUN_BYTES = 1 << 29
"""Of what a model gives and remembers while it runs."""

REHEARSED = 2
"""Inputs that are run to see what a model gives: some cannot run on one."""

IN_FLIGHT = 4
"""Outputs of the widest layer that are alive at once, at most."""

UNSEEN = 2
"""With gradients, what is remembered as a multiple of what layers give: sums and functions are seen by nobody."""


LARGE_MACS = 1e9
"""Multiply-accumulates of one input of a large model."""

OF_LARGE = 0.5
"""Of the runs that others get, where fewer do for large models."""

LEAST_INPUTS = 24
"""Fewer tell nothing, whatever they cost."""


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What a run on one input takes: bytes of all outputs, bytes of the widest, multiply-accumulates of the layers."""

    outputs: float
    widest: float
    macs: float


_KNOWN: WeakKeyDictionary[nn.Module, dict[object, Rehearsal]] = WeakKeyDictionary()
"""What was seen of a model, by the shapes of its inputs: stages ask again and again."""


def rehearsed(model: nn.Module, inputs: Inputs) -> Rehearsal | None:
    """``model`` run on one or two of ``inputs``, once; None where it does not: the run itself says why."""
    known = _KNOWN.setdefault(model, {})
    key = len(list(model.modules())), *((tensor.shape[1:], tensor.dtype) for tensor in inputs)
    if key not in known:
        seen = _rehearsed(model, inputs)
        if seen is None:
            return None
        known[key] = seen
    return known[key]


def _rehearsed(model: nn.Module, inputs: Inputs) -> Rehearsal | None:
    given, macs = [0], 0

    def ran(call: Call) -> None:
        nonlocal macs
        outputs = call.output if isinstance(call.output, tuple | list) else (call.output,)
        tensors = [output for output in outputs if isinstance(output, Tensor)]
        given.append(sum(tensor.nbytes for tensor in tensors))
        weight = getattr(call.layer, "weight", None)
        if tensors and isinstance(weight, Tensor) and weight.dim() > 1:
            macs += tensors[0].numel() * weight.numel() // len(weight)

    few = first(inputs, REHEARSED)
    try:
        with evaluating(model), torch.no_grad(), observing(leaves(model), after=ran):
            calibrated(model, few)
    except ModelError:
        return None
    count = len(few[0])
    return Rehearsal(sum(given) / count, max(given) / count, macs / count)


def leaves(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules without modules inside, by name, for :func:`~edgecompress.models.observing`."""
    return ((name, module) for name, module in model.named_modules() if not any(module.children()))


def inputs_at_once(model: nn.Module, inputs: Inputs, *, gradients: bool = False, most: int | None = None) -> int:
    """So many of ``inputs`` that running ``model`` on them takes about ``MOST_RUN_BYTES``, and at least one.

    Args:
        model: runs on one or two inputs; where it does not, ``most``.
        inputs: batch first.
        gradients: is everything remembered that a backward pass needs?
        most: inputs, however small; None: ``MOST_AT_ONCE``.
    """
    seen, most = rehearsed(model, inputs), most or MOST_AT_ONCE
    if seen is None:
        return most
    taken = UNSEEN * seen.outputs if gradients else IN_FLIGHT * seen.widest
    return max(1, min(most, int(MOST_RUN_BYTES / max(1, taken))))


def affordable(
    model: nn.Module, inputs: Inputs, most_macs: float, least: int = LEAST_INPUTS, *, fewer_of_large: bool = False
) -> int:
    """How many of ``inputs`` the model can run on with ``most_macs`` in all; at least ``least``, if there.

    With ``fewer_of_large``, above ``LARGE_MACS`` an input, with ``OF_LARGE`` of them.
    """
    seen = rehearsed(model, inputs)
    most_macs *= OF_LARGE if fewer_of_large and seen is not None and seen.macs > LARGE_MACS else 1.0
    within = len(inputs[0]) if seen is None else int(most_macs / max(1, seen.macs))
    return min(len(inputs[0]), max(least, within))
