"""Texts set out so that the first of them, which may be all that early layers see, are of every length."""

import torch
from torch import nn

from edgecompress.decomposing.journeys import Models, journeys

TEXTS, POSITIONS, TOGETHER = 384, 48, 4


class Mean(nn.Module):
    """Of what is no padding."""

    def forward(self, input_ids, attention_mask):
        return (input_ids * attention_mask).sum(1, keepdim=True) / attention_mask.sum(1, keepdim=True)


def test_those_that_set_out_first_are_of_every_length():
    torch.manual_seed(0)
    lengths = torch.randint(1, POSITIONS + 1, (TEXTS,))
    mask = (torch.arange(POSITIONS) < lengths[:, None]).long()
    tokens = torch.randint(1, 100, (TEXTS, POSITIONS)) * mask
    found = journeys(Models(Mean(), Mean(), {}, (), asymmetric=True), (tokens, mask), TOGETHER)
    assert sorted(journey.start for journey in found) == list(range(0, TEXTS, TOGETHER))
    for count in (8, 16, 32, 64):
        seen = torch.tensor([float(journey.inputs[1].sum(1).max()) for journey in found[:count]])
        assert (seen.mean() - lengths.double().mean()).abs() < 4
        assert seen.max() > 0.8 * POSITIONS
        assert seen.min() < 0.2 * POSITIONS
