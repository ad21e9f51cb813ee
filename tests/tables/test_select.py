"""Structured selection by hand: which filters and channels of an update are sent, and what stays on the device."""

from __future__ import annotations

import numpy as np
import pytest

from pleat.codec.coding import build
from pleat.codec.feedback import fed_back
from pleat.codec.select import structured
from pleat.codec.transform import Context
from pleat.elastic.selection import WHOLE, make
from pleat.params import Array, dense
from support.coded import one_matrix
from support.models import fixed, model_map

CTX = Context(one_matrix(3, 4), WHOLE)
# filters: 10, 4, 1; channels: 8, 2, 4, 1
UPDATE = np.array([[-5, 2, 3, 0], [3, 0, 1, 0], [0, 0, 0, 1]], np.float32)


def cut(tau: float, update: Array = UPDATE) -> Array:
    link = structured(tau)
    out: Array = link.encode({"w": update}, link.init(CTX), CTX)[0]["w"]
    return out


@pytest.mark.parametrize(
    ("tau", "filters", "kept_channels"),
    [
        (0.0, [0, 1, 2], [0, 1, 2, 3]),
        (0.1, [0, 1], [0, 1, 2, 3]),  # 1 / 10 is not above .1; channel 1 / 8 is
        (0.125, [0, 1], [0, 1, 2]),
        (0.25, [0, 1], [0, 2]),  # channel 2 / 8 is not above .25
        (0.4, [0], [0, 2]),  # 4 / 10 is not above .4, 4 / 8 is
        (0.5, [0], [0]),
    ],
)
def test_filters_and_channels_up_to_the_threshold_go(tau: float, filters: list[int], kept_channels: list[int]) -> None:
    expected = np.zeros_like(UPDATE)
    expected[np.ix_(filters, kept_channels)] = UPDATE[np.ix_(filters, kept_channels)]
    assert np.array_equal(cut(tau), expected)


def test_a_kernel_counts_with_all_its_places_and_a_vector_is_left_alone() -> None:
    """Filters sum to 9 and 3; channels, over all filters and places, to 4 and 8."""
    model = model_map([], [("bias", (fixed(2),), 1), ("kernel", (fixed(2), fixed(2), fixed(1), fixed(2)), 1)])
    kernel = np.array([[[[1, 2]], [[-3, 3]]], [[[0, 1]], [[1, -1]]]], np.float32)
    bias, link = np.array([0.0, 1e-9], np.float32), structured(0.4)
    out = link.encode({"bias": bias, "kernel": kernel}, (), Context(model, WHOLE))[0]
    assert np.array_equal(out["bias"], bias)
    assert np.array_equal(out["kernel"][0], kernel[0])
    assert not out["kernel"][1].any()


def test_an_update_of_nothing_sends_nothing_and_the_caller_s_array_stays() -> None:
    assert not cut(0.3, np.zeros((3, 4), np.float32)).any()
    before = UPDATE.copy()
    cut(0.4)
    assert np.array_equal(UPDATE, before)


def test_what_is_left_out_stays_on_the_device_and_goes_with_a_later_update() -> None:
    coding = build("scr:0.4/raw")
    _, sent, residual = fed_back(coding, {"w": UPDATE}, {}, CTX)
    assert np.array_equal(residual["w"], UPDATE - cut(0.4))
    _, later, rest = fed_back(coding, {"w": np.zeros_like(UPDATE)}, residual, CTX)
    assert np.array_equal(dense(sent)["w"] + dense(later)["w"] + rest["w"], UPDATE)
    assert dense(later)["w"].any()


def test_filters_that_go_cost_next_to_nothing_and_links_compose() -> None:
    rng = np.random.default_rng(0)
    update = rng.normal(size=(64, 128)).astype(np.float32)
    update[8:] *= 1e-3
    ctx = Context(one_matrix(64, 128), WHOLE)

    def frame(text: str) -> bytes:
        coding = build(text)
        data, _ = coding.encode({"w": update}, coding.init(ctx), ctx)
        return bytes(data)

    eighth = 4 * update.size // 8
    assert eighth < len(frame("scr:0.1/raw")) < eighth + 1100  # a bit an entry at most says where
    assert len(frame("raw")) > 8 * eighth
    both = dense(build("scr:0.1/topk:0.05/raw").decode(frame("scr:0.1/topk:0.05/raw"), ctx))["w"]
    alone = dense(build("topk:0.05/raw").decode(frame("topk:0.05/raw"), ctx))["w"]
    assert np.array_equal(both, alone)  # the largest entries lie in filters that stay
    assert np.count_nonzero(both) == int(np.ceil(0.05 * update.size))


def test_every_matrix_keeps_its_own_largest_entries_where_each_has_a_share() -> None:
    """A quarter of 8 and of 5: two, and one; over both together, the four largest of 13 all lie in a."""
    model = model_map([], [("a", (fixed(2), fixed(4)), 1), ("b", (fixed(1), fixed(5)), 1), ("bias", (fixed(2),))])
    value = {
        "a": np.array([[10, -20, 30, -40], [0, 50, 60, 0]], np.float32),
        "b": np.array([[1, 0, -3, 2, 0]], np.float32),
        "bias": np.array([0.1, 0.2], np.float32),
    }
    ctx = Context(model, WHOLE)

    def kept(text: str) -> dict[str, list[int]]:
        coding = build(text)
        found = dense(coding.decode(coding.encode(value, coding.init(ctx), ctx)[0], ctx))
        return {n: np.flatnonzero(found[n]).tolist() for n in "ab"}

    assert kept("topk-each:0.25/f32") == {"a": [5, 6], "b": [2]}
    assert kept("topk:0.25/f32") == {"a": [2, 3, 5, 6], "b": []}
    assert kept("topk-each:0.01/f32") == {"a": [], "b": []}
    assert kept("topk-each:1/f32") == {"a": [0, 1, 2, 3, 5, 6], "b": [0, 2, 3]}


def test_only_entries_inside_masks_count() -> None:
    mask = np.ones((3, 4), np.bool_)
    mask[2] = False
    ctx = Context(one_matrix(3, 4), make(one_matrix(3, 4), masks={"w": mask}))
    coding = build("scr:0.125/raw")
    data, _ = coding.encode({"w": np.where(mask, UPDATE, 0).astype(np.float32)}, coding.init(ctx), ctx)
    assert np.array_equal(dense(coding.decode(data, ctx))["w"], np.where(mask, UPDATE, 0) * [1, 1, 1, 0])
