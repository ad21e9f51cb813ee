"""Nets as strangers write them: shapes read in the forward, positions counted from them, heads, gates and states."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LETTERS = 20


class Letters(nn.Module):
    """What the text nets share: an embedding of letters, written as numbers of any kind."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(LETTERS, width)

    def read(self, x: Tensor) -> Tensor:
        out: Tensor = self.table((x.abs() * 4).long() % LETTERS)
        return out


class Encoder(Letters):
    """torch's transformer encoder with a learnt table of positions."""

    def __init__(self, before: bool = False, batch_first: bool = True, causal: bool = False) -> None:
        super().__init__(16)
        self.pos, self.causal = nn.Parameter(torch.zeros(1, 12, 16)), causal
        layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=batch_first, norm_first=before, activation="gelu")
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.read(x) * math.sqrt(16) + self.pos[:, : x.size(1)]
        if self.causal:
            mask = nn.Transformer.generate_square_subsequent_mask(x.size(1))
            out: Tensor = self.head(self.encoder(x, mask=mask)[:, -1])
        else:
            out = self.head(self.encoder(x).mean(1))
        return out


class Decoder(nn.Module):
    """A few learnt questions asked of what was seen."""

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Linear(6, 16)
        self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(16, 4, 24, batch_first=True), 1)
        self.questions, self.head = nn.Parameter(torch.randn(1, 3, 16)), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        asked = self.questions.expand(x.size(0), -1, -1)
        out: Tensor = self.head(self.decoder(asked, self.into(x)).mean(1))
        return out


class Attending(nn.Module):
    """One attention with all that torch's can have."""

    def __init__(self, **more: bool) -> None:
        super().__init__()
        self.into, self.head = nn.Linear(6, 16), nn.Linear(16, 3)
        self.attend = nn.MultiheadAttention(16, 4, **{"batch_first": True, **more})

    def forward(self, x: Tensor) -> Tensor:
        x = self.into(x)
        seen, _ = self.attend(x, x, x)
        out: Tensor = self.head((x + seen).mean(1))
        return out


class Crossing(nn.Module):
    """Queries of one width, keys and values of another."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow, self.head = nn.Linear(6, 16), nn.Linear(6, 8), nn.Linear(16, 3)
        self.attend = nn.MultiheadAttention(16, 4, kdim=8, vdim=8, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        other = self.narrow(x)
        out: Tensor = self.head(self.attend(self.wide(x), other, other, need_weights=False)[0].mean(1))
        return out


class Recurrent(Letters):
    """Letters, a recurrent layer of any kind, and the last place's state."""

    def __init__(self, kind: type[nn.RNNBase] = nn.LSTM, layers: int = 1, both: bool = False, project: int = 0) -> None:
        super().__init__(8)
        more = {"proj_size": project} if project else {}
        self.rnn = kind(8, 12, layers, batch_first=True, bidirectional=both, **more)  # type: ignore[arg-type]
        self.head = nn.Linear((project or 12) * (1 + both), LETTERS)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> Tensor:
        seen, state = self.rnn(self.read(x), state)
        out: Tensor = self.head(seen[:, -1, :])
        return out


class Begun(Recurrent):
    """A first state that is made in the forward."""

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> Tensor:
        first = torch.zeros(1, x.size(0), 12)
        return super().forward(x, (first, first))


class Ended(Recurrent):
    """The state after the last place, as torch gives it."""

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> Tensor:
        _, (hidden, _) = self.rnn(self.read(x))
        out: Tensor = self.head(hidden[-1])
        return out


class Written(Letters):
    """An attention written by hand, all of its lengths read or written down."""

    def __init__(self) -> None:
        super().__init__(16)
        self.places, self.norm = nn.Embedding(12, 16), nn.LayerNorm(16)
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.fc1, self.fc2, self.head = nn.Linear(16, 24), nn.Linear(24, 16), nn.Linear(16, LETTERS)
        self.register_buffer("past", torch.tril(torch.ones(12, 12)))

    def forward(self, x: Tensor) -> Tensor:
        samples, places = x.shape
        x = self.read(x) + self.places(torch.arange(places, device=x.device))
        samples, places, width = x.shape
        q, k, v = (p.view(samples, places, 4, width // 4).transpose(1, 2) for p in self.qkv(self.norm(x)).split(16, 2))
        scores = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
        scores = scores.masked_fill(self.past[:places, :places] == 0, float("-inf"))
        x = x + self.out((torch.softmax(scores, -1) @ v).transpose(1, 2).contiguous().view(samples, places, width))
        out: Tensor = self.head((x + self.fc2(F.gelu(self.fc1(x))))[:, -1])
        return out


class Excite(nn.Module):
    """Squeeze and excitation as it is mostly written."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.stem, self.head = nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 16, 3, padding=1), nn.Linear(16 * 64, 4)
        self.fc = nn.Sequential(nn.Linear(16, 4, bias=False), nn.ReLU(inplace=True), nn.Linear(4, 16), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        b, c, _, _ = x.size()
        y = self.fc(self.pool(x).view(b, c)).view(b, c, 1, 1)
        out: Tensor = self.head(self.flat(x * y.expand_as(x)))
        return out

    def flat(self, x: Tensor) -> Tensor:
        count = 1
        for n in x.size()[1:]:
            count *= n
        return x.view(-1, count)


class UShaped(nn.Module):
    """Down and up again, the sizes of places compared and made to fit."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3, 2, 1)
        self.up, self.last, self.head = nn.ConvTranspose2d(12, 8, 2, 2), nn.Conv2d(16, 6, 3, padding=1), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        first = F.relu(self.down1(x))
        back = self.up(F.relu(self.down2(first)))
        if back.shape[-2:] != first.shape[-2:]:
            back = F.interpolate(back, size=first.shape[-2:])
        rows = first.size(2) - back.size(2)
        back = F.pad(back, [0, 0, rows // 2, rows - rows // 2])
        out: Tensor = self.head(
            F.adaptive_avg_pool2d(self.last(torch.cat([first, back], 1)), 1).squeeze(-1).squeeze(-1)
        )
        return out


class Halves(nn.Module):
    """One half of the channels gates the other; there are many ways to take them apart."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.both, self.inner, self.head = how, nn.Linear(6, 16), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.both(x)
        half = y.shape[1] // 2
        if self.how == "chunk":
            left, right = y.chunk(2, dim=-1)
        elif self.how == "split":
            left, right = torch.split(y, half, dim=1)
        elif self.how == "slices":
            left, right = y[:, :half], y[:, half:]
        elif self.how == "view":
            left, right = y.view(y.size(0), 2, -1).unbind(1)
        else:
            left, right = F.glu(y), torch.zeros_like(self.inner(F.glu(y)))
        out: Tensor = self.head(self.inner(left) * torch.sigmoid(right))
        return out


class Shuffled(nn.Module):
    """A channel shuffle in lengths that the forward reads."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.head = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 8, 1), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        b, c, h, w = x.shape
        x = x.view(b, 2, c // 2, h, w).transpose(1, 2).contiguous().view(b, c, h, w)
        out: Tensor = self.head(self.last(x).mean((2, 3)))
        return out


class Mixer(nn.Module):
    """Linear layers along the channels and along the places."""

    def __init__(self) -> None:
        super().__init__()
        self.cut, self.head = nn.Conv2d(3, 12, 4, 4), nn.Linear(12, 3)
        self.place1, self.place2 = nn.Linear(4, 6), nn.Linear(6, 4)
        self.channel1, self.channel2 = nn.Linear(12, 24), nn.Linear(24, 12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.cut(x).flatten(2).mT
        x = x + self.place2(F.gelu(self.place1(x.transpose(1, 2)))).transpose(1, 2)
        x = x + self.channel2(F.gelu(self.channel1(x)))
        out: Tensor = self.head(x.mean(dim=1))
        return out


class ByHand(nn.Module):
    """Layers that are bare parameters, and products of all kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel, self.shift = nn.Parameter(torch.randn(8, 3, 3, 3)), nn.Parameter(torch.randn(8))
        self.weight, self.last = nn.Parameter(torch.randn(12, 8)), nn.Parameter(torch.randn(12, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.kernel, self.shift, padding=1).amax(dim=(2, 3))
        x = torch.relu(F.linear(x, self.weight))
        return torch.einsum("bi,io->bo", x, self.last) + x @ self.last


class Texts(Letters):
    """Kernels as wide as an embedding, side by side."""

    def __init__(self) -> None:
        super().__init__(8)
        self.convs = nn.ModuleList([nn.Conv1d(8, 6, k) for k in (2, 3)])
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.read(x).transpose(1, 2)
        found = [F.relu(conv(x)) for conv in self.convs]
        out: Tensor = self.head(torch.cat([F.max_pool1d(f, f.size(2)).squeeze(2) for f in found], 1))
        return out


class Rows(nn.Module):
    """Channels last, flattened as they stand, and images whose places become rows of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.head = nn.Conv2d(3, 6, 3), nn.Linear(6 * 36, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).permute(0, 2, 3, 1).reshape(x.shape[0], -1)
        out: Tensor = self.head(torch.max(self.last(x), dim=-1, keepdim=True)[0] * F.normalize(self.last(x), dim=1))
        return out


class Pixels(nn.Module):
    """Channels become places and places channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.spread, self.inner = nn.Conv2d(3, 16, 1), nn.PixelShuffle(2), nn.Conv2d(4, 6, 1)
        self.gather, self.last, self.head = nn.PixelUnshuffle(2), nn.Conv2d(24, 8, 1), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.last(self.gather(self.inner(self.spread(self.first(x))))).amax((2, 3)))
        return out


class OfDigits(nn.Module):
    """The rows of a small image as a text: each brightness a letter, then an LSTM of two layers, tied at both ends."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.table, self.rnn = nn.Embedding(LETTERS, 12), nn.LSTM(12, 12, 2, batch_first=True)
        self.last, self.head = nn.Linear(12, LETTERS, bias=False), nn.Linear(LETTERS, num_classes)
        self.last.weight = self.table.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.table((x.flatten(1).clamp(0, 1) * (LETTERS - 1)).round())
        seen, _ = self.rnn(x[:, ::4])
        out: Tensor = self.head(self.last(seen[:, -1]))
        return out


_IMAGE, _TEXT, _ROWS = (3, 8, 8), (12,), (5, 6)
_HEADS = {"encoder.layers.0.self_attn.heads": 4, "encoder.layers.1.self_attn.heads": 4}
_ENCODER = {"table": 16, "encoder.layers.0.linear1": 24, "encoder.layers.1.linear1": 24, **_HEADS}
STRANGERS = {  # net, shape of a sample, sizes of the groups that may be cut, units
    "an encoder, norms behind": (Encoder, _TEXT, _ENCODER, ("encoder.layers.0", "encoder.layers.1")),
    "an encoder, norms before": (lambda: Encoder(True), _TEXT, _ENCODER, ("encoder.layers.0", "encoder.layers.1")),
    "an encoder, places first": (
        lambda: Encoder(batch_first=False), _TEXT, _ENCODER, ("encoder.layers.0", "encoder.layers.1"),
    ),
    "an encoder with a mask": (
        lambda: Encoder(True, causal=True), _TEXT, _ENCODER, ("encoder.layers.0", "encoder.layers.1"),
    ),
    "a decoder": (
        Decoder, _ROWS, {"questions:2": 16, "decoder.layers.0.linear1": 24,
        "decoder.layers.0.self_attn.heads": 4, "decoder.layers.0.multihead_attn.heads": 4}, ("decoder.layers.0",),
    ),
    "attention": (Attending, _ROWS, {"into": 16, "attend.heads": 4}, ()),
    "attention with biases": (
        lambda: Attending(add_bias_kv=True, add_zero_attn=True), _ROWS, {"into": 16, "attend.heads": 4}, (),
    ),
    "attention, places first": (lambda: Attending(batch_first=False), _ROWS, {"into": 16, "attend.heads": 4}, ()),
    "attention without biases": (lambda: Attending(bias=False), _ROWS, {"into": 16, "attend.heads": 4}, ()),
    "cross attention": (Crossing, _ROWS, {"wide": 16, "narrow": 8, "attend": 16, "attend.heads": 4}, ()),
    "letters, LSTM": (lambda: Recurrent(layers=2), _TEXT, {"table": 8, "rnn": 12}, ()),
    "letters, GRU both ways": (lambda: Recurrent(nn.GRU, 2, True), _TEXT, {"table": 8, "rnn": 12}, ()),
    "letters, RNN": (lambda: Recurrent(nn.RNN), _TEXT, {"table": 8, "rnn": 12}, ()),
    "letters, LSTM projected": (lambda: Recurrent(project=6), _TEXT, {"table": 8, "rnn.proj": 6}, ()),
    "letters, LSTM with a state": (Begun, _TEXT, {"table": 8}, ()),
    "letters, LSTM's last state": (Ended, _TEXT, {"table": 8, "rnn": 12}, ()),
    "attention by hand": (Written, _TEXT, {"fc1": 24}, ()),
    "squeeze and excitation": (Excite, _IMAGE, {"stem": 16, "fc.0": 4}, ()),
    "a U": (UShaped, _IMAGE, {"down1": 8, "down2": 12, "up": 8, "last": 6}, ()),
    **{f"halves by {how}": ((lambda how=how: Halves(how)), (6,), {"both[:8]": 8}, ()) for how in
       ("chunk", "split", "slices", "view")},
    "halves by GLU": (lambda: Halves("glu"), (6,), {"both[:8]": 8, "inner": 8}, ()),
    "a channel shuffle": (Shuffled, _IMAGE, {"first[:8]": 8, "last": 8}, ()),
    "a mixer": (Mixer, _IMAGE, {"cut": 12, "place1": 6, "channel1": 24}, ()),
    "layers by hand": (ByHand, _IMAGE, {"kernel:0": 8, "weight:0": 12}, ()),
    "kernels on text": (Texts, _TEXT, {"table": 8, "convs.0": 6, "convs.1": 6}, ()),
    "channels last": (Rows, _IMAGE, {"first": 6}, ()),
    "pixels": (Pixels, _IMAGE, {"first": 4, "inner": 6, "last": 8}, ()),
}  # fmt: skip
