"""What a device is: somewhere to put files and a way to run a command. It knows nothing about models.

A device is used through a *session*: a folder of its own there for as long as the ``with`` block runs. When it ends,
however it ends, nothing is left running or lying about on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeGuard

from edgecompress.files import Json
from edgecompress.settings import DeviceOptions

Provenance = Literal["measured", "emulated", "predicted"]
"""Where a number comes from: taken on a real device, counted on an emulated one, or computed from a model."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Instructions of each counted inference, the mix of the least one by class, and those of loading the file.

    The first inference is no part of ``per_inference``. The least one counts: once in a while the runtime does
    something besides.
    """

    cpu: str
    per_inference: tuple[int, ...]
    mix: Mapping[str, int]
    load: int

    @property
    def least(self) -> int:
        """Instructions of one inference."""
        return min(self.per_inference)

    def to_json(self) -> Json:
        """Everything, with the least first."""
        return {"least": self.least, **asdict(self), "per_inference": list(self.per_inference)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Counts:
        """The inverse of :meth:`to_json`."""
        per_inference = tuple(map(int, document["per_inference"]))
        if not per_inference:
            raise ValueError("no inference was counted")
        return cls(document["cpu"], per_inference, dict(document["mix"]), int(document["load"]))


NO_OPTIONS = DeviceOptions()


class Session(Protocol):
    """A device in use."""

    @property
    def python(self) -> tuple[str, ...]:
        """What starts the interpreter there: the head of a command."""

    def push(self, *files: Path) -> str:
        """Make files available there, beside each other under their own names in a folder of this call's own.

        Returns the path of the first on the device.

        Raises:
            DeviceError: it does not arrive whole.
        """

    def run(self, argv: Sequence[str], *, timeout_s: float) -> str:
        """Run a command (no shell) and return its standard output.

        Raises:
            DeviceError: it cannot be run, fails, or takes too long; the message holds its last lines.
        """

    def facts(self) -> Json:
        """What the device's own system reports: ``machine`` (its kernel's architecture) and what else it knows."""


class CountingSession(Session, Protocol):
    """A device that counts instructions instead of taking time."""

    @property
    def cpu(self) -> str:
        """The core that is played: ``cortex-a76``."""

    def counted(self, argv: Sequence[str], *, timeout_s: float) -> tuple[str, list[dict[str, int]]]:
        """Run a command that marks intervals; returns its standard output and each interval's counts by class.

        Raises:
            DeviceError: as for :meth:`run`.
        """


class PageSession(Session, Protocol):
    """A browser: pages run there instead of commands."""

    def opened(self, page: Path, *, timeout_s: float) -> Json:
        """Serve the folder of ``page`` and open it there; returns the JSON object that it posts.

        Raises:
            DeviceError: the browser does not start, or the page reports nothing in time.
        """


# isinstance() would ask for every attribute, and some of them raise on devices that lack something.


def is_counting(session: Session) -> TypeGuard[CountingSession]:
    """Does the device count instructions?"""
    return hasattr(session, "counted")


def is_page(session: Session) -> TypeGuard[PageSession]:
    """Is it a browser?"""
    return hasattr(session, "opened")


class Device(Protocol):
    """A machine that measurements are taken on."""

    @property
    def name(self) -> str:
        """As on the command line: ``local``, ``ssh:pi@board``."""

    @property
    def provenance(self) -> Provenance:
        """What its numbers are."""

    @property
    def options(self) -> DeviceOptions:
        """What describes it besides its name."""

    def session(self, modules: Sequence[str]) -> AbstractContextManager[Session]:
        """Use it; its interpreter must be able to import ``modules``.

        Raises:
            DeviceError: it cannot be reached, or has no such interpreter.
        """


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of device, as ``DEVICES`` names it.

    Args:
        form: what stands behind the name and a colon, as ``SERIAL``; empty where nothing does.
        summary: one line for people.
        parse: makes the device from what stands behind the colon (empty where ``form`` is) and the options.
    """

    form: str
    summary: str
    parse: Callable[[str, DeviceOptions], Device]
