"""Sequences: how attention and recurrent layers pass channels on. An attention loses whole heads, so that the width of
a head and with it the scale stay; a recurrent layer loses hidden channels, the same of every gate, layer and direction.
"""

from __future__ import annotations

from typing import Any

from torch import fx, nn

from pleat.nets.channels import Label, fixed, repeated
from pleat.nets.heads import FewerHeads
from pleat.nets.resize import GATES
from pleat.nets.walk import Many, Rule, Walk, argument


def attention(walk: Walk, node: fx.Node, module: Any) -> Many | None:
    """nn.MultiheadAttention. Its projections have one part a head; how its result is weighted is no one's business but
    its own, unless the net looks at the weights, which are means over the heads."""
    sources = [argument(node, None, i, n, None) for i, n in enumerate(("query", "key", "value"))]
    if any(s not in walk.labels for s in sources) or len(walk.shape(sources[0])) != 3:
        return None
    heads = walk.channels.new(module.num_heads, f"{node.target}.heads")
    inner = repeated(heads, module.head_dim)
    entering = [walk.labels[s][-1] for s in sources]
    places = [walk.per_sample(s, -1) for s in sources]
    for source in sources:
        walk.store(source)
    if module.in_proj_weight is not None:
        first = entering[0]
        for other in entering[1:]:
            first = walk.channels.join(first, other, f"{node.target} projects both with one weight")
        walk.bind(module, "in_proj_weight", (inner * 3, first), sum(places) // 3)
    else:
        for name, label, n in zip("qkv", entering, places, strict=True):
            walk.bind(module, f"{name}_proj_weight", (inner, label), n)
    walk.bind(module, "in_proj_bias", (inner * 3,))
    for name in ("bias_k", "bias_v"):
        walk.bind(module, name, (fixed(1), fixed(1), inner))
    walk.inside.append((node, inner, 4 * places[0]))  # queries, keys, values and their mixture
    given = _leaving(walk, node, module, inner, places[0])
    if any(user.args[1] == 1 and user.users for user in node.users):
        walk.channels.freeze(heads, f"{node.target} gives its weights away, which are means over all heads")
    return Many(((*walk.labels[sources[0]][:-1], given), None))


def _leaving(walk: Walk, node: fx.Node, module: Any, inner: Label, places: int) -> Label:
    given = walk.channels.new(module.embed_dim, str(node.target))
    given, _ = walk.bind(module.out_proj, "weight", (given, inner), places)
    walk.bind(module.out_proj, "bias", (given,))
    return given


def recurrent(walk: Walk, node: fx.Node, module: Any) -> Many | None:
    """nn.LSTM, nn.GRU and nn.RNN: gate by gate the rows of all hidden channels; all layers have one width."""
    source = node.args[0]
    if source not in walk.labels or len(walk.shape(source)) != 3:  # type: ignore[arg-type]
        return None
    before, gates = walk.labels[source], GATES[type(module)]  # type: ignore[index]
    places = walk.per_sample(source, -1)  # type: ignore[arg-type]
    hidden = walk.channels.new(module.hidden_size, str(node.target))
    projected = getattr(module, "proj_size", 0) > 0
    state = walk.channels.new(module.proj_size, f"{node.target}.proj") if projected else hidden
    if projected:
        walk.channels.freeze(hidden, f"{node.target} must stay wider than its projection, by which torch knows it")
    _start(walk, node, hidden, state)
    directions = ("", "_reverse") if module.bidirectional else ("",)
    entering = before[-1]
    walk.store(source)  # type: ignore[arg-type]
    for layer in range(module.num_layers):
        for way in directions:
            end = f"l{layer}{way}"
            walk.bind(module, f"weight_ih_{end}", (hidden * gates, entering), places)
            walk.bind(module, f"weight_hh_{end}", (hidden * gates, state), places)
            walk.bind(module, f"bias_ih_{end}", (hidden * gates,))
            walk.bind(module, f"bias_hh_{end}", (hidden * gates,))
            walk.bind(module, f"weight_hr_{end}", (state, hidden), places)
            walk.inside.append((node, hidden, places * (gates + (2 if gates == 4 else 1))))
        entering = state * len(directions)
    last = (fixed(module.num_layers * len(directions)), before[0 if module.batch_first else 1], state)
    ends = Many((last, (*last[:2], hidden))) if gates == 4 else last
    return Many(((*before[:-1], entering), ends))


def _start(walk: Walk, node: fx.Node, hidden: Label, state: Label) -> None:
    """A first state that the net gives has a width of its own."""
    given = argument(node, None, 1, "hx", None)
    for value, label in zip(given if isinstance(given, tuple | list) else (given,), (state, hidden), strict=False):
        if isinstance(value, fx.Node) and value in walk.labels:
            walk.channels.join(label, walk.labels[value][-1], f"{node.target} begins with a state of this width")


SEQUENCES: dict[type[nn.Module], Rule] = {
    **dict.fromkeys((nn.MultiheadAttention, FewerHeads), attention),
    **dict.fromkeys(GATES, recurrent),
}
