"""Inner widths: the residual stream stays whole and each block's hidden width shrinks; 0 bypasses the block.

Nets without depth units have no inner width; both layouts are then the width prefix (recipe.md, default 1).
"""

from __future__ import annotations

import math

import numpy as np

from pleat.elastic.choosers.draw import Draw
from pleat.elastic.choosers.width import hidden, prefix
from pleat.elastic.selection import Selection, make
from pleat.elastic.size import count
from pleat.modelmap import Group, ModelMap


def inner(model: ModelMap, rate: float, draw: Draw) -> Selection:
    """Every block's hidden width times `rate`, to the nearest step; a width that rounds to 0 drops its unit."""
    blocks = _blocks(model)
    if not blocks:
        return prefix(model, rate, draw)
    return _layout(model, {g.name: _nearest(g, rate) for g in blocks})


def hybrid(model: ModelMap, rate: float, draw: Draw) -> Selection:
    """Inner widths holding at most `rate` of the model's *parameters*, shared equally by the blocks, early ones first.

    Steps of channels are taken in the order of what their block has taken by then, ties by place in the net, until the
    next does not fit: early blocks, whose channels cost little, end up whole, late ones narrow or bypassed. One order
    for all rates, so selections of falling rates are nested. With the budgets 1/4, 1/8 and 1/16 and six residual blocks
    this is the layout of recipe.md's best runs ("hyb").
    """
    blocks = _blocks(model)
    if not blocks:
        return prefix(model, rate, draw)
    least = {g.name: 0 if g.unit in model.units else g.step for g in blocks}
    widths, spent = dict(least), count(model, _layout(model, least))
    budget = rate * count(model, _layout(model, {g.name: g.size for g in blocks}))
    for name, cost in _in_order(model, blocks, least):
        if spent + cost > budget:
            break
        widths[name] += model.group[name].step
        spent += cost
    return _layout(model, widths)


def _blocks(model: ModelMap) -> list[Group]:
    """Groups inside a unit, in the order of the net's units."""
    place = {unit: i for i, unit in enumerate(model.units)}
    inside = [g for g in hidden(model) if g.unit]
    return sorted(inside, key=lambda g: (place.get(g.unit, len(place)), g.name))


def _nearest(group: Group, rate: float) -> int:
    return min(group.size, math.floor(rate * group.size / group.step + 0.5) * group.step)


def _layout(model: ModelMap, widths: dict[str, int]) -> Selection:
    """Prefixes of the given widths; a unit of which a group has width 0 is dropped, one that cannot be keeps a step."""
    dropped = {model.group[n].unit for n, w in widths.items() if w == 0 and model.group[n].unit in model.units}
    kept = {n: np.arange(max(w, model.group[n].step)) for n, w in widths.items() if model.group[n].unit not in dropped}
    return make(model, kept, dropped)


def _in_order(model: ModelMap, blocks: list[Group], least: dict[str, int]) -> list[tuple[str, int]]:
    """(group, entries it costs) of every further step of channels, in the order in which they are taken."""
    steps = []
    for place, group in enumerate(blocks):
        first, further = _cost(model, blocks, group, least[group.name]), _cost(model, blocks, group, group.step)
        taken = 0
        for width in range(least[group.name], group.size, group.step):
            cost = first if width == least[group.name] else further
            taken += cost
            steps.append((taken, place, group.name, cost))
    return [(name, cost) for _, _, name, cost in sorted(steps)]


def _cost(model: ModelMap, blocks: list[Group], group: Group, width: int) -> int:
    """Entries by which the model grows when the block's width goes one step up from `width`, the other blocks whole.

    Linear in the width from the first step on, which also brings what the unit holds at any width."""
    if width + group.step > group.size:
        return 0
    others = {g.name: g.size for g in blocks}
    low = count(model, _layout(model, others | {group.name: width}))
    return count(model, _layout(model, others | {group.name: width + group.step})) - low
