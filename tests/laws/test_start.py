"""Scaled first weights: a hand-worked ladder, and nothing changes where there is one size."""

from __future__ import annotations

import numpy as np

from pleat.elastic.selection import WHOLE, make
from pleat.elastic.start import scaled_start
from pleat.modelmap import Group, ModelMap, Segment, TensorSpec
from pleat.params import Params


def two_layers() -> ModelMap:
    """2 inputs -> 4 hidden channels -> 1 output."""
    fixed = Segment("", 2)
    tensors = (
        TensorSpec("1.bias", (4,), ((Segment("h"),),)),
        TensorSpec("1.weight", (4, 2), ((Segment("h"),), (fixed,)), 1),
        TensorSpec("2.weight", (1, 4), ((Segment("", 1),), (Segment("h"),)), 1),
    )
    return ModelMap(tensors, (Group("h", 4),))


def ones() -> Params:
    return {t.name: np.ones(t.shape, np.float32) for t in two_layers().tensors}


def test_shared_input_channels_are_scaled_for_the_smallest_size_that_holds_them() -> None:
    model = two_layers()
    half, quarter = make(model, {"h": [0, 1]}), make(model, {"h": [0]})
    started = scaled_start(model, ones(), [quarter, WHOLE, half])  # in any order
    np.testing.assert_allclose(started["2.weight"], [[2.0, 2.0**0.5, 1.0, 1.0]])  # sqrt(4/1), sqrt(4/2), 1, 1
    np.testing.assert_array_equal(started["1.weight"], 1.0)  # the data's own channels are all there at every size
    np.testing.assert_array_equal(started["1.bias"], 1.0)


def test_one_size_starts_as_ever() -> None:
    started = scaled_start(two_layers(), ones(), [WHOLE])
    assert all(np.array_equal(started[n], a) for n, a in ones().items())
