"""Embeddings: planned by how often each row is asked for, fitted, and rebuilt."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from edgecompress.calibrating import Calibration
from edgecompress.calibrating.tables import counts_of
from edgecompress.costs import cost
from edgecompress.decomposing import check_plan, decompose
from edgecompress.decomposing.refitting import refit
from edgecompress.planning import plan
from edgecompress.selectors import Budget

ROWS, WIDTH, COMMON = 200, 16, 20


class Sentences(nn.Module):
    """Rows of a table, averaged over all positions but padding, and a Linear."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(ROWS, WIDTH), nn.Linear(WIDTH, 5)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        weights = attention_mask.unsqueeze(-1).float()
        answer: Tensor = self.head((self.table(input_ids) * weights).sum(1) / weights.sum(1))
        return answer


def model() -> Sentences:
    torch.manual_seed(0)
    net = Sentences().eval()
    few = torch.linalg.qr(torch.randn(WIDTH, 6))[0]
    net.table.weight.data[:COMMON] @= few @ few.T  # common rows lie in six directions, rare ones in all
    return net


def texts(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tokens, mask = torch.randint(0, COMMON, (count, 8), generator=generator), torch.ones(count, 8, dtype=torch.long)
    mask[::2, 5:] = 0
    tokens[mask == 0] = ROWS - 1
    return tokens, mask


def test_rows_are_counted_and_padding_is_not() -> None:
    tokens, mask = texts(40)
    shares = counts_of(model(), (tokens, mask), ["table"])["table"].shares
    wanted = torch.bincount(tokens[mask != 0], minlength=ROWS).double() + 0.1
    torch.testing.assert_close(shares, wanted / wanted.sum())
    assert shares[ROWS - 1] == shares.min()


def test_a_table_is_cut_to_what_common_rows_need() -> None:
    net, calibration = model(), Calibration(texts(128), classes=False)
    made = plan(net, texts(2), Budget(0.5, "params"), multiple=1, calibration=calibration)
    assert [layer.name for layer in made.layers][:1] == ["table"]
    check_plan(net, made)
    small = refit(net, made, calibration)
    assert isinstance(small.table, nn.Sequential)
    (rank,) = made.layers[0].ranks
    assert [tuple(link.weight.shape) for link in small.table] == [(ROWS, rank), (WIDTH, rank)]
    others = texts(64, seed=1)
    off = (small(*others) - net(*others)).square().mean() / net(*others).var()
    by_weight = decompose(net, made)
    worse = (by_weight(*others) - net(*others)).square().mean() / net(*others).var()
    assert float(off.detach()) < 1e-2
    assert float(worse.detach()) > 3 * float(off.detach())
    assert made.compressed is not None
    assert cost(small, others).params == made.compressed.params


def test_a_full_rank_chain_of_a_table_is_the_table() -> None:
    net = model()
    made = plan(net, texts(2), Budget(0.7, "params"), multiple=1)
    assert made.layers
    chain = decompose(net, made).table
    assert isinstance(chain, nn.Sequential)
    from edgecompress.decompositions import DECOMPOSITIONS
    from edgecompress.decompositions.kernels import kernels, weight_from

    svd = DECOMPOSITIONS["svd"]
    whole = svd.chain(net.table, svd.max_ranks(net.table))
    for link, factor in zip(whole, svd.factors(kernels(net.table)[0], svd.max_ranks(net.table)), strict=True):
        link.weight.data.copy_(weight_from(link, factor[None]))
    rows = torch.arange(ROWS)
    torch.testing.assert_close(whole(rows), net.table(rows), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("how", [{"max_norm": 1.0}, {"sparse": True}, {"scale_grad_by_freq": True}])
def test_a_table_that_does_more_than_look_up_stays_dense(how: dict[str, object]) -> None:
    net = model()
    net.table = nn.Embedding(ROWS, WIDTH, **how)  # type: ignore[arg-type]
    made = plan(net, texts(2), Budget(0.99, "params"), multiple=1)
    assert "Embedding" in {skip.name: skip.reason for skip in made.skipped}["table"]
