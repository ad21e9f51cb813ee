"""Spelled: the forwards of torch's own composite modules, spelled out layer by layer so that they can be traced.

torch's versions also choose between kernels; what they compute is this.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn


def encoder_layer(
    self: Any, src: Any, src_mask: Any = None, src_key_padding_mask: Any = None, is_causal: bool = False
) -> Any:
    """nn.TransformerEncoderLayer: attention and feed-forward, each added to what entered, normed before or after."""
    attend = (src_mask, src_key_padding_mask)
    if self.norm_first:
        x = src + self._sa_block(self.norm1(src), *attend, is_causal=is_causal)
        return x + self._ff_block(self.norm2(x))
    x = self.norm1(src + self._sa_block(src, *attend, is_causal=is_causal))
    return self.norm2(x + self._ff_block(x))


def encoder(
    self: Any, src: Any, mask: Any = None, src_key_padding_mask: Any = None, is_causal: bool | None = None
) -> Any:
    """nn.TransformerEncoder: its layers, one after another, and a last norm."""
    for layer in self.layers:
        causal = bool(is_causal) and mask is not None
        src = layer(src, src_mask=mask, src_key_padding_mask=src_key_padding_mask, is_causal=causal)
    return src if self.norm is None else self.norm(src)


def decoder_layer(
    self: Any,
    tgt: Any,
    memory: Any,
    tgt_mask: Any = None,
    memory_mask: Any = None,
    tgt_key_padding_mask: Any = None,
    memory_key_padding_mask: Any = None,
    tgt_is_causal: bool = False,
    memory_is_causal: bool = False,
) -> Any:
    """nn.TransformerDecoderLayer: as the encoder's, with attention to `memory` in between."""
    own, other = (tgt_mask, tgt_key_padding_mask, tgt_is_causal), (memory_mask, memory_key_padding_mask)
    if self.norm_first:
        x = tgt + self._sa_block(self.norm1(tgt), *own)
        x = x + self._mha_block(self.norm2(x), memory, *other, memory_is_causal)
        return x + self._ff_block(self.norm3(x))
    x = self.norm1(tgt + self._sa_block(tgt, *own))
    x = self.norm2(x + self._mha_block(x, memory, *other, memory_is_causal))
    return self.norm3(x + self._ff_block(x))


def decoder(self: Any, tgt: Any, memory: Any, tgt_mask: Any = None, memory_mask: Any = None, **more: Any) -> Any:
    """nn.TransformerDecoder: its layers, one after another, and a last norm."""
    masks = {k: v for k, v in more.items() if v is not None}
    for layer in self.layers:
        tgt = layer(tgt, memory, tgt_mask=tgt_mask, memory_mask=memory_mask, **masks)
    return tgt if self.norm is None else self.norm(tgt)


SPELLED: dict[type[nn.Module], Callable[..., Any]] = {
    nn.TransformerEncoderLayer: encoder_layer,
    nn.TransformerEncoder: encoder,
    nn.TransformerDecoderLayer: decoder_layer,
    nn.TransformerDecoder: decoder,
}
