"""Training throughput on the CPU: the loop of edgecompress beside the same steps in plain PyTorch, interleaved.

    EDGECOMPRESS_DATA=... python benchmarks/training_speed.py

ResNet-20, dense and with 70 % of its MACs cut, batch 128, cross-entropy, crop and flip; wall and CPU time of rounds of
20 steps, of which the median counts. Writes results/training_speed.json. Three minutes on two cores.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from edgecompress.artifacts import versions
from edgecompress.decomposing import decompose
from edgecompress.finetuning import FineTuning
from edgecompress.finetuning.distillation import Distilled
from edgecompress.finetuning.loop import fit
from edgecompress.models import Sample
from edgecompress.models.datasets import take
from edgecompress.planning import plan
from edgecompress.selectors import Budget
from edgecompress.sources import resolve

RESULTS = Path(__file__).with_name("results") / "training_speed.json"
STEPS, BATCH, ROUNDS = 20, 128, 5


class Few(Dataset[Any]):
    """The first images of a split, given out in batches."""

    def __init__(self, images: Any, count: int) -> None:
        self.images, self.count = images, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        return self.images[index]

    def batch(self, indices: Tensor) -> Any:
        """Whole batch at once."""
        return self.images.batch(indices)


def plain(model: nn.Module, sample: Sample, *, bfloat16: bool) -> None:
    """The steps as a tutorial writes them, with the same batches."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, 0.9, weight_decay=1e-4, nesterov=True)
    data, generator = sample.data("train"), torch.Generator().manual_seed(0)
    assert sample.augment is not None
    for indices in torch.randperm(STEPS * BATCH, generator=generator).split(BATCH):
        (inputs,), targets = take(data, indices)
        inputs = sample.augment(inputs, generator)
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            outputs = model(inputs)
        torch.autograd.backward(nn.functional.cross_entropy(outputs.float(), targets))
        optimizer.step()


def ours(model: nn.Module, sample: Sample, *, bfloat16: bool) -> None:
    """The loop; its validation split is one batch."""
    settings = FineTuning(1, lr=0.01, distill=0.0, bfloat16=bfloat16, schedule="constant")
    fit(model, sample, settings, Distilled(sample, settings))


def timed(work: Callable[[], None]) -> tuple[float, float]:
    """Wall and CPU milliseconds a step."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return (time.perf_counter() - wall) * 1000 / STEPS, (time.process_time() - cpu) * 1000 / STEPS


def main() -> None:
    """Measure both models in both precisions."""
    sample = resolve("resnet20")
    splits = {"train": Few(sample.data("train"), STEPS * BATCH), "validation": Few(sample.data("validation"), BATCH)}
    few, dense = replace(sample, splits=splits.__getitem__), sample.model()
    models = {"dense": dense, "compressed": decompose(dense, plan(dense, sample.inputs, Budget(0.3)))}
    rows = []
    for name, model in models.items():
        for bfloat16 in (False, True):
            times: dict[str, list[tuple[float, float]]] = {"plain": [], "ours": []}
            for _ in range(ROUNDS):
                times["plain"].append(timed(lambda: plain(model, few, bfloat16=bfloat16)))  # noqa: B023
                times["ours"].append(timed(lambda: ours(model, few, bfloat16=bfloat16)))  # noqa: B023
            row: dict[str, Any] = {"model": name, "bfloat16": bfloat16, "threads": torch.get_num_threads()}
            for who, pairs in times.items():
                row[who] = {"wall_ms": median(w for w, _ in pairs), "cpu_ms": median(c for _, c in pairs)}
            row["speedup"] = median(p[0] / o[0] for p, o in zip(times["plain"], times["ours"], strict=True))
            rows.append(row)
            print(row, flush=True)
    RESULTS.write_text(json.dumps({"rows": rows, "versions": versions()}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
