"""Progress of long work in a log: a line where a piece of it begins, and one every few seconds while it lasts."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from edgecompress.progress import duration

EVERY_S, VERBOSE_S = 5.0, 1.0


class Lines:
    """A listener that writes lines, by itself too while the work has nothing to report.

    Args:
        write: is given each line.
        every_s: seconds between two lines of the same work.
        clock: in seconds.
    """

    def __init__(
        self, write: Callable[[str], None], every_s: float = EVERY_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.write, self.every_s, self.clock = write, every_s, clock
        self.name, self.detail = "", ""
        self.done = self.first = self.total = 0
        self.start = self.began = self.last = clock()
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._tick, name="progress", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def __call__(self, name: str, done: int, total: int, detail: str) -> None:
        """Note how far the work is; the start of another is written."""
        with self._lock:
            if name != self.name:
                self.name, self.first, self.began = name, done, self.clock()
                self.last = self.began
                self.write(f"{name} (at {duration(self.began - self.start)})")
            self.done, self.total, self.detail = done, total, detail

    def look(self) -> None:
        """Write a line if it is time for one."""
        with self._lock:
            now = self.clock()
            if self.name and now - self.last >= self.every_s:
                self.last = now
                self.write(self._line(now - self.began))

    def _tick(self) -> None:
        while not self._stop.wait(self.every_s / 5):
            self.look()

    def _line(self, elapsed: float) -> str:
        """How far the work is, how long it took and, once a part of it was seen to be done, how long it will."""
        counted = [f"{self.done}/{self.total}"] if self.total > 1 else []
        seen = self.done - self.first
        ahead = self.total - self.done
        left = [f"about {duration(elapsed * ahead / seen)} left"] if seen > 0 and ahead > 0 else []
        detail = f" ({self.detail})" if self.detail else ""
        return f"{self.name}: {', '.join([*counted, f'{duration(elapsed)} elapsed', *left])}{detail}"
