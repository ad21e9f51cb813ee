"""Nets that no zoo has: one for every rule of tracing, and for every thing that must be left whole."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def grouped() -> nn.Module:
    """A depthwise convolution with a multiplier, then one in groups that go whole."""
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1, groups=8),
        nn.BatchNorm2d(16),
        nn.Conv2d(16, 12, 1, groups=4),
        nn.ReLU(),
        nn.Conv2d(12, 6, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 3),
    )


def transposed() -> nn.Module:
    """Transposed convolutions, plain and grouped, with a slope for every channel."""
    return nn.Sequential(
        nn.Conv2d(2, 8, 3),
        nn.ConvTranspose2d(8, 6, 3),
        nn.PReLU(6),
        nn.ConvTranspose2d(6, 9, 2, groups=3),
        nn.InstanceNorm2d(9, affine=True),
        nn.Conv2d(9, 3, 1),
        nn.Flatten(),
        nn.Linear(3 * 49, 4),
    )


class Concatenated(nn.Module):
    """Two branches side by side, normed together in groups of four, then flattened."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(2, 8, 1), nn.Conv2d(2, 12, 1)
        self.norm, self.head = nn.GroupNorm(5, 20), nn.Linear(20 * 9, 3)

    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat([F.relu(self.left(x)), self.right(x)], dim=1)
        out: Tensor = self.head(F.max_pool2d(self.norm(both), 2).flatten(1))
        return out


class Excited(nn.Module):
    """Squeeze and excitation: a small net whose output gates every channel of the large one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 16, 3, padding=1, bias=False)
        self.down, self.up, self.head = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        gate = self.up(F.silu(self.down(F.adaptive_avg_pool2d(x, 1))))
        out: Tensor = self.head((x * gate).mean(dim=(2, 3)))
        return out


class Bare(nn.Module):
    """A bare parameter scales the channels, another is a table along the places."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(5, 8), nn.Linear(8, 3)
        self.scale, self.table = nn.Parameter(torch.ones(8)), nn.Parameter(torch.zeros(1, 4, 8))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head((self.inner(x) * self.scale + self.table).mean(1))
        return out


class Twice(nn.Module):
    """One layer called twice on its own output, and a head that shares its weight with the first layer's transpose."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        out: Tensor = self.head(F.relu(self.again(F.relu(self.again(x)))))
        return out


class Tied(nn.Module):
    """A coder and a decoder of one weight: its rows are the hidden channels here and there."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.hidden, self.outer = nn.Linear(6, 8), nn.Linear(8, 8, bias=False), nn.Linear(8, 6)
        self.more = nn.Linear(8, 8, bias=False)
        self.more.weight = self.hidden.weight

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.outer(F.relu(self.more(F.relu(self.hidden(F.relu(self.inner(x)))))))
        return out


class Sideways(nn.Module):
    """Channels last: linear layers at every place, put back in front for a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.conv, self.head = nn.Linear(2, 8), nn.Conv2d(8, 4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.inner(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2).contiguous()
        x = torch.relu(self.conv(x)).sum(dim=[2, 3], keepdim=True)
        out: Tensor = self.head(x.view(x.size(0), -1))
        return out


class Words(nn.Module):
    """An embedding, a layer norm, and a mean over the places."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.norm = nn.Embedding(10, 8), nn.LayerNorm(8)
        self.inner, self.head = nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(F.relu(self.inner(self.norm(self.table(x.long())))).mean(1))
        return out


EXACT = {  # net, shape of a sample, groups that may be cut: name -> (size, step)
    "grouped": (grouped, (2, 6, 6), {"0": (4, 1), "6": (6, 1)}),
    "transposed": (transposed, (2, 6, 6), {"0": (8, 1), "1": (3, 1), "5": (3, 1)}),
    "concatenated": (Concatenated, (2, 7, 7), {"left": (8, 4), "right": (12, 4)}),
    "excited": (Excited, (2, 6, 6), {"stem": (16, 1), "down": (4, 1)}),
    "bare": (Bare, (4, 5), {"inner": (8, 1)}),
    "twice": (Twice, (6,), {"first": (8, 1)}),
    "tied": (Tied, (6,), {"inner": (8, 1)}),
    "sideways": (Sideways, (2, 6, 6), {"inner": (8, 1), "conv": (4, 1)}),
}


class _Head(nn.Module):
    """A hidden layer `inner` of 8 channels, something odd, and a head."""

    def __init__(self, odd: nn.Module | None = None, wide: int = 8) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(6, 8), nn.Linear(wide, 3)
        if odd is not None:
            self.odd = odd

    def between(self, x: Tensor) -> Tensor:
        out: Tensor = self.odd(x)
        return out

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.between(self.inner(x)))
        return out


class Branching(nn.Module):
    """Control flow that depends on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.weight(x) if x.sum() > 0 else x
        return out


class Literal(_Head):
    def between(self, x: Tensor) -> Tensor:
        return x.view(-1, 8)


class Taken(_Head):
    """Channels taken at places that are written down."""

    def between(self, x: Tensor) -> Tensor:
        left, right = x[:, :4], x[:, 4:]
        return torch.cat([right, left], dim=1)


class Split(_Head):
    """Pieces of a length that is written down."""

    def between(self, x: Tensor) -> Tensor:
        left, right = x.split(4, dim=1)
        return torch.cat([right, left], dim=1)


class Scaled(_Head):
    """A factor that follows from the number of channels."""

    def between(self, x: Tensor) -> Tensor:
        return x * x.size(1) ** -0.5


class Asked(_Head):
    """A check of the number of channels, which a smaller net would not pass."""

    def between(self, x: Tensor) -> Tensor:
        if x.shape[1] != 8:
            raise ValueError("eight channels, please")
        return x


class Handed(_Head):
    """The number of channels given to an axis that has others."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(6, 8)

    def forward(self, x: Tensor) -> Tensor:
        other: Tensor = self.other(x)
        out: Tensor = self.head(other.view(x.size(0), self.inner(x).size(1)))
        return out


class Looked(_Head):
    """The weights of an attention, which are means over its heads: those must stay, and what they see may go."""

    def __init__(self) -> None:
        super().__init__()
        self.odd = nn.MultiheadAttention(8, 2, batch_first=True)

    def between(self, x: Tensor) -> Tensor:
        one = x.unsqueeze(1)
        _, weights = self.odd(one, one, one)
        out: Tensor = torch.softmax(x, dim=1) * weights.mean()
        return out


class Constant(_Head):
    """A constant of the width's length, which nothing saves."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("constant", torch.arange(8.0), persistent=False)

    def between(self, x: Tensor) -> Tensor:
        return x + self.constant


class Mixed(_Head):
    """Samples and channels in one axis, which looks like a plain flatten where there is one sample."""

    def between(self, x: Tensor) -> Tensor:
        return x.reshape(-1).reshape(-1, 8)


class Summed(_Head):
    def between(self, x: Tensor) -> Tensor:
        return x - x.mean(dim=1, keepdim=True)


class Joined(_Head):
    """Hidden channels added to the input's, which are never cut."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(x + self.inner(x))
        return out


class Hooked(_Head):
    def __init__(self) -> None:
        super().__init__(nn.Linear(8, 8))
        self.odd.register_forward_hook(lambda module, args, out: out * torch.arange(8.0))


FROZEN = {  # net, the group `inner` of which must be frozen, and what its reason says
    "a recurrent layer": (lambda: _Head(nn.GRUCell(8, 8)), "odd, a GRUCell: no rule cuts it"),
    "data-dependent control flow": (lambda: _Head(Branching()), "odd, which cannot be traced: symbolically traced"),
    "a length written in the net": (Literal, "has its length 8 written in it"),
    "places written down": (Taken, "takes certain places of it"),
    "pieces of a length written down": (Split, r"has the lengths [4, 4] of its pieces written in it"),
    "a factor of the width": (Scaled, "computes with its length"),
    "a check of the width": (Asked, "computes with its length"),
    "the width of one given to another": (Handed, "gives an axis the length of another"),
    "a softmax beside an attention": (Looked, "normalises along this axis"),
    "a constant": (Constant, "channels of another kind"),
    "samples and channels mixed": (Mixed, "mixes it with other axes"),
    "a mean over channels": (Summed, "mean goes over this axis"),
    "a softmax over channels": (lambda: _Head(nn.Softmax(dim=1)), "normalises along this axis"),
    "a norm without tensors": (lambda: _Head(nn.GroupNorm(2, 8, affine=False)), "has its length written in it"),
    "hooks": (Hooked, "Linear with hooks"),
    "the input": (Joined, "the net's input"),
}
