"""Transformer: a small encoder of texts for classification, in the zoo as `transformer`.

Samples are token ids, as many as the longest text has, written as whole numbers of any type; 0 is padding. Learnt
places are added to the tokens' rows, pre-norm layers follow (each a depth unit), and the mean over all places but
padding is classified. What may be cut: the width of the stream, heads, hidden channels of each layer.

`exits` makes sizes of it that are deeper and deeper, each with a last layer, a norm, a pooler and a head of its own
(InclusiveFL): the layers below are one trunk for all. 0 and 1: the net as it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pleat.errors import UseError
from pleat.nets.arguments import parse_shape, positive
from pleat.nets.exits import Absent


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


class Exit(nn.Module):
    """What one size has of its own: its last layer, norm, pooler and head."""

    def __init__(self, width: int, heads: int, classes: int) -> None:
        super().__init__()
        self.layer, self.norm, self.pool = Layer(width, heads, 2 * width), nn.LayerNorm(width), Mean()
        self.pooler, self.head = nn.Linear(width, width), nn.Linear(width, classes)

    def forward(self, x: Tensor, padding: Tensor) -> Tensor:
        x = self.pool(self.norm(self.layer(x, padding)), padding)
        out: Tensor = self.head(torch.tanh(self.pooler(x)))
        return out


class Texts(nn.Module):
    """What all begin with: tokens as rows of a table, at their places, and a trunk of layers."""

    def __init__(self, places: int, layers: int, width: int, heads: int, vocabulary: int) -> None:
        super().__init__()
        self.table = nn.Embedding(vocabulary, width)
        self.places = nn.Parameter(torch.randn(1, places, width) * 0.02)
        self.layers = nn.ModuleList(Layer(width, heads, 2 * width) for _ in range(layers))
        nn.init.normal_(self.table.weight, std=0.02)

    def read(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The stream before the first layer, and where it is padding."""
        return self.table(ids) + self.places, hidden_places(ids)


class Encoder(Texts):
    """One size: all layers, and a head."""

    def __init__(self, places: int, classes: int, layers: int, width: int, heads: int, vocabulary: int) -> None:
        super().__init__(places, layers, width, heads, vocabulary)
        self.norm, self.pool, self.head = nn.LayerNorm(width), Mean(), nn.Linear(width, classes)

    def forward(self, ids: Tensor) -> Tensor:
        x, padding = self.read(ids)
        for layer in self.layers:
            x = layer(x, padding)
        out: Tensor = self.head(self.pool(self.norm(x), padding))
        return out


class Sizes(Texts):
    """Sizes of depths[0], depths[1], ... layers: all but a size's last, which is its own, are the trunk's first."""

    def __init__(
        self, places: int, classes: int, depths: Sequence[int], width: int, heads: int, vocabulary: int
    ) -> None:
        super().__init__(places, depths[-1] - 1, width, heads, vocabulary)
        self.depths = tuple(depths)
        self.tops = nn.ModuleList(Exit(width, heads, classes) for _ in depths)
        self.exits = tuple(f"tops.{i}" for i in range(len(depths)))

    def forward(self, ids: Tensor) -> tuple[Tensor, ...]:
        x, padding = self.read(ids)
        begun, trunk, out = 0, list(self.layers), []
        for depth, top in zip(self.depths, self.tops, strict=True):
            if not isinstance(top, Absent):
                for layer in trunk[begun : depth - 1]:
                    x = layer(x, padding)
                out.append(top(x, padding))
                begun = depth - 1
        return tuple(out)


def hidden_places(ids: Tensor) -> Tensor:
    """Where a text is padded. Its first place never counts as such: attention to nothing at all is no number."""
    return torch.cat((ids[:, :1] < 0, ids[:, 1:] == 0), 1)


def transformer(
    input_shape: str,
    classes: int,
    layers: int = 4,
    width: int = 64,
    heads: int = 4,
    vocabulary: int = 4096,
    exits: int = 0,
) -> nn.Module:
    """An encoder of `layers` layers with a stream of `width` and hidden parts twice as wide; with `exits`, sizes of
    evenly spaced depths up to `layers`. Raises UseError for samples that are no rows of tokens, heads that do not
    divide the width, or more exits than layers."""
    positive(classes=classes, layers=layers, width=width, heads=heads, vocabulary=vocabulary)
    shape = parse_shape(input_shape)
    if len(shape) != 1:
        raise UseError(f"net transformer takes texts as rows of token ids, such as 32, got samples of {input_shape}")
    if width % heads:
        raise UseError(f"net transformer: {heads} heads do not divide a width of {width}; try heads={_divisor(width)}")
    if isinstance(exits, bool) or not isinstance(exits, int) or not 0 <= exits <= layers:
        raise UseError(f"exits of transformer must be a whole number from 0 to its {layers} layers, got {exits!r}")
    if exits < 2:
        return Encoder(shape[0], classes, layers, width, heads, vocabulary)
    depths = [-(-(i + 1) * layers // exits) for i in range(exits)]
    return Sizes(shape[0], classes, depths, width, heads, vocabulary)


def _divisor(width: int) -> int:
    return next(heads for heads in (4, 3, 2, 1) if width % heads == 0)
