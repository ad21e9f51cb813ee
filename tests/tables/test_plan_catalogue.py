"""The catalogue: rows, costs worked by hand, and the recipes it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from pleat.codec.coding import predicted_bytes
from pleat.elastic.selection import shapes, within
from pleat.errors import UseError
from pleat.recipes.recipe import Holds, Objective, Recipe, Returns, Rule, Training
from pleat_server.bench.plan import mlp
from pleat_server.plan.catalogue import ENVELOPE, Row, catalogue

MODEL = mlp(inputs=6, hidden=8, classes=2)  # 6x8+8 + 8x8+8 + 8x2+2 = 146 parameters, 128 MACs


def _rows(name: str = "cross_entropy", nested: bool = False, **settings: float) -> tuple[Row, ...]:
    recipe = Recipe(
        name="test",
        holds=Holds(widths=(1.0, 0.5, 0.25)),
        rule=Rule(chooser="prefix"),
        objective=Objective(name=name, nested=nested, settings=settings),
        training=Training(batch=4, momentum=0.9),
    )
    return catalogue(MODEL, recipe, seed=0)


def test_rows_fall_in_width_and_count_parameters_macs_and_share() -> None:
    rows = _rows()
    assert [r.index for r in rows] == [0, 1, 2]
    assert [r.rung.width for r in rows] == [1.0, 0.5, 0.25]
    assert [r.params for r in rows] == [146, 58, 26]
    assert [r.own_macs for r in rows] == [3 * 128, 3 * 48, 3 * 20]
    assert [r.density for r in rows] == pytest.approx([1.0, 58 / 146, 26 / 146])
    assert shapes(MODEL, rows[1].selection)["b.weight"] == (4, 4)


def test_memory_counts_weights_gradients_momentum_the_received_copy_activations_and_frames() -> None:
    row = _rows()[0]
    frames = row.up_bytes + row.down_bytes
    assert row.memory_bytes == 4 * 4 * 146 + 4 * (8 + 8) * 4 + frames


def test_bytes_are_those_the_codec_predicts_and_an_envelope() -> None:
    row = _rows()[1]
    assert row.up_bytes == ENVELOPE + predicted_bytes("raw", MODEL, row.selection)


PASSES = [
    ("cross_entropy", {}, [1, 1, 1], [128, 48, 20]),
    ("joint", {}, [3, 2, 1], [128 + 48 + 20, 48 + 20, 20]),
    ("distilled", {}, [2, 2, 1], [128 + 34, 48 + 20, 20]),
    ("nested_draw", {}, [1, 1, 1], [196 / 3, 34, 20]),
    ("nested_draw", {"distil": 0.5}, [2 - 1 / 3, 1.5, 1], [128 + 68 / 3, 48 + 10, 20]),
]


@pytest.mark.parametrize(("name", "settings", "passes", "macs"), PASSES)
def test_objectives_cost_their_extra_passes(
    name: str, settings: dict[str, float], passes: list[float], macs: list[float]
) -> None:
    rows = _rows(name, nested=True, **settings)
    assert [r.passes for r in rows] == pytest.approx(passes)
    assert [r.macs for r in rows] == pytest.approx([3 * m for m in macs])
    assert [len(r.nested) for r in rows] == [2, 1, 0]
    assert all(within(MODEL, inner, r.selection) for r in rows for inner in r.nested)


def test_codings_are_crossed_with_sizes_largest_first() -> None:
    recipe = Recipe(
        holds=Holds(widths=(1.0, 0.5)),
        rule=Rule(chooser="prefix"),
        returns=Returns(up="topk:{keep}/lloyd:{bits}", keeps=(0.05, 0.2), bits=(4,)),
    )
    rows = catalogue(MODEL, recipe, seed=0)
    assert [(r.rung.width, r.keep, r.up) for r in rows] == [
        (1.0, 0.2, "topk:0.2/lloyd:4"),
        (1.0, 0.05, "topk:0.05/lloyd:4"),
        (0.5, 0.2, "topk:0.2/lloyd:4"),
        (0.5, 0.05, "topk:0.05/lloyd:4"),
    ]


REFUSED = [
    (Recipe(returns=Returns(up="raw", keeps=(0.1, 0.2))), "returns.keeps offers 2 values"),
    (Recipe(returns=Returns(up="raw", bits=(3, 4))), "returns.bits offers 2 values"),
    (Recipe(returns=Returns(up="rwa")), "rwa"),
    (Recipe(rule=Rule(chooser="prefics")), "did you mean 'prefix'"),
    (Recipe(rule=Rule(chooser="magnitude"), holds=Holds(widths=(0.5,))), "weights"),
]


@pytest.mark.parametrize(("recipe", "words"), REFUSED)
def test_what_cannot_be_offered_is_refused_by_name(recipe: Recipe, words: str) -> None:
    with pytest.raises(UseError, match=words):
        catalogue(MODEL, recipe, seed=0)


def test_masks_cost_dense_memory_and_macs_and_their_bits() -> None:
    params = {t.name: np.arange(np.prod(t.shape), dtype=np.float32).reshape(t.shape) for t in MODEL.tensors}
    recipe = Recipe(rule=Rule(chooser="magnitude"), holds=Holds(widths=(1.0, 0.5)), training=Training(batch=4))
    whole, half = catalogue(MODEL, recipe, seed=0, params=params)
    assert half.params < whole.params
    assert half.macs == whole.macs
    assert half.memory_bytes - half.up_bytes - half.down_bytes == pytest.approx(
        whole.memory_bytes - whole.up_bytes - whole.down_bytes + 128 // 8
    )
