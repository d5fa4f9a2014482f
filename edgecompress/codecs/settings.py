"""What storing a model as codes may be asked for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

FactorStart = Literal["scratch", "dense"]


@dataclass(frozen=True, slots=True)
class Storage:
    """Options of :func:`edgecompress.storing.store` and of the plan before it.

    ``codec`` is a key of ``CODECS``; ``rank`` the edge of the core (of every core, smaller where a size is; None: what
    ``keep`` of all parameters allows) at ``order``; ``mix_axes`` lets the sizes that a weight is reshaped to mix its
    own axes, ``pad`` lets a weight of awkward size be padded with zeros; ``start`` is from fresh factors, or from those
    of the dense weights. Training ends with ``epochs`` in which factors are rounded to ``levels`` (the core to
    ``core_levels``, biases to ``bias_levels``, 0: biases are dropped; odd numbers), at a peak rate of ``lr``; ``rate``
    times the codes' kilobytes and ``damp`` times their squared distances to the levels are added to the loss.
    """

    codec: str
    rank: int | None = None
    keep: float = 0.02
    order: int = 3
    mix_axes: bool = False
    pad: bool = False
    start: FactorStart = "scratch"
    levels: int = 15
    core_levels: int = 15
    bias_levels: int = 0
    epochs: int = 10
    lr: float = 8e-3
    rate: float = 0.1
    damp: float = 2e-4

    @property
    def unrounded(self) -> Storage:
        """The same without what only rounding looks at: equal ones train the same factors in floating point."""
        kept = min(self.bias_levels, 1)
        return replace(self, levels=0, core_levels=0, bias_levels=kept, epochs=0, lr=0.0, rate=0.0, damp=0.0)
