"""What a kind of MODEL has to give."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from edgecompress.models import Sample


class Source(Protocol):
    """One kind of MODEL: how it is written, and how the sample comes out of it.

    ``SOURCES`` is tried in its order, once for each MODEL: what is checked and what is used are then the same kind.
    """

    @property
    def name(self) -> str:
        """Its key in ``SOURCES``."""

    @property
    def form(self) -> str:
        """How such a MODEL is written, as the end of "A model is ..."."""

    @property
    def summary(self) -> str:
        """One line for people."""

    @property
    def runs_code(self) -> bool:
        """Whether it runs code that did not come with this package; False also where a file names code in turn."""

    def matches(self, text: str) -> bool:
        """Whether ``text`` is a MODEL of this kind, as far as can be seen without opening anything."""

    def files(self, text: str) -> tuple[Path, ...]:
        """The files that ``text`` names itself: nothing may be written over them."""

    def resolve(self, text: str, *, trust: bool, above: tuple[Path, ...] = ()) -> Sample:
        """The sample, its model not yet built.

        Args:
            text: what ``matches`` accepted.
            trust: whether code may run that a file names, as against what the user typed.
            above: folders that name this MODEL in turn, outermost first.

        Returns:
            The sample, whose ``source`` gives it again.

        Raises:
            ModelError: not there, not a model, or code that is not trusted.
            FileError: a file is damaged.
        """
