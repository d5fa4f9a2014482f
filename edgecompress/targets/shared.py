"""What the targets of one export share: PyTorch's traces of the model, each made once, when a target first needs it."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from edgecompress.errors import ExportError

Made = TypeVar("Made")


@dataclass(slots=True)
class Shared:
    """A folder of files that several targets, or tries of one target, are made from, and what is known of them.

    One is good for one model, with its weights, at one batch size.
    """

    folder: Path
    made: dict[str, Any] = field(default_factory=dict)
    refused: dict[str, ExportError] = field(default_factory=dict)

    def once(self, name: str, make: Callable[[], Made]) -> Made:
        """What ``make`` gives, called for the first of all that ask for ``name``.

        Raises:
            ExportError: what it raised then.
        """
        if name in self.refused:
            raise self.refused[name]
        if name not in self.made:
            try:
                self.made[name] = make()
            except ExportError as error:
                self.refused[name] = error
                raise
        made: Made = self.made[name]
        return made


class Traces:
    """What was traced of one model, by batch size; its files are there for as long as this is."""

    def __init__(self) -> None:
        self._made: dict[int | None, Shared] = {}
        self._close: Callable[[], object] = lambda: None

    def at(self, batch: int | None) -> Shared:
        """Of batches of that size; None: of any."""
        if not self._made:
            self._folder = Path(tempfile.mkdtemp(prefix="edgecompress-"))
            self._close = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        if batch not in self._made:
            folder = self._folder / f"batch-{batch or 'any'}"
            folder.mkdir()
            self._made[batch] = Shared(folder)
        return self._made[batch]

    def close(self) -> None:
        """Forget all of it, and remove the files."""
        self._made.clear()
        self._close()
