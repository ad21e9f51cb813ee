"""A small convolutional net with batch norms, as somebody's own net: imported by name, like any other."""

from __future__ import annotations

import torch
from torch import nn

from pleat.nets.build import parse_shape


def build(input_shape: str, classes: int, width: int = 16) -> nn.Module:
    channels, *_ = parse_shape(input_shape)
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * width, classes),
    )


def one_norm(input_shape: str, classes: int) -> nn.Module:
    """Nothing but a batch norm of the sample's channels and a linear head: statistics that can be worked by hand."""
    channels, *_ = parse_shape(input_shape)
    return nn.Sequential(nn.BatchNorm2d(channels), nn.Flatten(), _Head(channels, classes))


class _Head(nn.Module):
    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.linear(x)
        return out
