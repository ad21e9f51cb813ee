"""Shaping: how operations that only lay values out anew pass channels on: reshaping, joining, repeating.

A length written into such a step as a number stays what it is in a smaller net; one that the forward read from a value
(a `Length`) follows. Where the two would part ways, channels are frozen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from pleat.nets.channels import Label, Labels, fixed, length, repeated
from pleat.nets.lengths import Length
from pleat.nets.tracer import Shape
from pleat.nets.walk import Walk, argument, step_name

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
    before = list(walk.labels[source])
    moves: list[Any] = [*node.args[1:], *node.kwargs.values()]
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
    if isinstance(given, Length):
        walk.follows.append((label, given, f"{step_name(node)} (step {node.name}) gives an axis the length of another"))
    elif isinstance(given, int) and given != -1:
        walk.channels.freeze(label, f"{step_name(node)} (step {node.name}) has its length {given} written in it")


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
    if one is not None and len(wide) > 1 and not walk.channels.is_fixed(one):
        apart = _apart(walk, node, one, [lengths[i] for i in wide], [open_axes[i] for i in wide])
        if apart is not None:
            return [apart[wide.index(i)] if i in wide else fixed(1) for i in range(len(lengths))]
    for label in labels:
        walk.channels.freeze(label, f"{step_name(node)} (step {node.name}) mixes it with other axes")
    return [fixed(n) for n in lengths]


def _one_axis(walk: Walk, labels: list[Label]) -> Label | None:
    """The label of axes laid out as one, if channels are on one of them at most."""
    out = fixed(1)
    for label in reversed(labels):
        if walk.channels.is_fixed(out) or not walk.may_shrink(out):
            out = repeated(label, length(out))
        elif not walk.may_shrink(label) and length(label) * len(out) <= _MANY:
            out = out * length(label)
        else:
            return None
    return out


def _apart(walk: Walk, node: fx.Node, label: Label, lengths: list[int], open_axes: list[bool]) -> list[Label] | None:
    """One axis taken apart in several, of which one has whatever is left for its length and the others a number each:
    those behind it are runs of channels, those before it equal pieces."""
    if open_axes.count(True) != 1:
        return None
    place = open_axes.index(True)
    pieces, run = math.prod(lengths[:place]), math.prod(lengths[place + 1 :])
    reason = f"{step_name(node)} (step {node.name}) cuts across its channels"
    left = walk.channels.in_runs(label, run, reason) if run > 1 else label
    parts = None if left is None else equal_pieces(walk, node, left, pieces) if pieces > 1 else [left]
    if parts is None:
        return None
    return [*map(fixed, lengths[:place]), walk.channels.resolve(parts[0]), *map(fixed, lengths[place + 1 :])]


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


def interleaving(walk: Walk, node: fx.Node, module: Any) -> Labels | None:
    """repeat_interleave: every place of an axis so many times in a row."""
    source, times = walk.inputs(node)[0], argument(node, module, 1, "repeats", None)
    axis, out = argument(node, module, 2, "dim", None), list(walk.labels[source])
    if type(times) is not int or not isinstance(axis, int):
        return None
    out[axis] = repeated(out[axis], times)
    return tuple(out)


def like_another(walk: Walk, node: fx.Node, module: Any) -> Labels | None:
    """zeros_like and its like: a new value with the axes of an old one."""
    return walk.labels[walk.inputs(node)[0]]
