"""Nested submodels are windows of the larger one: the same memory for a prefix, the right entries for any selection."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pleat.elastic.choosers import Draw, choose
from pleat.elastic.selection import WHOLE, Selection, compose, cuts, extract, global_index, make
from pleat.errors import UseError
from pleat.modelmap import ModelMap
from pleat.nets.build import build, resolve
from pleat.nets.nested import views
from pleat.nets.shrink import read, shrink
from pleat.nets.trace import trace
from support.models import selections

torch.set_num_threads(1)

MODULE = build(resolve("resnet6"), {"input_shape": "1x8x8", "classes": 5})
MODEL = trace(MODULE, (1, 8, 8))


def held(model: ModelMap, selection: Selection) -> dict[str, torch.Tensor]:
    return {n: torch.from_numpy(a) for n, a in extract(model, selection, read(MODULE)).items()}


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_views_of_a_submodel_are_the_smaller_submodel(data: st.DataObject) -> None:
    outer = data.draw(selections(MODEL, masked=False, core=True))
    inner = compose(MODEL, outer, data.draw(selections(MODEL, masked=False, core=True)))
    found, wanted = views(MODEL, inner, outer, held(MODEL, outer)), held(MODEL, inner)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[n], wanted[n]) for n in wanted)


@pytest.mark.parametrize("rates", [(1.0, 0.5), (0.5, 0.25), (1.0, 0.25)])
@pytest.mark.parametrize("chooser", ["prefix", "inner"])
def test_a_prefix_is_never_copied(chooser: str, rates: tuple[float, float]) -> None:
    outer, inner = (choose(chooser, MODEL, rate, Draw(0, 1, "a", None)) for rate in rates)
    tensors = held(MODEL, outer)
    for name, window in views(MODEL, inner, outer, tensors).items():
        assert window.untyped_storage().data_ptr() == tensors[name].untyped_storage().data_ptr()


def test_a_prefix_of_flattened_channels_is_a_view_and_every_second_channel_too() -> None:
    cnn = build(resolve("cnn"), {"input_shape": "1x8x8", "classes": 5})
    model = trace(cnn, (1, 8, 8))
    tensors = dict(cnn.named_parameters())
    for kept in (range(16), range(0, 64, 1)):
        window = views(model, make(model, {"conv2": kept}), WHOLE, tensors)["hidden.weight"]
        assert window._base is not None or window is tensors["hidden.weight"]
    window = views(model, make(model, {"conv1": range(0, 32, 2)}), WHOLE, tensors)["conv1.weight"]
    assert window._base is tensors["conv1.weight"]


@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_gradients_through_views_land_on_the_entries_they_come_from(data: st.DataObject) -> None:
    inner = data.draw(selections(MODEL, masked=False))
    leaves = {n: p.detach().clone().requires_grad_() for n, p in MODULE.named_parameters()}
    small = shrink(MODULE, MODEL, inner)
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 1, 8, 8)).astype(np.float32))
    torch.func.functional_call(small, views(MODEL, inner, WHOLE, leaves), (x,)).square().sum().backward()
    small(x).square().sum().backward()
    own = dict(small.named_parameters())
    for name, leaf in leaves.items():
        wanted = torch.zeros_like(leaf)
        if name in own:
            place = global_index(MODEL.tensor[name], cuts(MODEL, inner, MODEL.tensor[name]))
            wanted[place] = own[name].grad
        found = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        assert torch.allclose(found, wanted, atol=1e-5), name


def test_only_the_tensors_given_are_cut() -> None:
    assert views(MODEL, WHOLE, WHOLE, {"head.bias": torch.zeros(5)}).keys() == {"head.bias"}


def test_a_smaller_selection_that_holds_more_is_refused() -> None:
    outer = make(MODEL, {"stem": range(8)}, dropped=["blocks.0"])
    with pytest.raises(UseError, match=r"holds unit 'blocks\.0', which the larger one dropped"):
        views(MODEL, make(MODEL, {"stem": range(8)}), outer, held(MODEL, outer))
    with pytest.raises(UseError, match=r"channels of '.*' that the larger one does not"):
        views(MODEL, make(MODEL, {"stem": range(4, 12)}, dropped=["blocks.0"]), outer, held(MODEL, outer))
    with pytest.raises(UseError, match=r"channels of '.*' that the larger one does not"):
        views(MODEL, make(MODEL, dropped=["blocks.0"]), outer, held(MODEL, outer))
