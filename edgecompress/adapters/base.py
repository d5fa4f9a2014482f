"""What an adapter is, and the pieces of several of them."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

ROUNDING = 1e-5
"""Of the largest value of an output: what the same products, summed in another order, may differ by."""


class Unadaptable(Exception):  # noqa: N818 - it is an answer
    """A module of an adapter's kind that it cannot rewrite; its text is the reason, for people."""


class Adapter(Protocol):
    """Rewrites one kind of module into plain layers that compute the same, before anything is planned.

    It works on a copy of the user's model whose parameters are the user's own: they are passed on or cloned, never
    changed.
    """

    @property
    def name(self) -> str:
        """Its key in ``ADAPTERS``, which plans record."""

    @property
    def summary(self) -> str:
        """One line for people."""

    @property
    def notice(self) -> str:
        """What changes for the user, as the end of "N layers: ..."; empty where nothing does."""

    def recognizes(self, module: nn.Module) -> bool:
        """Whether ``module`` is of this kind, by its type and attributes: it is asked for every module."""

    def adapt(self, module: nn.Module) -> nn.Module:
        """What takes the place of ``module`` and computes the same, in eval and in training mode, or itself, changed.

        Raises:
            Unadaptable: it cannot be rewritten; with the reason.
        """


def linear_of(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A Linear of a weight (out, in) and a bias (out,); what is no parameter becomes one, of numbers of its own."""
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    made.weight = parameter_of(weight)
    if bias is not None:
        made.bias = parameter_of(bias)
    return made


def parameter_of(tensor: Tensor) -> nn.Parameter:
    """The parameter itself, or one of a copy of the numbers, trained where they are."""
    if isinstance(tensor, nn.Parameter):
        return tensor
    return nn.Parameter(tensor.detach().clone(memory_format=torch.contiguous_format), tensor.requires_grad)


def alike(ours: object, theirs: object) -> bool:
    """Whether two outputs of a layer are the same but for rounding."""
    if not (isinstance(ours, Tensor) and isinstance(theirs, Tensor)) or ours.shape != theirs.shape:
        return False
    largest = float(theirs.abs().max()) if theirs.numel() else 0.0
    return ours.dtype == theirs.dtype and torch.allclose(ours, theirs, rtol=0, atol=ROUNDING * largest)
