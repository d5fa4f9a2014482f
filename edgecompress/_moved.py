"""Modules that once had other names: importing an old name gives the module of the new one, and warns."""

from __future__ import annotations

import importlib
import sys
import warnings
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MOVED = {
    "benching": "profiling.bench",
    "calling": "models.calling",
    "comparing": "reporting.comparing",
    "compressed": "sources.compressed_folder",
    "datasets": "models.datasets",
    "emulating": "devices.emulated.setup",
    "equalizing": "exporting.equalizing",
    "instructions": "profiling.instruction_counts",
    "line": "running.pipeline",
    "moments": "calibrating.moments",
    "operators": "profiling.operators",
    "options": "running.options",
    "profiles": "profiling.profiles",
    "python_bundle": "devices.emulated.portable_python",
    "ratios": "profiling.ratios",
    "refitting": "decomposing.refitting",
    "resolving": "sources",
    "sensitivity": "calibrating.sensitivity",
    "training.base": "recipes.base",
    "training.loop": "finetuning.loop",
    "training.recipes": "recipes",
    "training.settings": "settings",
    "verifying": "exporting.verifying",
    "wording": "reporting.wording",
}
"""Old names to new ones, without ``edgecompress.``."""


class OldNames(Loader):
    """Finds modules by the names in :data:`MOVED`; both names then stand for one module."""

    @staticmethod
    def find_spec(fullname: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """The specification of a module that has another name now; None for any other."""
        del path, target
        package, _, old = fullname.partition(".")
        if package != "edgecompress" or old not in MOVED:
            return ModuleSpec(fullname, None, is_package=True) if fullname == "edgecompress.training" else None
        warnings.warn(f"{fullname} is now edgecompress.{MOVED[old]}", DeprecationWarning, stacklevel=2)
        return ModuleSpec(fullname, OldNames())

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """An empty module: :meth:`exec_module` puts the real one in its place."""
        return ModuleType(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Let the old name stand for the module of the new one."""
        new = MOVED[module.__name__.removeprefix("edgecompress.")]
        sys.modules[module.__name__] = importlib.import_module(f"edgecompress.{new}")
