"""Walk: carry labels of channels through a graph, step by step, by a table of rules.

Each rule sees one step and gives the labels of its result's axes. A step without a rule freezes whatever enters it,
with a reason, and its result cannot be cut: a kind of module that nobody has taught stays whole, and the net stays
correct.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import fx, nn

from pleat.nets.channels import Channels, Label, Labels, fixed
from pleat.nets.graph import BATCH, Graph, Shape
from pleat.nets.tensors import tensors_of

Rule = Callable[["Walk", fx.Node, Any], "Labels | None"]  # (walk, step, its module) -> labels, or None: does not fit


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

    def __post_init__(self) -> None:
        self.tensors = tensors_of(self.graph.module)
        self.names = {id(tensor): name for name, tensor in self.tensors.items()}

    def shape(self, node: fx.Node) -> Shape:
        return self.graph.shapes[node]

    def inputs(self, node: fx.Node) -> list[fx.Node]:
        """The steps whose tensors enter `node`."""
        return [n for n in node.all_input_nodes if n in self.labels]

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

    def freeze(self, node: fx.Node, reason: str) -> None:
        for label in self.labels.get(node, ()):
            self.channels.freeze(label, reason)


def walk(
    graph: Graph, modules: Mapping[type[nn.Module], Rule], functions: Mapping[Any, Rule], methods: Mapping[str, Rule]
) -> Walk:
    """Apply the rules to every step, first to last."""
    state = Walk(graph)
    for node in graph.order:
        if node.op == "placeholder":
            _enter(state, node)
        elif node.op == "get_attr":
            _attribute(state, node)
        elif node.op == "output":
            for last in state.inputs(node):
                state.freeze(last, "the net's output")
        elif node.op == "call_module":
            module = graph.module.get_submodule(str(node.target))
            _apply(state, node, None if _hooked(module) else modules.get(type(module)), module)
        else:
            table: Mapping[Any, Rule] = functions if node.op == "call_function" else methods
            _apply(state, node, table.get(node.target), None)
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
    if node not in state.graph.shapes:
        return
    owner_path, _, attribute = str(node.target).rpartition(".")
    owner = state.graph.module.get_submodule(owner_path)
    name = state.names.get(id(getattr(owner, attribute)))
    shape = state.shape(node)
    if name is None:
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
    labels = rule(state, node, module) if rule is not None and state.inputs(node) else None
    if labels is None:
        labels = _unknown(state, node, module)
    if node in state.graph.shapes:
        state.labels[node] = labels


def _unknown(state: Walk, node: fx.Node, module: nn.Module | None) -> Labels:
    """Freeze what enters, and every tensor of the module."""
    shape = state.graph.shapes.get(node, ())
    if node.op != "call_module" and node not in state.graph.shapes and not _holds_tensors(node):
        return ()  # a size, a shape, a device: numbers that a smaller net computes for itself
    reason = _why(state, node, module)
    for before in state.inputs(node):
        state.freeze(before, reason)
        state.store(before)
    for part in module.modules() if module is not None else ():
        for name, tensor in [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]:
            state.bind(part, name, tuple(map(fixed, tensor.shape)), int(tensor.dim() > 1))
    return tuple(map(fixed, shape))


_NUMBERS = frozenset({"size", "dim", "ndimension", "numel", "shape", "dtype", "device", "ndim"})


def _holds_tensors(node: fx.Node) -> bool:
    """Whether a step without a tensor as its value may still carry some on (a tuple, as `chunk` makes)."""
    if node.op == "call_method":
        return node.target not in _NUMBERS
    if node.target is getattr:
        return node.args[1] not in _NUMBERS
    return True


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
