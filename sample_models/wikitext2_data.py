"""WikiText-2 (Merity et al. 2016), read from EDGECOMPRESS_DATA: ``valid`` to fit and choose, ``test`` to score.

Of ``valid`` the first nine tenths are "train" and the last tenth is "validation".
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from edgecompress.errors import DataError

IGNORED = -100
PARTS = {"train": ("valid", 0.0, 0.9), "validation": ("valid", 0.9, 1.0), "test": ("test", 0.0, 1.0)}


def lines(split: str) -> list[str]:
    """The paragraphs and headings of a split, in their order.

    Raises:
        DataError: the variable is not set, or the file is not there.
    """
    part, first, last = PARTS[split]
    root = os.environ.get("EDGECOMPRESS_DATA", "")
    file = Path(root) / "wikitext2" / f"wiki.{part}.tokens"
    if not root or not file.is_file():
        found = f"{file} is not there" if root else "EDGECOMPRESS_DATA is not set"
        raise DataError(
            f"WikiText-2: {found}. Unpack wikitext-2-v1.zip and set EDGECOMPRESS_DATA to the folder that holds "
            "wikitext2/wiki.valid.tokens and wikitext2/wiki.test.tokens"
        )
    found_lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    return found_lines[round(first * len(found_lines)) : round(last * len(found_lines))]


class Texts(Dataset[tuple[dict[str, Tensor], Tensor]]):
    """Token numbers (N, positions), their mask, and the targets of a batch, which are worked out where asked for."""

    def __init__(self, tokens: Tensor, mask: Tensor, targets: Callable[[Tensor, Tensor], Tensor], origin: str) -> None:
        self.tokens, self.mask, self.targets, self.origin = tokens, mask, targets, origin

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> tuple[dict[str, Tensor], Tensor]:
        inputs, targets = self.batch(torch.tensor([index]))
        return {name: tensor[0] for name, tensor in inputs.items()}, targets[0]

    def batch(self, indices: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Whole batch at once."""
        inputs = self.unlabelled(indices)
        return inputs, self.targets(inputs["input_ids"], inputs["attention_mask"])

    def unlabelled(self, indices: Tensor) -> dict[str, Tensor]:
        """The inputs of a batch."""
        return {"input_ids": self.tokens[indices], "attention_mask": self.mask[indices]}


def following(tokens: Tensor, mask: Tensor) -> Tensor:
    """The token after each: (N, positions); none after the last, and padding is none."""
    after = torch.full_like(tokens, IGNORED)
    after[:, :-1] = torch.where(mask[:, 1:] != 0, tokens[:, 1:], IGNORED)
    return after


def windows(tokens: Sequence[int], size: int, origin: str) -> Texts:
    """One long text in windows of ``size`` tokens that do not overlap, for a model that says what comes next."""
    count = len(tokens) // size
    rows = torch.tensor(tokens[: count * size]).reshape(count, size)
    return Texts(rows, torch.ones_like(rows), following, origin)


def sentences(split: str, least: int = 6) -> list[str]:
    """Sentences of at least so many words; headings are none."""
    text = (line.strip() for line in lines(split))
    found = (sentence for line in text if line and not line.startswith("=") for sentence in line.split(" . "))
    return [sentence for sentence in found if len(sentence.split()) >= least]
