"""Attention by layers gives what nn.MultiheadAttention gives, in every geometry."""

from itertools import product

import pytest
import torch
from torch import nn

from edgecompress.adapters.attention import Attention
from edgecompress.models import unfused_attention
from edgecompress.models.adapting import adapted, adapters_of
from edgecompress.planning import plan
from edgecompress.selectors import Budget

EMBED, HEADS, BATCH, LENGTH, SOURCE = 12, 3, 2, 5, 7

OPTIONS = {
    "usual": {},
    "without bias": {"bias": False},
    "other widths": {"kdim": 8, "vdim": 6},
    "other widths without bias": {"kdim": 8, "vdim": 6, "bias": False},
    "learned rows": {"add_bias_kv": True},
    "a row of zeros": {"add_zero_attn": True},
    "both": {"add_bias_kv": True, "add_zero_attn": True, "kdim": 8, "vdim": 6},
    "dropout": {"dropout": 0.5},
}


def drawn(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def pair(**options):
    """Attention of PyTorch's with numbers in all its parameters, and by layers."""
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(EMBED, HEADS, **options)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.5)
    return theirs, Attention(theirs)


def inputs(theirs, *, batched=True):
    shapes = ((LENGTH, theirs.embed_dim), (SOURCE, theirs.kdim), (SOURCE, theirs.vdim))
    if not batched:
        return tuple(drawn(*shape) for shape in shapes)
    return tuple(drawn(*((BATCH, n) if theirs.batch_first else (n, BATCH)), width) for n, width in shapes)


def masks(*, batched=True):
    """Every kind of mask by itself, and masks of pairs and of keys together."""
    rows = (BATCH,) if batched else ()
    of_pairs = [None, drawn(LENGTH, SOURCE), drawn(LENGTH, SOURCE) > 0.5]
    many = BATCH * HEADS if batched else HEADS
    of_pairs += [drawn(many, LENGTH, SOURCE), drawn(many, LENGTH, SOURCE) > 0.5]
    keys = torch.zeros(*rows, SOURCE, dtype=torch.bool)
    keys[..., -2:] = True
    return product(of_pairs, (None, keys, drawn(*rows, SOURCE)))


def assert_alike(theirs, ours, given, **options):
    results = []
    for attention in (theirs, ours):
        torch.manual_seed(1)
        results.append(attention(*given, **options))
    (expected, weights), (output, own) = results
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)
    assert (weights is None) == (own is None)
    if weights is not None:
        torch.testing.assert_close(own, weights, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:Support for mismatched")
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.covering(1)
def test_it_gives_the_same_with_every_mask(options, batch_first):
    theirs, ours = pair(batch_first=batch_first, **options)
    for training, batched in ((False, True), (True, True), (False, False)):
        theirs.train(training), ours.train(training)
        given = inputs(theirs, batched=batched)
        for of_pairs, of_keys in masks(batched=batched):
            for need, average in ((False, True), (True, training)):
                more = {"attn_mask": of_pairs, "key_padding_mask": of_keys}
                assert_alike(theirs, ours, given, need_weights=need, average_attn_weights=average, **more)


@pytest.mark.parametrize("options", [{}, {"add_zero_attn": True}], ids=str)
def test_a_causal_mask_may_be_hinted_at(options):
    theirs, ours = pair(batch_first=True, **options)
    given = (drawn(BATCH, LENGTH, EMBED),) * 3
    causal = nn.Transformer.generate_square_subsequent_mask(LENGTH)
    keys = torch.zeros(BATCH, LENGTH)
    for need, of_keys in product((False, True), (None, keys)):
        more = {"attn_mask": causal, "key_padding_mask": of_keys, "is_causal": True}
        assert_alike(theirs.eval(), ours.eval(), given, need_weights=need, **more)
    with pytest.raises(RuntimeError, match="is_causal"):
        ours(*given, is_causal=True)


def numbers(model, given, *, training=False, **more):
    torch.manual_seed(2)
    with torch.no_grad(), unfused_attention():
        return model.train(training)(*given, **more)


@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_an_encoder_and_a_decoder_give_the_same(batch_first, norm_first, training):
    torch.manual_seed(0)
    both = {"batch_first": batch_first, "norm_first": norm_first}
    model = nn.Transformer(8, 2, 1, 1, 16, dropout=0.0, **both)
    for module in model.modules():
        if isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.5
    ours = adapted(model, ["attention"])
    assert adapters_of(ours) == ("attention",)
    assert not [module for module in ours.modules() if isinstance(module, nn.MultiheadAttention)]
    source, target = drawn(2, 4, 8), drawn(2, 3, 8)
    given = (source, target) if batch_first else (source.transpose(0, 1), target.transpose(0, 1))
    padded = torch.tensor([[False] * 4, [False, False, True, True]])
    for more in ({}, {"src_key_padding_mask": padded, "memory_key_padding_mask": padded}):
        ours_gave, gave = (numbers(one, given, training=training, **more) for one in (ours, model))
        torch.testing.assert_close(ours_gave, gave, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_the_fast_path_that_reads_weights_past_the_layers_is_off():
    torch.manual_seed(0)
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 1).eval()
    given, padded = drawn(2, 4, 8), torch.tensor([[False] * 4, [False, False, False, True]])
    ours, ran = adapted(model, ["attention"]), []
    ours.layers[0].linear1.register_forward_hook(lambda *_: ran.append(True))
    with torch.no_grad():
        outputs, expected = (one(given, src_key_padding_mask=padded) for one in (ours, model))
    assert ran == [True]
    torch.testing.assert_close(outputs[~padded], expected[~padded], rtol=1e-5, atol=1e-5)
    assert model.use_nested_tensor


def test_all_six_layers_of_an_encoder_are_planned_by_their_names():
    torch.manual_seed(0)
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 2, 64, batch_first=True), 1).eval()
    made = plan(model, (drawn(2, 4, 32),), Budget(keep=0.7, of="params"))
    assert made.adapters == ("attention",)
    names = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "linear1", "linear2"]
    assert {layer.name for layer in made.layers} | {skip.name for skip in made.skipped} == {
        f"layers.0.{name}" for name in names
    }
    assert not [skip for skip in made.skipped if "reads its weight" in skip.reason]


def test_an_attention_with_code_of_its_own_is_refused_with_the_reason():
    class Odd(nn.MultiheadAttention):
        def forward(self, query, key, value, **more):
            return super().forward(2 * query, key, value, **more)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.head = Odd(32, 2), nn.Linear(32, 64)

        def forward(self, given):
            return self.head(self.attention(given, given, given)[0])

    made = plan(Net().eval(), (drawn(2, 4, 32),), Budget(keep=0.9, of="macs"))
    reasons = {skip.name: skip.reason for skip in made.skipped}
    assert "an attention whose forward is its own" in reasons["attention"]
    assert "its weight is used past its forward" in reasons["attention.out_proj"]
