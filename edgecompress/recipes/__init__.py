"""The recipes: how ranks and the weights that fine-tuning starts from come about. One file and one line each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgecompress.tables import Table

if TYPE_CHECKING:
    from edgecompress.recipes.base import Recipe

RECIPES: Table[Recipe] = Table(
    "edgecompress.recipes",
    orthogonal="orthogonal:Orthogonal",
    continuous="continuous:Searched",
    ordered="ordered:Ordered",
)
"""With their default options; ``none`` (plan, decompose, fine-tune) needs no entry."""

__all__ = ["RECIPES"]
