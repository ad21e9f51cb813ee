"""Heads: an attention that has lost some of its heads, or whose input is narrower than its heads are together.

torch's own derives the width of a head from the width of its input. Tensors keep torch's names and layout.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FewerHeads(nn.MultiheadAttention):
    """`num_heads` heads of `head_dim` channels each, whatever the widths of queries, keys and values are."""

    is_layer = True  # to be traced as one step

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As nn.MultiheadAttention's, for batches; `is_causal` is a hint there, and of no use here."""
        if not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        q, k, v = (self._split(x) for x in self._projected(query, key, value))
        mask = _added(attn_mask, q)
        if mask is not None and mask.dim() == 3:  # one for every sample and head
            mask = mask.view(len(q), -1, *mask.shape[1:])
        hidden = _added(key_padding_mask, q)
        if hidden is not None:
            hidden = hidden[:, None, None, :]
            mask = hidden if mask is None else mask + hidden
        if mask is not None and mask.shape[-1] < k.shape[2]:  # what was appended is never masked
            mask = F.pad(mask, (0, k.shape[2] - mask.shape[-1]))
        rate = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = q @ k.transpose(-2, -1) * self.head_dim**-0.5
            weights = torch.softmax(scores if mask is None else scores + mask, -1)
            mixed = F.dropout(weights, rate) @ v
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, mask, rate)
        out = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return (out if self.batch_first else out.transpose(0, 1)), weights

    def _projected(self, *entering: Tensor) -> list[Tensor]:
        packed: Any = self.in_proj_weight
        weights = (
            packed.chunk(3) if packed is not None else (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        )
        biases = self.in_proj_bias.chunk(3) if self.in_proj_bias is not None else (None, None, None)
        q, k, v = (F.linear(x, w, b) for x, w, b in zip(entering, weights, biases, strict=True))
        if self.bias_k is not None and self.bias_v is not None:
            k, v = (torch.cat([x, b.expand(len(x), 1, -1)], 1) for x, b in ((k, self.bias_k), (v, self.bias_v)))
        if self.add_zero_attn:
            k, v = (F.pad(x, (0, 0, 0, 1)) for x in (k, v))
        return [q, k, v]

    def _split(self, x: Tensor) -> Tensor:
        """[samples, places, width] -> [samples, heads, places, width of a head]."""
        return x.view(*x.shape[:-1], -1, self.head_dim).transpose(1, 2)


def _added(mask: Tensor | None, q: Tensor) -> Tensor | None:
    """A mask as numbers to add to scores."""
    if mask is None or mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=q.dtype, device=q.device).masked_fill(mask, float("-inf"))
