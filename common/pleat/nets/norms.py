"""Norms that survive cutting: a group norm with a fixed group *size*, whose groups go or stay whole; a batch norm.

A batch norm's statistics are averaged over the devices that hold a channel; where sizes differ much they fit no size
well, unless a recipe asks for each size's own (`objective.statistics`). A group norm, which has none, is what nets of
the zoo have unless asked for the other.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from pleat.errors import UseError

CHANNELS_A_GROUP = 4

Norm = Callable[[int], nn.Module]


def group_norm(channels: int) -> nn.GroupNorm:
    """Group norm with `CHANNELS_A_GROUP` channels a group, at any width that is a multiple of it."""
    return nn.GroupNorm(channels // CHANNELS_A_GROUP, channels)


NORMS: dict[str, Norm] = {"group": group_norm, "batch": nn.BatchNorm2d}


def norm_named(name: str) -> Norm:
    """The maker of norms called `name`. Raises UseError."""
    if name not in NORMS:
        raise UseError(f"norm must be one of {', '.join(NORMS)}, got {name!r}")
    return NORMS[name]
