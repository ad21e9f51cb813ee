"""Portions of selections: what is taken away is gone, what is left stays, and together they are the whole."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pleat.elastic.choosers import Draw, choose
from pleat.elastic.portion import less, only_held, outside, within_masks
from pleat.elastic.selection import WHOLE, coverage, extract
from pleat.modelmap import ModelMap
from support.models import mlp, models, params_of

laws = settings(max_examples=40, deadline=None)
rates = st.floats(0.05, 1.0)


@laws
@given(models(), rates, st.integers(0, 99))
def test_what_the_masks_leave_out_and_what_they_hold_are_the_masked_tensors(
    model: ModelMap, rate: float, seed: int
) -> None:
    inner = choose("magnitude", model, rate, Draw(params=params_of(model, seed)))
    rest = outside(model, WHOLE, inner)
    for spec in model.tensors:
        here, there = coverage(model, inner, spec.name), coverage(model, rest, spec.name)
        if spec.name in inner.masks:
            assert (here ^ there).all()
        else:
            assert there.all()


@laws
@given(models(), rates)
def test_less_holds_nothing_of_its_tensors_and_all_else_as_before(model: ModelMap, rate: float) -> None:
    selection = choose("prefix", model, rate, Draw())
    gone = [t.name for t in model.tensors][::2]
    left = less(model, selection, gone)
    for spec in model.tensors:
        now = coverage(model, left, spec.name)
        assert not now.any() if spec.name in gone else (now == coverage(model, selection, spec.name)).all()
    assert less(model, selection, []) == selection


@laws
@given(models(), rates, st.integers(0, 99))
def test_within_masks_is_what_extract_makes_of_the_same_tensors(model: ModelMap, rate: float, seed: int) -> None:
    params = params_of(model, seed)
    masks = choose("magnitude", model, rate, Draw(params=params))
    cut = within_masks(model, masks, extract(model, WHOLE, params))
    assert all((cut[n] == a).all() for n, a in extract(model, masks, params).items())


def test_only_what_some_mask_holds_survives_and_a_tensor_that_one_does_not_mask_is_whole() -> None:
    model = mlp(3, (4,), 2)
    params = params_of(model, 0)
    weight = next(t.name for t in model.tensors if len(t.shape) == 2)
    draws = [Draw(params=params_of(model, seed)) for seed in (1, 2)]
    one, other = (choose("magnitude", model, 0.3, d) for d in draws)
    both = only_held(model, params, [one, other])
    assert ((both[weight] != 0) == (one.masks[weight] | other.masks[weight])).all()
    assert np.array_equal(only_held(model, params, [one, WHOLE])[weight], params[weight])
    assert np.array_equal(only_held(model, params, [])[weight], params[weight])
