"""One process or many: what training asks of whoever started it.

``torchrun`` and ``accelerate launch`` start the same command several times; Accelerate (an extra) then connects the
processes, moves models to each one's device and averages gradients. A command started once needs none of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from edgecompress.errors import MissingExtra, TrainingError, first_line
from edgecompress.processes import process_count

Value = TypeVar("Value")
PATIENCE = timedelta(hours=6)
"""How long processes wait for the first one, which plans and exports alone."""


class Workers(Protocol):
    """The processes that train together, seen from one of them."""

    @property
    def rank(self) -> int:
        """This process, from 0; only process 0 writes files and speaks."""

    @property
    def count(self) -> int:
        """All processes."""

    @property
    def device(self) -> torch.device:
        """Where this process computes."""

    def prepare(self, step: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Optimizer]:
        """Both, ready for gradients to be averaged over processes."""

    def backward(self, loss: Tensor) -> None:
        """Gradients of ``loss``."""

    def apart(self, step: nn.Module) -> AbstractContextManager[Any]:
        """Gradients gathered here only, for all parts of a batch but the last."""

    def clip(self, parameters: list[nn.Parameter], norm: float) -> None:
        """Bound the gradient's norm."""

    def mean(self, value: float) -> float:
        """The mean over processes."""

    def shared(self, make: Callable[[], Value]) -> Value:
        """What process 0 makes, in every process."""


@dataclass(frozen=True, slots=True)
class Alone:
    """A single process on the CPU."""

    rank: int = 0
    count: int = 1

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return torch.device("cpu")

    def prepare(self, step: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Optimizer]:
        """As they are."""
        return step, optimizer

    def backward(self, loss: Tensor) -> None:
        """Gradients of ``loss``."""
        torch.autograd.backward(loss)

    def apart(self, step: nn.Module) -> AbstractContextManager[Any]:  # noqa: ARG002
        """Nothing to hold back."""
        return nullcontext()

    def clip(self, parameters: list[nn.Parameter], norm: float) -> None:
        """Bound the gradient's norm."""
        nn.utils.clip_grad_norm_(parameters, norm)

    def mean(self, value: float) -> float:
        """The value."""
        return value

    def shared(self, make: Callable[[], Value]) -> Value:
        """What is made."""
        return make()


class Accelerated:
    """One of several processes, or a process on an accelerator, as Hugging Face's Accelerate sees it."""

    def __init__(self) -> None:
        try:
            from accelerate import Accelerator, InitProcessGroupKwargs
        except ImportError:
            raise MissingExtra(
                "training in several processes needs Accelerate: pip install 'edgecompress[accelerate]', or start the "
                "command once, without torchrun"
            ) from None
        # left to itself, Accelerate 1.15 does not connect processes that have no accelerator: each trains alone
        on_cpu = not torch.accelerator.is_available()
        self.accelerator = Accelerator(cpu=on_cpu, kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)])
        self.rank: int = self.accelerator.process_index
        self.count: int = self.accelerator.num_processes
        self.device: torch.device = torch.device("cpu") if on_cpu else self.accelerator.device
        if self.count != process_count():
            raise TrainingError(
                f"{process_count()} processes were started, and Accelerate connected {self.count}: each would train "
                "alone and write the same files; start the command once, without torchrun, or with ACCELERATE_USE_CPU=1"
            )

    def prepare(self, step: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Optimizer]:
        """In DistributedDataParallel; batch norms see the whole batch where the device can (not on CPUs)."""
        if self.count > 1 and self.device.type == "cuda":
            step = nn.SyncBatchNorm.convert_sync_batchnorm(step)
        prepared: tuple[nn.Module, Optimizer] = self.accelerator.prepare(step, optimizer)
        return prepared

    def backward(self, loss: Tensor) -> None:
        """Gradients of ``loss``, averaged over processes, scaled where fp16 needs it."""
        self.accelerator.backward(loss)

    def apart(self, step: nn.Module) -> AbstractContextManager[Any]:
        """No exchange between processes."""
        held: AbstractContextManager[Any] = self.accelerator.no_sync(step)
        return held

    def clip(self, parameters: list[nn.Parameter], norm: float) -> None:
        """Bound the gradient's norm, once unscaled."""
        self.accelerator.clip_grad_norm_(parameters, norm)

    def mean(self, value: float) -> float:
        """The mean over processes."""
        if self.count == 1:
            return value
        own = torch.tensor(value, dtype=torch.float32, device=self.device)
        return float(self.accelerator.reduce(own, reduction="mean"))

    def shared(self, make: Callable[[], Value]) -> Value:
        """What process 0 makes; the others wait for it."""
        if self.count == 1:
            return make()
        from accelerate.utils import broadcast_object_list

        made = [make() if self.rank == 0 else None]
        with explained():
            broadcast_object_list(made)
        return made[0]  # type: ignore[return-value]


@cache
def workers() -> Workers:
    """The processes this one belongs to, by the variables that ``torchrun`` and ``accelerate launch`` set.

    Raises:
        MissingExtra: there are several and Accelerate is not installed.
    """
    return Accelerated() if process_count() > 1 or "ACCELERATE_MIXED_PRECISION" in os.environ else Alone()


def shared(make: Callable[[], Value]) -> Value:
    """What the first process makes, in every process."""
    return workers().shared(make)


@contextmanager
def explained() -> Iterator[None]:
    """Where another process has gone, say so and how to go on; an error of one's own passes.

    Raises:
        TrainingError: the connection to another process broke.
    """
    try:
        yield
    except RuntimeError as error:
        if workers().count == 1:
            raise
        raise TrainingError(
            f"process {workers().rank} of {workers().count}: another process ended ({first_line(error)[:200]}); start "
            "the same command again to go on from the last finished epoch"
        ) from error
