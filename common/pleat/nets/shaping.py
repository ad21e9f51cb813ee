"""Shaping: how operations that only move values about pass channels on: reshaping, slicing, joining, taking apart.

A length written into such a step as a number stays what it is in a smaller net; one that the forward read from a value
(a `Length`) follows. Where the two would part ways, channels are frozen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import fx

from pleat.nets.channels import Label, Labels, fixed, length, repeated
from pleat.nets.lengths import Length
from pleat.nets.tracer import Shape
from pleat.nets.walk import Many, Walk, argument, step_name

_MANY = 256  # channels that come back more often on one axis are not worth a list


def concatenation(walk: Walk, node: fx.Node, module: Any) -> Labels | None:
    """Channels one after another along one axis; along all others they are coupled."""
    parts, axis = argument(node, module, 0, "tensors", None), argument(node, module, 1, "dim", 0)
    if not isinstance(parts, Sequence) or not isinstance(axis, int) or any(p not in walk.labels for p in parts):
        return None
    labels = [walk.labels[p] for p in parts]
    axis %= len(labels[0])
    out = list(labels[0])
    for other in labels[1:]:
        for i, label in enumerate(other):
            out[i] = (
                out[i] + label if i == axis else walk.channels.join(out[i], label, f"{step_name(node)} lines it up")
            )
    return tuple(out)


def stacking(walk: Walk, node: fx.Node, module: Any) -> Labels | None:
    """Values side by side along a new axis; along all others they are coupled."""
    parts, axis = argument(node, module, 0, "tensors", None), argument(node, module, 1, "dim", 0)
    if not isinstance(parts, Sequence) or not isinstance(axis, int) or any(p not in walk.labels for p in parts):
        return None
    out = walk.labels[parts[0]]
    for part in parts[1:]:
        reason = f"{step_name(node)} lines it up"
        out = tuple(walk.channels.join(a, b, reason) for a, b in zip(out, walk.labels[part], strict=True))
    axis %= len(out) + 1
    return (*out[:axis], fixed(len(parts)), *out[axis:])


def transposition(walk: Walk, node: fx.Node, module: Any) -> Labels | None:
    """Axes change places."""
    source = walk.inputs(node)[0]
    before, moves = list(walk.labels[source]), [*node.args[1:], *node.kwargs.values()]
    walk.views[node] = source
    if len(moves) == 1 and isinstance(moves[0], Sequence):
        moves = list(moves[0])
    if node.target is getattr or node.target in ("t", torch.t):
        whole = node.target is not getattr or node.args[1] in ("T", "mT")
        moves = [len(before) - 2, len(before) - 1] if whole and len(before) > 1 else []
        if len(before) != 2 and not (node.target is getattr and node.args[1] == "mT"):
            return None
    if not moves or not all(isinstance(m, int) for m in moves):
        return None
    if node.target in ("permute", torch.permute):
        return tuple(before[m] for m in moves)
    first, second = moves
    before[first], before[second] = before[second], before[first]
    return tuple(before)


def reshaping(walk: Walk, node: fx.Node, module: Any) -> Labels:
    """flatten, view, reshape, squeeze: neighbouring axes merge or are taken apart."""
    source = walk.inputs(node)[0]
    before, old, new = walk.labels[source], walk.shape(source), walk.shape(node)
    walk.views[node] = source
    given = list(_lengths(node)) if node.target in ("view", "reshape", torch.reshape) else []
    given = given if len(given) == len(new) else [-1] * len(new)
    out: list[Label] = []
    for taken, made in _runs(old, new):
        open_axes = [not isinstance(given[i], int) or isinstance(given[i], Length) or given[i] == -1 for i in made]
        out += _merged(walk, node, taken, [before[i] for i in taken], [new[i] for i in made], open_axes)
    for label, n in zip(out, given, strict=True):
        follows(walk, node, label, n)
    return tuple(out)


def follows(walk: Walk, node: fx.Node, label: Label, given: Any) -> None:
    """Freeze an axis unless the length that the step gives it grows and shrinks with its channels."""
    if not isinstance(given, int) or given == -1:
        return
    if not isinstance(given, Length):
        walk.channels.freeze(label, f"{step_name(node)} (step {node.name}) has its length {given} written in it")
        return
    read = [walk.labels[n][i] for n, i in given.sources if n in walk.labels]
    loose = [r for r in read if walk.may_shrink(r)]
    if len(loose) > 1 or not walk.channels.grows_alike(loose[0] if loose else fixed(1), label):
        for one in (*read, label):
            walk.channels.freeze(one, f"{step_name(node)} (step {node.name}) gives an axis the length of another")


def _lengths(node: fx.Node) -> Sequence[Any]:
    given = node.kwargs.get("shape", node.args[1:])
    if isinstance(given, Sequence) and len(given) == 1 and isinstance(given[0], Sequence):
        return given[0]
    return given if isinstance(given, Sequence) else ()


def _runs(old: Shape, new: Shape) -> list[tuple[list[int], list[int]]]:
    """Pair the shortest runs of axes that hold the same number of places."""
    out: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) and j < len(new):
        taken, made = [i], [j]
        i, j = i + 1, j + 1
        while math.prod(old[k] for k in taken) != math.prod(new[k] for k in made):
            if math.prod(old[k] for k in taken) < math.prod(new[k] for k in made):
                taken.append(i)
                i += 1
            else:
                made.append(j)
                j += 1
        out.append((taken, made))
    if out:
        out[-1][0].extend(range(i, len(old)))
        out[-1][1].extend(range(j, len(new)))
    return out


def _merged(
    walk: Walk, node: fx.Node, taken: list[int], labels: list[Label], lengths: list[int], open_axes: list[bool]
) -> list[Label]:
    """Labels of the axes `lengths` that hold the same places as axes with `labels`."""
    long = [label for label in labels if length(label) > 1]
    wide = [i for i, n in enumerate(lengths) if n > 1]
    samples = 0 in taken and len(taken) > 1 and any(walk.may_shrink(label) for label in labels)
    one = None if samples else _one_axis(walk, long)
    if one is not None and len(wide) == 1:
        return [one if i in wide else fixed(1) for i in range(len(lengths))]
    if one is not None and len(wide) == 2 and not walk.channels.is_fixed(one):
        two = _two_axes(walk, node, one, [lengths[i] for i in wide], [open_axes[i] for i in wide])
        if two is not None:
            return [two[wide.index(i)] if i in wide else fixed(1) for i in range(len(lengths))]
    for label in labels:
        walk.channels.freeze(label, f"{step_name(node)} (step {node.name}) mixes it with other axes")
    return [fixed(n) for n in lengths]


def _one_axis(walk: Walk, labels: list[Label]) -> Label | None:
    """The label of axes laid out as one, if channels are on one of them at most."""
    out = fixed(1)
    for label in reversed(labels):
        if not walk.may_shrink(out) and walk.channels.is_fixed(out):
            out = repeated(label, length(out))
        elif walk.channels.is_fixed(label) and length(label) * len(out) <= _MANY:
            out = out * length(label)
        else:
            return None
    return out


def _two_axes(walk: Walk, node: fx.Node, label: Label, lengths: list[int], open_axes: list[bool]) -> list[Label] | None:
    """One axis taken apart in two, of which one has a number for its length and the other whatever is left."""
    first, second = lengths
    if open_axes == [False, True]:
        pieces = equal_pieces(walk, node, label, first)
        return None if pieces is None else [fixed(first), pieces[0]]
    if open_axes == [True, False]:
        runs = walk.channels.in_runs(label, second, f"{step_name(node)} (step {node.name}) cuts across its channels")
        return None if runs is None else [runs, fixed(second)]
    return None


def equal_pieces(walk: Walk, node: fx.Node, label: Label, count: int) -> list[Label] | None:
    """An axis in `count` equal pieces, of which a smaller net must keep equal numbers, so that the pieces are cut
    alike; None where it cannot be taken apart so."""
    whole = length(label)
    if whole % count or count > _MANY:
        return None
    reason = f"{step_name(node)} (step {node.name}) takes it apart where its channels hang together"
    each = whole // count
    pieces = [walk.channels.between(label, i * each, (i + 1) * each, reason) for i in range(count)]
    for piece in pieces[1:]:
        walk.channels.join(pieces[0], piece, reason)
    return [walk.channels.resolve(piece) for piece in pieces]


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
    start, stop, step = slice(
        *(None if v is None else int.__add__(v, 0) for v in (entry.start, entry.stop, entry.step))
    ).indices(whole)  # type: ignore[misc]
    if (start, stop, step) == (0, whole, 1) and not isinstance(entry.stop, Length):
        return label
    bounds = [(v, n) for v, n in ((entry.start, start), (entry.stop, stop)) if v is not None and n not in (0, whole)]
    worked_out = all(isinstance(v, Length) and v >= 0 for v, _ in bounds) if bounds else isinstance(entry.stop, Length)
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


def stretching(walk: Walk, node: fx.Node, module: Any) -> Labels | None:
    """expand and repeat: an axis of one place becomes as long as is said; others pass, or are never cut."""
    source = walk.inputs(node)[0]
    before, shape = walk.labels[source], walk.shape(node)
    given = list(_lengths(node)) or [node.kwargs.get("size", node.kwargs.get("sizes"))]
    if len(given) != len(shape):
        return None
    new = len(shape) - len(before)
    out: list[Label] = []
    for i, (n, want) in enumerate(zip(given, shape, strict=True)):
        label = before[i - new] if i >= new else fixed(1)
        if length(label) == want:
            out.append(label)
        elif length(label) == 1 and isinstance(n, Length) and len(n.sources) == 1 and n.share == 1:
            at, axis = n.sources[0]
            out.append(walk.labels[at][axis])
        else:
            walk.channels.freeze(label, f"{step_name(node)} (step {node.name}) repeats it")
            out.append(fixed(want))
    return tuple(out)


def like_another(walk: Walk, node: fx.Node, module: Any) -> Labels | None:
    """expand_as, view_as, zeros_like: the axes are those of the value that is named last."""
    last = walk.inputs(node)[-1]
    if len(walk.inputs(node)) > 1 and walk.shape(walk.inputs(node)[0]) != walk.shape(node):
        for label, n in zip(walk.labels[walk.inputs(node)[0]][::-1], walk.shape(node)[::-1], strict=False):
            if length(label) != 1 and length(label) != n:
                return None
    return walk.labels[last]


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
