"""Train the MNIST samples from scratch on the whole training set and write their weights into sample_models/.

    EDGECOMPRESS_DATA=... python benchmarks/train_samples.py [example]

The epoch is chosen on the validation split (the last 5,000 training images); the test split is scored once, at
the end. Two cores need a few minutes.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from edgecompress.files import resource, save_weights
from edgecompress.finetuning import FineTuning, finetune
from edgecompress.models import Sample
from edgecompress.scoring import score
from edgecompress.sources import resolve, sample_file

SETTINGS = {
    "lenet5": FineTuning(epochs=15, lr=0.05, distill=0.0, weight_decay=5e-4, batch_size=128),
    "lenet300": FineTuning(epochs=20, lr=0.1, distill=0.0, weight_decay=1e-4, batch_size=128),
}

EXAMPLE = Path(__file__).parents[1] / "examples" / "digits" / "my_model.py"
ENSEMBLE_SEEDS = (101, 102, 103)


def untrained(name: str) -> Sample:
    """The sample with PyTorch's initial weights instead of the trained ones."""
    file = resource("sample_models") / f"{name}.py"
    return replace(resolve(f"{file}:untrained"), name=name)


def trained(name: str, settings: FineTuning) -> nn.Module:
    """The sample trained with ``settings``, its scores said."""
    torch.manual_seed(settings.seed)
    sample = untrained(name)
    done = finetune(sample.build(), sample, settings)
    print(name, "validation", done.best_score, "epoch", done.best_epoch, file=sys.stderr)
    print(name, "test", score(done.model, sample), file=sys.stderr)
    return done.model


def keep(name: str, model: nn.Module) -> None:
    """Write a sample's weights."""
    save_weights(sample_file(name, ".safetensors"), model.state_dict())


def example() -> None:
    """Train the model file of the README on the digits that ship here, from PyTorch's initial weights."""
    sample = resolve(str(EXAMPLE))
    model, settings = sample.build(), FineTuning(epochs=25, lr=0.1, distill=0.0, weight_decay=1e-4, batch_size=32)
    torch.manual_seed(settings.seed)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.reset_parameters()
    done = finetune(model, sample, settings)
    print("example validation", done.best_score, "test", score(done.model, sample), file=sys.stderr)
    save_weights(EXAMPLE.with_suffix(".safetensors"), done.model.state_dict())


def main() -> None:
    """Train, score and save each sample, the others of the ensemble, and the README's example; or that alone."""
    example()
    if sys.argv[1:] == ["example"]:
        return
    for name, settings in SETTINGS.items():
        keep(name, trained(name, settings))
    others = [replace(SETTINGS["lenet5"], seed=seed, bfloat16=True) for seed in ENSEMBLE_SEEDS]
    keep("lenet5-ensemble", nn.ModuleList(trained("lenet5", settings) for settings in others).half())


if __name__ == "__main__":
    main()
