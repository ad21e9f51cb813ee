"""The law of cutting on random nets: whatever layers are put together, what may be cut is cut rightly."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pleat.elastic.selection import WHOLE, make
from pleat.elastic.size import count
from pleat.nets.shrink import shrink
from pleat.nets.trace import trace
from support.cutting import CLOSE, each_group, gap, hidden, sample, shaken
from support.models import selections

torch.set_num_threads(1)

SHAPE = (4, 5, 5)
LAYERS = ("conv", "conv", "conv", "transposed", "depthwise", "doubled", "grouped", "relu", "batch", "group", "places")
PAIRS = ("add", "add", "multiply", "concatenate", "gate", "attend")
APART = ("chunk", "halves", "swap", "written", "shuffle", "glu", "turn")
Step = tuple[str, int, int, int]  # what, of which value, with which other, a number


class Random(nn.Module):
    """A net of random steps, each on values made before; the head sees the last value and one other."""

    def __init__(self, steps: list[Step]) -> None:
        super().__init__()
        widths = [SHAPE[0]]
        self.layers = nn.ModuleDict()
        self.steps: list[Any] = []
        for number, (what, left, right, n) in enumerate(steps):
            a, b = left % len(widths), right % len(widths)
            made = self.add(what, str(number), widths[a], widths[b], n)
            if made:
                self.steps.append((what, str(number), a, b))
                widths.append(made)
        self.last = len(steps) % len(widths)
        self.head = nn.Linear(widths[-1] + widths[self.last], 3)

    def add(self, what: str, name: str, a: int, b: int, n: int) -> int:
        """Make the layer; its number of channels, 0 where the step does not fit."""
        wide = (4, 6, 8, 12)[n % 4]
        makers = {
            "conv": lambda: (nn.Conv2d(a, wide, 1), wide),
            "transposed": lambda: (nn.ConvTranspose2d(a, wide, 1), wide),
            "depthwise": lambda: (nn.Conv2d(a, a, 3, padding=1, groups=a), a),
            "doubled": lambda: (nn.Conv2d(a, 2 * a, 1, groups=a), 2 * a),
            "grouped": lambda: (nn.Conv2d(a, wide, 1, groups=2), wide) if a % 2 == 0 else None,
            "relu": lambda: (nn.ReLU(), a),
            "batch": lambda: (nn.BatchNorm2d(a), a),
            "group": lambda: (nn.GroupNorm(a // 2, a), a) if a % 2 == 0 else None,
            "places": lambda: (nn.Conv2d(5, 5, 1), a),
            "gate": lambda: (nn.Conv2d(b, a, 1), a),
        }
        if what in APART:
            return self.apart(what, a)
        if what in ("add", "multiply"):
            return a if a == b else 0
        if what == "attend":
            return a if a <= 48 and b <= 48 else 0
        if what == "concatenate":
            return a + b if a + b <= 48 else 0
        made = makers[what]() if a <= 48 else None
        if made is None:
            return 0
        self.layers[name] = made[0]
        return int(made[1])

    @staticmethod
    def apart(what: str, a: int) -> int:
        """How many channels a step without tensors leaves of `a`."""
        if a % 2 or a > 48:
            return 0
        return a // 2 if what in ("chunk", "halves", "glu") else a

    @staticmethod
    def taken(what: str, x: Tensor) -> Tensor:
        """Channels taken apart in one of many ways, and put together again in some."""
        count = x.shape[1]
        if what == "chunk":
            left, right = x.chunk(2, dim=1)
            return left - torch.tanh(right)
        if what == "halves":
            return x[:, : count // 2] + x[:, count // 2 :]
        if what == "swap":
            left, right = torch.split(x, count // 2, dim=1)
            return torch.cat([right, left], dim=1)
        if what == "written":
            return torch.cat([x[:, 2:], x[:, :2]], dim=1)
        if what == "glu":
            return F.glu(x, dim=1)
        if what == "turn":  # channels last, and back
            return F.hardswish(x.flatten(2).mT).mT.reshape(x.shape)
        return x.view(x.size(0), 2, -1, *x.shape[2:]).transpose(1, 2).flatten(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        values = [x]
        for what, name, a, b in self.steps:
            left, right = values[a], values[b]
            if what == "add":
                out = left + right
            elif what == "multiply":
                out = left * torch.tanh(right)
            elif what == "concatenate":
                out = torch.cat([left, right], dim=1)
            elif what == "gate":
                out = left * self.layers[name](F.adaptive_avg_pool2d(right, 1))
            elif what in APART:
                out = self.taken(what, left)
            elif what == "attend":  # every channel of the one looks at all channels of the other
                keys, places = right.flatten(2), left.flatten(2)
                out = (torch.softmax(places.mT @ places, -1) @ keys.mT @ (keys @ places.mT)).mT.reshape(left.shape)
            elif what == "places":  # a convolution that takes rows for channels: what it mixes must stay whole
                out = self.layers[name](left.transpose(1, 2)).transpose(1, 2)
            else:
                out = self.layers[name](left)
            values.append(out)
        both = torch.cat([values[-1].mean((2, 3)), values[self.last].amax((2, 3))], dim=1)
        logits: Tensor = self.head(both)
        return logits


def steps() -> st.SearchStrategy[list[Step]]:
    number = st.integers(0, 11)
    one = st.tuples(st.sampled_from(LAYERS + PAIRS + APART), number, number, number)
    return st.lists(one, min_size=3, max_size=12)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(plan=steps(), data=st.data())
def test_cutting_a_random_net_is_zeroing_what_is_left_out(plan: list[Step], data: st.DataObject) -> None:
    module = shaken(Random(plan))
    model = trace(module, SHAPE)
    scale = 1 + float(module.eval()(sample(SHAPE)).detach().abs().max())
    for selection in [*each_group(model), data.draw(selections(model, masked=False))]:
        assert gap(module, model, selection, sample(SHAPE)) < CLOSE * scale, selection.kept


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(plan=steps())
def test_a_random_net_shrunk_is_smaller_and_traces_to_the_smaller_sizes(plan: list[Step]) -> None:
    module = shaken(Random(plan))
    model = trace(module, SHAPE)
    half = make(model, {g.name: range(-(-g.size // g.step // 2) * g.step) for g in hidden(model)})
    again = trace(shrink(module, model, half), SHAPE)
    assert count(again, WHOLE) == count(model, half)
    assert {t.name: t.shape for t in again.tensors}.keys() == {t.name: t.shape for t in model.tensors}.keys()


def test_random_nets_do_have_groups_to_cut() -> None:
    """A control: a finder that froze everything would pass every law above."""
    plan = [("conv", 0, 0, 2), ("depthwise", 1, 0, 0), ("conv", 2, 0, 3), ("conv", 2, 0, 3), ("add", 3, 4, 0)]
    model = trace(Random([(w, a, b, n) for w, a, b, n in plan]), SHAPE)
    assert {g.name: g.size for g in hidden(model)} == {"layers.0": 8, "layers.2": 12}
