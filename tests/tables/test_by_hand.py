"""Aggregation worked by hand: HeteroFL on three devices, the three fills, and the sparse methods' steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from pleat.elastic.choosers import Draw, choose
from pleat.elastic.choosers.magnitude import erk
from pleat.elastic.fold import Fold
from pleat.elastic.selection import WHOLE, Selection, make
from pleat.exchange.order import Kind, NetSpec, Order, OrderId, Part, Payload, Return
from pleat.exchange.report import Report
from pleat.modelmap import OUTPUT, Group, ModelMap
from pleat.nets.build import spec
from pleat.nets.trace import model_map as traced
from pleat.params import Params
from pleat.recipes.recipe import FoldChoice, Objective, Recipe, Server
from pleat_server.closing import advance
from pleat_server.desk import part_of
from pleat_server.folding import Folded, counted_rows
from pleat_server.round import Setup, rate_at
from pleat_server.state import State
from support.models import channels, fixed, model_map

NET = NetSpec("pleat.nets.zoo:mlp", {}, bytes(32))


def setup(model: ModelMap, **fold: Any) -> Setup:
    server = Server(rate=fold.pop("rate", 1.0))
    return Setup(model, NET, Recipe(fold=FoldChoice(**fold), server=server), ())


def report(rank: int, labels: Sequence[int], samples: int) -> Report:
    return Report(OrderId("r", 1, rank), f"d{rank}", samples=samples, labels=tuple(labels))


def test_heterofl_counts_devices_alike_and_leaves_out_rows_of_absent_classes() -> None:
    """A head of 3 classes on 4 channels. Devices hold 4, 2 and 1 channels and samples of classes 012, 01 and 2.

    Entry (class, channel) becomes the mean of theta over the devices that hold the channel and know the class; class 2
    on channel 1 is held by device 1 but not known there, so device 0 alone counts. Sample counts do not matter.
    """
    model = model_map(
        [Group("g", 4), Group("logits", 3, role="frozen", reason=OUTPUT)],
        [("head", (channels("logits"), channels("g")), 1)],
    )
    kept: list[list[int] | None] = [None, [0, 1], [0]]
    selections = [make(model, {"g": k}) if k else WHOLE for k in kept]
    trained = [3.0, 6.0, 12.0]  # what every entry of a device's head became; it was 1
    labels, samples = [(0, 1, 2), (0, 1), (2,)], [10, 1000, 5]
    fold, chosen = Fold(model), setup(model, weights="equal", rows=True)
    for rank, selection in enumerate(selections):
        width = 4 if kept[rank] is None else len(kept[rank] or [])
        update = {"head": np.full((3, width), trained[rank] - 1, np.float32)}
        fold.add(update, selection, 1.0, counted_rows(chosen, report(rank, labels[rank], samples[rank])))
    after = 1 + fold.finish(1.0)["head"]
    assert after.tolist() == [
        [4.5, 4.5, 3.0, 3.0],  # class 0: devices 0 and 1 on channels 0 and 1, then device 0 alone
        [4.5, 4.5, 3.0, 3.0],
        [7.5, 3.0, 3.0, 3.0],  # class 2: devices 0 and 2 on channel 0: (3 + 12) / 2
    ]


def test_an_entry_that_no_device_knows_keeps_its_value_under_class_rows() -> None:
    model = model_map([Group("logits", 3, role="frozen", reason=OUTPUT)], [("head", (channels("logits"),))])
    fold = Fold(model)
    rows = counted_rows(setup(model, rows=True), report(0, (0, 2), 1))
    fold.add({"head": np.ones(3, np.float32)}, WHOLE, 1.0, rows)
    assert fold.finish(1.0)["head"].tolist() == [1.0, 0.0, 1.0]


def test_zero_coverage_and_residual_fill_of_one_tensor() -> None:
    """theta = (10, 20, 30); device 0 (p = 3/4) holds the first two and moves them by +4, device 1 (p = 1/4) the first,
    by -4. W = (1, 3/4, 0)."""
    model = model_map([Group("g", 3)], [("w", (channels("g"),))])
    theta, fold = {"w": np.array([10, 20, 30], np.float32)}, Fold(model)
    fold.add({"w": np.array([4, 4], np.float32)}, make(model, {"g": [0, 1]}), 3.0)
    fold.add({"w": np.array([-4], np.float32)}, make(model, {"g": [0]}), 1.0)
    assert (theta["w"] + fold.finish(1.0)["w"]).tolist() == [12, 24, 30]  # (3 x 14 + 6) / 4; 24 alone; kept
    assert (theta["w"] + fold.finish(0.0)["w"]).tolist() == [12, 23, 30]  # 20 + 3/4 x 4
    assert (theta["w"] + fold.zero_fill(theta)["w"]).tolist() == [12, 18, 0]  # 3/4 x 24; lost


@pytest.mark.parametrize(("net", "shape"), [("mlp", (1, 8, 8)), ("cnn", (1, 8, 8)), ("resnet8", (3, 8, 8))])
def test_the_rows_of_the_logits_are_found_in_nets_as_they_are_traced(net: str, shape: tuple[int, ...]) -> None:
    found = counted_rows(setup(traced(spec(net, shape, 10)), rows=True), report(0, (0, 2), 1))
    assert {name: rows.tolist() for name, rows in (found or {}).items()} == {
        "head.weight": [0, 2],
        "head.bias": [0, 2],
    }


VECTOR = model_map([Group("g", 1)], [("w", (channels("g"), fixed(4)), 1)])


def masked(*held: int) -> Selection:
    return make(VECTOR, masks={"w": np.isin(np.arange(4), held).reshape(1, 4)})


def closed(
    chosen: Setup, theta: Sequence[float], parts: list[tuple[Selection, Selection, Part, list[float]]]
) -> list[float]:
    """The model after a round; a part: what was trained, what was received, what returns, and the update."""
    fold, accepted = Fold(VECTOR), []
    for rank, (trained, received, part, update) in enumerate(parts):
        model = Payload("model", "raw", b"", selection=None if received == trained else received)
        order = Order(
            OrderId("r", 1, rank),
            f"d{rank}",
            Kind.TRAIN,
            NET,
            trained,
            payloads=(model,),
            returns=(Return("update", "raw", part),),
        )
        chosen_by = trained if part is Part.CHOSEN else None
        told = Report(order.id, order.device, payloads=(Payload("update", "raw", b"", selection=chosen_by),), samples=1)
        fold.add({"w": np.array([update], np.float32)}, part_of(VECTOR, order, told.payloads[0]), 1.0)
        accepted.append((order, told))
    params: Params = {"w": np.array([theta], np.float32)}
    state = State("r", 0, params)
    after = advance(chosen, state, Folded(fold.finish(chosen.recipe.fold.exponent), {}, tuple(accepted), ()))
    return [float(v) for v in after.params["w"][0]]


def test_complement_keeps_what_it_sent_and_puts_one_and_a_half_times_the_mean_where_it_did_not() -> None:
    """theta = (4, -3, 2, 1); (4, -3) are sent. Two devices train (., ., .5, 1) and (., ., .1, -1) from 0 there: theta
    becomes (4, -3, 1.5 x .3, 0). What they did to 4 and -3 is not returned."""
    chosen = setup(VECTOR, clears="unsent", rate=1.5)
    parts = [
        (WHOLE, masked(0, 1), Part.OUTSIDE, [9.0, 9.0, 0.5, 1.0]),
        (WHOLE, masked(0, 1), Part.OUTSIDE, [7.0, 9.0, 0.1, -1.0]),
    ]
    assert closed(chosen, [4, -3, 2, 1], parts) == pytest.approx([4, -3, 0.45, 0])
    kept = setup(VECTOR, clears="nothing", rate=1.5)
    assert closed(kept, [4, -3, 2, 1], parts) == pytest.approx([4, -3, 2.45, 1])  # the control: old values stay below


def test_what_a_shared_mask_left_out_is_0_after_the_round() -> None:
    chosen = setup(VECTOR, clears="unsent")
    assert closed(chosen, [4, 3, 2, 1], [(masked(0, 1), masked(0, 1), Part.OWN, [1, -1, 0, 0])]) == [5, 2, 0, 0]


def test_feddst_averages_over_the_masks_that_devices_chose_and_forgets_what_none_did() -> None:
    """theta = (4, 3, 0, 0) under the mask (0, 1). Device 0 keeps it; device 1 gives up entry 1 for entry 2, which it
    trained to .5. Entry 0: mean of 6 and 8; entry 1: device 0 alone, 5; entry 2: device 1 alone. Had both given entry 1
    up, it would be 0."""
    chosen = setup(VECTOR, clears="unreturned")
    first = (masked(0, 1), masked(0, 1), Part.CHOSEN, [2.0, 2.0, 0.0, 0.0])
    second = (masked(0, 2), masked(0, 1), Part.CHOSEN, [4.0, 0.0, 0.5, 0.0])
    assert closed(chosen, [4, 3, 0, 7], [first, second]) == [7, 5, 0.5, 0]
    assert closed(chosen, [4, 3, 0, 7], [second]) == [8, 0, 0.5, 0]


def test_entries_that_too_few_devices_voted_for_are_0_and_the_others_stay_averages_over_who_held_them() -> None:
    """Three devices hold entries 01, 02 and 03; with a vote of half, two of three must hold an entry: 0 alone stays."""
    first = [(masked(0, i), masked(0, 1), Part.CHOSEN, [float(i), *(9.0 if i == k else 0.0 for k in (1, 2, 3))])
             for i in (1, 2, 3)]  # fmt: skip
    half, third, all_ = (setup(VECTOR, clears="unreturned", votes=v) for v in (0.5, 1 / 3, 1.0))
    assert closed(half, [4, 3, 2, 1], first) == [6, 0, 0, 0]  # 4 + (1 + 2 + 3) / 3
    assert closed(third, [4, 3, 2, 1], first) == [6, 12, 9, 9]  # 2 and 3 were not sent, so 0 + 9
    everybody = (WHOLE, WHOLE, Part.CHOSEN, [0.0, 0.0, 0.0, 0.0])
    assert closed(half, [4, 3, 2, 1], [*first, everybody]) == [5.5, 7.5, 6.5, 5.5]  # two of four hold each
    assert closed(all_, [4, 3, 2, 1], [*first, everybody]) == [5.5, 0, 0, 0]


def test_flash_shares_out_entries_by_where_the_largest_gradients_lie() -> None:
    """Of 20 entries a quarter, 5: four of the largest squares lie in a, one in b; then |w| says which of each."""
    model = model_map([], [("a", (fixed(2), fixed(5)), 1), ("b", (fixed(2), fixed(5)), 1)])
    squares = {"a": np.arange(10, 20).reshape(2, 5), "b": np.arange(10).reshape(2, 5)}
    squares["b"][0, 0] = 17
    weights = {n: np.arange(10, 0, -1, dtype=np.float32).reshape(2, 5) for n in "ab"}
    draw = Draw(params=weights, extras={"squares": {n: s.astype(np.float32) for n, s in squares.items()}})
    found = choose("sensitive", model, 0.25, draw).masks  # 19 18 17 and of the two 17 that of a; 16
    assert {n: np.flatnonzero(m).tolist() for n, m in found.items()} == {"a": [0, 1, 2, 3], "b": [0]}
    smaller = choose("sensitive", model, 0.1, draw).masks  # 19 18, and at least one of b
    assert {n: np.flatnonzero(m).tolist() for n, m in smaller.items()} == {"a": [0, 1], "b": [0]}
    before = choose("sensitive", model, 0.2, Draw(params=weights)).masks
    assert {n: int(m.sum()) for n, m in before.items()} == {"a": 2, "b": 2}  # no gradient has come yet


@pytest.mark.parametrize(("number", "rate"), [(1, 1.0), (3, 0.2 + 0.8 * 0.125), (5, 0.2), (50, 0.2)])
def test_a_cubic_schedule_falls_fast_and_ends_at_the_row_s_rate(number: int, rate: float) -> None:
    """r + (1 - r)(1 - t / T)^3 with T = 4 and t = number - 1."""
    assert rate_at(0.2, 4, number) == pytest.approx(rate)
    assert rate_at(0.2, 0, number) == 0.2


def test_erk_shares_out_a_fifth_by_axes_over_entries() -> None:
    """Wishes: 10 x 10: 20 / 100; 40 x 5: 45 / 200; in proportion s: s (20 + 45) = .2 x 300, so 60 / 65 of each."""
    found = erk({"a": (10, 10), "b": (40, 5)}, 0.2)
    assert found == pytest.approx({"a": 0.2 * 60 / 65, "b": 0.225 * 60 / 65})
    # half of all: s = 150 / 65 leaves neither above 1; at .9 the smaller wish fills up first and the rest is shared
    dense = erk({"a": (2, 2), "b": (100, 100)}, 0.05)
    assert dense["a"] == 1.0
    assert dense["b"] == pytest.approx((0.05 * 10_004 - 4) / 10_000)


def test_a_global_mask_takes_the_largest_wherever_they_are_and_a_floor_of_every_layer() -> None:
    model = model_map(
        [Group("g", 10)],
        [("big", (channels("g"), fixed(10)), 1), ("small", (fixed(10), fixed(10)), 1), ("bias", (channels("g"),))],
    )
    size = np.arange(1, 101, dtype=np.float32).reshape(10, 10)
    params = {"big": 100 * size, "small": size, "bias": np.ones(10, np.float32)}
    found = choose("magnitude-global", model, 0.25, Draw(params=params)).masks
    assert {n: int(m.sum()) for n, m in found.items()} == {"big": 50, "small": 3}  # .1 x .25 x 100, up
    assert found["small"].reshape(-1).nonzero()[0].tolist() == [97, 98, 99]
    layer = choose("magnitude", model, 0.25, Draw(params=params)).masks
    assert {n: int(m.sum()) for n, m in layer.items()} == {"big": 25, "small": 25}


def test_server_momentum_and_rate_leave_running_statistics_at_what_devices_saw() -> None:
    """m = .8, rate 2: two steps of -.1 move the weight by -.2 and 2 x -.18. The variance was 1, and devices see .05:
    with momentum it would pass below 0 in the second round, and the net answer with NaN."""
    model = model_map([Group("g", 1)], [("w", (channels("g"),), 1), ("var", (channels("g"),), 0, "", "buffer")])
    recipe = Recipe(server=Server(momentum=0.8, rate=2.0))
    state = State("r", 0, {"w": np.array([1], np.float32), "var": np.array([1], np.float32)})
    for number, (weight, seen) in enumerate([(0.8, 0.05), (0.44, 0.03)], 1):
        order = Order(OrderId("r", number, 0), "d", Kind.TRAIN, NET, WHOLE, payloads=(Payload("model", "raw", b""),))
        step = {"w": np.array([-0.1], np.float32), "var": np.float32(seen) - state.params["var"]}
        told = Report(order.id, "d", payloads=(Payload("update", "raw", b""),), samples=1)
        state = advance(Setup(model, NET, recipe, ()), state, Folded(step, {}, ((order, told),), ()))
        assert state.params["w"] == pytest.approx([weight])
        assert state.params["var"] == pytest.approx([seen])


@pytest.mark.parametrize(("norms", "asked", "copied"), [(True, 0, False), (True, 1, True), (False, 0, True)])
def test_a_net_with_running_statistics_is_averaged_only_where_devices_are_asked_for_them(
    norms: bool, asked: int, copied: bool
) -> None:
    model = model_map([Group("g", 1)], [("w", (channels("g"),), 1, "", "buffer" if norms else "weight")])
    recipe = Recipe(server=Server(average=0.5), objective=Objective(statistics=asked))
    order = Order(OrderId("r", 1, 0), "d", Kind.TRAIN, NET, WHOLE, payloads=(Payload("model", "raw", b""),))
    told = Report(order.id, "d", payloads=(Payload("update", "raw", b""),), samples=1)
    one = {"w": np.ones(1, np.float32)}
    after = advance(Setup(model, NET, recipe, ()), State("r", 0, one), Folded(one, {}, ((order, told),), ()))
    assert (after.average is not None) == copied
