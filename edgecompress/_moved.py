"""Modules that once had other names: importing an old name gives the module of the new one, and warns."""

from __future__ import annotations

import importlib
import sys
import warnings
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.abc import Loader
else:
    Loader = object  # importlib.abc itself takes as long to import as all of this package

MOVED = {
    "ablating": "profiling.ablation",
    "accepting": "models.accepting",
    "benching": "profiling.bench",
    "calling": "models.calling",
    "candidates": "planning.candidates",
    "charts": "reporting.charts",
    "claiming": "running.claiming",
    "cli.looking": "cli.inspecting",
    "codecs.axes": "storing.axes",
    "codecs.planning": "storing.planning",
    "codecs.settings": "settings",
    "comparing": "reporting.comparing",
    "compressed": "sources.compressed_folder",
    "datasets": "models.datasets",
    "decompositions.polyadic": "decompositions.cp_als",
    "decompositions.weighted": "decompositions.projection",
    "devices.emulation": "devices.emulated.spec",
    "dry_run": "decomposing.dry_run",
    "emulating": "devices.emulated.setup",
    "equalizing": "exporting.equalizing",
    "flow": "exporting.flow",
    "halving": "targets.half_precision",
    "instructions": "profiling.instruction_counts",
    "judging": "exporting.slices",
    "line": "running.pipeline",
    "markdown": "reporting.markdown",
    "moments": "calibrating.moments",
    "operators": "profiling.operators",
    "options": "running.options",
    "preparing": "exporting.preparing",
    "profiles": "profiling.profiles",
    "proving": "exporting.proving",
    "python_bundle": "devices.emulated.portable_python",
    "ratios": "profiling.ratios",
    "refitting": "decomposing.refitting",
    "resolving": "sources",
    "resources": "files",
    "resuming": "running.resuming",
    "runners": "profiling.vendor_runners",
    "sensitivity": "calibrating.sensitivity",
    "stability": "profiling.stability",
    "sums": "calibrating.shortcuts",
    "targets.converting": "targets.child_converter",
    "targets.files": "targets.runtime_files",
    "targets.keeping": "targets.mixed_precision",
    "targets.onnx_codes": "targets.onnx.codes",
    "targets.onnx_halves": "targets.onnx.halves",
    "targets.onnx_numbers": "targets.onnx.packing",
    "targets.onnx_precisions": "targets.onnx.quantization",
    "targets.onnx_sessions": "targets.onnx.sessions",
    "training.augmenting": "finetuning.augmentation",
    "training.base": "recipes.base",
    "training.checkpoints": "finetuning.checkpoints",
    "training.distillation": "finetuning.distillation",
    "training.loop": "finetuning.loop",
    "training.ordered": "recipes.ordered",
    "training.orthogonal": "recipes.orthogonal",
    "training.ranked": "recipes.ordered_layers",
    "training.recalling": "finetuning.teacher_cache",
    "training.recipes": "recipes",
    "training.schedules": "finetuning.schedules",
    "training.searched": "recipes.continuous",
    "training.settings": "settings",
    "training.staged": "recipes.staged",
    "training.truncating": "recipes.truncation",
    "training.workers": "finetuning.workers",
    "trying": "running.history",
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
