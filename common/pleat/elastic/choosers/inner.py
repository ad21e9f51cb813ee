"""Inner widths: the residual stream stays whole and each block's hidden width shrinks; 0 bypasses the block.

Nets without depth units have no inner width; both layouts are then the width prefix.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable

import numpy as np

from pleat.elastic.choosers.draw import Draw
from pleat.elastic.choosers.width import hidden, prefix
from pleat.elastic.selection import WHOLE, Selection, make
from pleat.elastic.size import count, macs
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
    for all rates, so selections of falling rates are nested. A rate below what stream, stem and head need gives those.
    Six residual blocks of 16 16 32 32 64 64 become 16 16 20 16 8 4 at 1/4 and 12 12 8 4 4 0 at 1/8.
    """
    blocks = _blocks(model)
    if not blocks:
        return prefix(model, rate, draw)
    return _filled(model, blocks, rate, count)


def balanced(model: ModelMap, rate: float, draw: Draw) -> Selection:
    """Inner widths holding at most `rate` of what the blocks cost: the mean of their *parameters'* share and of their
    *multiply-adds'*, which the blocks share equally, early ones first, as under `hybrid`.

    A channel of an early block, of few parameters and a large image, then costs much the same as one of a late block.
    What stream, stem and head need comes on top, so that no rate is spent on them.
    """
    blocks = _blocks(model)
    if not blocks:
        return prefix(model, rate, draw)
    least = _layout(model, _least(model, blocks))
    shares = [_share_above(measure, model, least) for measure in (count, macs)]
    # the sum of a layout's shares may round to a hair above the rate that stands for just this layout
    return _filled(model, blocks, rate * (1 + 1e-12), lambda m, s: sum(share(m, s) for share in shares))


Measure = Callable[[ModelMap, Selection], float]


def _share_above(measure: Measure, model: ModelMap, least: Selection) -> Measure:
    """0 for `least`, 1 for the whole model."""
    base = measure(model, least)
    room = measure(model, WHOLE) - base or 1
    return lambda m, s: (measure(m, s) - base) / room


def _least(model: ModelMap, blocks: list[Group]) -> dict[str, int]:
    return {g.name: 0 if g.unit in model.spare else g.step for g in blocks}


def _filled(model: ModelMap, blocks: list[Group], rate: float, measure: Measure) -> Selection:
    """Step by step of channels, in one order for all rates, until the next would exceed `rate` of the whole."""
    order, least = _in_order(model, blocks, measure), _least(model, blocks)

    def after(steps: int) -> Selection:
        widths = dict(least)
        for name in order[:steps]:
            widths[name] += model.group[name].step
        return _layout(model, widths)

    budget = rate * measure(model, after(len(order)))
    return after(max(0, bisect_right(range(len(order) + 1), budget, key=lambda n: measure(model, after(n))) - 1))


def _blocks(model: ModelMap) -> list[Group]:
    """Groups inside a unit, in the order of the net's units."""
    place = {unit: i for i, unit in enumerate(model.units)}
    inside = [g for g in hidden(model) if g.unit]
    return sorted(inside, key=lambda g: (place.get(g.unit, len(place)), g.name))


def _nearest(group: Group, rate: float) -> int:
    return min(group.size, math.floor(rate * group.size / group.step + 0.5) * group.step)


def _layout(model: ModelMap, widths: dict[str, int]) -> Selection:
    """Prefixes of the given widths; a unit of which a group has width 0 is dropped, one that cannot be keeps a step."""
    dropped = {model.group[n].unit for n, w in widths.items() if w == 0 and model.group[n].unit in model.spare}
    kept = {n: np.arange(max(w, model.group[n].step)) for n, w in widths.items() if model.group[n].unit not in dropped}
    return make(model, kept, dropped)


def _in_order(model: ModelMap, blocks: list[Group], measure: Measure) -> list[str]:
    """The group of every further step of channels, in the order in which they are taken."""
    steps = []
    for place, group in enumerate(blocks):
        start = 0 if group.unit in model.spare else group.step
        first, further = (_cost(model, blocks, group, w, measure) for w in (start, group.step))
        further_steps = range((group.size - start) // group.step)
        steps += [(first + n * further, place, n, group.name) for n in further_steps]
    return [name for _, _, _, name in sorted(steps)]


def _cost(model: ModelMap, blocks: list[Group], group: Group, width: int, measure: Measure) -> float:
    """By what `measure` grows when the block's width goes one step up from `width`, the other blocks whole.

    Linear in the width from the first step on, which also brings what the unit holds at any width.
    """
    if width + group.step > group.size:
        return 0
    others = {g.name: g.size for g in blocks}
    low = measure(model, _layout(model, others | {group.name: width}))
    return measure(model, _layout(model, others | {group.name: width + group.step})) - low
