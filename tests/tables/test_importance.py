"""Importance by hand, and what ranks by it."""

from __future__ import annotations

import numpy as np
import pytest

from pleat.elastic.choosers import Draw, choose
from pleat.elastic.importance import KINDS, importance
from pleat.modelmap import Group
from support.models import channels, fixed, model_map

PARAMS = {"w": np.array([[1, -2], [3, 0.5]], np.float32)}
KEPT = {
    "start": {"w": np.array([[1, 2], [2, 0]], np.float32)},
    "squares": {"w": np.array([[4, 0.25], [0, 16]], np.float32)},
    "imp": {"w": np.array([[0.5, 1], [0.25, 0.75]], np.float32)},
}


@pytest.mark.parametrize(
    ("kind", "worth"),
    [
        ("size", [[1, -2], [3, 0.5]]),  # choosers rank magnitudes
        ("change", [[0, 4], [1, 0.5]]),
        ("gradient", [[2, 0.5], [0, 4]]),
        ("square", [[4, 0.25], [0, 16]]),
        ("taylor", [[2, 1], [0, 2]]),
        ("imp", [[0.5, 1], [0.25, 0.75]]),
    ],
)
def test_importance_of_four_weights_worked_by_hand(kind: str, worth: list[list[float]]) -> None:
    assert importance(kind, PARAMS, KEPT)["w"].tolist() == worth


@pytest.mark.parametrize("kind", KINDS)
def test_before_anything_has_come_importance_is_size(kind: str) -> None:
    assert importance(kind, PARAMS, {}) is PARAMS


@pytest.mark.parametrize(("kind", "held"), [("size", [0, 1, 1, 0]), ("square", [1, 0, 0, 1]), ("change", [0, 1, 1, 0])])
def test_masks_and_channels_rank_by_any_importance(kind: str, held: list[int]) -> None:
    model = model_map([Group("g", 2)], [("w", (channels("g"), fixed(2)), 1)])
    draw = Draw(params=importance(kind, PARAMS, KEPT))
    assert choose("magnitude", model, 0.5, draw).masks["w"].reshape(-1).tolist() == [bool(h) for h in held]
    # rows weigh 3 and 3.5; 4.25 and 16; 4 and 1.5
    assert choose("channels", model, 0.5, draw).kept["g"].tolist() == [{"size": 1, "square": 1, "change": 0}[kind]]
