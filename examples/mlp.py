"""Compress a model that is in memory: an MLP on data made here, from calibration to a proved .onnx."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torch.utils.data import TensorDataset

import edgecompress as ec
from edgecompress.selectors import Budget


def items(count: int, seed: int) -> TensorDataset:
    """Points of two classes, (count, 64), on the two sides of a plane."""
    inputs = torch.randn(count, 64, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(inputs, (inputs @ torch.linspace(-1, 1, 64) > 0).long())


def mlp() -> nn.Sequential:
    """64 inputs, two wide layers, two classes; deterministic."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 2))


def main() -> None:
    """Train it, keep 30 % of its MACs, fine-tune, export."""
    splits = {"train": items(1024, 0), "validation": items(256, 1), "test": items(256, 2)}
    sample = ec.Sample("mlp", "examples/mlp.py", mlp, (torch.randn(2, 64),), splits=splits.__getitem__)
    dense = ec.finetune(sample.model(), sample, ec.FineTuning(epochs=5, lr=0.1, distill=0.0)).model

    images = ec.calibration_of(sample, 256, seed=0)
    plan = ec.plan(dense, sample.inputs, Budget(keep=0.3, of="macs"), calibration=images, name=sample.name)
    small = ec.refit(dense, plan, images)
    small = ec.finetune(small, sample, ec.FineTuning(epochs=1), teacher=dense).model

    print("dense     ", ec.cost(dense, sample.inputs), f"{ec.score(dense, sample):.2f} %")
    print("compressed", ec.cost(small, sample.inputs), f"{ec.score(small, sample):.2f} %")
    artifact = ec.export(small, sample, Path("out"), stem="mlp")
    print(f"{artifact.path}: {artifact.size_bytes:,} bytes, largest error {artifact.max_abs_error:.1e}")


if __name__ == "__main__":
    main()
