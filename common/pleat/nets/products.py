"""Products: how steps that multiply values along an axis pass channels on: matrix products, attention, layers by hand.

The axis summed over is coupled on both sides: a channel that is gone from one factor adds nothing through the other.
"""

from __future__ import annotations

import math
from typing import Any

from torch import fx

from pleat.nets.channels import Label, Labels, fixed
from pleat.nets.walk import Walk, argument, step_name


def _reason(node: fx.Node) -> str:
    return f"{step_name(node)} (step {node.name}) multiplies it with channels of another kind"


def _counts(node: fx.Node) -> str:
    return f"{step_name(node)} (step {node.name}) sums over it, where a channel that is left out would still count"


def _broadcast(walk: Walk, node: fx.Node, left: Labels, right: Labels) -> Labels:
    """Labels of leading axes that two factors share."""
    out: list[Label] = []
    for i in range(1, max(len(left), len(right)) + 1):
        ones = [side[-i] for side in (left, right) if len(side) >= i]
        long = [label for label in ones if sum(p.length for p in label) > 1] or ones
        out.append(walk.channels.join(long[0], long[1], _reason(node)) if len(long) == 2 else long[0])
    return tuple(reversed(out))


def matrix_product(walk: Walk, node: fx.Node, module: Any) -> Labels | None:
    """a @ b: rows of a, columns of b; what is summed over is coupled, and so are leading axes."""
    if len(walk.inputs(node)) not in (1, 2) or len(node.args) != 2:
        return None
    first, second = node.args
    if first not in walk.labels or second not in walk.labels:
        return None
    a, b = walk.labels[first], walk.labels[second]  # type: ignore[index]
    if len(a) < 2 or len(b) < 2:
        return None
    walk.store(first)  # type: ignore[arg-type]
    walk.store(second)  # type: ignore[arg-type]
    walk.channels.join(a[-1], b[-2], _reason(node))
    if first in walk.lit and second in walk.lit:
        walk.channels.freeze(a[-1], _counts(node))
    return (*_broadcast(walk, node, a[:-2], b[:-2]), a[-2], b[-1])


def einsum(walk: Walk, node: fx.Node, module: Any) -> Labels | None:
    """Every letter is one axis, wherever it stands."""
    text, factors = node.args[0], node.args[1:]
    if len(factors) == 1 and isinstance(factors[0], list | tuple):
        factors = tuple(factors[0])
    if not isinstance(text, str) or "." in text or "->" not in text or any(f not in walk.labels for f in factors):
        return None
    entering, _, leaving = text.replace(" ", "").partition("->")
    known: dict[str, Label] = {}
    for letters, factor in zip(entering.split(","), factors, strict=True):
        walk.store(factor)  # type: ignore[arg-type]
        for letter, label in zip(letters, walk.labels[factor], strict=True):  # type: ignore[index]
            known[letter] = walk.channels.join(known[letter], label, _reason(node)) if letter in known else label
    for letter in known.keys() - set(leaving):
        if all(f in walk.lit for letters, f in zip(entering.split(","), factors, strict=True) if letter in letters):
            walk.channels.freeze(known[letter], _counts(node))
    return tuple(known[letter] for letter in leaving)


def attention(walk: Walk, node: fx.Node, module: Any) -> Labels | None:
    """Scaled dot products: queries and keys are never narrowed, since their width sets the scale; values may be."""
    queries, keys, values = (argument(node, None, i, n, None) for i, n in enumerate(("query", "key", "value")))
    mask = argument(node, None, 3, "attn_mask", None)
    if any(v not in walk.labels for v in (queries, keys, values)) or node.kwargs.get("enable_gqa"):
        return None
    q, k, v = (walk.labels[n] for n in (queries, keys, values))
    for one in (queries, keys, values):
        walk.store(one)
    walk.store(node)
    for label in (q[-1], k[-1]):
        walk.channels.freeze(label, f"{step_name(node)} scales by its length")
    for label in (q[-2], k[-2]):
        walk.channels.freeze(label, f"{step_name(node)} normalises along this axis")
    if mask in walk.labels:
        for label in walk.labels[mask]:
            walk.channels.freeze(label, f"{step_name(node)} masks along this axis")
    lead = _broadcast(walk, node, _broadcast(walk, node, q[:-2], k[:-2]), v[:-2])
    return (*lead, q[-2], v[-1])


def _parameters(walk: Walk, node: fx.Node) -> tuple[Any, Any, Any] | None:
    """The value, the weight and the bias of a layer called as a function; the weight must be a bare parameter."""
    source, weight, bias = (argument(node, None, i, n, None) for i, n in enumerate(("input", "weight", "bias")))
    plain = isinstance(weight, fx.Node) and weight.op == "get_attr" and weight in walk.labels
    return (source, weight, bias) if plain and source in walk.labels and source.op != "get_attr" else None


def _applied(walk: Walk, weight: fx.Node, positions: int) -> None:
    name = walk.name_of(weight)
    if name:
        walk.positions[name] = walk.positions.get(name, 0) + positions


def linear_by_hand(walk: Walk, node: fx.Node, module: Any) -> Labels | None:
    """F.linear with parameters of one's own."""
    found = _parameters(walk, node)
    if found is None:
        return None
    source, weight, bias = found
    before, (given, taken) = walk.labels[source], walk.labels[weight]
    walk.store(source)
    walk.channels.join(before[-1], taken, _reason(node))
    if bias in walk.labels:
        given = walk.channels.join(given, walk.labels[bias][0], _reason(node))
    _applied(walk, weight, walk.per_sample(node, -1))
    return (*before[:-1], given)


def convolution_by_hand(walk: Walk, node: fx.Node, module: Any) -> Labels | None:
    """F.conv with parameters of one's own, in one group."""
    found = _parameters(walk, node)
    if found is None or argument(node, None, 6, "groups", 1) != 1:
        return None
    source, weight, bias = found
    before, axes, shape = walk.labels[source], walk.labels[weight], walk.shape(node)
    if len(shape) != len(axes) or len(before) != len(axes):
        return None
    walk.store(source)
    walk.channels.join(before[1], axes[1], _reason(node))
    for label in (*before[2:], *axes[2:]):
        walk.channels.freeze(label, f"{step_name(node)} (step {node.name}) convolves along this axis")
    given = axes[0]
    if bias in walk.labels:
        given = walk.channels.join(given, walk.labels[bias][0], _reason(node))
    _applied(walk, weight, math.prod(shape[2:]))
    return (before[0], given, *map(fixed, shape[2:]))


def norm_by_hand(walk: Walk, node: fx.Node, module: Any) -> Labels | None:
    """F.batch_norm and F.layer_norm; the latter has the lengths of its axes written in it."""
    source = walk.inputs(node)[0]
    before = walk.labels[source]
    along = -1 if node.target.__name__ == "layer_norm" else 1  # type: ignore[union-attr]
    if along == -1 and len(argument(node, None, 1, "normalized_shape", ())) != 1:
        return None
    walk.store(source)
    if along == -1:
        walk.channels.freeze(before[-1], f"{step_name(node)} (step {node.name}) has its length written in it")
    for other in walk.inputs(node)[1:]:
        if len(walk.labels[other]) == 1:
            walk.channels.join(before[along], walk.labels[other][0], _reason(node))
    return before
