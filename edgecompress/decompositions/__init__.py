"""The methods: one file and one line in ``DECOMPOSITIONS`` each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgecompress.tables import Table

if TYPE_CHECKING:
    from edgecompress.decompositions.base import Decomposition as Decomposition
    from edgecompress.decompositions.base import Factors as Factors
    from edgecompress.decompositions.base import Support as Support

    AUTO: tuple[str, ...]
    """What ``--method auto`` tries."""

DECOMPOSITIONS: Table[Decomposition] = Table(
    "edgecompress.decompositions",
    svd="svd:Svd",
    spatial_svd="spatial_svd:SpatialSvd",
    tucker2="tucker2:Tucker2",
    hierarchical_tucker2="hierarchical_tucker2:HierarchicalTucker2",
    tensor_train="tensor_train:TensorTrain",
    cp3="cp:Cp3",
    cp4="cp:Cp4",
)

__all__ = ["AUTO", "DECOMPOSITIONS", "Decomposition", "Factors", "Support"]


def __getattr__(name: str) -> Any:
    if name == "AUTO":
        return tuple(name for name, automatic in DECOMPOSITIONS.facts("automatic").items() if automatic)
    if name in __all__:
        from edgecompress.decompositions import base

        return getattr(base, name)
    raise AttributeError(f"module 'edgecompress.decompositions' has no attribute {name!r}")
