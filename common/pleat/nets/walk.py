"""Walk: carry labels of channels through a graph, step by step, by a table of rules.

Each rule sees one step and gives the labels of its result's axes. A step without a rule freezes whatever enters it,
with a reason, and its result cannot be cut: a kind of module that nobody has taught stays whole, and the net stays
correct.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import fx, nn

from pleat.modelmap import OUTPUT
from pleat.nets.channels import Channels, Label, Labels, fixed
from pleat.nets.graph import BATCH, Graph, Shape
from pleat.nets.lengths import Length, Source
from pleat.nets.tensors import tensors_of
from pleat.nets.tracer import take
from pleat.nets.zeros import lit


@dataclass(frozen=True)
class Many:
    """Labels of a step whose result is a tuple: for every element labels, a further Many, or None for no tensor."""

    of: tuple[Any, ...]


Rule = Callable[["Walk", fx.Node, Any], "Labels | Many | None"]  # (walk, step, its module); None: does not fit


@dataclass
class Walk:
    """What is known so far: labels of values, axes of tensors, where weights are applied, what backward will need."""

    graph: Graph
    channels: Channels = field(default_factory=Channels)
    labels: dict[fx.Node, Labels] = field(default_factory=dict)
    axes: dict[str, Labels] = field(default_factory=dict)
    positions: dict[str, int] = field(default_factory=dict)
    stored: dict[fx.Node, int] = field(default_factory=dict)  # value -> how many floats per entry backward needs
    views: dict[fx.Node, fx.Node] = field(default_factory=dict)  # value -> the value whose memory it shows
    follows: list[tuple[Label, Length, str]] = field(default_factory=list)  # axes whose length is another's, or why not
    whole: dict[str, str] = field(default_factory=dict)  # submodules of which nothing is cut, and why
    many: dict[fx.Node, Many] = field(default_factory=dict)  # steps whose results are tuples
    lit: set[fx.Node] = field(default_factory=set)  # values that may be other than 0 at channels that are left out
    inside: list[tuple[fx.Node, Label, int]] = field(default_factory=list)  # step, axis, positions: kept for backward

    def __post_init__(self) -> None:
        self.tensors = tensors_of(self.graph.module)
        self.names = {id(tensor): name for name, tensor in self.tensors.items()}

    @property
    def parts(self) -> Parts:
        """The shapes of the tensors in a tuple that a step returned."""
        return Parts(self.graph)

    def may_shrink(self, label: Label) -> bool:
        """Whether something on this axis may still be cut."""
        return self.channels.may_shrink(label)

    def shape(self, node: fx.Node) -> Shape:
        return self.graph.shapes[node]

    def inputs(self, node: fx.Node) -> list[fx.Node]:
        """The steps whose tensors enter `node`."""
        return [n for n in node.all_input_nodes if n in self.labels]

    def name_of(self, node: fx.Node) -> str:
        """The name of the tensor that a step reads from the module; "" for a constant."""
        if node in self.graph.constants:
            return ""
        owner, _, attribute = str(node.target).rpartition(".")
        return self.names.get(id(getattr(self.graph.module.get_submodule(owner), attribute)), "")

    def per_sample(self, node: fx.Node, axis: int) -> int:
        """Places of a value beside those of one axis, for one sample."""
        shape = self.shape(node)
        return math.prod(shape) // max(1, shape[axis] * BATCH)

    def bind(self, owner: nn.Module, attribute: str, axes: Labels, positions: int = 0) -> Labels:
        """Say that `owner.attribute` has these axes and is applied at so many places a sample. A tensor used twice
        couples the axes of both uses; the labels that hold for it are returned."""
        tensor = getattr(owner, attribute, None)
        name = self.names.get(id(tensor))
        if name is None:
            return axes
        if name in self.axes:
            reason = f"tensor {name} is used in two places that see its channels differently"
            axes = tuple(self.channels.join(a, b, reason) for a, b in zip(self.axes[name], axes, strict=True))
        self.axes[name] = axes
        self.positions[name] = self.positions.get(name, 0) + positions
        return axes

    def store(self, node: fx.Node, floats: int = 1) -> None:
        """Note that backward needs the value of `node`, which shares memory with what it is a view of. Parameters are
        there anyway."""
        while node in self.views:
            node = self.views[node]
        if node.op == "get_attr":
            return
        self.stored[node] = max(self.stored.get(node, 0), floats)

    def labels_in_use(self) -> Iterator[Label]:
        """The labels of all tensors' axes and of all values that backward needs."""
        for labels in [*self.axes.values(), *(self.labels[n] for n in self.stored if n in self.labels)]:
            yield from labels
        yield from (label for _, label, _ in self.inside)

    def axes_of(self, *sources: Source) -> list[Label]:
        """The labels of the axes whose lengths were read."""
        return [self.labels[node][axis] for node, axis in sources if node in self.labels]

    def freeze_axes(self, labels: Iterable[Label], reason: str) -> None:
        for label in labels:
            self.channels.freeze(label, reason)

    def freeze(self, node: fx.Node, reason: str) -> None:
        self.freeze_axes(self.labels.get(node, ()), reason)


class Parts:
    """Shapes of the elements of tuples, as the steps that take them out show them."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph

    def __getitem__(self, node: fx.Node) -> list[Shape]:
        found = {int(u.args[1]): self._graph.shapes[u] for u in node.users if u in self._graph.shapes}  # type: ignore[arg-type]
        return [found[i] for i in sorted(found)]


def argument(node: fx.Node, module: Any, place: int, name: str, default: Any) -> Any:
    """An argument of a step, wherever it is: on the module, by name, or by place after the tensor."""
    if module is not None:
        return getattr(module, name, default)
    return node.kwargs.get(name, node.args[place] if len(node.args) > place else default)


def step_name(node: fx.Node) -> str:
    return str(getattr(node.target, "__name__", node.target))


def walk(
    graph: Graph, modules: Mapping[type[nn.Module], Rule], functions: Mapping[Any, Rule], methods: Mapping[str, Rule]
) -> Walk:
    """Apply the rules to every step, first to last."""
    state = Walk(graph)
    for node in graph.order:
        module = graph.module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if node.op == "placeholder":
            _enter(state, node)
        elif node.op == "get_attr":
            _attribute(state, node)
        elif node.op == "output":
            for last in state.inputs(node):
                state.freeze(last, OUTPUT)
        elif module is not None:
            _apply(state, node, None if _hooked(module) else modules.get(type(module)), module)
        else:
            table: Mapping[Any, Rule] = functions if node.op == "call_function" else methods
            _apply(state, node, table.get(node.target), None)
        if lit(state, node, module):
            state.lit.add(node)
    _reads(state)
    _leftovers(state)
    return state


def _enter(state: Walk, node: fx.Node) -> None:
    """The net's input: its first axis is samples, its second the input's channels; none of them is ever cut."""
    batch, *rest = state.shape(node)
    labels = [state.channels.new(rest[0], "input"), *map(fixed, rest[1:])] if rest else []
    state.labels[node] = (fixed(batch), *labels)
    state.freeze(node, "the net's input")


def _attribute(state: Walk, node: fx.Node) -> None:
    """A bare parameter in a forward: each of its axes is a set of channels until something it meets says more."""
    shape = state.shape(node)
    if node in state.graph.constants:
        state.labels[node] = tuple(map(fixed, shape))
        return
    owner_path, _, attribute = str(node.target).rpartition(".")
    owner = state.graph.module.get_submodule(owner_path)
    name = state.name_of(node)
    if not name:
        state.labels[node] = tuple(map(fixed, shape))
    elif name in state.axes:
        state.labels[node] = state.axes[name]
    else:
        fresh = (state.channels.new(n, f"{name}:{i}") if n > 1 else fixed(n) for i, n in enumerate(shape))
        state.labels[node] = state.bind(owner, attribute, tuple(fresh))


def _hooked(module: nn.Module) -> bool:
    """Whether code that no rule knows runs around the module (old-style weight norm, for one)."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _apply(state: Walk, node: fx.Node, rule: Rule | None, module: nn.Module | None) -> None:
    if node.target is take:
        _take(state, node)
        return
    found = rule(state, node, module) if rule is not None and state.inputs(node) else None
    if found is None:
        found = _unknown(state, node, module)
    if isinstance(found, Many):
        state.many[node] = found
    elif node in state.graph.shapes:
        state.labels[node] = found


def _take(state: Walk, node: fx.Node) -> None:
    """One element of a tuple."""
    source, place = node.args[0], node.args[1]
    many = state.many.get(source)  # type: ignore[arg-type]
    found = many.of[place] if many is not None else None  # type: ignore[index]
    if isinstance(found, Many):
        state.many[node] = found
    elif node in state.graph.shapes:
        state.labels[node] = tuple(map(fixed, state.shape(node))) if found is None else found


def _unknown(state: Walk, node: fx.Node, module: nn.Module | None) -> Labels:
    """Freeze what enters, and every tensor of the module."""
    reason = _why(state, node, module)
    for before in state.inputs(node):
        state.freeze(before, reason)
        state.store(before)
    if module is not None and any(True for _ in module.parameters()):
        state.whole[str(node.target)] = reason.removeprefix("enters ").removeprefix(str(node.target)).lstrip(", ")
    for part in module.modules() if module is not None else ():
        for name, tensor in [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]:
            state.bind(part, name, tuple(map(fixed, tensor.shape)), int(tensor.dim() > 1))
    return tuple(map(fixed, state.graph.shapes.get(node, ())))


def _reads(state: Walk) -> None:
    """Axes stay whole whose length the forward computed with, compared with what need not change along, or gave to
    another axis that has channels of its own. Asked last, when it is known which channels are the same."""
    reason = "the forward computes with its length"
    for source in state.graph.reads.told:
        state.freeze_axes(state.axes_of(source), reason)
    for one, other in state.graph.reads.compared:
        axes = [label for length in (one, other) for label in state.axes_of(*length.sources)]
        plain = len(one.sources) == len(other.sources) == 1 and one.share == other.share == 1
        if len(axes) != 2 or not plain or not state.channels.grows_alike(*axes):
            state.freeze_axes(axes, reason)
    for label, length, why in state.follows:
        axes = state.axes_of(*length.sources)
        loose = [axis for axis in axes if state.may_shrink(axis)]
        if len(loose) > 1 or not state.channels.grows_alike(loose[0] if loose else fixed(1), label):
            state.freeze_axes([*axes, label], why)


def _why(state: Walk, node: fx.Node, module: nn.Module | None) -> str:
    path = str(node.target)
    if path in state.graph.opaque:
        return f"enters {path}, which cannot be traced: {state.graph.opaque[path]}"
    if module is not None:
        kind = type(module).__name__
        return f"enters {path} ({kind} with hooks)" if _hooked(module) else f"enters {path}, a {kind}: no rule cuts it"
    return f"enters {getattr(node.target, '__name__', path)} (step {node.name}): no rule cuts it"


def _leftovers(state: Walk) -> None:
    """Tensors that no step touched stay whole."""
    for name, tensor in state.tensors.items():
        if name not in state.axes:
            state.axes[name] = tuple(map(fixed, tensor.shape))
