"""InclusiveFL worked by hand: two stages that are one average, and what a smaller size takes from a larger one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pleat.elastic.choosers import Draw, choose
from pleat.elastic.fold import Fold
from pleat.elastic.selection import extract
from pleat.errors import UseError
from pleat.modelmap import ModelMap
from pleat.nets.build import spec
from pleat.nets.trace import model_map as traced
from pleat.params import Array, Params
from pleat_server.deeper import check_pairs, means, mixed_in, pairs
from support.models import fixed, model_map


def sizes(*more: tuple) -> ModelMap:
    """Size a: a layer of the trunk and its own; size b: two of the trunk and its own; each with a head."""
    units = ("t1", "top.a", "t2", "top.b")
    names = {"t1.w": "t1", "t2.w": "t2", "top.a.layer.w": "top.a", "top.b.layer.w": "top.b"}
    heads = {"top.a.head": "top.a", "top.b.head": "top.b"}
    tensors = [(n, (fixed(1), fixed(1)), 1, unit) for n, unit in {**names, **heads}.items()]
    return replace(model_map([], [*tensors, *more], units), exits=("top.a", "top.b"))


MODEL = sizes()
SMALL, LARGE = (choose("depth-own", MODEL, rate, Draw()) for rate in (0.5, 1.0))
# a device's size, its samples, and what it did to each tensor
DEVICES: list[tuple] = [
    (SMALL, 10, {"t1.w": 6, "top.a.layer.w": 1, "top.a.head": 2}),
    (LARGE, 20, {"t1.w": 3, "t2.w": 1, "top.b.layer.w": 4, "top.b.head": 0}),
    (LARGE, 30, {"t1.w": 0, "t2.w": 6, "top.b.layer.w": -1, "top.b.head": 5}),
]


def array(value: float) -> Array:
    return np.full((1, 1), value, np.float32)


def folded(devices: list[tuple]) -> Fold:
    fold = Fold(MODEL)
    for selection, samples, update in devices:
        fold.add({name: array(value) for name, value in update.items()}, selection, samples)
    return fold


def plain(params: Params) -> dict[str, float]:
    return {name: float(a[0, 0]) for name, a in params.items()}


def test_an_average_inside_each_size_and_then_across_sizes_is_the_fold_over_all_devices() -> None:
    """Inside a: device 0 alone. Inside b, by 20 and 30 samples: t1 (60 + 0) / 50 = 1.2, t2 (20 + 180) / 50 = 4, its own
    layer (80 - 30) / 50 = 1, its head 150 / 50 = 3. Across, by 10 and 50: t1 (60 + 50 x 1.2) / 60 = 2; t2 is b's."""
    assert plain(folded(DEVICES).finish(1.0)) == {
        "t1.w": 2.0,
        "t2.w": 4.0,
        "top.a.layer.w": 1.0,
        "top.a.head": 2.0,
        "top.b.layer.w": 1.0,
        "top.b.head": 3.0,
    }


def test_the_two_stages_carried_out_give_the_same() -> None:
    inside = [folded(DEVICES[:1]).finish(1.0), folded(DEVICES[1:]).finish(1.0)]
    sizes_of = ((SMALL, 10, extract(MODEL, SMALL, inside[0])), (LARGE, 50, extract(MODEL, LARGE, inside[1])))
    across = Fold(MODEL)
    for selection, samples, update in sizes_of:
        across.add(update, selection, samples)
    assert plain(across.finish(1.0)) == pytest.approx(plain(folded(DEVICES).finish(1.0)))


def test_the_smaller_size_s_own_layer_takes_a_fifth_of_the_deeper_ones_step_of_the_round_before() -> None:
    """b's layers from a's last on are t2, with step 4, and b's own, with step 1: m = 2.5. With beta .2: in round 1,
    when m is 0, a's own layer moves by .8 x 1, in round 2, when devices do the same, by .8 x 1 + .2 x 2.5 = 1.3."""
    total = folded(DEVICES)
    step = total.finish(1.0)
    first = mixed_in(step, {}, 0.2, total)
    assert plain(first) == {**plain(step), "top.a.layer.w": pytest.approx(0.8)}
    ahead = means(MODEL, step)
    assert plain(ahead) == {"top.a.layer.w": 2.5}
    second = mixed_in(step, ahead, 0.2, total)
    assert plain(second) == {**plain(step), "top.a.layer.w": pytest.approx(1.3)}


def test_a_size_that_no_device_trained_in_a_round_keeps_its_layer() -> None:
    total = folded(DEVICES[1:])
    after = mixed_in(total.finish(1.0), {"top.a.layer.w": array(2.5)}, 0.2, total)
    assert plain(after)["top.a.layer.w"] == 0


def test_the_layers_of_a_transformer_s_sizes_are_found_in_its_map() -> None:
    """Sizes of 2, 4 and 6 layers: the first's own layer against 2, 3 of the trunk and the second's own."""
    model = traced(spec("transformer", (8,), 3, 3, layers=6, width=8, heads=2, vocabulary=20))
    first, second = pairs(model)
    assert (first.own, first.deeper) == ("tops.0.layer.", ("layers.1.", "layers.2.", "tops.1.layer."))
    assert (second.own, second.deeper) == ("tops.1.layer.", ("layers.3.", "layers.4.", "tops.2.layer."))
    assert len(first.tensors) == 12
    check_pairs("inclusivefl", model)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (replace(MODEL, exits=("top.b",)), "the net has 1 exits; write holds.exits = 2 or more"),
        (replace(MODEL, units=("t1", "t2", "top.a", "top.b")), "no layers of the trunk lie between exits 'top.a'"),
        (
            sizes(("t2.bias", (fixed(1),), 0, "t2")),
            r"exit 'top.a' has no layer like 't2' of the trunk .* w, bias|bias, w",
        ),
        (traced(spec("mlp", (1, 8, 8), 10, 2)), "exit 'heads.0' has no layer like 'blocks.1'"),
    ],
)
def test_a_net_whose_sizes_do_not_correspond_is_refused(model: ModelMap, message: str) -> None:
    with pytest.raises(UseError, match=f"recipe mine: .*({message}).*fold.momentum *= *0"):
        check_pairs("mine", model)


def test_layers_of_different_makes_have_no_mean() -> None:
    more = ("t3.w", (fixed(2), fixed(1)), 1, "t3")
    model = replace(sizes(more), units=("t1", "top.a", "t2", "t3", "top.b"))
    with pytest.raises(UseError, match=r"layers 't2' and 't3' between exits 'top.a' and 'top.b' differ"):
        pairs(model)
