"""edgecompress: make a PyTorch model ready for phones and small boards, and prove the gain.

The stages, in order: ``plan``, ``decompose``, ``finetune``, ``export``, ``profile``, ``bundle``. Names are
loaded on first use, so that importing the package does not import torch.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
"""ONNX Runtime 1.29 and newer report to its vendor unless this is set before it is imported."""

_HOMES = {
    "Artifact": "artifacts",
    "Calibration": "calibrating",
    "Comparison": "profiles",
    "CompressionPlan": "plans",
    "Cost": "costs",
    "EdgeCompressError": "errors",
    "Effort": "benching",
    "FineTuning": "finetuning",
    "LayerPlan": "plans",
    "Profile": "profiles",
    "Sample": "models",
    "bundle": "bundling",
    "calibration_of": "calibrating",
    "compare": "profiling",
    "cost": "costs",
    "decompose": "decomposing",
    "export": "exporting",
    "finetune": "finetuning",
    "device_named": "devices",
    "measure": "profiling",
    "merge_back": "decomposing",
    "plan": "planning",
    "profile": "profiling",
    "recalibrate": "calibrating",
    "refit": "refitting",
    "resolve": "resolving",
    "score": "scoring",
    "verify": "verifying",
}

__all__ = [  # noqa: PLE0604 - the names of _HOMES, spelled out for type checkers and readers
    *sorted(_HOMES),
]

if TYPE_CHECKING:
    from edgecompress.artifacts import Artifact as Artifact
    from edgecompress.benching import Effort as Effort
    from edgecompress.bundling import bundle as bundle
    from edgecompress.calibrating import Calibration as Calibration
    from edgecompress.calibrating import calibration_of as calibration_of
    from edgecompress.calibrating import recalibrate as recalibrate
    from edgecompress.costs import Cost as Cost
    from edgecompress.costs import cost as cost
    from edgecompress.decomposing import decompose as decompose
    from edgecompress.decomposing import merge_back as merge_back
    from edgecompress.devices import device_named as device_named
    from edgecompress.errors import EdgeCompressError as EdgeCompressError
    from edgecompress.exporting import export as export
    from edgecompress.finetuning import FineTuning as FineTuning
    from edgecompress.finetuning import finetune as finetune
    from edgecompress.models import Sample as Sample
    from edgecompress.planning import plan as plan
    from edgecompress.plans import CompressionPlan as CompressionPlan
    from edgecompress.plans import LayerPlan as LayerPlan
    from edgecompress.profiles import Comparison as Comparison
    from edgecompress.profiles import Profile as Profile
    from edgecompress.profiling import compare as compare
    from edgecompress.profiling import measure as measure
    from edgecompress.profiling import profile as profile
    from edgecompress.refitting import refit as refit
    from edgecompress.resolving import resolve as resolve
    from edgecompress.scoring import score as score
    from edgecompress.verifying import verify as verify


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'edgecompress' has no attribute {name!r}")
    return getattr(importlib.import_module(f"edgecompress.{_HOMES[name]}"), name)
