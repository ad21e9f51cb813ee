"""Width by index: every hidden channel group shrinks to the same share: by prefix, at random or by a rolling window."""

from __future__ import annotations

import math

import numpy as np

from pleat.elastic.choosers.draw import Draw, generator
from pleat.elastic.selection import WHOLE, Selection, make
from pleat.modelmap import Group, ModelMap


def steps_kept(group: Group, rate: float) -> int:
    """Whole steps that hold at least `rate` of the group's channels: ceil(rate C) rounded up, one at least."""
    return max(1, math.ceil(round(rate * group.size, 9) / group.step))


def hidden(model: ModelMap) -> list[Group]:
    """The groups that may be cut."""
    return [g for g in model.groups if g.role == "hidden"]


def whole(model: ModelMap, rate: float, draw: Draw) -> Selection:
    """The whole model, whatever the rate."""
    return WHOLE


def prefix(model: ModelMap, rate: float, draw: Draw) -> Selection:
    """The first channels of every group (HeteroFL, FjORD): selections of falling rates are nested."""
    return make(model, {g.name: np.arange(min(g.size, steps_kept(g, rate) * g.step)) for g in hidden(model)})


def random(model: ModelMap, rate: float, draw: Draw) -> Selection:
    """Uniformly random channels (Federated Dropout), in whole steps, drawn anew per seed, round and device.

    The draw is a permutation of which a rate takes the beginning, so that one draw's rates are nested.
    """
    kept = {}
    for group in hidden(model):
        runs = generator(draw, f"random\0{group.name}").permutation(group.size // group.step)
        chosen = np.sort(runs[: steps_kept(group, rate)])
        kept[group.name] = (chosen[:, None] * group.step + np.arange(group.step)).reshape(-1)
    return make(model, kept)


def rolling(model: ModelMap, rate: float, draw: Draw) -> Selection:
    """A window of consecutive channels that moves on by one step a round and wraps around (FedRolex).

    In round t a group of n steps keeps steps t mod n, t + 1 mod n, ...: over n rounds every channel is held equally
    often, and in one round all devices and all rates start at the same channel, so that rates are nested.
    """
    kept = {}
    for group in hidden(model):
        steps = group.size // group.step
        window = np.sort((draw.round + np.arange(min(steps, steps_kept(group, rate)))) % steps)
        kept[group.name] = (window[:, None] * group.step + np.arange(group.step)).reshape(-1)
    return make(model, kept)
