"""What stages may be asked for: fine-tuning and the training inside a recipe, and storing a model as codes.

Plain values, so that a command line can show them without importing the stages.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

OptimizerName = Literal["sgd", "adam"]
Keep = Literal["best", "last"]
ScheduleName = Literal["onecycle", "cosine", "constant"]
FactorStart = Literal["scratch", "dense"]


@dataclass(frozen=True, slots=True)
class FineTuning:
    """Options of :func:`edgecompress.finetuning.finetune` and of every recipe's own training.

    ``lr`` is the peak of the ``schedule``, reached after the share ``warm_up`` of all steps; ``distill`` in [0, 1] is
    the share of the loss that follows the teacher's softened outputs at ``temperature``; ``feature`` the weight of the
    mean relative distance between the outputs (and weights) of replaced layers and the teacher's; ``clip`` bounds the
    gradient's norm; ``bfloat16`` runs forward and backward in autocast; ``batch_size`` is that of all processes
    together, run in ``accumulate`` parts. ``ema`` is the decay of averaged weights (0: none), ``smoothing`` the share
    of a target that goes to all classes, ``mixup`` the alpha of its Beta distribution (0: none), ``cutout`` the side
    in pixels of a square of each image that is blanked (0: none). ``stages`` decomposes the layers in so many
    portions, with fine-tuning after each. ``pick`` says which epoch is kept: the best by validation score, the start
    included, or the last: the choice where the first weights have seen the validation images, which flatters them.
    """

    epochs: int = 3
    optimizer: OptimizerName = "sgd"
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 1e-4
    batch_size: int = 128
    distill: float = 0.7
    temperature: float = 4.0
    clip: float = 5.0
    seed: int = 0
    bfloat16: bool = False
    schedule: ScheduleName = "onecycle"
    warm_up: float = 0.3
    feature: float = 0.0
    ema: float = 0.0
    smoothing: float = 0.0
    mixup: float = 0.0
    cutout: int = 0
    accumulate: int = 1
    stages: int = 1
    pick: Keep = "best"


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


@dataclass(frozen=True, slots=True)
class Effort:
    """How to measure: at least so many runs and seconds of each model, and minutes under load if more than none."""

    threads: int = 1
    batch: int = 1
    runs: int = 50
    seconds: float = 2.0
    minutes: float = 0.0
