"""Deeper: what a smaller size's own last layer takes from the layers that the next larger size has from there on.

Of a net with exits, sizes a < b being neighbours, a's own layer stands where b goes on with the trunk, and b's own
layer at its end. With g the step of a round, over all devices that held an entry (InclusiveFL's momentum distillation):

    m   = mean over b's layers L_a .. L_b of their g in the round before; 0 before the first
    g_a = (1 - beta) g_a + beta m       of a's own layer, where a device held it

Which layers correspond is read from the map: units of the trunk between two exits, and what has tensors of the same
names and shapes inside the exits. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pleat.elastic.fold import Fold
from pleat.errors import UseError
from pleat.modelmap import ModelMap
from pleat.params import Params

AHEAD = "ahead"  # the extras' name of m, under the names of a's tensors


@dataclass(frozen=True)
class Pair:
    """`own`: where the smaller size's own layer lies, `deeper`: where the larger one's layers L_a .. L_b do, as
    beginnings of names; `tensors`: their ends, the same of all."""

    own: str
    deeper: tuple[str, ...]
    tensors: tuple[str, ...]


def pairs(model: ModelMap) -> tuple[Pair, ...]:
    """Of every two neighbouring exits, the shallowest first. Raises UseError, naming the exit, where nothing in it
    corresponds to the layers of the trunk behind it, or where these are of different makes."""
    out = []
    for small, large in pairwise(model.exits):
        between = model.units[model.units.index(small) + 1 : model.units.index(large)]
        if not between:
            raise UseError(f"no layers of the trunk lie between exits {small!r} and {large!r}, to learn from")
        make = _weights(model, between[0])
        odd = next((u for u in between if _weights(model, u) != make), None)
        if odd is not None:
            raise UseError(
                f"layers {between[0]!r} and {odd!r} between exits {small!r} and {large!r} differ in their tensors, so "
                "that their steps have no mean"
            )
        own, last = (_place(model, exit_, between[0], make) for exit_ in (small, large))
        out.append(Pair(own, (*(f"{u}." for u in between), last), tuple(make)))
    return tuple(out)


def check_pairs(recipe: str, model: ModelMap) -> None:
    """Raises UseError where the model has no sizes, or none that correspond, for a recipe that asks for momentum."""
    if len(model.exits) < 2:
        raise UseError(
            f"recipe {recipe}: fold.momentum goes from larger sizes to smaller ones, but the net has "
            f"{len(model.exits)} exits; write holds.exits = 2 or more, or fold.momentum = 0"
        )
    try:
        pairs(model)
    except UseError as error:
        then = "write --set fold.momentum=0, or take a net of equal layers, such as transformer"
        raise UseError(f"recipe {recipe}: {error}; {then}") from None


def _weights(model: ModelMap, unit: str) -> dict[str, tuple[int, ...]]:
    """The ends of the names of a unit's weights, and their shapes."""
    own = (t for t in model.tensors if t.unit == unit and t.role == "weight")
    return {t.name.removeprefix(f"{unit}."): t.shape for t in own}


def _place(model: ModelMap, exit_: str, unit: str, make: Mapping[str, tuple[int, ...]]) -> str:
    """Where in an exit a layer like `unit` lies, as the beginning of its tensors' names; the last of several."""
    held = {t.name: t.shape for t in model.tensors if t.unit == exit_}
    end = next(iter(make), "")
    starts = sorted(name.removesuffix(end) for name in held if end and name.endswith(f".{end}"))
    found = [s for s in starts if all(held.get(s + name) == shape for name, shape in make.items())]
    if not found:
        raise UseError(
            f"exit {exit_!r} has no layer like {unit!r} of the trunk (tensors of the same names and shapes: "
            f"{', '.join(make) or 'none'}), which its momentum would come from"
        )
    return found[-1]


def means(model: ModelMap, step: Params) -> Params:
    """m of every pair, from this round's step, for the next."""
    out: Params = {}
    for pair in pairs(model):
        for name in pair.tensors:
            layers = [step[start + name].astype(np.float64) for start in pair.deeper]
            out[pair.own + name] = (sum(layers[1:], layers[0]) / len(layers)).astype(np.float32)
    return out


def mixed_in(step: Params, ahead: Params, beta: float, total: Fold) -> Params:
    """The step with (1 - beta) g + beta m in the smaller sizes' own layers, where `total` has it from any device; an m
    that `ahead` lacks is 0."""
    out = dict(step)
    for pair in pairs(total.model):
        for name in (pair.own + end for end in pair.tensors):
            mixture = np.float32(1 - beta) * step[name] + np.float32(beta) * ahead.get(name, np.float32(0))
            out[name] = np.where(total.covered(name) > 0, mixture, step[name])
    return out
