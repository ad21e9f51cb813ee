"""Contenders of the comparison of methods: a size for each budget, whatever a recipe varies, that its rules accept."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from pleat.elastic import size
from pleat.elastic.choosers import Draw, Rung
from pleat.elastic.selection import WHOLE
from pleat.nets.build import initial, spec
from pleat.nets.trace import model_map
from pleat.recipes import load as recipes
from pleat_server.bench.methods.contenders import Contender, every, ladder, overrides
from pleat_server.bench.methods.setting import SETTINGS
from pleat_server.plan.catalogue import catalogue, chosen

torch.set_num_threads(1)

SETTING = SETTINGS["s"]


@pytest.mark.parametrize("contender", every(), ids=lambda c: c.name)
def test_what_is_laid_over_a_contender_is_a_valid_recipe_with_a_row_a_class(contender: Contender) -> None:
    recipe = recipes.load(contender.recipe, model=SETTING.model, overrides=contender.laid)
    net = spec(SETTING.model, (1, 8, 8), 10, recipe.holds.exits)
    model, params = model_map(net), initial(net, 0)
    laid = overrides(SETTING, contender, model, params)
    recipe = recipes.load(contender.recipe, model=SETTING.model, overrides=laid)
    rows = {row.rung for row in catalogue(model, recipe, 0, params)}
    assert not contender.ladder or len(rows) == len(SETTING.budgets)


@pytest.mark.parametrize("name", ["heterofl", "depthfl", "scalefl"])
def test_each_class_gets_the_largest_size_that_its_budget_affords(name: str) -> None:
    recipe = recipes.load(name, model=SETTING.model)
    net = spec(SETTING.model, (1, 8, 8), 10, recipe.holds.exits)
    model, params = model_map(net), initial(net, 0)
    whole, rungs = size.count(model, WHOLE), ladder(SETTING, recipe, model, params)
    counts = [size.count(model, chosen(recipe.rule, model, r, Draw(0, 1, "", params))) for r in rungs]
    assert counts[0] == whole
    assert all(a.width >= b.width and a.depth >= b.depth and a != b for a, b in pairwise(rungs))
    assert counts[:3] == sorted(counts[:3], reverse=True)
    for count, budget in zip(counts[:4], SETTING.budgets[:4], strict=True):
        assert count <= budget * whole


def test_levels_of_two_rates_are_those_of_the_recipe_and_what_lies_between() -> None:
    recipe = recipes.load("scalefl", model=SETTING.model)
    net = spec(SETTING.model, (1, 8, 8), 10, recipe.holds.exits)
    rungs = ladder(SETTING, recipe, model_map(net), initial(net, 0))
    assert rungs[0] == Rung()
    assert tuple(rungs[1]) == pytest.approx((0.75, 0.75, 1.0), abs=1e-6)
