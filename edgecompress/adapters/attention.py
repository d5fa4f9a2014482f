"""``nn.MultiheadAttention`` by layers: its projections as Linear layers, which can be decomposed.

``nn.TransformerEncoderLayer`` and ``nn.TransformerDecoderLayer`` call it as before; the fast paths of the encoders,
which read weights past the layers, are off with it: what they give at padded positions, which nothing reads, is then
that of training.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgecompress.adapters.base import Unadaptable, linear_of


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017) with the interface of ``nn.MultiheadAttention``.

    Args:
        source: what it computes as; its parameters are split into those of ``q_proj``, ``k_proj`` and ``v_proj``.
    """

    in_proj_weight: None = None
    in_proj_bias: None = None
    _qkv_same_embed_dim = False
    """By these three ``nn.TransformerEncoderLayer`` sees that its fast path has no weights to read."""

    def __init__(self, source: nn.MultiheadAttention) -> None:
        super().__init__()
        for name in ("embed_dim", "kdim", "vdim", "num_heads", "head_dim", "dropout", "batch_first", "add_zero_attn"):
            setattr(self, name, getattr(source, name))
        whole = source.in_proj_weight
        weights = (
            (source.q_proj_weight, source.k_proj_weight, source.v_proj_weight) if whole is None else whole.chunk(3)
        )
        biases = (None, None, None) if source.in_proj_bias is None else source.in_proj_bias.chunk(3)
        self.q_proj, self.k_proj, self.v_proj = map(linear_of, weights, biases)
        self.out_proj = linear_of(source.out_proj.weight, source.out_proj.bias)
        self.bias_k, self.bias_v = source.bias_k, source.bias_v
        self.train(source.training)

    num_heads: int
    dropout: float
    batch_first: bool
    add_zero_attn: bool

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,  # noqa: FBT001, FBT002
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,  # noqa: FBT001, FBT002
        is_causal: bool = False,  # noqa: FBT001, FBT002
    ) -> tuple[Tensor, Tensor | None]:
        """As ``nn.MultiheadAttention``: (L, N, E), (N, L, E) with ``batch_first``, or (L, E) without a batch.

        Raises:
            RuntimeError: ``is_causal`` without the mask that it is a hint for.
        """
        if is_causal and attn_mask is None:
            raise RuntimeError("is_causal is a hint about attn_mask, which is missing")
        single = query.dim() == 2
        if single and key_padding_mask is not None:
            key_padding_mask = key_padding_mask.unsqueeze(0)
        q, k, v = self._projected(query, key, value)
        causal = is_causal and key_padding_mask is None and not need_weights
        mask = self._mask(None if causal else attn_mask, key_padding_mask, q)
        k, v = self._extended(k, self.bias_k), self._extended(v, self.bias_v)
        if need_weights:
            mixed, weights = self._weighed(q, k, v, mask)
        else:
            drop = self.dropout if self.training else 0.0
            mixed, weights = functional.scaled_dot_product_attention(q, k, v, mask, drop, causal), None
        output = self.out_proj(mixed.transpose(1, 2).flatten(2))
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if single:
            return output.squeeze(0), None if weights is None else weights.squeeze(0)
        return output if self.batch_first else output.transpose(0, 1), weights

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, (N, heads, length, E / heads) each."""
        q, k, v = self.q_proj(query), self.k_proj(key), self.v_proj(value)
        return self._heads(q), self._heads(k), self._heads(v)

    def _heads(self, rows: Tensor) -> Tensor:
        if rows.dim() == 2:
            rows = rows.unsqueeze(0)
        elif not self.batch_first:
            rows = rows.transpose(0, 1)
        split: Tensor = rows.unflatten(-1, (self.num_heads, -1))
        return split.transpose(1, 2)

    def _extended(self, rows: Tensor, bias: Tensor | None) -> Tensor:
        """Keys or values, with the learned row and the row of zeros behind them where there are such."""
        count = rows.shape[0]
        if bias is not None:
            learned = bias.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            rows = torch.cat([rows, learned.expand(count, -1, -1, -1)], 2)
        if self.add_zero_attn:
            rows = torch.cat([rows, torch.zeros_like(rows[:, :, :1])], 2)
        return rows

    def _mask(self, of_pairs: Tensor | None, of_keys: Tensor | None, q: Tensor) -> Tensor | None:
        """Both masks as one that is added to the scores, as wide as keys are once they are extended."""
        masks = []
        if of_pairs is not None:
            whole = of_pairs.unflatten(0, (-1, self.num_heads)) if of_pairs.dim() == 3 else of_pairs
            masks.append(_added(whole, q))
        if of_keys is not None:
            masks.append(_added(of_keys, q)[:, None, None])
        more = (self.bias_k is not None) + self.add_zero_attn
        if not masks:
            return None
        mask = masks[0] + masks[1] if len(masks) == 2 else masks[0]
        return functional.pad(mask, (0, more)) if more else mask

    def _weighed(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """The values' means, and the weights (N, heads, L, S) they were taken with."""
        scores = (q * math.sqrt(1 / q.shape[-1])) @ k.transpose(-2, -1)
        weights = torch.softmax(scores if mask is None else scores + mask, -1)
        weights = functional.dropout(weights, self.dropout, self.training)
        return weights @ v, weights


def _added(mask: Tensor, like: Tensor) -> Tensor:
    """A mask that is added to scores: minus infinity where a mask of truth values is true."""
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, -math.inf)


class AttentionAdapter:
    """Attention, and the encoders around it."""

    name = "attention"
    summary = "nn.MultiheadAttention, alone and in PyTorch's transformer layers: q_proj, k_proj, v_proj, out_proj"
    notice = ""

    def recognizes(self, module: nn.Module) -> bool:
        """By the class; an encoder as long as its fast path is on."""
        if isinstance(module, nn.TransformerEncoder):
            return bool(getattr(module, "use_nested_tensor", False))
        return isinstance(module, nn.MultiheadAttention)

    def adapt(self, module: nn.Module) -> nn.Module:
        """The attention by layers; an encoder itself, without its fast path.

        Raises:
            Unadaptable: a subclass with code of its own.
        """
        if isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False
            return module
        assert isinstance(module, nn.MultiheadAttention)
        if type(module).forward is not nn.MultiheadAttention.forward or "forward" in vars(module):
            raise Unadaptable(f"{type(module).__name__}: an attention whose forward is its own")
        return Attention(module)
