"""Runs of a model that stop where they are told and go on when they are needed: nothing but what they are at is kept.

PyTorch runs a model from its inputs to its outputs. Each run here has a thread of its own, of which one at a time runs
and all others wait inside a hook, so that many runs reach a layer before any of them goes on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import copy_context
from typing import Any, Generic, TypeVar

Event = TypeVar("Event")


_HERE = threading.local()


def current() -> Run[Any] | None:
    """The run whose thread this is."""
    return getattr(_HERE, "run", None)


class _Closed(BaseException):
    """Ends a run that nobody needs any more."""


class Run(Generic[Event]):
    """``work`` in a thread of its own; it calls :meth:`pause` from there with each of its events."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._work, self._go, self._paused = work, threading.Semaphore(0), threading.Semaphore(0)
        self._event: Event | None = None
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self.over = False

    def advance(self) -> Event | None:
        """Let it run; its next event, or None once it has ended.

        Raises:
            whatever ``work`` raises.
        """
        if self.over:
            return None
        if self._thread is None:
            self._thread = threading.Thread(target=copy_context().run, args=(self._begin,), daemon=True)
            self._thread.start()
        self._go.release()
        self._paused.acquire()
        if self._error is not None:
            raise self._error
        return self._event

    def pause(self, event: Event) -> None:
        """Called by ``work``: hand over ``event``, and wait."""
        self._event = event
        self._paused.release()
        self._go.acquire()
        self._event = None
        if self.over:
            raise _Closed

    def close(self) -> None:
        """End it where it is."""
        if self._thread is not None and not self.over:
            self.over = True
            self._go.release()
            self._thread.join()

    def _begin(self) -> None:
        self._go.acquire()
        _HERE.run = self
        try:
            self._work()
        except BaseException as error:  # handed over to the thread that waits
            self._error = None if self.over else error
        self._event, self.over = None, True
        self._paused.release()
