"""Compress a Hugging Face model in memory, its data as dicts: one call, then a proved .onnx with the same names.

Needs ``pip install 'edgecompress[transformers]'``. The model is a small BERT without trained weights, so that nothing
is downloaded; ``AutoModelForSequenceClassification.from_pretrained(...)`` takes its place.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification

import edgecompress as ec

WORDS, LENGTH = 200, 16


def items(count: int, seed: int) -> list[dict[str, Tensor]]:
    """Texts as a tokenizer and a collator give them, one dict each: the class is whether word 7 occurs."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(10, WORDS, (count, LENGTH), generator=generator)
    ids[::2, 3] = 7
    mask = torch.ones(LENGTH, dtype=torch.long)
    return [{"input_ids": row, "attention_mask": mask, "labels": (row == 7).any().long()} for row in ids]


def main() -> None:
    """Keep half of the MACs, fine-tune for an epoch, export."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=WORDS,
        max_position_embeddings=LENGTH,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
    )
    model = BertForSequenceClassification(config)
    data = {"train": items(128, 0), "validation": items(32, 1), "test": items(64, 2)}
    first = data["test"][:2]
    example = {name: torch.stack([item[name] for item in first]) for name in ("input_ids", "attention_mask")}

    small = ec.compress(model.eval(), example, keep=0.5, data=data, epochs=1, name="bert")
    print(f"MACs {small.cost.dense.macs:,} -> {small.cost.compressed.macs:,}")
    file = small.export("onnx")
    print(f"{file.path}: {file.size_bytes:,} bytes, inputs {', '.join(spec.name for spec in file.inputs)}")


if __name__ == "__main__":
    main()
