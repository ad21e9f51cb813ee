"""Units: the parts of a net that may be left out whole (elastic.md section 3).

Found in the graph:
* a *block* whose result is its own input plus something (or a relu of that, where the input is not negative anyway):
  leaving it out is the identity, and so is the block once its last map is zero;
* a *normed* block, whose sums are normed after they are made (a transformer's layer with its norms behind): it can be
  left out like the others, but no weights make it the identity;
* a *branch*, a submodule whose result only goes into a sum with something else, beside a shortcut that changes the
  shape, say: leaving it out adds 0. Only one that has channels of its own to cut counts: a bare shortcut has none.
* a *fixed* block, whose result is a sum of which no term is its input, and whose branch is no submodule, cannot be left
  out, but has an inner width like the others.
Named by whoever wrote the net, in an attribute `depth_units` of the module, the paths of submodules:
* a *named* unit, any submodule whose result has its input's shape. It is passed by; what it computes does not matter.
Of a net with exits (`exits.py`) also:
* an *exit*, which gives no logits when it is left out;
* a *tail*, any other submodule that the shallowest exit does not need: it goes with every exit that does.

Where units lie in one another the innermost are taken. Sharing a tensor with the outside disqualifies.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import fx, nn

from pleat.errors import UseError
from pleat.nets.exits import names_of
from pleat.nets.graph import Call, Graph
from pleat.nets.walk import Walk

_SUMS = (operator.add, torch.add, "add")  # not in place: a branch that is left out must not be written to
_ANY_SUM = (*_SUMS, operator.iadd, "add_")
_RELU_FUNCTIONS = (torch.relu, torch.relu_, F.relu, F.relu_, "relu", "relu_")
_KEEPS_SIGN = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Dropout, nn.Identity)


_NORMS = (nn.LayerNorm, nn.RMSNorm) if hasattr(nn, "RMSNorm") else (nn.LayerNorm,)

Kind = Literal["named", "block", "normed", "branch", "fixed", "exit", "tail"]


@dataclass(frozen=True)
class Unit:
    """`path` of the submodule, the steps inside it, and what leaving it out comes to."""

    path: str
    nodes: frozenset[fx.Node]
    kind: Kind


def units(walk: Walk) -> tuple[Unit, ...]:
    """All units of the net, in the order in which they run, each before the shallowest exit that needs it."""
    graph = walk.graph
    place = {node: i for i, node in enumerate(graph.order)}
    once = [c for c in graph.calls if sum(d.path == c.path for d in graph.calls) == 1]
    found = _exits(walk)
    found += _named(walk, found)
    tests: tuple[tuple[Kind, Callable[[Walk, Call], bool]], ...] = (
        ("block", _is_block),
        ("normed", _is_normed),
        ("branch", _is_branch),
        ("fixed", _is_fixed),
    )
    for kind, test in tests:
        for call in sorted(once, key=lambda c: -c.path.count(".")):
            clash = any(call.nodes & unit.nodes for unit in found)
            if not clash and _self_contained(graph, call) and test(walk, call):
                found.append(Unit(call.path, call.nodes, kind))
    needed = depths(graph)
    found = _with_tails(graph, found, once, needed)
    order = {u.path: (_depth(u.nodes, needed), u.kind == "exit", min(place[n] for n in u.nodes)) for u in found}
    return tuple(sorted(found, key=lambda u: order[u.path]))


def depths(graph: Graph) -> dict[fx.Node, int]:
    """Step -> the place of the shallowest exit that needs its value; nothing for a net without exits."""
    out: dict[fx.Node, int] = {}
    for place, node in enumerate(graph.outputs if names_of(graph.module) else ()):
        further = [node]
        while further:
            node = further.pop()
            if node not in out:
                out[node] = place
                further += node.all_input_nodes
    return out


def _depth(nodes: frozenset[fx.Node], needed: dict[fx.Node, int]) -> int:
    return min(needed.get(node, 0) for node in nodes)


def _exits(walk: Walk) -> list[Unit]:
    """The net's exits. Raises UseError for one that is none, saying why."""
    net, out = walk.graph.module, []
    for path, result in zip(names_of(walk.graph.module), walk.graph.outputs, strict=False):
        calls = _calls(walk.graph, path)
        why = _unfit(walk, calls)
        if not why and calls[0].result is not result:
            why = "its result is not the logits that the forward returns at its place"
        if why:
            raise UseError(f"net {type(net).__name__}: exits names {path!r}, which is none: {why}")
        out.append(Unit(path, calls[0].nodes, "exit"))
    return out


def _with_tails(graph: Graph, found: list[Unit], once: list[Call], needed: dict[fx.Node, int]) -> list[Unit]:
    """`found` and the tails: blocks that cannot go otherwise, and whatever else has parameters, outermost first."""
    out = [Unit(u.path, u.nodes, "tail") if u.kind == "fixed" and _depth(u.nodes, needed) else u for u in found]
    for call in sorted(once, key=lambda c: c.path.count(".")) if needed else ():
        one = len({needed.get(n, 0) for n in call.nodes}) == 1 and _depth(call.nodes, needed) > 0
        clash = any(call.nodes & u.nodes for u in out)
        holds = any(True for _ in graph.module.get_submodule(call.path).parameters())
        if one and holds and not clash and _self_contained(graph, call):
            out.append(Unit(call.path, call.nodes, "tail"))
    return out


def _named(walk: Walk, exits: list[Unit]) -> list[Unit]:
    """The units that the net itself names. Raises UseError for one that cannot be left out, saying why."""
    net, out = walk.graph.module, []
    for path in getattr(net, "depth_units", ()):
        calls = _calls(walk.graph, path)
        why = _unfit(walk, calls, same_shape=True)
        why = why or ", ".join(f"it has exit {e.path} in it" for e in exits if e.nodes & calls[0].nodes)
        if why:
            raise UseError(f"net {type(net).__name__}: depth_units names {path!r}, which cannot be left out: {why}")
        out.append(Unit(path, calls[0].nodes, "named"))
    return out


def _calls(graph: Graph, path: str) -> list[Call]:
    """The calls of a submodule, be it a single step or many."""
    return [c for c in graph.calls if c.path == path] or [
        Call(path, tuple(n.all_input_nodes), frozenset((n,)), n)
        for n in graph.order
        if n.op == "call_module" and n.target == path
    ]


def _unfit(walk: Walk, calls: list[Call], same_shape: bool = False) -> str:
    if len(calls) != 1:
        return f"the forward calls it {len(calls)} times"
    shapes, call = walk.graph.shapes, calls[0]
    if not _self_contained(walk.graph, call):
        return "it is no submodule with one tensor in, one out, and tensors that nothing else uses"
    into, out = shapes.get(call.inputs[0]), shapes.get(call.result)
    return "" if into == out or not same_shape else f"its input has shape {into}, its result {out}"


def _self_contained(graph: Graph, call: Call) -> bool:
    """One tensor in (others beside it, such as masks, do not matter), one out, no other edge across, and no tensor that
    is also used outside."""
    if not call.inputs or not isinstance(call.result, fx.Node) or call.result not in call.nodes:
        return False
    crossing_in = {b for n in call.nodes for b in n.all_input_nodes} - call.nodes
    crossing_out = {n for n in call.nodes if any(u not in call.nodes for u in n.users)}
    if not (crossing_in <= set(call.inputs) and crossing_out <= {call.result}):
        return False
    used = (n for n in call.nodes if n.op in ("call_module", "get_attr") and n not in graph.constants)
    own = all(str(n.target).startswith(call.path + ".") or n.target == call.path for n in used)
    return own and not _shared(graph.module, call.path)


def _shared(module: nn.Module, path: str) -> bool:
    """Whether a tensor of the submodule is also somewhere else in the net."""
    here: set[int] = set()
    outside: set[int] = set()
    for name, tensor in module.named_parameters(remove_duplicate=False):
        (here if name.startswith(path + ".") else outside).add(id(tensor))
    return bool(here & outside)


def _is_block(walk: Walk, call: Call) -> bool:
    """Whether the result is input + something, of one shape, or a relu of that where the input is not negative."""
    source, last = call.inputs[0], call.result
    if walk.graph.shapes.get(source) != walk.graph.shapes.get(last):
        return False
    if _is_relu(walk, last):
        last = last.args[0]
        if not _not_negative(walk, source):
            return False
    return _adds(last, source, call, _passing(walk, call, (nn.Identity,)))


def _is_normed(walk: Walk, call: Call) -> bool:
    """Whether the result is input + something, normed, perhaps several times over."""
    source = call.inputs[0]
    same = walk.graph.shapes.get(source) == walk.graph.shapes.get(call.result)
    return same and _adds(call.result, source, call, _passing(walk, call, (nn.Identity, *_NORMS)))


def _passing(walk: Walk, call: Call, kinds: tuple[type[nn.Module], ...]) -> frozenset[fx.Node]:
    """The steps of a submodule that are modules of these kinds."""
    layers = (n for n in call.nodes if n.op == "call_module")
    return frozenset(n for n in layers if isinstance(walk.graph.module.get_submodule(str(n.target)), kinds))


def _adds(node: Any, source: fx.Node, call: Call, through: frozenset[fx.Node]) -> bool:
    """Whether `node` is a sum of which one term is `source`, perhaps by way of another such sum, or of a step in
    `through` on one."""
    node = _behind(node, through)
    if not isinstance(node, fx.Node) or node not in call.nodes or node.target not in _ANY_SUM:
        return False
    if len(node.args) != 2 or node.kwargs:
        return False
    terms = [t for t in (_behind(a, through) for a in node.args) if t is not source]
    return len(terms) < 2 or any(_adds(t, source, call, through) for t in terms)


def _behind(node: Any, through: frozenset[fx.Node]) -> Any:
    while node in through:
        node = node.args[0]
    return node


def _is_branch(walk: Walk, call: Call) -> bool:
    """Whether the result is only ever one term of a sum, and the submodule has channels of its own."""
    users = list(call.result.users)
    if len(users) != 1 or users[0].target not in _SUMS or len(users[0].args) != 2 or users[0].kwargs:
        return False
    other = next((a for a in users[0].args if a is not call.result), None)
    if not isinstance(other, fx.Node) or walk.graph.shapes.get(other) != walk.graph.shapes.get(users[0]):
        return False
    return walk.graph.shapes.get(call.result) == walk.graph.shapes.get(users[0]) and bool(own_groups(walk, call.path))


def _is_fixed(walk: Walk, call: Call) -> bool:
    """Whether the result is a sum, or a relu of one, and the submodule has channels of its own."""
    last = call.result.args[0] if _is_relu(walk, call.result) else call.result
    return last in call.nodes and last.target in _ANY_SUM and bool(own_groups(walk, call.path))


def own_groups(walk: Walk, path: str) -> set[str]:
    """Groups that may be cut and stand on no tensor outside the submodule at `path`."""
    inside: set[str] = set()
    outside: set[str] = set()
    for name, labels in walk.axes.items():
        names = {s.group for label in labels for s in walk.channels.axis(label)} - {""}
        (inside if name.startswith(path + ".") else outside).update(names)
    frozen = {g.name for g in walk.channels.groups(list(walk.labels_in_use())) if g.role == "frozen"}
    return inside - outside - frozen


def _is_relu(walk: Walk, node: fx.Node) -> bool:
    if node.op == "call_module":
        return type(walk.graph.module.get_submodule(str(node.target))) is nn.ReLU
    return node.target in _RELU_FUNCTIONS


def _not_negative(walk: Walk, node: Any) -> bool:
    """Whether a value surely has no negative entry: a relu's, perhaps pooled since."""
    while isinstance(node, fx.Node):
        if _is_relu(walk, node):
            return True
        if node.op != "call_module" or type(walk.graph.module.get_submodule(str(node.target))) not in _KEEPS_SIGN:
            return False
        node = node.args[0]
    return False
