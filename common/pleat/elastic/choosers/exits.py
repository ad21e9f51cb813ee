"""Depth by exits: the trunk up to the exit of a depth class, of a net that answers at several depths (`nets/exits.py`).

Of n exits, rate r is the class of the ceil(r n)-th. A net of one answer loses residual blocks instead, as by `depth`.
"""

from __future__ import annotations

import math

from pleat.elastic.choosers.depth import depth
from pleat.elastic.choosers.draw import Draw
from pleat.elastic.selection import Selection, make
from pleat.modelmap import ModelMap


def depth_prefix(model: ModelMap, rate: float, draw: Draw) -> Selection:
    """The trunk up to the class's exit, and every exit on the way (DepthFL, ScaleFL): falling rates nest."""
    if not model.exits:
        return depth(model, rate, draw)
    return make(model, dropped=model.units[_end(model, rate) :])


def depth_own(model: ModelMap, rate: float, draw: Draw) -> Selection:
    """The trunk up to the class's exit, and that exit alone (InclusiveFL): each class has a head of its own."""
    if not model.exits:
        return depth(model, rate, draw)
    end = _end(model, rate)
    others = [unit for unit in model.units[: end - 1] if unit in model.exits]
    return make(model, dropped=[*others, *model.units[end:]])


def _end(model: ModelMap, rate: float) -> int:
    """The place behind the class's exit among the units."""
    number = max(1, math.ceil(round(rate * len(model.exits), 9)))
    return model.units.index(model.exits[number - 1]) + 1
