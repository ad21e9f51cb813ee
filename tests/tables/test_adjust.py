"""Adjusters on masks small enough to count: what goes, what comes, and when nothing changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pleat.elastic.pruning import keep_largest, pruned
from pleat.elastic.selection import WHOLE, Selection, make
from pleat.errors import UseError
from pleat.exchange import skills
from pleat.modelmap import Group
from pleat.params import Params
from pleat_client.adjust import ADJUSTERS, Moment, adjuster, moved
from support.models import channels, fixed, model_map

MODEL = model_map([Group("g", 4)], [("bias", (channels("g"),)), ("weight", (channels("g"), fixed(5)), 1)])
FIRST20 = np.arange(20).reshape(4, 5)


def masked(held: int) -> Selection:
    """The first `held` entries of the weight."""
    return make(MODEL, masks={"weight": held > FIRST20})


def params(values: Any = None) -> Params:
    weight = (FIRST20 + 1 if values is None else values).astype(np.float32)
    return {"bias": np.ones(4, np.float32), "weight": weight}


def moment(selection: Selection = WHOLE, **changes: Any) -> Moment:
    plain: dict[str, Any] = {
        "model": MODEL,
        "selection": selection,
        "params": params(),
        "round": 10,
        "settings": {},
        "gradient": lambda at: params(FIRST20),
        "accuracy": lambda at: 1.0,
        "early": params(-FIRST20[::-1]),
        "start": lambda: params(np.full((4, 5), 0.5)),
    }
    return Moment(**{**plain, **changes})


@pytest.mark.parametrize(
    ("number", "share", "count"),
    [
        (10, 0.5, 4),  # a_t = .25 (1 + cos(pi / 10)) = .4878: floor(.4878 x 10) of 10 entries
        (50, 0.5, 2),  # a_t = .25 (1 + cos(pi / 2)) = .25
        (90, 0.5, 0),  # a_t = .25 (1 + cos(.9 pi)) = .0122
        (100, 0.5, 0),  # a_t = 0
        (50, 1.0, 5),
    ],
)
def test_feddst_trades_as_many_entries_as_its_cosine_says(number: int, share: float, count: int) -> None:
    """Of ten held entries, sizes 1 to 10, the smallest go; of the ten others, gradients 10 to 19, the largest come."""
    before = masked(10)
    selection, after = adjuster("regrow").between(  # type: ignore[misc]
        moment(before, round=number, settings={"every": 10, "until": 100, "share": share})
    )
    if not count:
        assert selection == before
        return
    mask = selection.masks["weight"].reshape(-1)
    assert mask.sum() == 10
    assert np.flatnonzero(mask).tolist() == [*range(count, 10), *range(20 - count, 20)]
    assert not after["weight"].reshape(-1)[20 - count :].any()  # new weights begin at 0
    assert after["weight"].reshape(-1)[count:10].tolist() == [*range(count + 1, 11)]
    assert after["bias"].all()


@pytest.mark.parametrize(("number", "selection"), [(11, masked(10)), (110, masked(10)), (10, WHOLE)])
def test_feddst_leaves_the_mask_alone_between_its_rounds_after_the_last_and_where_there_is_none(
    number: int, selection: Selection
) -> None:
    settings = {"every": 10, "until": 100, "share": 0.5}
    assert ADJUSTERS["regrow"].between(moment(selection, round=number, settings=settings)) is None  # type: ignore[misc]


def test_what_goes_may_come_again() -> None:
    mask, weights = np.array([True, True, False, False]), np.array([1, 2, 0, 0], np.float32)
    assert moved(mask, weights, np.array([9, 0, 1, 1], np.float32), 0.5).tolist() == [True, True, False, False]
    assert moved(mask, weights, np.array([0, 9, 0, 1], np.float32), 0.5).tolist() == [False, True, False, True]


def test_sub_fedavg_prunes_a_tenth_of_what_is_held() -> None:
    selection, after = ADJUSTERS["shrink"].after(moment())  # type: ignore[misc]
    mask = selection.masks["weight"].reshape(-1)
    assert np.flatnonzero(~mask).tolist() == [0, 1]  # floor(.1 x 20) smallest of 1 to 20
    assert not after["weight"].reshape(-1)[:2].any()
    again, _ = ADJUSTERS["shrink"].after(moment(selection))  # type: ignore[misc]
    assert (~again.masks["weight"]).sum() == 3  # floor(.1 x 18) = 1 more


@pytest.mark.parametrize(
    "changes",
    [
        {"early": params()},  # the mask did not move since the first epoch
        {"accuracy": lambda at: 0.5},  # not above one half
        {"selection": masked(14)},  # 30 % are pruned already
    ],
)
def test_sub_fedavg_keeps_its_mask_unless_all_three_gates_are_open(changes: dict[str, Any]) -> None:
    assert ADJUSTERS["shrink"].after(moment(**changes)) is None


def test_lotteryfl_prunes_a_fifth_and_rewinds_the_survivors() -> None:
    selection, begun = ADJUSTERS["rewind"].before(moment())  # type: ignore[misc]
    mask = selection.masks["weight"].reshape(-1)
    assert np.flatnonzero(~mask).tolist() == [0, 1, 2, 3]
    assert begun["weight"].reshape(-1).tolist() == [0.0] * 4 + [0.5] * 16
    assert (begun["bias"] == params()["bias"]).all()  # only what is ranked is rewound


@pytest.mark.parametrize("changes", [{"accuracy": lambda at: 0.2}, {"selection": masked(10)}])
def test_lotteryfl_waits_until_the_device_does_well_and_stops_at_its_target(changes: dict[str, Any]) -> None:
    assert ADJUSTERS["rewind"].before(moment(**changes)) is None


def test_pruning_nests_and_never_empties_a_layer() -> None:
    masks, weights = {"weight": np.ones((4, 5), np.bool_)}, params()
    for _ in range(40):
        smaller = pruned(masks, weights, 0.5)
        assert not (smaller["weight"] & ~masks["weight"]).any()
        assert smaller["weight"].any()
        masks = smaller
    assert masks["weight"].sum() == 1
    masks = {"weight": np.ones((4, 5), np.bool_)}
    for left in (16, 13, 11, 9, 8):  # 20 - 4, 16 - 3, 13 - 2, 11 - 2, 9 - 1; without floors .8^5 x 20 = 6.6 would be
        masks = pruned(masks, weights, 0.2)
        assert masks["weight"].sum() == left


def test_of_equal_sizes_the_first_are_kept_and_nothing_outside_the_mask() -> None:
    mask = np.array([False, True, True, True])
    assert keep_largest(mask, np.array([9, 1, -1, 1], np.float32), 2).tolist() == [False, True, True, False]
    assert not keep_largest(mask, np.ones(4, np.float32), 0).any()
    assert keep_largest(mask, np.zeros(4, np.float32), 9).tolist() == mask.tolist()


def test_an_adjuster_works_in_a_cut_submodel_s_own_shapes() -> None:
    half = make(MODEL, {"g": [1, 3]})
    own = {"bias": np.ones(2, np.float32), "weight": np.arange(1, 11, dtype=np.float32).reshape(2, 5)}
    selection, after = ADJUSTERS["shrink"].after(moment(half, params=own, early={**own, "weight": own["weight"][::-1]}))  # type: ignore[misc]
    assert np.flatnonzero(selection.masks["weight"][1] == 0).tolist() == [0]
    assert not selection.masks["weight"][[0, 2]].any()
    assert after["weight"][0].tolist() == [0, 2, 3, 4, 5]


def test_what_recipes_may_ask_for_is_what_there_is() -> None:
    assert set(ADJUSTERS) == {"", *skills.ADJUSTERS}


def test_an_unknown_adjuster_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UseError, match="unknown adjuster 'shrnk'; did you mean 'shrink'"):
        adjuster("shrnk")


@pytest.mark.parametrize(("sparsity", "margin", "kept"), [(0.9, 0.2, 6), (0.5, 0.0, 10), (0.95, 0.0, 1)])
def test_zerofl_returns_its_share_of_largest_trained_weights(sparsity: float, margin: float, kept: int) -> None:
    """Of twenty weights 1 to 20, the last so many, and every one as it was trained."""
    settings = {"sparsity": sparsity, "margin": margin}
    selection, after = adjuster("heaviest").after(moment(settings=settings))  # type: ignore[misc]
    assert np.array_equal(selection.masks["weight"], (FIRST20 + kept) // 20 > 0)
    assert np.array_equal(after["weight"], params()["weight"])
    assert adjuster("heaviest").after(moment(settings={"sparsity": 0.1, "margin": 0.1})) is None
