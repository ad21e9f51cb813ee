"""Laws of the fold: fills and their relations, order, merging, memory; each against a plain reference in float64."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pleat.elastic.fold import Fold
from pleat.elastic.place import CHUNK
from pleat.elastic.selection import WHOLE, coverage, embed, make
from pleat.errors import LocalError, UseError
from pleat.modelmap import Group
from pleat.params import Sparse, dense
from support.models import channels, fixed, mlp, model_map, models, params_of, selections, six_blocks, update_of

laws = settings(max_examples=40, deadline=None)


@st.composite
def rounds(draw, largest=5, masked=True):
    """A model and what some devices return: (update, selection, weight)."""
    model = draw(models())
    returned = []
    for _ in range(draw(st.integers(1, largest))):
        selection = draw(selections(model, masked=masked))
        update = update_of(model, selection, draw(st.integers(0, 1000)), sparse=0.3)
        returned.append((update, selection, draw(st.floats(0.01, 1e4))))
    return model, returned


def folded(model, returned):
    fold = Fold(model)
    for update, selection, weight in returned:
        fold.add(update, selection, weight)
    return fold


def reference(model, returned, exponent):
    """The formula of the fills, written out: sum over C_i of p_k delta_k,i / W_i^a, 0 where nobody held i."""
    weight = sum(w for _, _, w in returned)
    out, shares = {}, {}
    for spec in model.tensors:
        total, share = np.zeros(spec.shape), np.zeros(spec.shape)
        for update, selection, w in returned:
            total += w / weight * dense(embed(model, selection, update))[spec.name].astype(np.float64)
            share += w / weight * coverage(model, selection, spec.name)
        power = 1.0 if spec.role == "buffer" else exponent
        out[spec.name] = np.divide(total, share**power, out=np.zeros(spec.shape), where=share > 0)
        shares[spec.name] = share
    return out, shares


def assert_close(left, right, tolerance=1e-12):
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].shape == right[name].shape
        np.testing.assert_allclose(left[name], right[name], rtol=tolerance, atol=tolerance)


def steps(fold):
    return [fold.finish(a, np.float64) for a in (0.0, 0.3, 0.5, 1.0)]


@laws
@given(rounds(), st.sampled_from([0.0, 0.3, 0.5, 1.0]))
def test_a_fold_is_the_formula_of_the_fills(case, exponent):
    model, returned = case
    expected, shares = reference(model, returned, exponent)
    fold = folded(model, returned)
    assert_close(fold.finish(exponent, np.float64), expected)
    assert_close({t.name: fold.covered(t.name) for t in model.tensors}, shares)
    single = fold.finish(exponent)
    assert all(a.dtype == np.float32 for a in single.values())
    assert_close(single, expected, 1e-6)


@laws
@given(rounds())
def test_the_residual_step_is_the_coverage_step_times_the_share_that_held_the_entry(case):
    model, returned = case
    fold = folded(model, returned)
    coverage_step, residual = fold.finish(1.0, np.float64), fold.finish(0.0, np.float64)
    for spec in model.tensors:
        share = np.ones(spec.shape) if spec.role == "buffer" else fold.covered(spec.name)
        np.testing.assert_allclose(residual[spec.name], share * coverage_step[spec.name], rtol=1e-12, atol=1e-12)


@laws
@given(rounds(), st.integers(0, 1000))
def test_zero_filled_weights_are_the_residual_less_what_was_not_covered(case, seed):
    model, returned = case
    fold, params = folded(model, returned), params_of(model, seed)
    zero, residual = fold.zero_fill(params, np.float64), fold.finish(0.0, np.float64)
    covered = fold.finish(1.0, np.float64)
    for spec in model.tensors:
        name, old = spec.name, params[spec.name].astype(np.float64)
        expected = residual[name] - (1 - fold.covered(name)) * old if spec.role == "weight" else covered[name]
        np.testing.assert_allclose(zero[name], expected, rtol=1e-12, atol=1e-12)


@laws
@given(rounds(), st.integers(0, 1000))
def test_zero_fill_is_the_plain_average_of_weights_that_are_zero_where_absent(case, seed):
    """The same fill from the other end: every device's weights put back among zeros, then averaged (eLF)."""
    model, returned = case
    params, weight = params_of(model, seed), sum(w for _, _, w in returned)
    zero = folded(model, returned).zero_fill(params, np.float64)
    for spec in model.tensors:
        if spec.role == "buffer":
            continue
        average = np.zeros(spec.shape)
        for update, selection, w in returned:
            held = coverage(model, selection, spec.name)
            average += w / weight * (held * params[spec.name] + dense(embed(model, selection, update))[spec.name])
        np.testing.assert_allclose(params[spec.name] + zero[spec.name], average, rtol=1e-6, atol=1e-6)


@laws
@given(rounds())
def test_all_fills_are_fedavg_exactly_when_every_device_holds_everything(case):
    model, returned = case
    fold, params = folded(model, returned), params_of(model, 0)
    weights = [t.name for t in model.tensors if t.role == "weight"]
    everywhere = all((fold.covered(n) > 1 - 1e-9).all() for n in weights)
    average, _ = reference(model, returned, 0.0)

    def is_average(step):
        return all(np.allclose(step[n], average[n], rtol=1e-9, atol=1e-9) for n in weights)

    assert is_average(fold.zero_fill(params, np.float64)) == everywhere
    assert is_average(fold.finish(1.0, np.float64)) >= everywhere
    assert is_average(fold.finish(0.0, np.float64))


def test_the_fills_differ_where_a_device_lacks_an_entry():
    """Negative control of the law above, by hand: weights 1 and 3, the entry held by the second alone."""
    model = model_map([Group("g", 2)], [("w", (channels("g"),))])
    fold = Fold(model)
    fold.add({"w": np.array([4], np.float32)}, make(model, {"g": [0]}), 1)
    fold.add({"w": np.array([8, 8], np.float32)}, WHOLE, 3)
    assert fold.finish(1.0)["w"].tolist() == [7, 8]
    assert fold.finish(0.0)["w"].tolist() == [7, 6]
    assert fold.finish(0.5)["w"] == pytest.approx([7, 6 / 0.75**0.5])
    assert fold.zero_fill({"w": np.array([1, 1], np.float32)})["w"].tolist() == [7, 5.75]
    assert fold.covered("w").tolist() == [1, 0.75]


def test_entries_that_nobody_held_keep_their_value():
    model = model_map([Group("g", 3)], [("w", (channels("g"), fixed(2)))])
    fold = Fold(model)
    fold.add({"w": np.ones((1, 2), np.float32)}, make(model, {"g": [1]}), 5)
    for exponent in (0.0, 0.5, 1.0):
        assert fold.finish(exponent)["w"].tolist() == [[0, 0], [1, 1], [0, 0]]
    assert fold.zero_fill({"w": np.full((3, 2), 9, np.float32)})["w"].tolist() == [[-9, -9], [1, 1], [-9, -9]]


def test_a_zero_in_an_update_is_covered_and_counts():
    """Coverage is what the device held, not where its update differs from 0."""
    model = model_map([], [("w", (fixed(2),))])
    fold = Fold(model)
    fold.add({"w": np.array([0, 2], np.float32)}, WHOLE, 1)
    fold.add({"w": Sparse((2,), np.array([1]), np.array([2], np.float32))}, WHOLE, 1)
    fold.add({"w": np.array([3, 2], np.float32)}, WHOLE, 1)
    assert fold.finish(1.0)["w"].tolist() == [1, 2]


def test_buffers_are_averaged_by_coverage_under_every_fill():
    model = model_map([Group("g", 2)], [("mean", (channels("g"),), 0, "", "buffer")])
    fold = Fold(model)
    fold.add({"mean": np.array([4], np.float32)}, make(model, {"g": [0]}), 1)
    fold.add({"mean": np.array([2], np.float32)}, make(model, {"g": [1]}), 9)
    for step in (fold.finish(0.0), fold.finish(1.0), fold.zero_fill({"mean": np.ones(2, np.float32)})):
        assert step["mean"].tolist() == [4, 2]


@laws
@given(rounds(), st.randoms(use_true_random=False))
def test_the_order_of_updates_does_not_matter(case, random):
    model, returned = case
    shuffled = random.sample(returned, len(returned))
    for left, right in zip(steps(folded(model, returned)), steps(folded(model, shuffled)), strict=True):
        assert_close(left, right, 1e-12)


def test_the_order_of_two_hundred_updates_of_very_different_weights_does_not_matter():
    model, rng = mlp(20, (30,), 10), np.random.default_rng(0)
    whole = [(update_of(model, WHOLE, k), WHOLE, float(10 ** rng.uniform(-3, 5))) for k in range(200)]
    there, back = folded(model, whole), folded(model, whole[::-1])
    for left, right in zip(steps(there), steps(back), strict=True):
        assert_close(left, right, 1e-12)


@laws
@given(rounds(largest=6), st.integers(0, 6), st.integers(0, 6))
def test_folds_are_a_commutative_monoid_under_merge(case, first, second):
    model, returned = case
    i, j = sorted((first, second))

    def parts():
        return folded(model, returned[:i]), folded(model, returned[i:j]), folded(model, returned[j:])

    def merged(*folds):
        total = folds[0]
        for fold in folds[1:]:
            total.merge(fold)
        return total

    all_at_once = folded(model, returned)
    a, b, c = parts()
    left = merged(merged(a, b), c)
    a, b, c = parts()
    right = merged(a, merged(b, c))
    a, b, c = parts()
    turned = merged(c, b, a)
    neutral = merged(Fold(model), folded(model, returned), Fold(model))
    for other in (left, right, turned, neutral):
        assert other.updates == all_at_once.updates
        assert other.weight == pytest.approx(all_at_once.weight, rel=1e-12)
        for mine, expected in zip(steps(other), steps(all_at_once), strict=True):
            assert_close(mine, expected, 1e-12)


@laws
@given(rounds())
def test_sparse_and_dense_updates_fold_to_the_same(case):
    model, returned = case
    written_out = [(dense(update), selection, weight) for update, selection, weight in returned]
    for left, right in zip(steps(folded(model, returned)), steps(folded(model, written_out)), strict=True):
        assert_close(left, right, 1e-12)


@laws
@given(rounds())
def test_coverage_kept_per_entry_equals_coverage_kept_by_selection(case):
    model, returned = case
    by_selection, per_entry = folded(model, returned), Fold(model)
    per_entry._spill()
    for update, selection, weight in returned:
        per_entry.add(update, selection, weight)
    assert per_entry._covered is not None
    for left, right in zip(steps(by_selection), steps(per_entry), strict=True):
        assert_close(left, right, 1e-12)


@laws
@given(rounds(), st.floats(1e-6, 1e6))
def test_only_the_ratio_of_weights_matters(case, factor):
    model, returned = case
    scaled = [(update, selection, weight * factor) for update, selection, weight in returned]
    for left, right in zip(steps(folded(model, returned)), steps(folded(model, scaled)), strict=True):
        assert_close(left, right, 1e-12)


@laws
@given(rounds())
def test_finishing_reads_the_fold_and_changes_nothing(case):
    model, returned = case
    fold = folded(model, returned)
    once = fold.finish(1.0)
    fold.zero_fill(params_of(model, 0))
    fold.finish(0.0)
    again = fold.finish(1.0)
    assert all(once[n].tobytes() == again[n].tobytes() for n in once)


@pytest.mark.parametrize(
    "kept", [None, range(100), range(0, 700, 2), range(300, 700)], ids=["whole", "prefix", "scattered", "middle"]
)
def test_tensors_larger_than_a_chunk_fold_as_small_ones_do(kept):
    model = mlp(500, (700, 90), 10)
    assert CHUNK < 500 * 700
    selection = WHOLE if kept is None else make(model, {"hidden0": kept})
    wide = model_map([Group("g", 2)], [("row", (channels("g"), fixed(CHUNK + 5)))])
    returned = [(update_of(model, selection, k, sparse=0.2), selection, k + 1.0) for k in range(2)]
    expected, _ = reference(model, returned, 0.5)
    assert_close(folded(model, returned).finish(0.5, np.float64), expected)
    one = [(update_of(wide, s, 1), s, 2.0) for s in (WHOLE, make(wide, {"g": [1]}))]
    assert_close(folded(wide, one).finish(1.0, np.float64), reference(wide, one, 1.0)[0])


def test_rows_named_alone_count_and_the_others_keep_their_value():
    """Class rows: a device that has seen classes 0 and 2 says nothing about class 1."""
    model = mlp(2, (2,), 3)
    fold = Fold(model)
    seen = {"1.weight": np.array([0, 2]), "1.bias": np.array([0, 2])}
    update = {n: np.full_like(a, 6) for n, a in params_of(model, 0).items()}
    sparse = {**update, "1.weight": Sparse((3, 2), np.arange(6), np.full(6, 6, np.float32))}
    fold.add(update, WHOLE, 1, rows=seen)
    assert fold.finish(1.0)["1.bias"].tolist() == [6, 0, 6]
    assert fold.finish(1.0)["0.bias"].tolist() == [6, 6]
    fold.add(sparse, WHOLE, 1, rows={n: np.array([0]) for n in seen})
    assert fold.finish(1.0)["1.weight"].tolist() == [[6, 6], [0, 0], [6, 6]]
    assert fold.finish(0.0)["1.weight"].tolist() == [[6, 6], [0, 0], [3, 3]]
    fold._spill()
    assert fold.finish(0.0)["1.weight"].tolist() == [[6, 6], [0, 0], [3, 3]]


BAD_UPDATES = [
    ({"0.weight": np.ones((4, 7), np.float32)}, 1.0, r"'0.weight': expected shape \(4, 6\), got \(4, 7\)"),
    ({"extra": np.ones(1, np.float32)}, 1.0, r"first 'extra' \(unknown\)"),
    ({}, 0.0, "weight must be a finite number above 0, got 0.0"),
    ({}, float("nan"), "weight must be a finite number above 0, got nan"),
    ({}, float("inf"), "weight must be a finite number"),
    ({}, -1.0, "weight must be a finite number"),
    ({"0.weight": Sparse((4, 6), np.array([2, 2]), np.ones(2, np.float32))}, 1.0, r"strictly within 0\.\.23"),
    ({"0.weight": Sparse((4, 6), np.array([0, 24]), np.ones(2, np.float32))}, 1.0, "increase strictly"),
    ({"0.weight": Sparse((4, 6), np.array([-1, 3]), np.ones(2, np.float32))}, 1.0, "increase strictly"),
    (
        {"0.weight": Sparse((4, 6), np.array([1, 3]), np.ones(1, np.float32))},
        1.0,
        r"\(2,\) positions but \(1,\) values",
    ),
]


@pytest.mark.parametrize(("changed", "weight", "message"), BAD_UPDATES)
def test_an_update_that_does_not_fit_is_refused_and_harms_nothing(changed, weight, message):
    model = mlp(6, (8,), 3)
    selection = make(model, {"hidden0": range(4)})
    fold, good = Fold(model), update_of(model, selection, 0)
    fold.add(good, selection, 2.0)
    before = fold.finish(0.5)
    with pytest.raises(UseError, match=message):
        fold.add({**good, **changed}, selection, weight)
    after = fold.finish(0.5)
    assert all(before[n].tobytes() == after[n].tobytes() for n in before)
    assert (fold.weight, fold.updates) == (2.0, 1)


def test_a_fold_of_nothing_has_no_step():
    fold = Fold(mlp())
    for finish in (lambda: fold.finish(1.0), lambda: fold.zero_fill({}), lambda: fold.covered("0.bias")):
        with pytest.raises(LocalError, match="no update was folded"):
            finish()


def test_folds_of_different_models_do_not_merge():
    with pytest.raises(UseError, match="two different models"):
        Fold(mlp()).merge(Fold(six_blocks()))


@pytest.mark.parametrize("exponent", [-0.1, 1.1, float("nan")])
def test_an_exponent_outside_the_unit_interval_is_refused(exponent):
    with pytest.raises(UseError, match=r"exponent must lie in \[0, 1\]"):
        Fold(mlp()).finish(exponent)


@pytest.mark.parametrize("kind", ["whole", "random channels", "random masks"])
def test_memory_does_not_grow_with_the_number_of_updates(kind):
    """At most 20 bytes an entry, however many devices and distinct selections; the update being added left out."""
    model = mlp(200, (300, 200), 10)
    entries = sum(int(np.prod(t.shape)) for t in model.tensors)
    rng = np.random.default_rng(0)

    def one(k):
        names = ("hidden0", "hidden1") if kind == "random channels" else ()
        kept = {n: np.flatnonzero(rng.random(model.group[n].size) < 0.5) for n in names}
        masks = {"0.weight": rng.random((300, 200)) < 0.5} if kind == "random masks" else {}
        selection = make(model, kept, masks=masks)
        return update_of(model, selection, k), selection, 1.0 + k

    Fold(model).add(*one(0))
    tracemalloc.start()
    try:
        fold, used = Fold(model), []
        for k in range(300):
            fold.add(*one(k))
            used.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert max(used) <= 20 * entries + 8 * CHUNK
    assert used[299] - used[249] <= 20_000
    assert (fold._covered is None) == (kind == "whole")
