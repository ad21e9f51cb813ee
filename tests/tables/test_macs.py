"""Parameters and multiply-adds of the zoo against numbers counted by hand, layer by layer."""

from __future__ import annotations

import pytest
import torch

from pleat.elastic.choosers import Draw, choose
from pleat.elastic.selection import WHOLE, Selection, make
from pleat.elastic.size import activation_floats, count, macs, width
from pleat.modelmap import ModelMap
from pleat.nets.build import spec
from pleat.nets.trace import model_map

torch.set_num_threads(1)

# 3x3 convolutions of resnet6 on 16x16: places 256, 64, 16 in the three stages.
RESNET6_MACS = (
    256 * 9 * 16  # stem
    + 256 * 4 * 9 * 16 * 16  # blocks 0 and 1
    + 64 * (9 * 16 * 32 + 16 * 32 + 3 * 9 * 32 * 32)  # block 2 with its shortcut, block 3
    + 16 * (9 * 32 * 64 + 32 * 64 + 3 * 9 * 64 * 64)  # block 4 with its shortcut, block 5
    + 64 * 28
)
# name, input, classes, parameters, MACs, activations that backward keeps
WHOLE_NETS = [
    ("mlp", (1, 8, 8), 10, 64 * 256 + 256 + 256 * 128 + 128 + 1290, 64 * 256 + 256 * 128 + 1280, 64 + 256 + 128),
    (
        "cnn",
        (1, 8, 8),
        10,
        (9 * 32 + 32) + (9 * 32 * 64 + 64) + (256 * 128 + 128) + 1290,
        64 * 9 * 32 + 16 * 9 * 32 * 64 + 256 * 128 + 1280,
        64 + 64 * 32 + 3 * 16 * 32 + 16 * 64 + 3 * 4 * 64 + 128,  # a pooled place also keeps an int64
    ),
    (
        "caldas",
        (1, 28, 28),
        62,
        (25 * 32 + 32) + (25 * 32 * 64 + 64) + (3136 * 512 + 512) + (512 * 62 + 62),
        784 * 25 * 32 + 196 * 25 * 32 * 64 + 3136 * 512 + 512 * 62,
        784 + 784 * 32 + 3 * 196 * 32 + 196 * 64 + 3 * 49 * 64 + 512,
    ),
    ("resnet6", (1, 16, 16), 28, 175_948, RESNET6_MACS, None),
    ("resnet18", (3, 32, 32), 10, 11_173_962, 555_422_720, None),
]
TOTALS = {"mlp": 50_826, "cnn": 53_002, "caldas": 1_690_046, "resnet6": 175_948, "resnet18": 11_173_962}


def model_of(name: str, shape: tuple[int, ...], classes: int) -> ModelMap:
    return model_map(spec(name, shape, classes))


@pytest.mark.parametrize(("name", "shape", "classes", "params", "products", "stored"), WHOLE_NETS)
def test_the_whole_net_is_what_was_counted_by_hand(
    name: str, shape: tuple[int, ...], classes: int, params: int, products: int, stored: int | None
) -> None:
    model = model_of(name, shape, classes)
    assert count(model, WHOLE) == params == TOTALS[name]
    assert macs(model, WHOLE) == products
    assert stored is None or activation_floats(model, WHOLE) == stored


def rate(model: ModelMap, chooser: str, width: float) -> Selection:
    return choose(chooser, model, width, Draw(0, 1, "a", None))


@pytest.mark.parametrize(
    ("name", "shape", "classes", "width", "params", "products"),
    [
        ("mlp", (1, 8, 8), 10, 0.5, 64 * 128 + 128 + 128 * 64 + 64 + 650, 64 * 128 + 128 * 64 + 640),
        ("mlp", (1, 8, 8), 10, 0.125, 64 * 32 + 32 + 32 * 16 + 16 + 170, 64 * 32 + 32 * 16 + 160),
        (
            "cnn",
            (1, 8, 8),
            10,
            0.25,
            (9 * 8 + 8) + (9 * 8 * 16 + 16) + (64 * 32 + 32) + 330,
            64 * 9 * 8 + 16 * 9 * 8 * 16 + 64 * 32 + 320,
        ),
        (
            "caldas",
            (1, 28, 28),
            62,
            0.5,
            (25 * 16 + 16) + (25 * 16 * 32 + 32) + (1568 * 256 + 256) + (256 * 62 + 62),
            784 * 25 * 16 + 196 * 25 * 16 * 32 + 1568 * 256 + 256 * 62,
        ),
    ],
)
def test_a_width_is_what_was_counted_by_hand(
    name: str, shape: tuple[int, ...], classes: int, width: float, params: int, products: int
) -> None:
    model = model_of(name, shape, classes)
    selection = rate(model, "prefix", width)
    assert (count(model, selection), macs(model, selection)) == (params, products)


@pytest.mark.parametrize(("width", "share"), [(0.75, 0.563), (0.5, 0.250), (0.25, 0.063), (0.125, 0.016)])
def test_shares_of_a_resnet18_by_width(width: float, share: float) -> None:
    model = model_of("resnet18", (3, 32, 32), 10)
    selection = rate(model, "prefix", width)
    assert count(model, selection) / count(model, WHOLE) == pytest.approx(share, abs=0.001)
    assert macs(model, selection) / macs(model, WHOLE) == pytest.approx(share, abs=0.002)


def test_shares_of_a_resnet18_by_depth() -> None:
    model = model_of("resnet18", (3, 32, 32), 10)
    shallow = make(model, dropped=["blocks.1", "blocks.3", "blocks.5", "blocks.7"])
    assert count(model, shallow) / count(model, WHOLE) == pytest.approx(0.439, abs=0.001)
    assert macs(model, shallow) / macs(model, WHOLE) == pytest.approx(0.456, abs=0.001)


def test_a_dropped_unit_takes_its_entries_products_and_activations_along() -> None:
    """Block 0 of resnet6: two norms of 16 channels, two 3x3 convolutions of 16 x 16, on 256 places. Backward keeps two
    relus, what enters the second norm, and the sum; the block's own input is the next one's when it is gone."""
    model = model_of("resnet6", (1, 16, 16), 28)
    without = make(model, dropped=["blocks.0"])
    assert count(model, WHOLE) - count(model, without) == 2 * 2 * 16 + 2 * 9 * 16 * 16
    assert macs(model, WHOLE) - macs(model, without) == 256 * 2 * 9 * 16 * 16
    assert activation_floats(model, WHOLE) - activation_floats(model, without) == 4 * 16 * 256


@pytest.mark.parametrize("rate", [1.0, 0.5, 0.25, 0.125])
def test_the_width_of_a_submodel_is_the_rate_that_it_was_cut_by(rate: float) -> None:
    model = model_map(spec("cnn", (1, 8, 8), 10))
    assert width(model, choose("prefix", model, rate, Draw(0, 0, "", {}))) == pytest.approx(rate)


def test_a_dropped_unit_has_no_width() -> None:
    model = model_map(spec("resnet6", (1, 16, 16), 28))
    groups = [g for g in model.groups if g.role == "hidden"]
    inside = sum(1 for g in groups if g.unit == model.units[0])
    assert inside > 0
    assert width(model, make(model, dropped=model.units[:1])) == pytest.approx(1 - inside / len(groups))
