"""The law of cutting on every net of the zoo: groups one by one, units one by one, and any selection at all."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pleat.elastic.selection import WHOLE, extract, make, shapes
from pleat.errors import UseError
from pleat.modelmap import Group, ModelMap
from pleat.nets.build import build, resolve, skeleton
from pleat.nets.shrink import load, read, shrink
from pleat.nets.trace import trace
from support.cutting import CLOSE, each_group, gap, hidden, output, sample, shaken
from support.models import selections

torch.set_num_threads(1)

NETS = {  # narrow where the full width would only cost time
    "mlp": ((1, 8, 8), {}),
    "cnn": ((1, 8, 8), {}),
    "caldas": ((1, 12, 12), {"hidden": 64}),
    "resnet6": ((1, 16, 16), {}),
    "resnet8": ((3, 8, 8), {"norm": "batch"}),
    "resnet18": ((3, 16, 16), {"width": 16}),
    "resnet20": ((3, 8, 8), {"width": 8}),
    "resnet56": ((3, 8, 8), {"width": 4}),
}
RESIDUAL = ("resnet6", "resnet8", "resnet18")
_made: dict[str, tuple[nn.Module, ModelMap, torch.Tensor]] = {}


def net(name: str) -> tuple[nn.Module, ModelMap, torch.Tensor]:
    if name not in _made:
        shape, more = NETS[name]
        arguments = {"input_shape": "x".join(map(str, shape)), "classes": 10, **more}
        module = shaken(build(resolve(name), arguments))
        _made[name] = module, trace(module, shape), sample(shape)
    return _made[name]


@pytest.mark.parametrize("name", NETS)
def test_cutting_any_one_group_is_zeroing_it(name: str) -> None:
    module, model, x = net(name)
    for selection in each_group(model):
        assert gap(module, model, selection, x) < CLOSE, selection.kept.keys()


@pytest.mark.parametrize("name", NETS)
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_cutting_any_selection_is_zeroing_what_it_leaves_out(name: str, data: st.DataObject) -> None:
    module, model, x = net(name)
    selection = data.draw(selections(model, masked=False))
    assert gap(module, model, selection, x) < CLOSE


@pytest.mark.parametrize("name", RESIDUAL)
def test_a_bypassed_unit_is_one_whose_last_map_is_zero(name: str) -> None:
    module, model, x = net(name)
    for unit in model.units:
        last = module.get_submodule(unit if unit in model.branches else f"{unit}.branch")[-2:]
        before = read(module)
        small = output(shrink(module, model, make(model, dropped=[unit])), x)
        with torch.no_grad():  # resnet6 ends in a convolution, resnet18 in one and a norm
            for tensor in (t for part in last for t in part.parameters()):
                tensor.zero_()
        assert float((output(module, x) - small).abs().max()) < CLOSE, unit
        load(module, before)


@pytest.mark.parametrize("name", RESIDUAL)
def test_every_block_is_a_unit_with_one_inner_group_and_streams_belong_to_none(name: str) -> None:
    _, model, _ = net(name)
    inner = [g for g in hidden(model) if g.unit]
    assert sorted(g.unit for g in inner) == sorted(model.units)
    assert [u.split(".")[1] for u in model.units] == list(map(str, range(len(model.units))))
    assert all(g.step == (1 if name == "resnet8" else 4) for g in hidden(model))
    assert len([g for g in hidden(model) if not g.unit]) == (4 if name == "resnet18" else 3)


def test_widening_blocks_lose_their_branch_and_the_others_are_bypassed() -> None:
    _, model, _ = net("resnet6")
    assert model.branches == ("blocks.2.branch", "blocks.4.branch")
    assert set(model.units) - set(model.branches) == {"blocks.0", "blocks.1", "blocks.3", "blocks.5"}


@pytest.mark.parametrize("name", RESIDUAL)
def test_dropping_units_in_turn_leaves_a_net_that_still_computes(name: str) -> None:
    module, model, x = net(name)
    everything = make(model, dropped=model.units)
    small = shrink(module, model, everything)
    assert sum(p.numel() for p in small.parameters()) < 0.1 * sum(p.numel() for p in module.parameters())
    assert gap(module, model, everything, x) < CLOSE


def test_a_map_that_couples_too_little_is_found_out_by_the_law() -> None:
    """The negative control: a group norm's step left out makes the shrunk net another one."""
    module, model, x = net("resnet6")
    loose = ModelMap(model.tensors, tuple(_stepless(g) for g in model.groups), model.units)
    selection = make(loose, {"blocks.0.branch.conv1": [0, 1, 4, 5, 8, 9, 12, 13]})
    assert gap(module, loose, selection, x) > 100 * CLOSE


def _stepless(group: Group) -> Group:
    return Group(group.name, group.size, 1, group.role, group.unit, group.reason)


@pytest.mark.parametrize("name", NETS)
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_a_shrunk_net_holds_exactly_what_extract_cuts(name: str, data: st.DataObject) -> None:
    module, model, _ = net(name)
    selection = data.draw(selections(model, masked=False))
    found, wanted = read(shrink(module, model, selection)), extract(model, selection, read(module))
    assert list(found) == list(wanted)
    assert all(np.array_equal(found[n], wanted[n]) for n in wanted)


@pytest.mark.parametrize("name", NETS)
def test_shrinking_leaves_the_net_as_it_was_and_shares_no_memory(name: str) -> None:
    module, model, _ = net(name)
    before, training = read(module), module.training
    small = shrink(module, model, WHOLE)
    with torch.no_grad():
        for tensor in small.parameters():
            tensor.add_(1)
    after = read(module)
    assert module.training == training
    assert all(np.array_equal(before[n], after[n]) for n in before)
    assert all(p.is_leaf and p.requires_grad for p in small.parameters())


@pytest.mark.parametrize("name", NETS)
def test_tracing_leaves_the_net_as_it_was_and_gives_one_map(name: str) -> None:
    module, model, _ = net(name)
    module.train()
    before = read(module)
    again = trace(module, NETS[name][0])
    assert all(part.training for part in module.modules())
    assert all(np.array_equal(before[n], a) for n, a in read(module).items())
    assert again == model
    assert again.digest == model.digest


@pytest.mark.parametrize("name", NETS)
def test_a_skeleton_has_no_memory_and_shrinks_to_zeros_of_the_right_shapes(name: str) -> None:
    shape, more = NETS[name]
    arguments = {"input_shape": "x".join(map(str, shape)), "classes": 10, **more}
    bare, (module, model, x) = skeleton(resolve(name), arguments), net(name)
    assert all(p.is_meta for p in bare.parameters())
    assert trace(bare, shape) == model
    selection = each_group(model)[0]
    small = shrink(bare, model, selection)
    assert {n: a.shape for n, a in read(small).items()} == shapes(model, selection)
    assert not any(a.any() for a in read(small).values())
    load(small, extract(model, selection, read(module)))
    assert torch.equal(output(small, x), output(shrink(module, model, selection), x))


def test_a_map_of_another_net_is_refused() -> None:
    model = net("mlp")[1]
    with pytest.raises(UseError, match="not this module's: 10 tensor names differ"):
        shrink(net("cnn")[0], model, WHOLE)
    other = build(resolve("mlp"), {"input_shape": "1x8x8", "classes": 11})
    with pytest.raises(UseError, match=r"head\.bias has shape"):
        shrink(other, model, WHOLE)


def test_loading_refuses_other_names_and_shapes_and_changes_nothing() -> None:
    module, _, _ = net("mlp")
    before = read(module)
    with pytest.raises(UseError, match=r"'head\.bias' \(missing\)"):
        load(module, {n: a for n, a in before.items() if n != "head.bias"})
    with pytest.raises(UseError, match=r"'extra' \(unknown\)"):
        load(module, {**before, "extra": before["head.bias"]})
    wrong = {n: a + 1 for n, a in before.items()} | {"second.bias": np.zeros(3, np.float32)}
    with pytest.raises(UseError, match=r"'second\.bias': expected shape \(128,\), got \(3,\)"):
        load(module, wrong)
    assert all(np.array_equal(before[n], a) for n, a in read(module).items())
