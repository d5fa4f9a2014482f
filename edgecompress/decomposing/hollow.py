"""Chains that take no memory before they are filled, or whose weights are those of another chain."""

from __future__ import annotations

from torch import Tensor, nn

from edgecompress.decompositions.kernels import weight_of


def hollow(chain: nn.Module) -> None:
    """Free the weights of ``chain`` until :func:`fill` puts numbers in: they are zeros that take no memory."""
    for link in (one for one in chain.children() if any(True for _ in one.parameters())):  # some are views
        weight = weight_of(link)
        weight.data = weight.new_zeros(()).expand(weight.shape)


def is_hollow(weight: Tensor) -> bool:
    """Does it hold no numbers of its own yet?"""
    return weight.untyped_storage().nbytes() < weight.nbytes


def share(chain: nn.Module, filled: nn.Module) -> None:
    """``chain`` has the weights of another that is ``filled``, and its biases as numbers of its own."""
    for own, theirs in zip(chain.parameters(), filled.parameters(), strict=True):
        if own.dim() > 1:
            own.data = theirs.data
        else:
            own.data.copy_(theirs.data)
