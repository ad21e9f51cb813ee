"""Exits: nets that answer at several depths, each exit a head of its own on what the trunk has come to by then.

Such a net names its heads, shallowest first, in an attribute `exits` (paths of submodules), and its forward returns
their logits as a tuple in that order. Every exit is a depth unit. One that a submodel lacks gives None, which the tuple
may hold or leave out; what lies beyond the deepest exit that is there need not run (`Exits` does not run it).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Absent(nn.Module):
    """What stands where an exit was left out: it gives no logits."""

    def forward(self, *given: Any, **named: Any) -> None:
        return None


class Exits(nn.Module):
    """A trunk of `blocks` behind a `stem`; head i stands behind the first `ends[i]` of the blocks."""

    def __init__(self, stem: nn.Module, blocks: Iterable[nn.Module], ends: Sequence[int], heads: Iterable[nn.Module]):
        super().__init__()
        self.stem, self.blocks, self.heads = stem, nn.Sequential(*blocks), nn.ModuleList(heads)
        self.ends = tuple(ends)
        self.exits = tuple(f"heads.{i}" for i in range(len(self.heads)))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x, begun, blocks, out = self.stem(x), 0, list(self.blocks), []
        for end, head in zip(self.ends, self.heads, strict=True):
            if not isinstance(head, Absent):
                for block in blocks[begun:end]:
                    x = block(x)
                out.append(head(x))
                begun = end
        return tuple(out)


def names_of(module: nn.Module) -> tuple[str, ...]:
    """The exits that a net names; () for an ordinary net, whatever else it calls `exits`."""
    found = getattr(module, "exits", ())
    named = isinstance(found, tuple | list) and all(isinstance(name, str) for name in found)
    return tuple(found) if named else ()


def logits_of(out: Any) -> tuple[Tensor, ...]:
    """What a net's forward returned, as the logits of the exits that are there, shallowest first."""
    return (out,) if isinstance(out, Tensor) else tuple(logits for logits in out if logits is not None)


def answer(out: Any, ensemble: bool = False) -> Tensor:
    """What the net answers: the logits of its deepest exit, or the mean of all exits' logits."""
    if isinstance(out, Tensor):
        return out
    logits = logits_of(out)
    return torch.stack(logits).mean(0) if ensemble else logits[-1]
