"""A small model that takes images, as ``write_small_artifact(WRITTEN)`` exported it."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from torch import nn

from edgecompress.artifacts import Artifact
from edgecompress.exporting import export
from edgecompress.models import Sample
from tests.processes import ROOT

WRITTEN = ROOT / "tests" / "data" / "small_model"
LABELS = ["dark", "bright", "striped"]
PREPROCESSING = {"size": [6, 7], "color": "RGB", "scale": 1 / 255, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25]}


def small_sample() -> Sample:
    """Three classes of 6 x 7 images in colour; random weights, always the same."""

    def build() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(80, 3))

    example = torch.randn(2, 3, 6, 7, generator=torch.Generator().manual_seed(1))
    return Sample("small", "small", build, (example,), preprocessing={**PREPROCESSING, "labels": LABELS})


def write_small_artifact(folder: Path) -> Artifact:
    """``model.onnx`` in a folder, exported in some seconds."""
    sample = small_sample()
    return export(sample.model(), sample, folder)


def small_artifact(folder: Path) -> Artifact:
    """The same, copied."""
    for file in WRITTEN.iterdir():
        shutil.copyfile(file, folder / file.name)
    return Artifact.load(folder / "model.onnx")
