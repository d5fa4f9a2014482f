"""edgecompress: make a PyTorch model ready for phones and small boards, and prove the gain.

The stages, in order: ``plan``, ``decompose``, ``finetune``, ``export``, ``profile``, ``bundle``. Names are
loaded on first use, so that importing the package does not import torch.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

from edgecompress._moved import OldNames

__version__ = "0.1.0"

if OldNames not in sys.meta_path:
    sys.meta_path.append(OldNames)

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
"""ONNX Runtime 1.29 and newer report to its vendor unless this is set before it is imported."""

_HOMES = {
    "Artifact": "artifacts",
    "Budget": "selectors",
    "Calibration": "calibrating",
    "Comparison": "profiling.comparisons",
    "Compressed": "running.in_memory",
    "CompressionPlan": "plans",
    "Cost": "plans",
    "EdgeCompressError": "errors",
    "Effort": "settings",
    "Energy": "selectors",
    "FineTuning": "settings",
    "LayerPlan": "plans",
    "Options": "running.options",
    "Profile": "profiling.profiles",
    "Report": "reporting.document",
    "Sample": "models",
    "Scope": "planning",
    "bundle": "bundling",
    "calibration_of": "calibrating",
    "compare": "profiling",
    "compress": "running",
    "cost": "costs",
    "decompose": "decomposing",
    "device_named": "devices",
    "export": "exporting",
    "finetune": "finetuning",
    "measure": "profiling",
    "merge_back": "decomposing",
    "plan": "planning",
    "profile": "profiling",
    "recalibrate": "calibrating",
    "refit": "decomposing.refitting",
    "resolve": "sources",
    "run": "running",
    "score": "scoring",
    "verify": "exporting.verifying",
}

__all__ = [
    "Artifact",
    "Budget",
    "Calibration",
    "Comparison",
    "Compressed",
    "CompressionPlan",
    "Cost",
    "EdgeCompressError",
    "Effort",
    "Energy",
    "FineTuning",
    "LayerPlan",
    "Options",
    "Profile",
    "Report",
    "Sample",
    "Scope",
    "bundle",
    "calibration_of",
    "compare",
    "compress",
    "cost",
    "decompose",
    "device_named",
    "export",
    "finetune",
    "measure",
    "merge_back",
    "plan",
    "profile",
    "recalibrate",
    "refit",
    "resolve",
    "run",
    "score",
    "verify",
]

if TYPE_CHECKING:
    from edgecompress.artifacts import Artifact as Artifact
    from edgecompress.bundling import bundle as bundle
    from edgecompress.calibrating import Calibration as Calibration
    from edgecompress.calibrating import calibration_of as calibration_of
    from edgecompress.calibrating import recalibrate as recalibrate
    from edgecompress.costs import cost as cost
    from edgecompress.decomposing import decompose as decompose
    from edgecompress.decomposing import merge_back as merge_back
    from edgecompress.decomposing.refitting import refit as refit
    from edgecompress.devices import device_named as device_named
    from edgecompress.errors import EdgeCompressError as EdgeCompressError
    from edgecompress.exporting import export as export
    from edgecompress.exporting.verifying import verify as verify
    from edgecompress.finetuning import finetune as finetune
    from edgecompress.models import Sample as Sample
    from edgecompress.planning import Scope as Scope
    from edgecompress.planning import plan as plan
    from edgecompress.plans import CompressionPlan as CompressionPlan
    from edgecompress.plans import Cost as Cost
    from edgecompress.plans import LayerPlan as LayerPlan
    from edgecompress.profiling import compare as compare
    from edgecompress.profiling import measure as measure
    from edgecompress.profiling import profile as profile
    from edgecompress.profiling.comparisons import Comparison as Comparison
    from edgecompress.profiling.profiles import Profile as Profile
    from edgecompress.reporting.document import Report as Report
    from edgecompress.running import compress as compress
    from edgecompress.running import run as run
    from edgecompress.running.in_memory import Compressed as Compressed
    from edgecompress.running.options import Options as Options
    from edgecompress.scoring import score as score
    from edgecompress.selectors import Budget as Budget
    from edgecompress.selectors import Energy as Energy
    from edgecompress.settings import Effort as Effort
    from edgecompress.settings import FineTuning as FineTuning
    from edgecompress.sources import resolve as resolve


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'edgecompress' has no attribute {name!r}")
    return getattr(importlib.import_module(f"edgecompress.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
