"""Lookup: embeddings that take their indices as whatever numbers samples are made of.

Samples are float32, whole numbers in them exact up to 2^24; torch's own embedding takes integers only.
"""

from __future__ import annotations

import torch
from torch import nn

from pleat.errors import UseError


class Lookup(nn.Embedding):
    """nn.Embedding of whole numbers of any type."""

    is_layer = True  # to be traced as one step

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        try:
            return super().forward(input if not input.is_floating_point() else input.long())
        except IndexError:
            low, high, rows = int(input.min()), int(input.max()), self.num_embeddings
            raise UseError(
                f"samples hold numbers from {low} to {high}, the net's embedding has rows 0 to {rows - 1}; "
                f"make the shards with --vocabulary {rows}, or name a net of your own with a larger table"
            ) from None


def use_lookups(module: nn.Module) -> nn.Module:
    """Let every embedding of `module` be a `Lookup`; its tensors and their names stay. Returns the module."""
    for part in module.modules():
        if type(part) is nn.Embedding:
            part.__class__ = Lookup
    return module
