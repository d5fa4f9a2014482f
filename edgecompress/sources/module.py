"""A name in a module that can be imported, or already is (``__main__:net`` in a notebook); its code runs."""

from __future__ import annotations

import importlib
import sys
import time
from pathlib import Path

from edgecompress.errors import ModelError
from edgecompress.models import Sample
from edgecompress.models.calling import call
from edgecompress.sources import proving
from edgecompress.sources.definitions import sample_in


class ImportableModule:
    """``package.module:name``."""

    name = "module"
    form = "package.module:name"
    summary = (
        "package.module:name: the same in a module that can be imported, or is; name may be an nn.Module in memory."
    )
    runs_code = True

    def matches(self, text: str) -> bool:
        """With a colon, but for exported files, whose paths may hold one."""
        return ":" in text and Path(text).suffix != ".onnx"

    def files(self, text: str) -> tuple[Path, ...]:
        """None: what is imported is found by Python."""
        del text
        return ()

    def resolve(self, text: str, *, trust: bool, above: tuple[Path, ...] = ()) -> Sample:
        """What the module defines; naming it means trusting it. The current folder is behind all that is installed."""
        del trust, above
        module_name, _, attribute = text.rpartition(":")
        began = time.time_ns()
        if proving.loading() is None:
            _make_found(str(Path.cwd()))
        try:
            module = call(text, "importing it", lambda: importlib.import_module(module_name))
        except ModelError as error:
            hint = f"; install it into {sys.prefix}" if isinstance(error.__cause__, ModuleNotFoundError) else ""
            raise ModelError(f"{text}: cannot import {module_name!r}: {error.__cause__}{hint}") from error
        proving.note(getattr(module, "__file__", None), began)
        return sample_in(module, attribute or "model", text, text, text)


def _make_found(working: str) -> None:
    proving.forget()
    if working not in sys.path:
        sys.path.append(working)
