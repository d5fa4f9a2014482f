"""How many calibration inputs are run at a time: by the bytes that they take, not by their number."""

from __future__ import annotations

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


def inputs_at_once(model: nn.Module, inputs: Inputs, *, gradients: bool = False) -> int:
    """So many of ``inputs`` that running ``model`` on them takes about ``MOST_RUN_BYTES``, and at least one.

    Args:
        model: runs on one or two inputs; where it does not, ``MOST_AT_ONCE``: the run itself says why.
        inputs: batch first.
        gradients: is everything remembered that a backward pass needs?
    """
    given = list[int]()

    def ran(call: Call) -> None:
        outputs = call.output if isinstance(call.output, tuple | list) else (call.output,)
        given.append(sum(output.nbytes for output in outputs if isinstance(output, Tensor)))

    leaves = ((name, module) for name, module in model.named_modules() if not any(module.children()))
    few = first(inputs, REHEARSED)
    try:
        with evaluating(model), torch.no_grad(), observing(leaves, after=ran):
            calibrated(model, few)
    except ModelError:
        return MOST_AT_ONCE
    taken = UNSEEN * sum(given) if gradients else IN_FLIGHT * max(given, default=0)
    return max(1, min(MOST_AT_ONCE, MOST_RUN_BYTES * len(few[0]) // max(1, taken)))
