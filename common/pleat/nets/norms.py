"""Norms that survive cutting: a group norm with a fixed group *size*, whose groups go or stay whole."""

from __future__ import annotations

from torch import nn

CHANNELS_A_GROUP = 4


def group_norm(channels: int) -> nn.GroupNorm:
    """Group norm with `CHANNELS_A_GROUP` channels a group, at any width that is a multiple of it."""
    return nn.GroupNorm(channels // CHANNELS_A_GROUP, channels)
