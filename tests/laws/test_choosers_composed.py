"""Sizes of several rates: width, depth and masks in one selection, level by level or each with each."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pleat.elastic.choosers import Draw, Rung, choose, composed
from pleat.elastic.selection import compose, coverage, within
from pleat.elastic.size import count, macs
from pleat.errors import UseError
from pleat.nets.build import initial, spec
from pleat.nets.trace import model_map
from pleat.recipes.recipe import Holds, Recipe, Rule
from pleat_server.plan.catalogue import catalogue

NET = spec("resnet8", (1, 8, 8), 4)
MODEL = model_map(NET)
DRAW = Draw(3, 1, "pi", initial(NET, 0))
RATES = st.floats(0.05, 1.0)


@given(RATES, RATES, RATES)
def test_a_composed_size_holds_what_each_of_its_choosers_holds(width: float, depth: float, density: float) -> None:
    found = composed("prefix", "depth", "magnitude", MODEL, Rung(width, depth, density), DRAW)
    rates = {"prefix": width, "depth": depth, "magnitude": density}
    one, two, three = (choose(name, MODEL, rate, DRAW) for name, rate in rates.items())
    assert found == compose(MODEL, compose(MODEL, one, two), three)
    for tensor in MODEL.tensors:
        each = [coverage(MODEL, selection, tensor.name) for selection in (one, two, three)]
        assert (coverage(MODEL, found, tensor.name) == (each[0] & each[1] & each[2])).all()


@given(RATES, RATES, RATES, RATES, RATES, RATES)
def test_composed_sizes_of_nested_choosers_nest(a: float, b: float, c: float, d: float, e: float, f: float) -> None:
    small, large = (Rung(*map(pick, (a, b, c), (d, e, f))) for pick in (min, max))
    inner, outer = (composed("prefix", "depth", "magnitude", MODEL, rung, DRAW) for rung in (small, large))
    assert within(MODEL, inner, outer)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_every_rate_of_a_size_takes_something_away(axis: int) -> None:
    rates = [1.0, 1.0, 1.0]
    rates[axis] = 0.3
    found = composed("prefix", "depth", "magnitude", MODEL, Rung(*rates), DRAW)
    assert count(MODEL, found) < count(MODEL, composed("prefix", "depth", "magnitude", MODEL, Rung(), DRAW))


def test_levels_pair_the_rates_and_one_rate_holds_for_all() -> None:
    holds = Holds(widths=(1.0, 0.7, 0.7), depths=(1.0, 1.0, 0.5), densities=(0.5,))
    assert holds.rungs == (Rung(1, 1, 0.5), Rung(0.7, 1, 0.5), Rung(0.7, 0.5, 0.5))


def test_crossed_rates_come_each_with_each_and_their_rows_fall_in_cost() -> None:
    holds = Holds(depths=(1.0, 0.5), densities=(1.0, 0.6, 0.2), crossed=True)
    rows = catalogue(MODEL, Recipe(holds=holds), 0, DRAW.params)
    assert {row.rung for row in rows} == {Rung(1, d, m) for d in (1.0, 0.5) for m in (1.0, 0.6, 0.2)}
    assert [row.own_macs for row in rows] == sorted((row.own_macs for row in rows), reverse=True)
    assert rows[0].rung == Rung()
    assert rows[0].own_macs == 3 * macs(MODEL, rows[0].selection)


@pytest.mark.parametrize(
    ("rung", "label"),
    [
        (Rung(), "1"),
        (Rung(0.125), "0.125"),
        (Rung(depth=0.67), "depth 0.67"),
        (Rung(0.5, 0.25, 0.1), "width 0.5 depth 0.25 density 0.1"),
        (Rung(0.5, 1.0, 0.1), "width 0.5 density 0.1"),
    ],
)
def test_a_size_is_called_by_the_rates_that_are_not_whole(rung: Rung, label: str) -> None:
    assert rung.label == label
    assert Rung.named(label) == rung


@pytest.mark.parametrize(
    "label", ["", "half", "0", "1.5", "nan", "depth", "depth 0.5 width", "hight 0.5", "depth 1 depth 1"]
)
def test_what_names_no_size_is_refused_with_what_does(label: str) -> None:
    with pytest.raises(UseError, match="expected a rate in"):
        Rung.named(label)


def test_a_recipe_may_name_the_choosers_of_depth_and_masks() -> None:
    holds = Holds(depths=(1.0, 0.4), densities=(0.5,))
    erk = catalogue(MODEL, Recipe(holds=holds, rule=Rule(mask="magnitude-erk")), 0, DRAW.params)
    plain = catalogue(MODEL, Recipe(holds=holds), 0, DRAW.params)
    assert erk[0].selection != plain[0].selection
