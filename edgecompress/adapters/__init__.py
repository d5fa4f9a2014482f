"""What else a layer can be: modules rewritten into layers that can be decomposed. One file and one line each."""

from __future__ import annotations

from edgecompress.adapters.base import Adapter as Adapter
from edgecompress.adapters.base import Unadaptable as Unadaptable
from edgecompress.tables import Table

ADAPTERS: Table[Adapter] = Table(
    "edgecompress.adapters",
    folded="folded:Folded",
    attention="attention:AttentionAdapter",
    subclass="subclass:Subclass",
    same_padding="same_padding:SamePadding",
    linear_like="linear_like:LinearLike",
)
"""In the order in which they go over a model."""

__all__ = ["ADAPTERS", "Adapter", "Unadaptable"]
