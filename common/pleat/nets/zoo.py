"""Zoo: small nets for federated learning on small devices. Each is a function of the data's shape and classes.

| name | what | parameters |
|---|---|---|
| mlp | two hidden layers, 256 and 128 | 51 k for 1x8x8 and 10 classes |
| cnn | two 3x3 convolutions, 32 and 64, one hidden layer of 128; no norm | 53 k for 1x8x8 and 10 classes |
| caldas | two 5x5 convolutions, 32 and 64, one hidden layer of 512 (Federated Dropout's CNN) | 1.7 M for 1x28x28 |
| resnet6 | six pre-activation blocks, 16-16-32-32-64-64, group norm | 176 k for 1x16x16 and 28 classes |
| resnet8 | ResNet for CIFAR: three stages, 16-32-64, of one block; group norm | 78 k for 3x32x32 and 10 classes |
| resnet20 | the same with three blocks a stage | 272 k for 3x32x32 and 10 classes |
| resnet56 | the same with nine blocks a stage | 856 k for 3x32x32 and 10 classes |
| resnet18 | ResNet-18 for small images, group norm in groups of 4 channels | 11.2 M for 3x32x32 and 10 classes |
| transformer | texts: four pre-norm layers of width 64, 4 heads (`transformer.py`) | 399 k for 32 words, 10 classes |

Residual blocks are written so that `trace` finds their units: a block whose shape stays the same is bypassed, a
widening one loses its branch and keeps its shortcut.

The residual nets take `exits`: that many heads, the last of them the net's own, behind evenly spaced blocks. An earlier
one widens and halves what it sees as the rest of the trunk would, by separable convolutions (DepthFL's bottleneck). The
mlp takes 2, one head behind each hidden layer; the transformer as many as it has layers. 0 and 1: the net as it is.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from itertools import pairwise

import torch
from torch import Tensor, nn

from pleat.errors import UseError
from pleat.nets.arguments import parse_shape, positive
from pleat.nets.exits import Exits
from pleat.nets.norms import Norm, group_norm, norm_named


def _image(text: str, least: int, net: str) -> tuple[int, int, int]:
    """Channels, height and width of samples that are images of at least `least` x `least`."""
    shape = parse_shape(text)
    if len(shape) != 3 or min(shape[1:]) < least:
        raise UseError(f"net {net} takes images CxHxW of at least {least}x{least}, got {text}; for others there is mlp")
    return shape[0], shape[1], shape[2]


def _check_exits(net: str, exits: int, most: int) -> None:
    if isinstance(exits, bool) or not isinstance(exits, int) or not 0 <= exits <= most:
        raise UseError(f"exits of {net} must be a whole number from 0 (one head, as without) to {most}, got {exits!r}")


def mlp(input_shape: str, classes: int, first: int = 256, second: int = 128, exits: int = 0) -> nn.Module:
    """Two hidden layers; the input is flattened, whatever its shape."""
    positive(classes=classes, first=first, second=second)
    _check_exits("mlp", exits, 2)
    size = math.prod(parse_shape(input_shape))
    if exits == 2:
        blocks = (nn.Sequential(nn.Linear(a, b), nn.ReLU()) for a, b in ((size, first), (first, second)))
        return Exits(nn.Flatten(), blocks, (1, 2), (nn.Linear(first, classes), nn.Linear(second, classes)))
    return nn.Sequential(
        OrderedDict(
            flat=nn.Flatten(),
            first=nn.Linear(size, first),
            relu1=nn.ReLU(),
            second=nn.Linear(first, second),
            relu2=nn.ReLU(),
            head=nn.Linear(second, classes),
        )
    )


def cnn(input_shape: str, classes: int, first: int = 32, second: int = 64, hidden: int = 128) -> nn.Module:
    """Two 3x3 convolutions, each halved by pooling, and one hidden layer."""
    positive(classes=classes, first=first, second=second, hidden=hidden)
    return _convolutions(_image(input_shape, 4, "cnn"), classes, 3, first, second, hidden)


def caldas(input_shape: str, classes: int, first: int = 32, second: int = 64, hidden: int = 512) -> nn.Module:
    """The CNN of Caldas et al. 2018: 5x5 convolutions, each halved by pooling, and one wide hidden layer."""
    positive(classes=classes, first=first, second=second, hidden=hidden)
    return _convolutions(_image(input_shape, 4, "caldas"), classes, 5, first, second, hidden)


def _convolutions(
    image: tuple[int, int, int], classes: int, kernel: int, first: int, second: int, hidden: int
) -> nn.Module:
    channels, height, width = image
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(channels, first, kernel, padding=kernel // 2),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(first, second, kernel, padding=kernel // 2),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flat=nn.Flatten(),
            hidden=nn.Linear(second * (height // 4) * (width // 4), hidden),
            relu3=nn.ReLU(),
            head=nn.Linear(hidden, classes),
        )
    )


def _conv3(into: int, out: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(into, out, 3, stride, padding=1, bias=False)


class PreActivation(nn.Module):
    """x + branch(x), where the branch norms before it convolves; a widening block has a 1x1 shortcut."""

    def __init__(self, into: int, out: int, stride: int) -> None:
        super().__init__()
        plain = into == out and stride == 1
        self.shortcut = None if plain else nn.Conv2d(into, out, 1, stride, bias=False)
        self.branch = nn.Sequential(
            OrderedDict(
                norm1=group_norm(into),
                relu1=nn.ReLU(),
                conv1=_conv3(into, out, stride),
                norm2=group_norm(out),
                relu2=nn.ReLU(),
                conv2=_conv3(out, out),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        short: Tensor = x if self.shortcut is None else self.shortcut(x)
        out: Tensor = short + self.branch(x)
        return out


class PostActivation(nn.Module):
    """relu(x + branch(x)), where the branch norms after it convolves; a widening block has a normed 1x1 shortcut."""

    def __init__(self, into: int, out: int, stride: int, norm: Norm) -> None:
        super().__init__()
        plain = into == out and stride == 1
        short = OrderedDict(conv=nn.Conv2d(into, out, 1, stride, bias=False), norm=norm(out))
        self.shortcut = None if plain else nn.Sequential(short)
        self.branch = nn.Sequential(
            OrderedDict(
                conv1=_conv3(into, out, stride),
                norm1=norm(out),
                relu=nn.ReLU(),
                conv2=_conv3(out, out),
                norm2=norm(out),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        short: Tensor = x if self.shortcut is None else self.shortcut(x)
        return torch.relu(short + self.branch(x))


def _head(into: int, wider: list[int], norm: Norm, classes: int) -> nn.Sequential:
    """Pooling and a linear map, behind a separable convolution, which halves the image, for each width of `wider`."""
    out = OrderedDict[str, nn.Module]()
    for i, width in enumerate(wider):
        out[f"down{i}"] = nn.Sequential(
            OrderedDict(
                depth=nn.Conv2d(into, into, 3, 2, padding=1, groups=into, bias=False),
                point=nn.Conv2d(into, width, 1, bias=False),
                norm=norm(width),
                relu=nn.ReLU(),
            )
        )
        into = width
    return nn.Sequential(
        out | OrderedDict(pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), head=nn.Linear(into, classes))
    )


def _with_exits(
    exits: int, stem: nn.Module, blocks: list[nn.Module], sizes: list[int], norm: Norm, classes: int, before: bool
) -> nn.Module:
    """Heads behind evenly spaced blocks; `sizes`: the widths after the stem and each block. `before`: blocks that norm
    before they convolve leave their sum to the head to norm."""
    ends, heads = [-(-(i + 1) * len(blocks) // exits) for i in range(exits)], []
    for end in ends:
        head = _head(sizes[end], sorted({s for s in sizes if s > sizes[end]}), norm, classes)
        first = OrderedDict[str, nn.Module](norm=norm(sizes[end]), relu=nn.ReLU())
        heads.append(nn.Sequential(first | OrderedDict(head.named_children())) if before else head)
    return Exits(stem, blocks, ends, heads)


def resnet6(input_shape: str, classes: int, width: int = 16, exits: int = 0) -> nn.Module:
    """Six pre-activation blocks of `width`, twice it and four times it."""
    positive(classes=classes, width=width)
    _check_exits("resnet6", exits, 6)
    if width % 4:
        raise UseError(f"width of resnet6 must be a multiple of 4, its norm groups' size, got {width}")
    channels, _, _ = _image(input_shape, 4, "resnet6")
    sizes = [width * k for k in (1, 1, 1, 2, 2, 4, 4)]
    blocks = [PreActivation(a, b, 1 if a == b else 2) for a, b in pairwise(sizes)]
    stem = _conv3(channels, width)
    if exits > 1:
        return _with_exits(exits, stem, [*blocks], sizes, group_norm, classes, True)
    return nn.Sequential(
        OrderedDict(
            stem=stem,
            blocks=nn.Sequential(*blocks),
            norm=group_norm(sizes[-1]),
            relu=nn.ReLU(),
            pool=nn.AdaptiveAvgPool2d(1),
            flat=nn.Flatten(),
            head=nn.Linear(sizes[-1], classes),
        )
    )


def resnet18(input_shape: str, classes: int, width: int = 64, norm: str = "group", exits: int = 0) -> nn.Module:
    """Four stages of two blocks, of `width` to eight times it; for small images: a 3x3 stem, no pooling before."""
    return _residual("resnet18", input_shape, classes, [width * k for k in (1, 2, 4, 8)], 2, norm, exits)


def resnet8(input_shape: str, classes: int, width: int = 16, norm: str = "group", exits: int = 0) -> nn.Module:
    """Three stages of one block, of `width` to four times it."""
    return _residual("resnet8", input_shape, classes, [width * k for k in (1, 2, 4)], 1, norm, exits)


def resnet20(input_shape: str, classes: int, width: int = 16, norm: str = "group", exits: int = 0) -> nn.Module:
    """Three stages of three blocks, of `width` to four times it."""
    return _residual("resnet20", input_shape, classes, [width * k for k in (1, 2, 4)], 3, norm, exits)


def resnet56(input_shape: str, classes: int, width: int = 16, norm: str = "group", exits: int = 0) -> nn.Module:
    """Three stages of nine blocks, of `width` to four times it."""
    return _residual("resnet56", input_shape, classes, [width * k for k in (1, 2, 4)], 9, norm, exits)


def _residual(net: str, text: str, classes: int, stages: list[int], blocks: int, norm: str, exits: int) -> nn.Module:
    """A stem, stages of `blocks` residual blocks, all but the first halving the image, and a linear head."""
    positive(classes=classes, width=stages[0])
    _check_exits(net, exits, blocks * len(stages))
    made = norm_named(norm)
    if stages[0] % 4 and norm == "group":
        raise UseError(f"width of {net} must be a multiple of 4, its norm groups' size, got {stages[0]}")
    channels, _, _ = _image(text, 1 << (len(stages) - 1), net)
    sizes = [stages[0], *(size for size in stages for _ in range(blocks))]
    made_blocks = [PostActivation(a, b, 1 if a == b else 2, made) for a, b in pairwise(sizes)]
    stem = nn.Sequential(OrderedDict(conv=_conv3(channels, stages[0]), norm=made(stages[0]), relu=nn.ReLU()))
    if exits > 1:
        return _with_exits(exits, stem, [*made_blocks], sizes, made, classes, False)
    return nn.Sequential(
        OrderedDict(
            stem=stem,
            blocks=nn.Sequential(*made_blocks),
            pool=nn.AdaptiveAvgPool2d(1),
            flat=nn.Flatten(),
            head=nn.Linear(sizes[-1], classes),
        )
    )
