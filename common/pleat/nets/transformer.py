"""Transformer: a small encoder of texts for classification, in the zoo as `transformer`.

Samples are token ids, as many as the longest text has, written as whole numbers of any type; 0 is padding. Learnt
places are added to the tokens' rows, pre-norm layers follow (each a depth unit), and the mean over all places but
padding is classified. What may be cut: the width of the stream, heads, hidden channels of each layer.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pleat.errors import UseError
from pleat.nets.arguments import parse_shape, positive


class Layer(nn.Module):
    """x + attention(norm(x)), then the same of a feed-forward part: the identity where both last maps are 0."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.into, self.back = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.attention(y, y, y, key_padding_mask=padding, need_weights=False)[0]
        out: Tensor = x + self.back(torch.relu(self.into(self.norm2(x))))
        return out


class Mean(nn.Module):
    """The mean over all places but padding."""

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        counted = (~padding).unsqueeze(2).float()
        return (x * counted).sum(1) / counted.sum(1)


class Encoder(nn.Module):
    def __init__(self, places: int, classes: int, layers: int, width: int, heads: int, vocabulary: int) -> None:
        super().__init__()
        self.table = nn.Embedding(vocabulary, width)
        self.places = nn.Parameter(torch.randn(1, places, width) * 0.02)
        self.layers = nn.ModuleList(Layer(width, heads, 2 * width) for _ in range(layers))
        self.norm, self.pool, self.head = nn.LayerNorm(width), Mean(), nn.Linear(width, classes)
        nn.init.normal_(self.table.weight, std=0.02)

    def forward(self, ids: Tensor) -> Tensor:
        padding = hidden_places(ids)
        x = self.table(ids) + self.places
        for layer in self.layers:
            x = layer(x, padding)
        out: Tensor = self.head(self.pool(self.norm(x), padding))
        return out


def hidden_places(ids: Tensor) -> Tensor:
    """Where a text is padded. Its first place never counts as such: attention to nothing at all is no number."""
    return torch.cat((ids[:, :1] < 0, ids[:, 1:] == 0), 1)


def transformer(
    input_shape: str, classes: int, layers: int = 4, width: int = 64, heads: int = 4, vocabulary: int = 4096
) -> nn.Module:
    """An encoder of `layers` layers with a stream of `width` and hidden parts twice as wide. Raises UseError for
    samples that are no rows of tokens, or heads that do not divide the width."""
    positive(classes=classes, layers=layers, width=width, heads=heads, vocabulary=vocabulary)
    shape = parse_shape(input_shape)
    if len(shape) != 1:
        raise UseError(f"net transformer takes texts as rows of token ids, such as 32, got samples of {input_shape}")
    if width % heads:
        raise UseError(f"net transformer: {heads} heads do not divide a width of {width}; try heads={_divisor(width)}")
    return Encoder(shape[0], classes, layers, width, heads, vocabulary)


def _divisor(width: int) -> int:
    return next(heads for heads in (4, 3, 2, 1) if width % heads == 0)
