"""What a target is: a file format with the runtime that reads it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, get_args

from edgecompress.artifacts import Arrays, TensorSpec
from edgecompress.files import Json
from edgecompress.plans import CompressionPlan
from edgecompress.settings import Precision
from edgecompress.targets.mixed_precision import KeepFloat
from edgecompress.targets.shared import Shared

if TYPE_CHECKING:
    from torch import Tensor, nn

    from edgecompress.models.datasets import Inputs

Run = Callable[[Arrays], Arrays]
"""Runs a loaded file: input arrays by name to output arrays by name."""


PRECISIONS: tuple[Precision, ...] = get_args(Precision)

MadeFrom = Literal["onnx", "program"]
"""What a file is made from: the checked .onnx, or PyTorch's program."""

NCHW, NHWC = "NCHW", "NHWC"
"""Layouts of an image input: as in PyTorch, and with the channels last."""


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be exported: a model in eval mode, an example of its inputs, and how it was compressed.

    ``calibration`` are training inputs that set the ranges of int8; ``channels_last`` asks for image inputs in NHWC,
    which one target can; ``log`` is where a converter's own output is kept when it fails; ``keep`` says what stays in
    float; ``shared`` is what other targets and other tries of the same job may use too (None: nothing); ``batch`` is
    the one batch size of the file, None: any, or one where the target has no free one; ``any_length`` asks for a free
    second axis of all inputs, which are tokens (N, positions); ``names`` are those of inputs
    and outputs that the user gave (none: by number), which files keep where their format has such; ``rewrites`` are
    names in ``REWRITES`` that the .onnx is to be put through; ``free``
    names the free axes of each input of a step of generation, which no other job has.
    """

    model: nn.Module
    inputs: Inputs
    plan: CompressionPlan | None = None
    precision: Precision = "fp32"
    calibration: Inputs = ()
    channels_last: bool = False
    log: Path | None = None
    keep: KeepFloat = field(default_factory=KeepFloat)
    shared: Shared | None = None
    batch: int | None = None
    any_length: bool = False
    names: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    rewrites: tuple[str, ...] = ()
    free: tuple[Mapping[int, str], ...] = ()


def in_layout(tensor: Tensor, layout: str) -> Tensor:
    """An image batch (N, C, H, W) as (N, H, W, C) for :data:`NHWC`; other tensors and layouts as they are."""
    return tensor.permute(0, 2, 3, 1).contiguous() if layout == NHWC and tensor.dim() == 4 else tensor


class Target(Protocol):
    """Writes a model in one format and runs it on this machine."""

    @property
    def name(self) -> str:
        """The key in ``TARGETS``."""

    @property
    def suffix(self) -> str:
        """The file's ending, with the dot."""

    @property
    def summary(self) -> str:
        """One line for people."""

    @property
    def extra(self) -> str:
        """The extra of this package that it needs; empty: none."""

    @property
    def needs(self) -> dict[str, str]:
        """Distributions it needs besides the core's, and the versions it was verified with."""

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """What it can write."""

    @property
    def batch(self) -> int | None:
        """The one batch size its files take; None: any."""

    @property
    def free_length(self) -> bool:
        """Whether its files can take sequences of any length."""

    @property
    def caches(self) -> bool:
        """Whether its files can be steps of generation, with keys and values as inputs and outputs."""

    @property
    def made_from(self) -> MadeFrom:
        """What its files are made from, which can be made before."""

    @property
    def one_at_a_time(self) -> bool:
        """Whether its files take one item at a time, whatever is requested."""

    @property
    def layouts(self) -> tuple[str, ...]:
        """What layouts of image inputs it can write."""

    @property
    def mixes_halves(self) -> bool:
        """Whether its files in fp16 can have operators in float32."""

    @property
    def may_crash(self) -> bool:
        """Whether its runtime may crash on a file, so that a new one is tried in a process of its own."""

    @property
    def runs_here(self) -> bool:
        """Whether the runtime exists for this machine, so that a file can be proved."""

    def export(self, job: Job, path: Path) -> Json:
        """Write ``path`` (and :meth:`parts` beside it) and return facts about its graph (``notices``: what to tell).

        Raises:
            ExportError: the exporter refused, or the graph is not what it should be.
        """

    def parts(self, path: Path) -> tuple[Path, ...]:
        """The other files that are needed to run ``path``."""

    def companions(self, path: Path) -> tuple[Path, ...]:
        """Files that are written beside ``path`` and not needed to run it."""

    def signature(self, path: Path) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        """Inputs and outputs of a file.

        Raises:
            FileError: it cannot be read.
        """

    def load(self, path: Path, *, threads: int = 0) -> Run:
        """Load a file to run on this machine (``threads`` 0: the runtime's choice).

        Raises:
            FileError: it cannot be read.
        """

    def weight_bytes(self, path: Path) -> int | None:
        """Bytes of the weights inside a file, without its graph; None where the format does not tell."""
