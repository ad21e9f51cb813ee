"""Laws of cutting and putting back, on random models, and the guards that keep shapes from being broadcast."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pleat.elastic.selection import (
    WHOLE,
    Selection,
    check_part,
    compose,
    coverage,
    cut_array,
    cuts,
    embed,
    extract,
    global_index,
    held,
    make,
    shapes,
    within,
)
from pleat.elastic.size import allocated, count
from pleat.errors import UseError
from pleat.modelmap import Group, Segment
from pleat.params import Sparse, dense
from support.models import channels, fixed, mlp, model_map, models, params_of, selections, six_blocks, update_of

laws = settings(max_examples=60, deadline=None)


@st.composite
def cases(draw, number=1, core=False):
    model = draw(models())
    return model, [draw(selections(model, core=core)) for _ in range(number)], draw(st.integers(0, 1000))


def restricted(model, selection, params):
    """Cut and put back, in global coordinates."""
    return dense(embed(model, selection, extract(model, selection, params)))


def same(left, right):
    return left.keys() == right.keys() and all(
        left[n].shape == right[n].shape and np.array_equal(left[n], right[n]) for n in left
    )


@laws
@given(cases())
def test_cutting_what_was_put_back_gives_the_submodel_again(case):
    model, [selection], seed = case
    part = extract(model, selection, params_of(model, seed))
    assert same(extract(model, selection, dense(embed(model, selection, part))), part)


@laws
@given(cases())
def test_putting_back_keeps_covered_entries_and_zeroes_all_others(case):
    model, [selection], seed = case
    params = params_of(model, seed)
    back = restricted(model, selection, params)
    for spec in model.tensors:
        where = coverage(model, selection, spec.name)
        assert where.shape == spec.shape
        assert np.array_equal(back[spec.name], np.where(where, params[spec.name], 0))
        assert np.array_equal(back[spec.name] != 0, where)  # the parameters have no zeros: covered is told from not


@laws
@given(cases())
def test_coverage_sums_to_the_entries_the_submodel_holds(case):
    model, [selection], seed = case
    covered = sum(int(coverage(model, selection, t.name).sum()) for t in model.tensors)
    assert covered == count(model, selection)
    part = extract(model, selection, params_of(model, seed))
    assert {n: a.shape for n, a in part.items()} == shapes(model, selection)
    assert sum(a.size for a in part.values()) == allocated(model, selection) >= covered


@laws
@given(cases())
def test_sparse_and_dense_tensors_are_put_back_at_the_same_places(case):
    model, [selection], seed = case
    update = update_of(model, selection, seed, sparse=1.0)
    back = embed(model, selection, update)
    assert all(isinstance(t, Sparse) for t in back.values())
    for tensor in back.values():
        assert tensor.index.dtype == np.int64
        assert (np.diff(tensor.index) > 0).all()
    assert same(dense(back), dense(embed(model, selection, dense(update))))


@laws
@given(cases())
def test_the_index_expression_reads_what_cutting_reads(case):
    model, [selection], seed = case
    params = params_of(model, seed)
    for spec in held(model, selection):
        axis_cuts = cuts(model, selection, spec)
        found = params[spec.name][global_index(spec, axis_cuts)]
        assert np.array_equal(found, cut_array(params[spec.name], axis_cuts))


@laws
@given(cases(3, core=True))
def test_selections_form_a_semilattice_under_compose(case):
    model, [a, b, c], _ = case
    assert compose(model, a, a) == a
    assert compose(model, a, WHOLE) == a == compose(model, WHOLE, a)
    assert compose(model, a, b) == compose(model, b, a)
    assert compose(model, compose(model, a, b), c) == compose(model, a, compose(model, b, c))


@laws
@given(cases(2, core=True))
def test_composing_intersects_coverage_and_cuts_one_after_the_other(case):
    model, [a, b], seed = case
    both = compose(model, a, b)
    for spec in model.tensors:
        expected = coverage(model, a, spec.name) & coverage(model, b, spec.name)
        assert np.array_equal(coverage(model, both, spec.name), expected)
    params = params_of(model, seed)
    assert same(restricted(model, a, restricted(model, b, params)), restricted(model, both, params))
    assert within(model, both, a)
    assert within(model, both, b)
    assert within(model, a, b) == (both == a)


@laws
@given(cases(2))
def test_selections_are_equal_exactly_when_they_drop_and_cover_the_same(case):
    model, [a, b], _ = case
    covers = all(np.array_equal(coverage(model, a, t.name), coverage(model, b, t.name)) for t in model.tensors)
    used = {s.group for t in held(model, a) for axis in t.axes for s in axis}
    kept = [{n: i.tobytes() for n, i in s.kept.items() if n not in used} for s in (a, b)]
    assert (a == b) == (covers and a.dropped == b.dropped and kept[0] == kept[1])
    assert (a == b) <= (hash(a) == hash(b))


@laws
@given(cases())
def test_making_a_selection_of_a_selection_changes_nothing(case):
    model, [selection], _ = case
    assert make(model, selection.kept, selection.dropped, selection.masks) == selection


def test_a_mask_that_hides_nothing_of_what_the_cuts_keep_is_left_out():
    model = mlp(3, (4,), 2)
    mask = np.zeros((4, 3), np.bool_)
    mask[:2] = True
    cut = make(model, {"hidden0": [0, 1]})
    assert make(model, {"hidden0": [0, 1]}, masks={"0.weight": mask}) == cut
    assert within(model, cut, make(model, masks={"0.weight": mask}))
    assert make(model, {"hidden0": [0, 1, 2, 3]}, masks={"0.weight": np.ones((4, 3), np.bool_)}).is_whole


def test_an_example_worked_by_hand():
    """Two channels of two entries each after a flatten, the second kept; then a concatenation with a fixed column."""
    model = model_map(
        [Group("g", 2)],
        [("bias", (channels("g"),)), ("weight", (fixed(2), (Segment("g", 2), Segment("", 1))), 1)],
    )
    selection = make(model, {"g": [1]})
    params = {
        "bias": np.array([1, 2], np.float32),
        "weight": np.array([[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]], np.float32),
    }
    part = extract(model, selection, params)
    assert part["bias"].tolist() == [2]
    assert part["weight"].tolist() == [[3, 4, 5], [8, 9, 10]]
    update = {"bias": part["bias"], "weight": Sparse((2, 3), np.array([1, 5]), np.array([4, 10], np.float32))}
    back = embed(model, selection, update)["weight"]
    assert isinstance(back, Sparse)
    assert back.index.tolist() == [3, 9]
    assert back.dense().tolist() == [[0, 0, 0, 4, 0], [0, 0, 0, 0, 10]]


def test_a_dropped_unit_takes_its_tensors_with_it():
    model = six_blocks()
    selection = make(model, {"inner2": range(4)}, dropped=["block2"])
    assert not [n for n in shapes(model, selection) if n.startswith("block2")]
    assert selection == make(model, dropped=["block2"])
    assert "block3.short.weight" in shapes(model, make(model, dropped=["block3"]))


def test_what_lies_outside_a_mask_never_leaks_not_even_nan():
    model = mlp(2, (2,), 2)
    mask = np.array([[True, False], [False, True]])
    selection = make(model, masks={"0.weight": mask})
    params = params_of(model, 0)
    params["0.weight"][~mask] = np.nan
    part = extract(model, selection, params)
    assert np.isfinite(part["0.weight"]).all()
    part["0.weight"][~mask] = np.inf
    assert np.array_equal(dense(embed(model, selection, part))["0.weight"] != 0, mask)


def test_a_selection_keeps_its_own_copy_of_indices_and_masks():
    model = mlp(2, (4,), 2)
    index, mask = np.array([0, 1]), np.zeros((4, 2), np.bool_)
    selection = make(model, {"hidden0": index}, masks={"0.weight": mask})
    before = selection.digest
    index[1], mask[:] = 3, True
    assert Selection(selection.kept, selection.dropped, selection.masks).digest == before
    with pytest.raises(ValueError, match="read-only"):
        selection.kept["hidden0"][0] = 2
    with pytest.raises(ValueError, match="read-only"):
        selection.masks["0.weight"][0] = True


def test_digests_do_not_run_together():
    """Names and indices written one after the other, without their lengths, would be the same bytes here."""
    one = Selection({"a": np.array([int.from_bytes(b"gbbbbbb\0", "little"), 7])})
    two = Selection({"a": np.zeros(0, np.int64), "bbbbbb": np.array([7])})

    def run_together(selection):
        return b"".join(b"g" + n.encode() + b"\0" + i.tobytes() for n, i in sorted(selection.kept.items()))

    assert run_together(one) == run_together(two)
    assert one != two


BAD_SELECTIONS = [
    ({"kept": {"inner9": [0]}}, r"group 'inner9'; the model's groups are \["),
    ({"kept": {"inner1": [0, 1, 2]}}, "whole runs of 4"),
    ({"kept": {"inner1": [2, 3, 4, 5]}}, "whole runs of 4"),
    ({"kept": {"inner1": [0, 1, 2, 4]}}, "whole runs of 4"),
    ({"kept": {"inner1": [3, 2, 1, 0]}}, r"increase strictly within 0\.\.15"),
    ({"kept": {"inner1": [0, 0, 1, 2]}}, "increase strictly"),
    ({"kept": {"inner1": [12, 13, 14, 16]}}, "increase strictly within"),
    ({"kept": {"inner1": [-1, 0, 1, 2]}}, "increase strictly within"),
    ({"kept": {"inner1": [[0, 1, 2, 3]]}}, "increase strictly within"),
    ({"kept": {"inner1": []}}, "leaves no channel of group 'inner1'; drop its unit or keep 4 or more"),
    ({"kept": {"inner1": [0.5, 1.5, 2.5, 3.5]}}, "must be integers, got float64"),
    ({"dropped": ["block7"]}, "drops unit 'block7'; the model's units are"),
    ({"masks": {"nothing": np.ones(3, np.bool_)}}, "masks tensor 'nothing'"),
    ({"masks": {"head.bias": np.ones((28, 1), np.bool_)}}, r"shape \(28,\), got bool of shape \(28, 1\)"),
    ({"masks": {"head.bias": np.ones(28)}}, "must be bool"),
]


@pytest.mark.parametrize(("given_parts", "message"), BAD_SELECTIONS)
def test_a_selection_that_the_model_cannot_have_is_refused(given_parts, message):
    with pytest.raises(UseError, match=message):
        make(six_blocks(), **given_parts)


def test_a_frozen_group_may_be_named_whole_and_never_cut():
    model = model_map([Group("in", 3, role="frozen", reason="the model's input")], [("w", (channels("in"),))])
    assert make(model, {"in": range(3)}).is_whole
    with pytest.raises(UseError, match="cannot be cut: the model's input"):
        make(model, {"in": [0]})


def test_two_selections_without_a_common_channel_cannot_be_composed():
    model = mlp()
    with pytest.raises(UseError, match="leaves no channel of group 'hidden0'"):
        compose(model, make(model, {"hidden0": [0, 1]}), make(model, {"hidden0": [2, 3]}))


@pytest.mark.parametrize("shape", [(1, 6), (4, 1), (1, 1), (6, 4), (24,), (4, 6, 1), (4, 7)])
def test_shapes_are_checked_and_never_broadcast(shape):
    model = mlp(6, (8,), 3)
    selection = make(model, {"hidden0": range(4)})
    update = dict(update_of(model, selection, 0))
    assert update["0.weight"].shape == (4, 6)
    check_part(model, selection, update)
    for tensor in (np.ones(shape, np.float32), Sparse(shape, np.zeros(0, np.int64), np.zeros(0, np.float32))):
        with pytest.raises(UseError, match=r"'0.weight': expected shape \(4, 6\), got"):
            embed(model, selection, {**update, "0.weight": tensor})
    params = params_of(model, 0)
    with pytest.raises(UseError, match=r"expected shape \(8, 6\)"):
        extract(model, selection, {**params, "0.weight": np.ones(shape, np.float32)})


def test_tensors_too_many_or_too_few_are_named():
    model = mlp()
    params = params_of(model, 0)
    with pytest.raises(UseError, match=r"fit the model: 1 names differ, first 'more' \(unknown\)"):
        extract(model, WHOLE, {**params, "more": params["0.bias"]})
    del params["0.bias"]
    with pytest.raises(UseError, match=r"fit the submodel: 1 names differ, first '0.bias' \(missing\)"):
        embed(model, WHOLE, params)
