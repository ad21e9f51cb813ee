"""Nets of the kinds that people bring, each with something that no other net of the tests has."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint


def double(into: int, out: int) -> nn.Sequential:
    """Two convolutions, normed and rectified in place."""
    return nn.Sequential(
        nn.Conv2d(into, out, 3, padding=1, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(inplace=True),
        nn.Conv2d(out, out, 3, padding=1),
        nn.ReLU(inplace=True),
    )


class UNet(nn.Module):
    """Down twice and up twice, what was there before beside it; every place gets logits, of which the mean is taken."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.low = double(3, 8), double(8, 12), double(12, 16)
        self.up2, self.up1 = nn.ConvTranspose2d(16, 12, 2, 2), nn.ConvTranspose2d(12, 8, 2, 2)
        self.back2, self.back1, self.out = double(24, 12), double(16, 8), nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down1(x)
        second = self.down2(F.max_pool2d(first, 2))
        x = self.back2(torch.cat([second, self.up2(self.low(F.max_pool2d(second, 2)))], 1))
        out: Tensor = self.out(self.back1(torch.cat((first, self.up1(x)), dim=1)))
        return out.mean((-2, -1))


class Halved(nn.Module):
    """ShuffleNet's units: one half passes, the other is convolved, and both are shuffled."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(16, 4)
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 8, 1))
            for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for branch in self.branches:
            left, right = x.chunk(2, dim=1)
            x = torch.cat((left, branch(right)), dim=1)
            n, c, h, w = x.size()
            x = x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, -1, h, w)
        out: Tensor = self.head(x.mean([2, 3]))
        return out


class ConvNeXtBlock(nn.Module):
    """Depthwise, then channels last: a layer norm, two linear layers, a scale for every channel, and a sum."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(width, width, 7, padding=3, groups=width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(0.1 * torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.gamma * self.down(F.gelu(self.up(y)))
        return x + y.permute(0, 3, 1, 2)


class InvertedResidual(nn.Module):
    """Out to many channels, depthwise, and back to few: a sum where nothing changes shape."""

    def __init__(self, into: int, out: int, stride: int) -> None:
        super().__init__()
        self.sums, wide = stride == 1 and into == out, 4 * into
        self.conv = nn.Sequential(
            nn.Conv2d(into, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6(inplace=True),
            nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.ReLU6(inplace=True),
            nn.Conv2d(wide, out, 1, bias=False), nn.BatchNorm2d(out),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.conv(x) if self.sums else self.conv(x)
        return out


class Dense(nn.Module):
    """What a layer makes is put beside what it was made of."""

    def __init__(self, into: int) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(into), nn.Conv2d(into, 4, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(F.relu(self.norm(x)))], 1)


class PoolFormerBlock(nn.Module):
    """A norm over all channels and places, and a mean of neighbours in the place of an attention."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(1, width), nn.GroupNorm(1, width)
        self.scale = nn.Parameter(torch.ones(width, 1, 1))
        self.mlp = nn.Sequential(nn.Conv2d(width, 2 * width, 1), nn.GELU(), nn.Conv2d(2 * width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.scale * (F.avg_pool2d(y, 3, 1, 1) - y)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class Grouped(nn.Module):
    """Attention by hand, fewer keys than queries, turned by their places; or one projection taken apart in three."""

    def __init__(self, packed: bool) -> None:
        super().__init__()
        self.packed, self.into, self.out, self.head = packed, nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 4)
        self.q = nn.Linear(16, 48 if packed else 16)
        if not packed:
            self.k, self.v = nn.Linear(16, 8), nn.Linear(16, 8)
        angle = torch.outer(torch.arange(5.0), torch.tensor([1.0, 0.1, 1.0, 0.1]))
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def turned(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, -1)
        return x * self.cos + torch.cat((-right, left), -1) * self.sin

    def forward(self, x: Tensor) -> Tensor:
        x = self.into(x)
        b, t, _ = x.shape
        if self.packed:
            q, k, v = self.q(x).view(b, t, 3, -1, 4).permute(2, 0, 3, 1, 4)
        else:
            q, k, v = (f(x).view(b, t, -1, 4).transpose(1, 2) for f in (self.q, self.k, self.v))
            k, v = k.repeat_interleave(2, dim=1), v.repeat_interleave(2, dim=1)
        y = F.scaled_dot_product_attention(self.turned(q), self.turned(k), v, is_causal=True)
        out: Tensor = self.head((x + self.out(y.transpose(1, 2).flatten(2))).mean(1))
        return out


class Linearised(nn.Module):
    """Queries and keys that are nowhere 0, multiplied over their channels: none of those may go. Values may."""

    def __init__(self, positive: bool) -> None:
        super().__init__()
        self.positive, self.into, self.head = positive, nn.Linear(6, 12), nn.Linear(10, 4)
        self.q, self.k, self.v = nn.Linear(12, 8), nn.Linear(12, 8), nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.into(x)
        q, k = F.elu(self.q(x)), F.elu(self.k(x))
        if self.positive:
            q, k = q + 1, k + 1
        mixed = torch.einsum("btd,bde->bte", q, torch.einsum("btd,bte->bde", k, self.v(x)))
        out: Tensor = self.head(mixed.mean(1))
        return out


class Windows(nn.Module):
    """Attention within windows of an image, which are taken apart and put together again."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.head = nn.Conv2d(3, 16, 1), nn.Linear(16, 4)
        self.attend = nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.into(x)
        b, c, h, w = x.shape
        y = x.view(b, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, c)
        y = self.attend(y, y, y)[0].view(b, h // 4, w // 4, 4, 4, -1).permute(0, 5, 1, 3, 2, 4).reshape(b, c, h, w)
        out: Tensor = self.head((x + y).mean((2, 3)))
        return out


class Selective(nn.Module):
    """Two kernels side by side, weighted by what both see; a step that is computed twice to save memory."""

    def __init__(self) -> None:
        super().__init__()
        self.small, self.large = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(3, 12, 5, padding=2)
        self.squeeze, self.choose, self.head = nn.Linear(12, 6), nn.Linear(6, 24), nn.Linear(12, 4)
        self.again = nn.Sequential(nn.Conv2d(12, 10, 3, padding=1), nn.ReLU(), nn.Conv2d(10, 12, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        both = torch.stack([self.small(x), self.large(x)], 1)
        weights = self.choose(F.relu(self.squeeze(both.sum(1).mean((2, 3))))).view(x.size(0), 2, -1).softmax(1)
        x = (both * weights[..., None, None]).sum(1)
        x = x + checkpoint(self.again, x, use_reentrant=False)
        out: Tensor = self.head(x.mean((2, 3)))
        return out


class Sliding(nn.Module):
    """Res2Net: pieces of channels convolved one after another, each with what came of the one before."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out, self.head = nn.Conv2d(3, 24, 1), nn.Conv2d(24, 8, 1), nn.Linear(8, 4)
        self.convs = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        first, second, third = torch.chunk(self.into(x), 3, 1)
        one = F.relu(self.convs[0](first))
        two = F.relu(self.convs[1](one + second))
        out: Tensor = self.head(F.relu(self.out(torch.cat([one, two, third], 1))).amax((2, 3)))
        return out


class Conditioned(nn.Module):
    """Scale and shift made of the input; signs apart, so that each channel stands twice; a branch used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.film, self.both = nn.Conv2d(3, 8, 3), nn.Linear(3, 16), nn.Conv2d(16, 6, 1)
        self.shared, self.head = nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 6)), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        scale, shift = self.film(x.mean((2, 3))).chunk(2, 1)
        y = self.conv(x) * (1 + scale[..., None, None]) + shift[..., None, None]
        y = self.both(F.relu(torch.cat([y, -y], 1)))
        low, high = self.shared(y.amin((2, 3))), self.shared(y.amax((2, 3)))
        out: Tensor = self.head(torch.cat([(low - high).abs(), low * high], -1))
        return out


class Headed(nn.Module):
    """A layer of 12, something odd, a layer of 10, and a head."""

    def __init__(self, odd: nn.Module) -> None:
        super().__init__()
        self.into, self.odd, self.next, self.head = nn.Linear(6, 12), odd, nn.Linear(12, 10), nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(F.relu(self.next(F.relu(self.odd(self.into(x))))))
        return out


def headed_image(*layers: nn.Module, wide: int = 16) -> nn.Module:
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(wide, 4))


def convnext() -> nn.Module:
    return headed_image(nn.Conv2d(3, 8, 2, 2), ConvNeXtBlock(8), nn.Conv2d(8, 16, 2, 2), ConvNeXtBlock(16))


def mobilenet() -> nn.Module:
    return headed_image(nn.Conv2d(3, 8, 3), InvertedResidual(8, 8, 1), InvertedResidual(8, 12, 2), wide=12)


def densenet() -> nn.Module:
    first, second = (Dense(8), Dense(12)), (nn.Conv2d(16, 10, 1), nn.AvgPool2d(2), Dense(10))
    return headed_image(nn.Conv2d(3, 8, 3), *first, *second, wide=14)


def poolformer() -> nn.Module:
    return headed_image(nn.Conv2d(3, 16, 2, 2), PoolFormerBlock(16), PoolFormerBlock(16))


IMAGE, ROWS, FLAT = (3, 8, 8), (5, 6), (6,)
_U = {"down1.0": 8, "down1.3": 8, "down2.0": 12, "down2.3": 12, "low.0": 16, "low.3": 16}
_U |= {"up2": 12, "up1": 8, "back2.0": 12, "back2.3": 12, "back1.0": 8, "back1.3": 8}
KINDS = {  # net, shape of a sample, sizes of the groups that may be cut, units; as in `strangers.py`
    "a U-Net": (UNet, IMAGE, _U, ()),
    "halves shuffled": (Halved, IMAGE, {"stem[:8][:4]": 4, "branches.0.0": 8, "branches.1.0": 8}, ()),
    "ConvNeXt": (convnext, IMAGE, {"0": 8, "1.up": 32, "2": 16, "3.up": 64}, ("1", "3")),
    "inverted residuals": (mobilenet, IMAGE, {"0": 8, "1.conv.0": 32, "2.conv.0": 32, "2.conv.6": 12}, ("1",)),
    "a dense net": (densenet, IMAGE, {"0": 8, "1.conv": 4, "2.conv": 4, "3": 10, "5.conv": 4}, ()),
    "norms over everything": (poolformer, IMAGE, {"0": 16, "1.mlp.0": 32, "2.mlp.0": 32}, ("1", "2")),
    "queries in groups": (lambda: Grouped(False), ROWS, {"into": 16, "k": 2}, ()),
    "a packed projection": (lambda: Grouped(True), ROWS, {"into": 16, "q[:4]": 4}, ()),
    "linear attention": (lambda: Linearised(False), ROWS, {"into": 12, "q": 8, "v": 10}, ()),
    "linear attention, positive": (lambda: Linearised(True), ROWS, {"into": 12, "v": 10}, ()),
    "windows": (Windows, IMAGE, {"into": 16, "attend.heads": 4}, ()),
    "selective kernels": (Selective, IMAGE, {"small": 12, "squeeze": 6, "again.0": 10}, ("again",)),
    "pieces in turn": (Sliding, IMAGE, {"into[:8]": 8, "convs.1": 8, "out": 8}, ()),
    "conditioned": (Conditioned, IMAGE, {"film[:8]": 8, "both": 6, "shared.0": 10, "shared.2": 6}, ()),
}


class Asking(nn.Module):
    """Control flow that depends on the data, in the net itself."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(x * 2 if x.mean() > 0 else x)
        return out


class Named(Asking):
    def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"logits": self.head(x)}


class Written(Asking):
    def forward(self, x: Tensor) -> Tensor:
        x = x.clone()
        x[:, 0] = 0.5
        out: Tensor = self.head(x)
        return out


WHOLE = {  # something odd -> what of `Headed` may still be cut, and what is said of the odd part
    "a parametrised layer": (lambda: parametrizations.weight_norm(nn.Linear(12, 12)), {"next"}, "no rule cuts it"),
    "a spectral norm": (lambda: parametrizations.spectral_norm(nn.Linear(12, 12)), {"next"}, "no rule cuts it"),
    "a norm without tensors": (lambda: nn.LayerNorm(12, elementwise_affine=False), {"next"}, "no tensors to tell"),
    "norm groups without tensors": (lambda: nn.GroupNorm(3, 12, affine=False), {"next"}, "no tensors to tell"),
    "a batch norm without tensors": (lambda: nn.BatchNorm1d(12, affine=False, track_running_stats=False),
                                     {"into", "next"}, ""),
}  # fmt: skip
REFUSED = {  # net -> what is said
    "control flow on data": (Asking, "net Asking: its forward cannot be traced: symbolically traced variables"),
    "a dict of results": (Named, "net Named: forward must return one tensor of logits, it returned"),
    "writing into a value": (
        Written,
        "net Written: its forward cannot be traced: 'Value' object does not support",
    ),
    "a compiled part": (lambda: Headed(torch.jit.script(nn.ReLU())), "net Headed: its part 'odd' is compiled"),
    "a compiled net": (lambda: torch.jit.script(nn.Linear(6, 4)), "it is compiled (RecursiveScriptModule); build the"),
}
