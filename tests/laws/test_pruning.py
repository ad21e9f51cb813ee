"""Iterative magnitude pruning: what each cycle leaves, in which order entries go, and that one score tells it all."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pleat.elastic.choosers import Draw, choose
from pleat.elastic.choosers.magnitude import FLOOR
from pleat.elastic.pruning import Across, Pruning, advance, begin, keep_largest, scores, smallest_first
from pleat.elastic.selection import coverage
from pleat.modelmap import Group
from pleat.params import Params
from support.models import channels, fixed, model_map

MODEL = model_map(
    [Group("g", 4), Group("h", 6)],
    [
        ("a.weight", (channels("g"), fixed(5)), 1),
        ("a.bias", (channels("g"),)),
        ("b.weight", (channels("h"), channels("g")), 1),
        ("b.norm", (channels("h"), fixed(1)), 0, "", "buffer"),
    ],
)
RANKED = {"a.weight": 20, "b.weight": 24}
RATES = st.floats(0.01, 1.0)


def drawn(seed: int, coarse: bool = False) -> Params:
    """Weights of the model; `coarse`: of three sizes alone, so that most are equal."""
    rng = np.random.default_rng(seed)
    values = {t.name: rng.standard_normal(t.shape).astype(np.float32) for t in MODEL.tensors}
    return {n: np.sign(a) * np.ceil(np.abs(a)) for n, a in values.items()} if coarse else values


def cycles(seed: int, share: float, across: Across, count: int, coarse: bool = False) -> list[Pruning]:
    """The state after each of `count` cycles, of weights that each training draws anew."""
    out = [begin(MODEL, drawn(seed))]
    for number in range(count):
        out.append(advance(out[-1], share, across, drawn(seed + number + 1, coarse)))
    return out


def held(state: Pruning, rate: float, across: Across) -> dict[str, np.ndarray]:
    chooser = {"layer": "magnitude", "net": "magnitude-global"}[across]
    selection = choose(chooser, MODEL, rate, Draw(params=scores(state, across)))
    return {name: coverage(MODEL, selection, name) for name in RANKED}


SEEDS, COARSE = st.integers(0, 1000), st.booleans()
ACROSS = st.sampled_from(["layer", "net"])


@given(SEEDS, ACROSS, COARSE, RATES, RATES, st.integers(0, 4))
def test_the_masks_of_any_two_densities_nest(
    seed: int, across: Across, coarse: bool, one: float, other: float, count: int
) -> None:
    last = cycles(seed, 0.2, across, count, coarse)[-1]
    small, large = held(last, min(one, other), across), held(last, max(one, other), across)
    assert all(not (small[n] & ~large[n]).any() for n in RANKED)


@given(SEEDS, COARSE, RATES)
def test_a_density_is_held_of_every_layer_and_is_where_the_score_exceeds_what_it_leaves_out(
    seed: int, coarse: bool, rate: float
) -> None:
    last = cycles(seed, 0.3, "layer", 3, coarse)[-1]
    masks, score = held(last, rate, "layer"), scores(last, "layer")
    for name, size in RANKED.items():
        count = math.ceil(round(rate * size, 9))
        assert masks[name].sum() == count
        place = np.rint(score[name] * np.float32(size)).astype(int)
        assert sorted(place.reshape(-1)) == list(range(1, size + 1))
        assert np.array_equal(masks[name], place > size - count)


@given(SEEDS, COARSE, st.floats(0.05, 0.6), st.integers(1, 5))
def test_the_density_of_every_cycle_gives_back_what_that_cycle_left(
    seed: int, coarse: bool, share: float, count: int
) -> None:
    states = cycles(seed, share, "layer", count, coarse)
    score = scores(states[-1], "layer")
    for state in states:
        for name, mask in state.masks.items():
            found = choose("magnitude", MODEL, mask.mean(), Draw(params=score))
            assert np.array_equal(coverage(MODEL, found, name), mask)


@given(SEEDS, ACROSS, COARSE, st.floats(0.05, 0.6))
def test_what_is_gone_stays_gone_and_no_layer_dies(seed: int, across: Across, coarse: bool, share: float) -> None:
    states = cycles(seed, share, across, 6, coarse)
    for before, after in pairwise(states):
        assert all(not (after.masks[n] & ~before.masks[n]).any() for n in RANKED)
    assert all(m.any() for m in states[-1].masks.values())


@pytest.mark.parametrize(
    ("share", "left"),
    [(0.2, [20, 16, 13, 11, 9, 8]), (0.5, [20, 10, 5, 3, 2, 1]), (0.0, [20, 20]), (1.0, [20, 1, 1])],
)
def test_n_cycles_leave_one_minus_q_to_the_n_counted_by_hand(share: float, left: list[int]) -> None:
    """Of 20 entries floor(.2 x held) go: 4, 3, 2, 2, 1; exactly (1 - q)^n where that is whole."""
    states = cycles(0, share, "layer", len(left) - 1)
    assert [int(s.masks["a.weight"].sum()) for s in states] == left


def test_a_large_layer_loses_a_fifth_of_what_remains_each_cycle() -> None:
    model = model_map([Group("g", 100)], [("w", (channels("g"), fixed(1000)), 1)])
    state, rng = begin(model, {"w": np.zeros((100, 1000), np.float32)}), np.random.default_rng(0)
    for number in range(1, 8):
        state = advance(state, 0.2, "layer", {"w": rng.standard_normal((100, 1000)).astype(np.float32)})
        assert state.density == pytest.approx(float(Fraction(4, 5) ** number), abs=1e-4)


def test_of_equal_entries_the_first_stay() -> None:
    mask = np.array([[True, True, False], [True, True, True]])
    values = np.array([[2, -1, 9], [1, 1, -3]], np.float32)
    assert smallest_first(mask, values).tolist() == [4, 3, 1, 0, 5]
    assert keep_largest(mask, values, 3).astype(int).tolist() == [[1, 1, 0], [0, 0, 1]]
    assert keep_largest(mask, values, 9).tolist() == mask.tolist()


TWO = model_map(
    [Group("g", 2)], [("in", (channels("g"), fixed(3)), 1), ("out", (fixed(2), channels("g")), 1), ("b", (fixed(2),))]
)


def weights(into: list[float], out: list[float]) -> Params:
    return {
        "in": np.array(into, np.float32).reshape(2, 3),
        "out": np.array(out, np.float32).reshape(2, 2),
        "b": np.zeros(2, np.float32),
    }


def test_two_layers_pruned_by_half_twice_worked_by_hand() -> None:
    """Layer `in`, 6 entries: cycle 1 of sizes 1 6 2 5 3 4 lets 1, 2, 3 go (positions 0, 2, 4), cycle 2 of sizes
    - 1 - 9 - 2 the one entry floor(.5 x 3) at position 1; positions 5 (2) and 3 (9) follow. Layer `out`, 4 entries:
    all equal, so the last two go, the very last first; then of positions 0 (4) and 1 (3) the smaller."""
    state = begin(TWO, weights([0] * 6, [0] * 4))
    state = advance(state, 0.5, "layer", weights([1, -6, 2, 5, -3, 4], [1, -1, 1, 1]))
    assert state.masks["in"].astype(int).tolist() == [[0, 1, 0], [1, 0, 1]]
    assert state.masks["out"].astype(int).tolist() == [[1, 1], [0, 0]]
    state = advance(state, 0.5, "layer", weights([0, 1, 0, 9, 0, 2], [4, 3, 0, 0]))
    assert state.masks["in"].astype(int).tolist() == [[0, 0, 0], [1, 0, 1]]
    found = scores(state, "layer")
    assert (6 * found["in"]).round().tolist() == [[1, 4, 2], [6, 3, 5]]
    assert (4 * found["out"]).tolist() == [[4, 3], [2, 1]]
    assert sorted(found) == ["in", "out"]


def test_across_the_net_the_smallest_go_wherever_they_are_and_a_floor_of_each_layer_stays() -> None:
    """One pool of 10: half of it are the five smallest, all four of `out` and one of `in`; the floor keeps of `out`
    ceil(.1 x .5 x 4) = 1, its largest, so that a second of `in` goes in its place."""
    trained = weights([10, 20, 30, 40, 50, 60], [1, 2, 4, 3])
    state = advance(begin(TWO, trained), 0.5, "net", trained)
    assert state.masks["in"].astype(int).tolist() == [[0, 0, 1], [1, 1, 1]]
    assert state.masks["out"].astype(int).tolist() == [[0, 0], [1, 0]]
    assert math.ceil(FLOOR * 0.5 * 4) == 1


def test_new_weights_to_go_back_to_replace_the_old_ones_and_else_stay() -> None:
    first, trained, early = (weights([v] * 6, [v] * 4) for v in (1, 2, 3))
    state = advance(begin(TWO, first), 0.2, "layer", trained, early)
    assert state.start is early
    assert advance(state, 0.2, "layer", trained).start is early
    assert advance(begin(TWO, first), 0.2, "layer", trained).start is first
