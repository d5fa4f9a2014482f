"""The recipes: how ranks and the weights that fine-tuning starts from come about. One file and one line each."""

from __future__ import annotations

from edgecompress.recipes.base import Asked, Recipe, Start
from edgecompress.recipes.continuous import Searched
from edgecompress.recipes.ordered import Ordered
from edgecompress.recipes.orthogonal import Orthogonal

RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in (Orthogonal(), Searched(), Ordered())}
"""With their default options; ``plain`` (plan, decompose, fine-tune) needs no entry."""

__all__ = ["RECIPES", "Asked", "Recipe", "Start"]
