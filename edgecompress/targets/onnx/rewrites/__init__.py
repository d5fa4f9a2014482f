"""Rewrites of a checked graph that compute the same and let runtimes do it faster: one file and one line each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgecompress.tables import Table
from edgecompress.targets.onnx.rewrites.base import Graph

if TYPE_CHECKING:
    import onnx

    from edgecompress.targets.onnx.rewrites.base import Rewrite

REWRITES: Table[Rewrite] = Table(
    "edgecompress.targets.onnx.rewrites",
    shortcuts="shortcuts:Shortcuts",
    pointwise="pointwise:Pointwise",
)
"""In the order in which they are applied."""

VERSION = 1
"""Of all of them together: times of files hold for one version."""


def rewritten(proto: onnx.ModelProto, names: Sequence[str], *, weights: bool = True) -> dict[str, int]:
    """Apply the rewrites of these names, in place; how many places each changed, of those that changed any.

    Without ``weights`` those are left out that make others of the weights.
    """
    found = {}
    for name in names:
        rewrite = REWRITES[name]
        if (weights or not rewrite.changes_weights) and (places := rewrite.apply(Graph(proto))):
            found[name] = places
    return found
