"""Every rule of tracing, on the smallest net that needs it: what may be cut is cut rightly, the rest is left whole."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pleat.elastic.selection import WHOLE, make
from pleat.elastic.size import macs
from pleat.errors import UseError
from pleat.modelmap import Segment
from pleat.nets.shrink import shrink
from pleat.nets.trace import trace
from support.cutting import CLOSE, each_group, gap, hidden, output, sample, shaken
from support.oddnets import EXACT, FROZEN, Branching, Words, _Head

torch.set_num_threads(1)


@pytest.mark.parametrize("name", EXACT)
def test_groups_are_found_and_cutting_each_is_zeroing_it(name: str) -> None:
    factory, shape, groups = EXACT[name]
    module = shaken(factory())
    model = trace(module, shape)
    assert {g.name: (g.size, g.step) for g in hidden(model)} == groups
    for selection in each_group(model):
        assert gap(module, model, selection, sample(shape)) < CLOSE, selection.kept


@pytest.mark.parametrize("name", EXACT)
def test_a_shrunk_net_is_a_net_like_any_other(name: str) -> None:
    """Traced again it has the smaller groups, and shrinking it further equals shrinking at once."""
    factory, shape, _ = EXACT[name]
    module = shaken(factory())
    model = trace(module, shape)
    half = make(model, {g.name: range(-(-g.size // g.step // 2) * g.step) for g in hidden(model)})
    small = shrink(module, model, half)
    again = trace(small, shape)
    assert {g.name: g.size for g in again.groups if g.role == "hidden"}.items() <= {
        g.name: len(half.kept.get(g.name, range(g.size))) for g in model.groups
    }.items()
    assert macs(again, WHOLE) == macs(model, half)
    assert torch.equal(output(shrink(small, again, WHOLE), sample(shape)), output(small, sample(shape)))


@pytest.mark.parametrize("name", FROZEN)
def test_what_is_not_understood_stays_whole_and_says_why(name: str) -> None:
    factory, reason = FROZEN[name]
    module = factory() if name == "the input" else shaken(factory())
    shape = (6,)
    model = trace(module, shape)
    entered = model.tensor["inner.weight"].axes[0][0].group
    assert reason in model.group[entered].reason
    assert model.group[entered].role == "frozen"
    assert not [g for g in hidden(model) if g.name in ("inner", entered)]
    assert torch.equal(output(shrink(module, model, WHOLE), sample(shape)), output(module, sample(shape)))


def test_repeats_and_segments_are_those_of_the_model_map() -> None:
    concatenated, shape, _ = EXACT["concatenated"]
    model = trace(concatenated(), shape)
    assert model.tensor["head.weight"].axes == ((Segment("head"),), (Segment("left", 9), Segment("right", 9)))
    assert model.tensor["norm.bias"].axes == ((Segment("left"), Segment("right")),)
    grouped, shape, _ = EXACT["grouped"]
    axes = trace(grouped(), shape).tensor
    assert [axes[f"{i}.weight"].axes[0] for i in (0, 2, 4)] == [(Segment("0", n),) for n in (2, 4, 3)]


def test_a_layer_norm_and_an_embedding_follow_their_channels() -> None:
    model = trace(Words(), (7,))
    assert {g.name: g.size for g in hidden(model)} == {"table": 8, "inner": 6}
    assert model.tensor["table.weight"].axes == ((Segment("", 10),), (Segment("table"),))
    small = shrink(Words(), model, make(model, {"table": range(4)}))
    assert small.norm.normalized_shape == (4,)
    assert output(small, torch.ones(2, 7)).shape == (2, 3)


def test_a_tensor_used_twice_is_counted_twice_and_coupled_with_itself() -> None:
    twice, shape, _ = EXACT["twice"]
    model = trace(twice(), shape)
    assert model.tensor["again.weight"].positions == 2
    assert model.tensor["again.weight"].axes == ((Segment("first"),), (Segment("first"),))


def test_a_shared_tensor_stays_shared_in_the_shrunk_net() -> None:
    tied, shape, _ = EXACT["tied"]
    model = trace(tied(), shape)
    small = shrink(tied(), model, make(model, {"inner": [1, 2]}))
    assert small.more.weight is small.hidden.weight
    assert small.more.weight.shape == (2, 2)


def test_only_the_submodule_that_cannot_be_traced_stays_whole() -> None:
    """The innermost one: what lies around it is still cut."""

    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide, self.odd, self.head = nn.Linear(6, 16), _Head(Branching()), nn.Linear(3, 2)
            self.into = nn.Linear(16, 6)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.odd(self.into(F.relu(self.wide(x)))))
            return out

    module = shaken(Around())
    model = trace(module, (6,))
    assert {g.name for g in hidden(model)} == {"wide", "into", "odd.head"}
    for selection in each_group(model):
        assert gap(module, model, selection, sample((6,))) < CLOSE


def test_a_net_whose_own_forward_cannot_be_traced_is_refused_by_name() -> None:
    with pytest.raises(UseError, match=r"net Branching: its forward cannot be traced.*into a submodule"):
        trace(Branching(), (8,))


def test_an_input_that_does_not_fit_is_refused_naming_the_layer() -> None:
    with pytest.raises(UseError, match="does not fit the input: at module 'head'"):
        trace(EXACT["concatenated"][0](), (2, 9, 9))


def test_a_forward_of_two_tensors_is_refused() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x + y

    with pytest.raises(UseError, match="must take one tensor, it takes 2"):
        trace(Two(), (3,))


class Classic(nn.Module):
    """A block as torchvision writes it: the sum in place, no branch of its own."""

    def __init__(self, into: int, out: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(into, out, 3, padding=1), nn.BatchNorm2d(out)
        self.conv2, self.bn2 = nn.Conv2d(out, out, 3, padding=1), nn.BatchNorm2d(out)
        self.down = None if into == out else nn.Conv2d(into, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        out += x if self.down is None else self.down(x)
        return F.relu(out)


def classic(first: nn.Module) -> nn.Module:
    stem = nn.Sequential(nn.Conv2d(2, 8, 3), first)
    return nn.Sequential(stem, Classic(8, 8), Classic(8, 12), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 3))


def test_blocks_of_others_are_units_where_shapes_agree_and_have_an_inner_width_where_not() -> None:
    module = shaken(classic(nn.ReLU()))
    model = trace(module, (2, 6, 6))
    assert model.units == ("1",)
    assert model.branches == ()
    assert {g.name: g.unit for g in hidden(model)} == {
        "0.0": "",
        "1.conv1": "1",
        "2.conv1": "2",
        "2.conv2": "",
    }
    for selection in [*each_group(model), make(model, dropped=["1"])]:
        assert gap(module, model, selection, sample((2, 6, 6))) < CLOSE


def test_a_block_that_ends_in_a_relu_is_no_unit_where_its_input_may_be_negative() -> None:
    assert trace(classic(nn.BatchNorm2d(8)), (2, 6, 6)).units == ()


def test_a_block_that_shares_a_tensor_with_another_is_no_unit() -> None:
    module = nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU(), Classic(8, 8), Classic(8, 8))
    assert trace(module, (2, 6, 6)).units == ("2", "3")
    module[2].conv1.weight = module[3].conv1.weight
    assert trace(module, (2, 6, 6)).units == ()


def test_a_block_called_twice_is_no_unit() -> None:
    block = Classic(8, 8)
    module = nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU(), block, block)
    assert trace(module, (2, 6, 6)).units == ()
