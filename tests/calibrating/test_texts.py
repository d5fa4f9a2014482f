"""Texts without the padding that all of a part have, where the model does not mind."""

import pytest
import torch
from torch import nn

from edgecompress.calibrating import trials
from edgecompress.calibrating.texts import shortest_first
from edgecompress.calibrating.trials import Trial, trial_losses

POSITIONS, TEXTS = 12, 10


class Encoder(nn.Module):
    """The mean over what is no padding, or over all positions, or of so many numbers at each; of token numbers."""

    def __init__(self, reads="texts"):
        super().__init__()
        self.reads = reads
        self.table, self.wide = nn.Embedding(30, 6), nn.Linear(6, 6)
        self.places = nn.Parameter(torch.randn(POSITIONS, 6))

    def forward(self, input_ids, attention_mask, more):
        hidden = self.wide(self.table(input_ids))
        if self.reads == "as many":
            hidden = hidden + self.places
        weights = torch.ones_like(hidden[..., 0]) if self.reads == "all" else attention_mask.to(hidden)
        pooled = (hidden * weights[..., None]).sum(1) / weights.sum(1, keepdim=True)
        return pooled + more


def texts(seed=0):
    torch.manual_seed(seed)
    lengths = torch.randperm(POSITIONS - 2)[:TEXTS] + 1
    mask = (torch.arange(POSITIONS) < lengths[:, None]).long()
    return torch.randint(1, 30, (TEXTS, POSITIONS)) * mask, mask, torch.randn(TEXTS, 6)


def test_they_come_by_their_lengths_each_part_cut_to_its_longest():
    ids, mask, more = texts()
    parts = list(shortest_first(Encoder(), (ids, mask, more), 64))
    assert [len(part[0]) for part in parts] == [4, 4, 2]
    for tokens, its_mask, others in parts:
        assert tokens.shape == its_mask.shape
        assert its_mask.sum(1).max() == tokens.shape[1] < POSITIONS
        assert others.shape == (len(tokens), 6)
    together = torch.cat([part[2] for part in parts])
    order = mask.sum(1).argsort()
    torch.testing.assert_close(together, more[order], rtol=0, atol=0)


@pytest.mark.parametrize("reads", ["all", "as many"])
def test_a_model_that_counts_its_positions_is_given_all_of_them(reads):
    given = texts()
    parts = list(shortest_first(Encoder(reads), given, 4))
    for together, expected in zip(map(torch.cat, zip(*parts, strict=True)), given, strict=True):
        torch.testing.assert_close(together, expected, rtol=0, atol=0)


def test_what_is_no_text_or_has_no_padding_comes_as_it_is():
    ids, mask, more = texts()
    for given in ((ids, torch.ones_like(mask), more), (ids, mask.float(), more)):
        assert [len(part[0]) for part in shortest_first(Encoder(), given, 4)] == [4, 4, 2]
        torch.testing.assert_close(next(shortest_first(Encoder(), given, 4))[0], ids[:4], rtol=0, atol=0)


def test_losses_are_those_of_whole_texts(monkeypatch):
    model, given = Encoder().eval(), texts(1)
    change = [Trial("wide", 0.3 * torch.randn(1, 6, 6), torch.randn(1, 6).double())]
    cut = trial_losses(model, given, change, classes=False)
    monkeypatch.setattr(trials, "shortest_first", lambda _model, inputs, _size: [inputs])
    whole = trial_losses(model, given, change, classes=False)
    torch.testing.assert_close(cut, whole[:, given[1].sum(1).argsort()], rtol=1e-4, atol=1e-6)
