"""Which sums are seen: a layer's output, perhaps through its batch norm, plus a shortcut of its shape."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from edgecompress.calibrating.shortcuts import watching_sums


class Block(nn.Module):
    """Two convolutions, a norm behind the second, a downsampling one, and how they run."""

    def __init__(self, run):
        super().__init__()
        self.run = run
        self.first, self.second, self.down = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))
        self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.norm, self.norm_down = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.relu, self.drop, self.same = nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Identity()

    def forward(self, x):
        return self.run(self, x)


LAYERS = ("first", "second", "down")


def seen(run, layers=LAYERS):
    """(layer, norm) of every sum that is seen while a block runs."""
    block, found = Block(run).eval(), []
    with torch.no_grad(), watching_sums(block, layers, lambda layer, norm, *_: found.append((layer, norm))):
        block(torch.randn(2, 4, 6, 6))
    return found


def in_place(x, y):
    x += y
    return x


def other_way_round(x, y):
    y += x
    return y


def both_paths(block, x):
    out = block.norm(block.second(block.relu(block.first(x))))
    out += block.norm_down(block.down(x))
    return block.relu(out)


def early_downsample(block, x):
    shortcut = block.down(x)
    return block.second(block.relu(block.first(x))) + shortcut


def chained(block, x):
    h = block.relu(block.first(x) + x)
    return block.relu(block.norm(block.second(h)) + h)


SUMS = {
    "conv, norm, add": (lambda b, x: b.norm(b.second(x)) + x, [("second", "norm")]),
    "add first operand": (lambda b, x: x + b.norm(b.second(x)), [("second", "norm")]),
    "conv, add": (lambda b, x: b.second(x) + x, [("second", "")]),
    "in place": (lambda b, x: in_place(b.norm(b.second(x)), x), [("second", "norm")]),
    "in place into the shortcut": (lambda b, x: other_way_round(b.norm(b.second(x)), x.clone()), [("second", "norm")]),
    "torch.add": (lambda b, x: torch.add(b.second(x), x), [("second", "")]),
    "Tensor.add": (lambda b, x: b.second(x).add(x), [("second", "")]),
    "Tensor.add_": (lambda b, x: b.second(x).add_(x), [("second", "")]),
    "relu in place behind": (lambda b, x: b.relu(b.second(x) + x), [("second", "")]),
    "relu in place before": (lambda b, x: b.second(b.relu(b.first(x))) + x, [("second", "")]),
    "dropout in eval mode": (lambda b, x: b.drop(b.second(x)) + x, [("second", "")]),
    "identity": (lambda b, x: b.same(b.norm(b.second(x))) + x, [("second", "norm")]),
    "shortcut with a layer of its own": (both_paths, [("down", "norm_down")]),
    "shortcut that ran first": (early_downsample, [("second", "")]),
    "a block after a block": (chained, [("first", ""), ("second", "norm")]),
    "looked at before": (lambda b, x: (h := b.second(x), x[:, : h.shape[1]] + h)[1], [("second", "")]),
}


@pytest.mark.parametrize(("run", "expected"), SUMS.values(), ids=SUMS)
def test_a_residual_sum_is_seen(run, expected):
    assert seen(run) == expected


def set_item(block, x):
    h = block.second(x)
    h[:, 0] = 0
    return h + x


NO_SUMS = {
    "another shape": lambda b, x: b.second(x) + x[:, :1],
    "a number": lambda b, x: b.second(x) + 1,
    "a tensor of one number": lambda b, x: b.second(x) + torch.ones(()),
    "alpha": lambda b, x: torch.add(b.second(x), x, alpha=2),
    "Tensor.add with alpha": lambda b, x: b.second(x).add(x, alpha=0.5),
    "by keyword": lambda b, x: torch.add(b.second(x), other=x),
    "a difference": lambda b, x: b.second(x) - x,
    "a product": lambda b, x: b.second(x) * x,
    "relu between": lambda b, x: functional.relu(b.second(x)) + x,
    "relu in place between": lambda b, x: b.relu(b.second(x)) + x,
    "scaled in place between": lambda b, x: b.second(x).mul_(2) + x,
    "an item set between": set_item,
    "a layer that is not watched": lambda b, x: b.depthwise(x) + x,
    "itself": lambda b, x: (h := b.second(x), h + h)[1],
    "what was made of itself": lambda b, x: (h := b.second(x), h + torch.sigmoid(h))[1],
    "what another layer made of itself": lambda b, x: (h := b.second(x), h + b.depthwise(h))[1],
    "what a list of itself became": lambda b, x: (h := b.second(x), h + torch.cat([h[:1], x[:1]]))[1],
    "inputs": lambda b, x: x + x.clone(),
}


@pytest.mark.parametrize("run", NO_SUMS.values(), ids=NO_SUMS)
def test_what_is_no_residual_sum_of_a_layer_is_not(run):
    assert seen(run) == []


def test_both_operands_are_handed_over_before_they_are_added():
    block, x, found = Block(lambda b, x: in_place(b.norm(b.second(x)), b.first(x))).eval(), torch.randn(2, 4, 6, 6), []
    with torch.no_grad(), watching_sums(block, LAYERS, lambda *sum_: found.append([*map(copied, sum_)])):
        block(x)
    ((layer, norm, own, other),) = found
    assert (layer, norm) == ("first", "")
    torch.testing.assert_close(own, block.first(x))
    torch.testing.assert_close(other, block.norm(block.second(x)))


def copied(item):
    return item.clone() if isinstance(item, torch.Tensor) else item


def test_what_is_written_into_the_layer_s_tensor_is_what_is_added():
    block = Block(lambda b, x: b.second(x) + x).eval()
    x = torch.randn(2, 4, 6, 6)
    with torch.no_grad(), watching_sums(block, LAYERS, lambda _layer, _norm, own, _other: own.zero_()):
        assert torch.equal(block(x), x)


def test_a_norm_is_told_with_the_layer_it_reads():
    block, found = Block(both_paths).eval(), []
    with torch.no_grad(), watching_sums(block, LAYERS, lambda *_: None, lambda *names: found.append(names)):
        block(torch.randn(2, 4, 6, 6))
    assert found == [("second", "norm"), ("down", "norm_down")]


def test_nothing_is_watched_afterwards():
    block = Block(both_paths).eval()
    with pytest.raises(RuntimeError), watching_sums(block, LAYERS, lambda *_: None):
        block(torch.randn(2, 3, 6, 6))
    assert not any(module._forward_hooks for module in block.modules())
    assert not torch.overrides._get_current_function_mode_stack()
