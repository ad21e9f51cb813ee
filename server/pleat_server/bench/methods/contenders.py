"""Contenders: a recipe with what is laid over it, and which classes of device may take part, for one setting.

Recipes that offer sizes get a ladder of the setting's budgets: for each class the largest rate whose submodel does not
exceed it, by the rule of the recipe itself. All train alike, and unless a contender says otherwise the server neither
has momentum nor averages: what is compared is the method.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from pleat.elastic import size
from pleat.elastic.choosers import Draw, Rung
from pleat.elastic.selection import Selection
from pleat.errors import UseError, nearest
from pleat.modelmap import ModelMap
from pleat.params import Params
from pleat.recipes import load as recipes
from pleat.recipes.recipe import Recipe
from pleat_server.bench.methods.setting import Setting
from pleat_server.plan.catalogue import chosen

STEPS = 64  # rates that a ladder is looked for among
_FAST = ", fast server"
FAST = {"momentum": 0.8, "average": 0.9}  # of the server: what brings any method further in few rounds


@dataclass(frozen=True)
class Contender:
    """`level`: devices of later classes (smaller budgets) stay out; None: all take part, whatever they afford."""

    name: str
    recipe: str
    laid: dict[str, Any] = field(default_factory=dict)
    level: int | None = None
    ladder: bool = False  # its sizes are the budgets'
    one: int | None = None  # its one size is this class's
    largest: bool = False  # every device trains the largest of its sizes: what the budgets cost this method

    @property
    def told(self) -> str:
        """Its fields that are not the defaults: a new field changes the name of no result."""
        return repr({f.name: v for f in fields(self) if (v := getattr(self, f.name)) not in (f.default, {})})


def every() -> list[Contender]:
    """The recipes that come with pleat, and the variants that papers hold them against."""
    single = [Contender(n, n, ladder=_offers_sizes(n)) for n in recipes.names() if n not in _SPECIAL]
    return [
        Contender("all-large", "all-large"),
        fast(Contender("all-large", "all-large")),
        Contender("drop-weak", "drop-weak", level=0),
        Contender("all-small", "all-small", one=-1),
        *(Contender(f"exclusive, class {k + 1}", "exclusive", level=k, one=k) for k in (1, 2)),
        Contender("inclusivefl, no momentum", "inclusivefl", {"fold": {"momentum": 0.0}}, ladder=True),
        Contender("depthfl, not distilled", "depthfl", {"objective": {"settings": {"distil": 0.0}}}, ladder=True),
        Contender("elf, depth alone", "elf", _DEPTH_ALONE, ladder=True),
        Contender("scalefl", "scalefl", _TAUGHT_LATE, ladder=True),
        Contender("elastic, all at full size", "elastic", ladder=True, largest=True),
        Contender("elastic, widths in proportion", "elastic", {"rule": {"chooser": "inner"}}, ladder=True),
        Contender("elastic, early blocks first", "elastic", {"rule": {"chooser": "hyb"}}, ladder=True),
        *single,
    ]


_SPECIAL = {"fedavg", "all-large", "all-small", "drop-weak", "exclusive", "elf", "inclusivefl", "scalefl"}
# From a quarter of 100 rounds on, as in its paper.
_TAUGHT_LATE = {"objective": {"settings": {"distil": 0.05, "temperature": 3.0, "since": 26}}}
# The momentum of InclusiveFL has no mean step where a trunk widens: `bench text` has it. eLF with masks needs proxy
# data and two rates a class: `bench elf` has it.
_DEPTH_ALONE = {"holds": {"densities": [1.0], "crossed": False}, "rule": {"score": "size"}}


def contenders(setting: Setting, only: str = "") -> list[Contender]:
    """Those whose names are in `only`, or all. Any of them is there with a fast server too, for who names it.

    Raises UseError for an unknown one.
    """
    known = every()
    return picked([*known, *(fast(c) for c in known if _FAST not in c.name)], only, "methods") if only else known


def fast(contender: Contender) -> Contender:
    """The same, and the server has momentum and averages."""
    return replace(contender, name=contender.name + _FAST, laid={**contender.laid, "server": FAST})


def picked(known_ones: Sequence[Contender], only: str, bench: str) -> list[Contender]:
    """Those of `known_ones` whose names are in `only`, or all. Raises UseError for an unknown one."""
    known = {c.name: c for c in known_ones}
    parts = [only] if only in known else only.split(";" if ";" in only else ",")
    wanted = [name.strip() for name in parts] if only else list(known)
    for name in wanted:
        if name not in known:
            near = nearest(name, known)
            told = f"did you mean {near!r}?" if near else f"there are {'; '.join(n for n in known if _FAST not in n)}"
            raise UseError(f"bench {bench}: unknown contender {name!r}; {told}")
    return [known[name] for name in wanted]


def _offers_sizes(name: str) -> bool:
    return len(recipes.load(name).holds.rungs) > 1


def overrides(setting: Setting, contender: Contender, model: ModelMap, params: Params) -> dict[str, Any]:
    """All that the setting and the contender lay over the recipe."""
    recipe = recipes.load(contender.recipe, model=setting.model, overrides=contender.laid)
    laid: dict[str, Any] = {
        "training": setting.training,
        "server": {"cohort": setting.cohort, "momentum": 0.0, "average": 0.0, "scored": setting.every},
        "plan": {"policy": "fixed", "settings": {}, "timed": False},
    }
    if recipe.name == "elastic":
        laid["server"] |= FAST
    for table, values in contender.laid.items():
        laid[table] = {**laid.get(table, {}), **values}
    if contender.ladder or contender.one is not None:
        rungs = ladder(setting, recipe, model, params)
        if contender.one is not None:
            rungs = (rungs[contender.one],)
        laid["holds"] = {**laid.get("holds", {}), **{key: [r[i] for r in rungs] for i, key in _axes(recipe).items()}}
        if contender.ladder and not contender.largest:
            laid["plan"]["settings"] = {
                f"device-{d:03d}": float(setting.class_of(d)) for d in range(setting.devices) if setting.class_of(d)
            }
    return laid


def _axes(recipe: Recipe) -> dict[int, str]:
    """Which of a rung's rates the recipe varies: place -> key of `holds`."""
    keys = ("widths", "depths", "densities")
    return {i: key for i, key in enumerate(keys) if len(getattr(recipe.holds, key)) > 1} or {0: "widths"}


def ladder(setting: Setting, recipe: Recipe, model: ModelMap, params: Params) -> tuple[Rung, ...]:
    """A size for each of the setting's budgets: the largest of STEPS that fits, and the smallest where none does.

    Equal neighbours are told apart by less than a step, so that every class has a row of its own.
    """
    draw, places, measure = Draw(0, 1, "", params), list[float](), _measure(setting)
    cost = {k: measure(model, chosen(recipe.rule, model, _rung(recipe, k / STEPS), draw)) for k in range(1, STEPS + 1)}
    if cost[1] == cost[STEPS]:
        raise UseError(f"recipe {recipe.name}: all its sizes take as many {setting.measure}, so that no budget tells")
    for budget in setting.budgets:
        fitting = [k for k, c in cost.items() if c <= budget * cost[STEPS] * (1 + 1e-9)] or [1]
        place = max(fitting) / STEPS
        places.append(place if not places or place < places[-1] else places[-1] - 1e-6)
    return tuple(_rung(recipe, place) for place in places)


def _measure(setting: Setting) -> Callable[[ModelMap, Selection], int]:
    return size.count if setting.measure == "parameters" else size.macs


def shares(setting: Setting, contender: Contender, model: ModelMap, params: Params) -> list[float]:
    """What the sizes of the classes come to, as shares of the largest in the setting's measure; above a budget where
    the method has nothing that small. None for contenders without sizes of their own."""
    if not contender.ladder:
        return []
    recipe = recipes.load(contender.recipe, model=setting.model, overrides=contender.laid)
    draw, rungs = Draw(0, 1, "", params), ladder(setting, recipe, model, params)
    costs = [_measure(setting)(model, chosen(recipe.rule, model, rung, draw)) for rung in rungs]
    return [cost / costs[0] for cost in costs]


def _rung(recipe: Recipe, place: float) -> Rung:
    """The size at a place in (0, 1]: that rate of what the recipe varies; where it varies several rates together, what
    its own levels, evenly spaced, come to there."""
    axes = _axes(recipe)
    if len(axes) == 1:
        return Rung(**{Rung._fields[i]: place for i in axes})
    levels = recipe.holds.rungs[::-1]
    spaced = [(i + 1) / len(levels) for i in range(len(levels))]
    return Rung(*(float(np.interp(place, spaced, rates)) - (1 - place) * 1e-9 for rates in zip(*levels, strict=True)))
