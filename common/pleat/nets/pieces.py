"""Taking apart: how chunks, slices, gates and shuffles of an axis pass channels on.

Pieces that a smaller net makes of equal length are cut alike. Pieces whose lengths or places are written down as
numbers cannot follow, and their axis stays whole.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import torch
from torch import fx

from pleat.nets.channels import Label, Labels, fixed, length, repeated
from pleat.nets.lengths import Length
from pleat.nets.shaping import equal_pieces, follows
from pleat.nets.walk import Many, Walk, argument, step_name


def chunking(walk: Walk, node: fx.Node, module: Any) -> Many | None:
    """chunk and split: equal pieces of an axis are cut alike; pieces of lengths that are written down stay whole."""
    source = walk.inputs(node)[0]
    size, axis = node.args[1] if len(node.args) > 1 else None, argument(node, module, 2, "dim", 0)
    size = next((node.kwargs[k] for k in ("chunks", "split_size", "split_size_or_sections") if k in node.kwargs), size)
    if not isinstance(axis, int):
        return None
    before = walk.labels[source]
    label, shapes = before[axis], walk.parts[node]
    lengths = [shape[axis] for shape in shapes]
    walk.views |= dict.fromkeys(node.users, source)
    pieces: list[Label] | None = None
    counted = node.target in ("chunk", torch.chunk)
    alike = isinstance(size, Length) and len(set(lengths)) == 1
    if len(set(lengths)) == 1 and (counted or alike) and not walk.channels.is_fixed(label):
        pieces = equal_pieces(walk, node, label, len(lengths))
        if pieces is not None and alike:
            follows(walk, node, pieces[0], size)
    if pieces is None:
        reason = f"{step_name(node)} (step {node.name}) has the lengths {lengths} of its pieces written in it"
        walk.channels.freeze(label, reason)
        pieces = [fixed(n) for n in lengths]
    axis %= len(before)
    return Many(tuple((*before[:axis], piece, *before[axis + 1 :]) for piece in pieces))


def unbinding(walk: Walk, node: fx.Node, module: Any) -> Many | None:
    """Every place of an axis by itself; the axis is never cut."""
    source = walk.inputs(node)[0]
    before, axis = walk.labels[source], argument(node, module, 1, "dim", 0)
    if not isinstance(axis, int):
        return None
    axis %= len(before)
    walk.channels.freeze(before[axis], f"{step_name(node)} takes every place of this axis by itself")
    one = (*before[:axis], *before[axis + 1 :])
    return Many((one,) * len(walk.parts[node]))


def indexing(walk: Walk, node: fx.Node, module: Any) -> Labels | None:
    """x[...]: whole axes pass, new axes of one place come, halves that the forward works out are halves, and an axis
    from which certain places are taken is never cut."""
    source, index = node.args[0], node.args[1]
    if not isinstance(source, fx.Node) or source not in walk.labels:
        return None
    before = list(walk.labels[source])
    entries = list(index) if isinstance(index, tuple) else [index]
    if any(not (e is None or e is Ellipsis or isinstance(e, int | slice)) for e in entries):
        return None
    walk.views[node] = source
    taken = sum(1 for e in entries if e is not None and e is not Ellipsis)
    if Ellipsis not in entries:
        entries.append(Ellipsis)
    out: list[Label] = []
    for entry in entries:
        if entry is None:
            out.append(fixed(1))
        elif entry is Ellipsis:
            rest = len(before) - taken
            out += before[:rest]
            before = before[rest:]
        else:
            taken -= 1
            label = before.pop(0)
            if isinstance(entry, slice):
                out.append(_slice(walk, node, label, entry))
            else:
                walk.channels.freeze(label, f"step {node.name} takes certain places of it")
    return tuple(out)


def _slice(walk: Walk, node: fx.Node, label: Label, entry: slice) -> Label:
    whole = length(label)
    plain = [None if v is None else int.__add__(v, 0) for v in (entry.start, entry.stop, entry.step)]
    start, stop, step = slice(*plain).indices(whole)
    if (start, stop, step) == (0, whole, 1) and not isinstance(entry.stop, Length):
        return label
    bounds = [(v, n) for v, n in ((entry.start, start), (entry.stop, stop)) if v is not None and n not in (0, whole)]
    worked_out = all(isinstance(v, Length) for v, _ in bounds) if bounds else isinstance(entry.stop, Length)
    if worked_out and step == 1 and start < stop and not walk.channels.is_fixed(label):
        count = math.lcm(*(Fraction(n, whole).denominator for _, n in bounds)) if bounds else 1
        pieces = equal_pieces(walk, node, label, count)
        if pieces is not None:
            for value in (entry.start, entry.stop):
                if isinstance(value, Length):
                    follows(walk, node, label, value)
            each = whole // count
            return walk.channels.resolve(tuple(p for piece in pieces[start // each : stop // each] for p in piece))
    walk.channels.freeze(label, f"step {node.name} takes certain places of it")
    return fixed(max(0, -((start - stop) // step)))


def narrowing(walk: Walk, node: fx.Node, module: Any) -> Labels | None:
    """narrow, select, roll, flip ...: one axis, on which certain places are meant, is never cut; the others pass."""
    source = walk.inputs(node)[0]
    before, shape = list(walk.labels[source]), walk.shape(node)
    if len(before) == len(shape):
        for i, label in enumerate(before):
            moved = node.target in _ORDERS
            if moved or length(label) != shape[i]:
                walk.channels.freeze(label, f"step {node.name} takes certain places of it")
                before[i] = fixed(shape[i])
        return tuple(before)
    axis = argument(node, module, 1, "dim", None)
    if node.target not in ("select", torch.select) or not isinstance(axis, int):
        return None
    walk.channels.freeze(before.pop(axis), f"step {node.name} takes certain places of it")
    return tuple(before)


_ORDERS = ("flip", torch.flip, "roll", torch.roll, "cumsum", torch.cumsum)


def gating(walk: Walk, node: fx.Node, module: Any) -> Labels | None:
    """GLU: one half of an axis gates the other, so that both are cut alike."""
    source, axis = walk.inputs(node)[0], argument(node, module, 1, "dim", -1)
    before = list(walk.labels[source])
    pieces = equal_pieces(walk, node, before[axis], 2) if isinstance(axis, int) else None
    if pieces is None:
        return None
    walk.store(source)
    before[axis] = pieces[0]
    return tuple(before)


def pixel_shuffle(walk: Walk, node: fx.Node, module: Any) -> Labels | None:
    """Runs of channels become places."""
    source, factor = walk.inputs(node)[0], argument(node, module, 1, "upscale_factor", None)
    before, shape = walk.labels[source], walk.shape(node)
    if not isinstance(factor, int) or len(before) != 4:
        return None
    runs = walk.channels.in_runs(before[1], factor**2, f"{step_name(node)} makes places of its channels")
    return None if runs is None else (before[0], runs, *map(fixed, shape[2:]))


def pixel_unshuffle(walk: Walk, node: fx.Node, module: Any) -> Labels | None:
    """Places become runs of channels."""
    source, factor = walk.inputs(node)[0], argument(node, module, 1, "downscale_factor", None)
    before, shape = walk.labels[source], walk.shape(node)
    if not isinstance(factor, int) or len(before) != 4:
        return None
    return (before[0], repeated(before[1], factor**2), *map(fixed, shape[2:]))


def channel_shuffle(walk: Walk, node: fx.Node, module: Any) -> Labels | None:
    """The first channels of all groups, then the second, and so on: groups are cut alike."""
    source, groups = walk.inputs(node)[0], argument(node, module, 1, "groups", None)
    before = walk.labels[source]
    pieces = equal_pieces(walk, node, before[1], groups) if isinstance(groups, int) else None
    return None if pieces is None else (before[0], repeated(pieces[0], groups), *before[2:])
