"""Depth: residual blocks are left out, the last of each stage first; width stays.

A stage is a run of blocks on one residual stream. A block that joins two streams (it widens or down-samples) is kept,
and one block at least of every stage. A net without such blocks loses width by prefix instead.
"""

from __future__ import annotations

import math

from pleat.elastic.choosers.draw import Draw
from pleat.elastic.choosers.width import hidden, prefix
from pleat.elastic.selection import Selection, make
from pleat.modelmap import ModelMap


def depth(model: ModelMap, rate: float, draw: Draw) -> Selection:
    """With at most the share `rate` of the blocks that can be spared; one order for all rates, so that they nest."""
    spare = droppable(model)
    if not spare:
        return prefix(model, rate, draw)
    return make(model, dropped=spare[: len(spare) - math.floor(round(rate * len(spare), 9))])


def droppable(model: ModelMap) -> list[str]:
    """The units that may be left out, in the order in which they go: from the end of each stage, stages in turn from
    the last."""
    stages: dict[str, list[str]] = {}
    entered: set[str] = set()  # streams that a kept block of two streams leads into
    for unit in (u for u in model.units if u in model.spare):
        streams = _streams(model, unit)
        if len(streams) == 1:
            stages.setdefault(streams[0], []).append(unit)
        else:
            entered |= set(streams)
    first_of_all = next(iter(stages), "")
    turns = []
    for place, (stream, units) in enumerate(stages.items()):
        kept = 0 if stream in entered and stream != first_of_all else 1
        turns += [(turn, -place, unit) for turn, unit in enumerate(reversed(units[kept:]))]
    return [unit for _, _, unit in sorted(turns)]


def _streams(model: ModelMap, unit: str) -> list[str]:
    """The groups outside a unit that its tensors touch."""
    outside = {g.name for g in hidden(model) if g.unit != unit}
    touched = {s.group for t in model.tensors if t.unit == unit for axis in t.axes for s in axis}
    return sorted(touched & outside)
