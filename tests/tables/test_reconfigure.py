"""PruneFL's reconfiguration: the best set by brute force, what is freed, and the seconds it counts with."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain, combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pleat.elastic.choosers import Draw, choose
from pleat.modelmap import Group
from pleat.recipes.recipe import Recipe, Training
from pleat_server.plan.bandwidth import Direction, Link
from pleat_server.plan.devices import Table
from pleat_server.reconfigure import reconfigured, select, share_at, swapped, time_model
from support.models import channels, fixed, model_map
from support.planning import table

worths = st.floats(0, 10).map(lambda v: round(v, 3))
costs = st.sampled_from([0.5, 1.0, 2.0, 3.0])


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(worths, costs, st.booleans()), min_size=1, max_size=9), st.floats(0.1, 20))
def test_no_other_set_takes_more_of_the_loss_per_second(entries: list[tuple[float, float, bool]], rest: float) -> None:
    """Against every set that holds what stays: (sum of z) / (c + sum of t)."""
    worth, cost = (np.array([e[i] for e in entries], np.float64) for i in (0, 1))
    candidates = np.array([e[2] for e in entries])
    fixed_ = ~candidates
    value, seconds = float(worth[fixed_].sum()), rest + float(cost[fixed_].sum())
    found = select(worth, cost, candidates, value, seconds)
    assert not (found & fixed_).any()
    index = np.flatnonzero(candidates)
    every = chain.from_iterable(combinations(index, n) for n in range(index.size + 1))
    best = max((value + worth[list(s)].sum()) / (seconds + cost[list(s)].sum()) for s in every)
    assert (value + worth[found].sum()) / (seconds + cost[found].sum()) == pytest.approx(best)


def test_fedtiny_trades_the_smallest_weights_for_the_largest_gradients_in_every_layer() -> None:
    """Ten entries, the first five active with weights 5 to 1; two fifths are two. Outside, gradients 9, 4, 0, 1, 0."""
    weights = np.array([5, -4, 3, -2, 1, 0, 0, 0, 0, 0], np.float32)
    mask = np.arange(10) < 5
    squares = np.array([99, 99, 99, 99, 99, 9, 4, 0, 1, 0], np.float32)  # of active ones nothing is asked

    def held(share: float, found: np.ndarray = squares) -> list[int]:
        return np.flatnonzero(swapped({"w": weights}, {"w": mask}, {"w": found}, share)["w"]).tolist()

    assert held(0.4) == [0, 1, 2, 5, 6]
    assert held(0.2) == [0, 1, 2, 3, 5]
    assert held(0.19) == [0, 1, 2, 3, 4]  # .95 entries: none
    assert held(1.0) == [0, 1, 5, 6, 8]  # only three gradients came
    assert held(0.4, np.where(mask, squares, 0).astype(np.float32)) == [0, 1, 2, 3, 4]
    assert held(1.0, np.ones(10, np.float32)) == [5, 6, 7, 8, 9]


def test_fedtiny_keeps_the_count_of_every_layer() -> None:
    rng = np.random.default_rng(0)
    params = {n: rng.normal(size=(20, 30)).astype(np.float32) for n in "ab"}
    masks = {n: rng.random((20, 30)) < d for n, d in (("a", 0.1), ("b", 0.6))}
    squares = {n: np.square(rng.normal(size=(20, 30))).astype(np.float32) for n in "ab"}
    found = swapped(params, masks, squares, 0.3)
    for name, mask in masks.items():
        count = int(0.3 * mask.sum())
        assert found[name].sum() == mask.sum()
        assert (found[name] & ~mask).sum() == count
        gone = np.abs(params[name][mask & ~found[name]])
        assert gone.max() < np.abs(params[name][mask & found[name]]).min()


@pytest.mark.parametrize(("number", "share"), [(0, 0.2), (25, 0.1 * (1 + 0.5**0.5)), (50, 0.1), (100, 0.0), (200, 0.0)])
def test_the_share_that_is_traded_falls_by_half_a_cosine(number: int, share: float) -> None:
    assert share_at(0.2, 100, number) == pytest.approx(share, abs=1e-12)
    assert share_at(0.2, 0, number) == 0.2


def test_a_selection_worked_by_hand() -> None:
    """What stays is worth 2 and takes 4 s: .5 a second. Ratios 3, 1, .5: the first leads to 5 / 5 = 1, the second is
    no longer above it."""
    found = select(np.array([3.0, 2.0, 0.5]), np.array([1.0, 2.0, 1.0]), np.ones(3, np.bool_), 2.0, 4.0)
    assert found.tolist() == [True, False, False]


def test_the_smallest_weights_are_freed_and_come_back_only_if_they_are_worth_it() -> None:
    """Ten entries, the first six active with weights 6 to 1; a third of them, 2, are freed. Every entry costs 1 s."""
    weights = np.array([6, 5, 4, 3, 2, 1, 9, 9, 9, 9], np.float32)
    mask = np.arange(10) < 6
    squares = np.array([1, 1, 1, 1, 8, 0, 0, 7, 0, 0], np.float32)
    found = reconfigured({"w": weights}, {"w": mask}, {"w": squares}, {"w": 1.0}, 1.0, 1 / 3)["w"]
    # staying: worth 4 in 5 s; entry 4 (8) makes 12 / 6, entry 7 (7) 19 / 7; nothing else is worth anything
    assert np.flatnonzero(found).tolist() == [0, 1, 2, 3, 4, 7]
    dear = reconfigured({"w": weights}, {"w": mask}, {"w": squares}, {"w": 100.0}, 1.0, 1 / 3)["w"]
    assert np.flatnonzero(dear).tolist() == [0, 1, 2, 3, 4, 7]  # where all cost the same, the price does not matter
    none = reconfigured({"w": weights}, {"w": mask}, {"w": squares}, {"w": 1.0}, 1.0, 0.0)["w"]
    assert none[:6].all()


def test_between_two_tensors_the_cheaper_entries_win() -> None:
    params = {"a": np.array([5, 1], np.float32), "b": np.array([5, 1], np.float32)}
    masks = {n: np.array([True, False]) for n in params}
    squares = {n: np.array([1, 2], np.float32) for n in params}
    found = reconfigured(params, masks, squares, {"a": 1.0, "b": 10.0}, 1.0, 0.0)
    assert {n: m.tolist() for n, m in found.items()} == {"a": [True, True], "b": [True, False]}


ROWS = channels("g")
MODEL = model_map([Group("g", 4)], [("bias", (ROWS,)), ("conv", (ROWS, fixed(3)), 25), ("fc", (ROWS, fixed(3)), 1)])


def test_seconds_come_from_what_devices_were_measured_at() -> None:
    """.1 s a GMAC, 320 samples, 2 epochs: 3 x 640 x 25 multiply-adds an entry of the convolution; 8 bytes a round on
    links of 1 MB/s each way."""
    known = table("a", "b", "c")
    link = Link(Direction(1e6, 1e6, (1e6,)), Direction(1e6, 1e6, (1e6,)))
    timed = Table({n: replace(d, link=link) for n, d in known.devices.items()})
    entry, rest = time_model(MODEL, Recipe(training=Training(epochs=2, batch=32)), timed)
    assert entry["conv"] == pytest.approx(0.1 * 3 * 640 * 25 / 1e9 + 8e-6)
    assert entry["fc"] == pytest.approx(0.1 * 3 * 640 / 1e9 + 8e-6)
    assert rest == pytest.approx(4 * 8e-6)  # four biases; a pass of these devices has no overhead
    slow, _ = time_model(MODEL, Recipe(), Table())  # nobody was timed: 1 s a GMAC, 10 Mbit/s each way
    assert slow["fc"] == pytest.approx(1.0 * 3 * 2 / 1e9 + 8 / 1.25e6)


def test_a_stored_mask_is_what_the_method_keeps_and_magnitude_before_it_keeps_any() -> None:
    params = {t.name: np.arange(np.prod(t.shape), dtype=np.float32).reshape(t.shape) for t in MODEL.tensors}
    first = choose("stored", MODEL, 0.5, Draw(params=params))
    assert first == choose("magnitude", MODEL, 0.5, Draw(params=params))
    kept = {"conv": np.eye(4, 3, dtype=np.float32)}
    found = choose("stored", MODEL, 0.5, Draw(params=params, extras={"mask": kept}))
    assert list(found.masks) == ["conv"]
    assert (found.masks["conv"] == np.eye(4, 3, dtype=np.bool_)).all()
