"""Graph: a module as a list of steps with the shapes of one sample, by torch.fx and one forward pass.

A submodule that torch.fx cannot follow (control flow that depends on data) becomes a single step of the graph; what
enters it will be frozen by `rules`. Only a net whose own forward cannot be followed is an error. Tracing adds about a
tenth of a MiB to a process that has imported torch. The pass runs on real zeros, layer by layer where the module has no
memory of its own: running on the meta device would import torch._dynamo and sympy, 75 MB, and the first training step
needs the kernels anyway.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from pleat.errors import UseError

Shape = tuple[int, ...]

BATCH = 2  # samples in the pass: with one, a reshape that mixes samples and channels would look like one that does not


@dataclass(frozen=True)
class Call:
    """One call of a submodule that was traced through: its input, the nodes it made, and its result."""

    path: str
    inputs: tuple[Any, ...]
    nodes: frozenset[fx.Node]
    result: Any


@dataclass(frozen=True)
class Graph:
    """`order`: the steps, first to last. `shapes`: of every step whose value is a tensor, for a batch of `BATCH`.
    `opaque`: path -> why torch.fx could not look inside."""

    module: nn.Module
    order: tuple[fx.Node, ...]
    shapes: dict[fx.Node, Shape]
    calls: tuple[Call, ...]
    opaque: dict[str, str]


def follow(module: nn.Module, input_shape: Shape) -> Graph:
    """Trace `module` and run it once in eval mode on zeros; the module is left as it was.

    Raises UseError, naming the module, when its forward cannot be followed or does not accept the input.
    """
    modes = {m: m.training for m in module.modules()}
    try:
        module.eval()
        tracer, graph = _traced(module)
        inputs = [n for n in graph.nodes if n.op == "placeholder"]
        if len(inputs) != 1:
            raise UseError(f"net {_kind(module)}: forward must take one tensor, it takes {len(inputs)} arguments")
        shapes = _shapes(module, graph, torch.zeros(BATCH, *input_shape))
    finally:
        for part, training in modes.items():
            part.training = training
    return Graph(module, tuple(graph.nodes), shapes, tuple(tracer.calls), tracer.opaque)


def _kind(module: nn.Module) -> str:
    return type(module).__name__


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _traced(module: nn.Module) -> tuple[_Tracer, fx.Graph]:
    """Trace, and begin again stepping over the innermost submodule that failed, until it works."""
    opaque: dict[str, str] = {}
    while True:
        tracer = _Tracer(opaque)
        try:
            return tracer, tracer.trace(module)
        except Exception as error:
            if tracer.failed is None:
                raise UseError(
                    f"net {_kind(module)}: its forward cannot be traced: {_line(error)}; "
                    f"move what depends on the data into a submodule, whose channels then stay whole"
                ) from error
            opaque = {**opaque, tracer.failed: _line(error)}


class _Tracer(fx.Tracer):
    """fx's tracer, which also remembers the calls it goes through and which submodule failed first."""

    def __init__(self, opaque: dict[str, str]) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.opaque = opaque
        self.failed: str | None = None

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name in self.opaque or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        path = self.path_of_module(m)
        if self.is_leaf_module(m, path):
            return super().call_module(m, forward, args, kwargs)
        before = set(self.graph.nodes)
        try:
            result = super().call_module(m, forward, args, kwargs)
        except Exception:
            self.failed = self.failed or path
            raise
        made = frozenset(n for n in self.graph.nodes if n not in before)
        self.calls.append(Call(path, tuple(_node(a) for a in (*args, *kwargs.values())), made, _node(result)))
        return result


def _node(value: Any) -> Any:
    return value.node if isinstance(value, fx.Proxy) else value


class _Shapes(fx.Interpreter):
    """Runs a graph and keeps the shapes of its tensors, not the tensors."""

    def __init__(self, module: nn.Module, graph: fx.Graph) -> None:
        super().__init__(module, graph=graph)
        self.root = module
        self.found: dict[fx.Node, Shape] = {}

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        return _real(self.fetch_attr(target))(*args, **kwargs)

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        value = self.fetch_attr(target)
        empty = isinstance(value, torch.Tensor) and value.is_meta
        return torch.zeros(value.shape, dtype=value.dtype) if empty else value

    def run_node(self, n: fx.Node) -> Any:
        try:
            value = super().run_node(n)
        except Exception as error:
            at = f"module {n.target!r}" if n.op == "call_module" else f"step {n.name!r}"
            raise UseError(f"net {_kind(self.root)} does not fit the input: at {at}: {_line(error)}") from error
        if isinstance(value, torch.Tensor):
            self.found[n] = tuple(value.shape)
        return value


def _real(module: nn.Module) -> nn.Module:
    """The module, or a copy filled with zeros of one that has no memory; it lives for one step."""
    empty = [t for t in (*module.parameters(), *module.buffers()) if t.is_meta]
    if not empty:
        return module
    return copy.deepcopy(module, {id(t): torch.zeros(t.shape, dtype=t.dtype) for t in empty})


def _shapes(module: nn.Module, graph: fx.Graph, sample: torch.Tensor) -> dict[fx.Node, Shape]:
    interpreter = _Shapes(module, graph)
    with torch.no_grad():
        interpreter.run(sample)
    return interpreter.found
