"""The methods: one file and one line in ``DECOMPOSITIONS`` each."""

from __future__ import annotations

from edgecompress.decompositions.base import Decomposition, Factors, Support
from edgecompress.decompositions.cp import Cp3, Cp4
from edgecompress.decompositions.hierarchical_tucker2 import HierarchicalTucker2
from edgecompress.decompositions.spatial_svd import SpatialSvd
from edgecompress.decompositions.svd import Svd
from edgecompress.decompositions.tensor_train import TensorTrain
from edgecompress.decompositions.tucker2 import Tucker2

DECOMPOSITIONS: dict[str, Decomposition] = {
    method.name: method
    for method in (
        Svd(),
        SpatialSvd(),
        Tucker2(),
        HierarchicalTucker2(),
        TensorTrain(),
        Cp3(),
        Cp4(),
    )
}

AUTO = tuple(name for name, method in DECOMPOSITIONS.items() if method.automatic)
"""What ``--method auto`` tries."""

LINKS: dict[str, tuple[str, ...]] = {name: method.links for name, method in DECOMPOSITIONS.items()}
"""The names of the links of each method's chain, in order; what else a chain holds is views."""

__all__ = ["AUTO", "DECOMPOSITIONS", "LINKS", "Decomposition", "Factors", "Support"]
