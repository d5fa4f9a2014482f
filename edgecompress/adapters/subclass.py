"""Subclasses of Linear and of convolutions that compute what their base does."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils import parametrize

from edgecompress.adapters.base import Unadaptable

BASES = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d)

COMPUTING = frozenset(
    ("forward", "_conv_forward", "_output_padding", "__call__", "_call_impl", "__getattr__", "__getattribute__")
)
"""What decides on a layer's outputs."""

STATE = frozenset(("weight", "bias", "stride", "padding", "dilation", "groups", "padding_mode", "output_padding"))
"""What outputs are computed from: a property in place of one may give anything."""


def base_of(layer: nn.Module) -> type[nn.Module] | None:
    """The layer of PyTorch's that the class of ``layer`` extends; None for any other, and for that itself."""
    if type(layer) in BASES or parametrize.is_parametrized(layer) or isinstance(layer, LazyModuleMixin):
        return None
    return next((base for base in BASES if isinstance(layer, base)), None)


def computes_itself(layer: nn.Module, base: type[nn.Module]) -> bool:
    """Whether a subclass of ``base``, or ``layer`` alone, has other code for what it computes."""
    own = type(layer).__mro__[: type(layer).__mro__.index(base)]
    return any(not (COMPUTING | STATE).isdisjoint(vars(one)) for one in own) or "forward" in vars(layer)


class Subclass:
    """Classes that add a name, initial weights or attributes."""

    name = "subclass"
    summary = "subclasses of Linear and convolutions with an unchanged forward: treated as their base"
    notice = ""

    def recognizes(self, module: nn.Module) -> bool:
        """By the code of the class: nothing is run."""
        base = base_of(module)
        return base is not None and not computes_itself(module, base)

    def adapt(self, module: nn.Module) -> nn.Module:
        """The module itself, of the base's class: parameters and all attributes stay.

        Raises:
            Unadaptable: Python does not let it be of that class.
        """
        base = base_of(module)
        assert base is not None
        try:
            module.__class__ = base
        except TypeError as error:
            raise Unadaptable(f"{type(module).__name__} cannot be taken for a {base.__name__}: {error}") from None
        return module
