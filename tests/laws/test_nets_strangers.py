"""The law of cutting on nets as strangers write them: transformers, recurrent nets, gates, shuffles, layers by hand."""

from __future__ import annotations

import pytest
import torch

from pleat.elastic.selection import WHOLE, make
from pleat.elastic.size import macs
from pleat.nets.shrink import shrink
from pleat.nets.trace import trace
from support.cutting import CLOSE, each_group, gap, hidden, output, sample, shaken
from support.kinds import KINDS
from support.strangers import STRANGERS

torch.set_num_threads(1)
NETS = {**STRANGERS, **KINDS}
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")


@pytest.mark.parametrize("name", NETS)
def test_groups_and_units_are_found_and_cutting_each_group_is_zeroing_it(name: str) -> None:
    factory, shape, groups, units = NETS[name]
    module = shaken(factory())
    model = trace(module, shape)
    assert {g.name: g.size for g in hidden(model)} == groups
    assert model.units == units
    scale = max(1.0, float(output(module, sample(shape)).abs().max()))
    for selection in each_group(model):
        assert gap(module, model, selection, sample(shape)) < CLOSE * scale, selection.kept


@pytest.mark.parametrize("name", NETS)
def test_all_groups_cut_at_once_is_zeroing_them_and_gives_a_net_like_any_other(name: str) -> None:
    factory, shape, _, units = NETS[name]
    module = shaken(factory())
    model = trace(module, shape)
    half = make(model, {g.name: range(g.size // 2) for g in hidden(model)})
    scale = max(1.0, float(output(module, sample(shape)).abs().max()))
    assert gap(module, model, half, sample(shape)) < CLOSE * scale
    small = shrink(module, model, half)
    again = trace(small, shape)
    if name != "a mixer":  # a layer along the places is counted at as many channels as the whole net has
        assert macs(again, WHOLE) == macs(model, half)
    assert torch.equal(output(shrink(small, again, WHOLE), sample(shape)), output(small, sample(shape)))
    bare = make(model, {g.name: range(g.size // 2) for g in hidden(model)}, dropped=units[:1])
    assert output(shrink(module, model, bare), sample(shape)).shape == output(module, sample(shape)).shape


@pytest.mark.parametrize("name", NETS)
def test_a_shrunk_net_trains(name: str) -> None:
    """In training mode every tensor that is left gets a gradient (but a key's bias, which changes no softmax)."""
    factory, shape, _, _ = NETS[name]
    module = shaken(factory())
    model = trace(module, shape)
    small = shrink(module, model, make(model, {g.name: range(g.size // 2) for g in hidden(model)})).train()
    small(sample(shape)).square().sum().backward()
    lacking = [n for n, p in small.named_parameters() if p.grad is None]
    assert lacking in ([], ["inner.weight", "inner.bias"])  # halves by GLU calls zeros_like on what `inner` gives
