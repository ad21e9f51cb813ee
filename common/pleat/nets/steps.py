"""Steps: how operations without tensors of their own pass channels on: activations, pooling, adding, reshaping.

Each rule serves the module, the function and the method of its kind; the three tables at the end say which. A rule
returns None for a case that it does not know; the step is then unknown and freezes what enters it.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from pleat.nets.channels import Label, Labels, fixed, repeated
from pleat.nets.graph import Shape
from pleat.nets.walk import Rule, Walk


def _argument(node: fx.Node, module: Any, place: int, name: str, default: Any) -> Any:
    """An argument of a step, wherever it is: on the module, by name, or by place after the tensor."""
    if module is not None:
        return getattr(module, name, default)
    return node.kwargs.get(name, node.args[place] if len(node.args) > place else default)


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
    axes = _argument(node, module, 1, "dim", None)
    axes = range(len(before)) if axes is None else [axes] if isinstance(axes, int) else axes
    if not all(isinstance(a, int) for a in axes):
        return None
    gone = {a % len(before) for a in axes}
    for axis in gone:
        walk.channels.freeze(before[axis], f"{_name(node)} goes over this axis")
    if len(walk.shape(node)) == len(before):
        return tuple(fixed(1) if i in gone else label for i, label in enumerate(before))
    return tuple(label for i, label in enumerate(before) if i not in gone)


def softmax(walk: Walk, node: fx.Node, module: Any) -> Labels | None:
    """Normalises along one axis, which is never cut; the others pass."""
    source = walk.inputs(node)[0]
    axis = _argument(node, module, 1, "dim", None)
    if not isinstance(axis, int):
        return None
    walk.store(node)
    walk.channels.freeze(walk.labels[source][axis], f"{_name(node)} normalises along this axis")
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
            reason = f"{_name(node)} (step {node.name}) adds or multiplies it with channels of another kind"
            out[-i] = walk.channels.join(out[-i], labels[-i], reason) if seen[-i] else labels[-i]
            seen[-i] = True
    return tuple(out)


def product(walk: Walk, node: fx.Node, module: Any) -> Labels:
    """Multiplying: as adding, but backward needs both factors."""
    for source in walk.inputs(node):
        walk.store(source)
    return together(walk, node, module)


def concatenation(walk: Walk, node: fx.Node, module: Any) -> Labels | None:
    """Channels one after another along one axis; along all others they are coupled."""
    parts, axis = node.args[0], _argument(node, module, 1, "dim", 0)
    if not isinstance(parts, Sequence) or not isinstance(axis, int) or any(p not in walk.labels for p in parts):
        return None
    labels = [walk.labels[p] for p in parts]  # type: ignore[index]
    axis %= len(labels[0])
    out = list(labels[0])
    for other in labels[1:]:
        for i, label in enumerate(other):
            out[i] = out[i] + label if i == axis else walk.channels.join(out[i], label, f"{_name(node)} lines it up")
    return tuple(out)


def transposition(walk: Walk, node: fx.Node, module: Any) -> Labels | None:
    """Axes change places."""
    source = walk.inputs(node)[0]
    before, moves = list(walk.labels[source]), node.args[1:]
    walk.views[node] = source
    if len(moves) == 1 and isinstance(moves[0], Sequence):
        moves = tuple(moves[0])
    if node.kwargs or not all(isinstance(m, int) for m in moves):
        return None
    if node.target in ("permute", torch.permute):
        return tuple(before[m] for m in moves)  # type: ignore[index]
    first, second = moves
    before[first], before[second] = before[second], before[first]  # type: ignore[index]
    return tuple(before)


def reshaping(walk: Walk, node: fx.Node, module: Any) -> Labels:
    """flatten, view, reshape, squeeze: neighbouring axes merge. Of a merged run only the first axis longer than one may
    carry channels, each of which then stands for a run of places; a length written into the net stays as it is."""
    source = walk.inputs(node)[0]
    before, old, new = walk.labels[source], walk.shape(source), walk.shape(node)
    walk.views[node] = source
    out: list[Label] = []
    for taken, made in _runs(old, new):
        out += _merged(walk, node, [before[i] for i in taken], [new[i] for i in made])
    if node.target in ("view", "reshape", torch.reshape):
        for i, given in enumerate(_lengths(node)):
            if isinstance(given, int) and given != -1:
                walk.channels.freeze(out[i], f"{_name(node)} (step {node.name}) has its length {given} written in it")
    return tuple(out)


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


def _merged(walk: Walk, node: fx.Node, labels: list[Label], lengths: list[int]) -> list[Label]:
    """Labels of the axes `lengths` that hold the same places as axes with `labels`."""
    long = [label for label in labels if sum(p.length for p in label) > 1]
    wide = [i for i, n in enumerate(lengths) if n > 1]
    if len(wide) == 1 and long and all(walk.channels.is_fixed(label) for label in long[1:]):
        rest = math.prod(sum(p.length for p in label) for label in long[1:])
        return [repeated(long[0], rest) if i in wide else fixed(1) for i in range(len(lengths))]
    for label in labels:
        walk.channels.freeze(label, f"{_name(node)} (step {node.name}) mixes it with other axes")
    return [fixed(n) for n in lengths]


def _name(node: fx.Node) -> str:
    return str(getattr(node.target, "__name__", node.target))


_BY_OUTPUT = ("relu", "relu_", "sigmoid", "tanh", "exp", "sqrt")
_BY_INPUT = ("gelu", "silu", "elu", "leaky_relu", "hardswish", "hardsigmoid", "hardtanh", "relu6", "softplus", "mish")

STEP_MODULES: dict[type[nn.Module], Rule] = {
    **dict.fromkeys((nn.ReLU, nn.Sigmoid, nn.Tanh), by_output),
    **dict.fromkeys((nn.GELU, nn.SiLU, nn.ELU, nn.SELU, nn.CELU, nn.LeakyReLU, nn.Hardswish, nn.Hardsigmoid), by_input),
    **dict.fromkeys((nn.Hardtanh, nn.ReLU6, nn.Softplus, nn.Mish, nn.Softsign, nn.LogSigmoid), by_input),
    nn.Identity: same,
    **dict.fromkeys((nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout), by_output),
    **dict.fromkeys((nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d), max_pooling),
    **dict.fromkeys((nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d), max_pooling),
    **dict.fromkeys((nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d), pooling),
    **dict.fromkeys((nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d), pooling),
    **dict.fromkeys((nn.ZeroPad2d, nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d), pooling),
    nn.Flatten: reshaping,
    **dict.fromkeys((nn.Softmax, nn.LogSoftmax), softmax),
}

STEP_FUNCTIONS: dict[Any, Rule] = {
    **{getattr(torch, n): by_output for n in _BY_OUTPUT},
    **{getattr(F, n): by_output for n in ("relu", "relu_", "sigmoid", "tanh", "dropout", "dropout2d")},
    **{getattr(F, n): by_input for n in _BY_INPUT},
    **dict.fromkeys((torch.neg, operator.neg), detached),
    **dict.fromkeys((operator.add, operator.iadd, operator.sub, operator.isub, torch.add, torch.sub), together),
    **dict.fromkeys((operator.mul, operator.imul, operator.truediv, torch.mul, torch.div), product),
    **dict.fromkeys((torch.maximum, torch.minimum), product),
    **dict.fromkeys((torch.cat, torch.concat), concatenation),
    **dict.fromkeys((torch.flatten, torch.reshape, torch.squeeze, torch.unsqueeze), reshaping),
    **dict.fromkeys((torch.permute, torch.transpose), transposition),
    **dict.fromkeys((torch.mean, torch.sum, torch.amax, torch.amin), reduction),
    **dict.fromkeys((torch.softmax, torch.log_softmax, F.softmax, F.log_softmax), softmax),
    **dict.fromkeys((F.max_pool1d, F.max_pool2d, F.max_pool3d), max_pooling),
    **dict.fromkeys((F.adaptive_max_pool1d, F.adaptive_max_pool2d), max_pooling),
    **dict.fromkeys((F.avg_pool1d, F.avg_pool2d, F.avg_pool3d), pooling),
    **dict.fromkeys((F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d), pooling),
}

STEP_METHODS: dict[str, Rule] = {
    **dict.fromkeys(_BY_OUTPUT, by_output),
    **dict.fromkeys(("contiguous", "clone", "float", "neg"), detached),
    **dict.fromkeys(("add", "add_", "sub", "sub_"), together),
    **dict.fromkeys(("mul", "mul_", "div", "div_"), product),
    **dict.fromkeys(("flatten", "view", "reshape", "squeeze", "unsqueeze"), reshaping),
    **dict.fromkeys(("permute", "transpose"), transposition),
    **dict.fromkeys(("mean", "sum", "amax", "amin"), reduction),
    **dict.fromkeys(("softmax", "log_softmax"), softmax),
}
