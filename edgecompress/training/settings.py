"""What fine-tuning, and the training inside a recipe, may be asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

OptimizerName = Literal["sgd", "adam"]
Keep = Literal["best", "last"]
ScheduleName = Literal["onecycle", "cosine", "constant"]


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
