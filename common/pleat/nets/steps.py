"""Steps: how operations without tensors of their own pass channels on: activations, pooling, adding.

Each rule serves the module, the function and the method of its kind; `rules.py` says which. A rule returns None for a
case that it does not know; the step is then unknown and freezes what enters it.
"""

from __future__ import annotations

from typing import Any

from torch import fx

from pleat.nets.channels import Label, Labels, fixed
from pleat.nets.walk import Many, Walk, argument, step_name


def by_output(walk: Walk, node: fx.Node, module: Any) -> Labels:
    """Element by element; backward needs the result (relu and its like)."""
    walk.store(node)
    return walk.labels[walk.inputs(node)[0]]


def by_input(walk: Walk, node: fx.Node, module: Any) -> Labels:
    """Element by element; backward needs what entered (gelu and its like)."""
    source = walk.inputs(node)[0]
    walk.store(source)
    return walk.labels[source]


def same(walk: Walk, node: fx.Node, module: Any) -> Labels:
    """The same values, in the same memory."""
    source = walk.inputs(node)[0]
    walk.views[node] = source
    return walk.labels[source]


def detached(walk: Walk, node: fx.Node, module: Any) -> Labels:
    """The same values in memory of their own, of which backward needs nothing."""
    return walk.labels[walk.inputs(node)[0]]


def pooling(walk: Walk, node: fx.Node, module: Any) -> Labels | None:
    """Pooling along all axes after the second; those are never cut."""
    source = walk.inputs(node)[0]
    before, shape = walk.labels[source], walk.shape(node)
    if len(shape) != len(before) or len(shape) < 3:
        return None
    walk.store(source)
    for label in before[2:]:
        walk.channels.freeze(label, f"{node.target} pools along this axis")
    return (*before[:2], *map(fixed, shape[2:]))


def max_pooling(walk: Walk, node: fx.Node, module: Any) -> Labels | None:
    """Pooling that also keeps where each maximum stood: an int64, two floats, for every place of the result."""
    labels = pooling(walk, node, module)
    if labels is not None:
        walk.store(node, 3)
    return labels


def reduction(walk: Walk, node: fx.Node, module: Any) -> Labels | None:
    """A mean, sum or extreme along some axes, which are then never cut."""
    source = walk.inputs(node)[0]
    before = walk.labels[source]
    axes = argument(node, module, 1, "dim", None)
    axes = range(len(before)) if axes is None else [axes] if isinstance(axes, int) else axes
    if not all(isinstance(a, int) for a in axes) or node not in walk.graph.shapes:
        return None
    gone = {a % len(before) for a in axes}
    for axis in gone:
        walk.channels.freeze(before[axis], f"{step_name(node)} goes over this axis")
    if len(walk.shape(node)) == len(before):
        return tuple(fixed(1) if i in gone else label for i, label in enumerate(before))
    return tuple(label for i, label in enumerate(before) if i not in gone)


def softmax(walk: Walk, node: fx.Node, module: Any) -> Labels | None:
    """Normalises along one axis, which is never cut; the others pass."""
    source = walk.inputs(node)[0]
    axis = argument(node, module, 1, "dim", None)
    if not isinstance(axis, int):
        return None
    walk.store(node)
    walk.channels.freeze(walk.labels[source][axis], f"{step_name(node)} normalises along this axis")
    return walk.labels[source]


def together(walk: Walk, node: fx.Node, module: Any) -> Labels:
    """Adding or multiplying element by element: channels that meet are coupled; an axis of one place is stretched."""
    sources, shape = walk.inputs(node), walk.shape(node)
    out: list[Label] = [fixed(n) for n in shape]
    seen = [n == 1 for n in shape]
    for source in sources:
        labels = walk.labels[source]
        for i in range(1, len(labels) + 1):
            if walk.shape(source)[-i] != shape[-i]:
                continue
            reason = f"{step_name(node)} (step {node.name}) adds or multiplies it with channels of another kind"
            out[-i] = walk.channels.join(out[-i], labels[-i], reason) if seen[-i] else labels[-i]
            seen[-i] = True
    return tuple(out)


def product(walk: Walk, node: fx.Node, module: Any) -> Labels:
    """Multiplying: as adding, but backward needs both factors."""
    for source in walk.inputs(node):
        walk.store(source)
    return together(walk, node, module)


def extreme(walk: Walk, node: fx.Node, module: Any) -> Labels | Many | None:
    """max and min: of two values, or along an axis, where they also say where."""
    if len(walk.inputs(node)) == 2:
        return product(walk, node, module)
    labels = reduction(walk, node, module)
    if labels is None or node not in walk.graph.shapes:
        source = walk.inputs(node)[0]
        before, axis = list(walk.labels[source]), argument(node, module, 1, "dim", None)
        if not isinstance(axis, int):
            return None
        walk.channels.freeze(before[axis], f"{step_name(node)} goes over this axis")
        whole = argument(node, module, 2, "keepdim", False)
        before[axis : axis % len(before) + 1] = [fixed(1)] if whole else []
        return Many((tuple(before), tuple(before)))
    return labels


def padding(walk: Walk, node: fx.Node, module: Any) -> Labels | None:
    """F.pad: axes that grow at an end are never cut; the others pass."""
    source, widths = walk.inputs(node)[0], argument(node, module, 1, "pad", ())
    if not isinstance(widths, tuple | list) or not all(isinstance(n, int) for n in widths):
        return None
    out = list(walk.labels[source])
    for i in range(len(widths) // 2):
        if widths[2 * i] or widths[2 * i + 1]:
            walk.channels.freeze(out[-1 - i], f"{step_name(node)} pads this axis")
            out[-1 - i] = fixed(walk.shape(node)[-1 - i])
    return tuple(out)


def normalising(walk: Walk, node: fx.Node, module: Any) -> Labels | None:
    """F.normalize: along one axis, which is never cut."""
    source, axis = walk.inputs(node)[0], argument(node, module, 2, "dim", 1)
    if not isinstance(axis, int):
        return None
    walk.store(source)
    walk.channels.freeze(walk.labels[source][axis], f"{step_name(node)} normalises along this axis")
    return walk.labels[source]
