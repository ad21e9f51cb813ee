"""Tracer: torch.fx's, with a value behind every step.

While a forward is traced it also runs, on zeros, so that whatever it asks about shapes and types is answered with what
is true: loops over places, checks of sizes and positions counted from them can be followed. What depends on *values*
cannot. The pass runs layer by layer on real memory where the module has none of its own: running on the meta device
would import torch._dynamo and sympy, 75 MB, and the first training step needs the kernels anyway.
"""

from __future__ import annotations

import copy
import inspect
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from pleat.errors import UseError
from pleat.nets.lengths import Length, Reads, Sizes
from pleat.nets.spelled import SPELLED

Shape = tuple[int, ...]
_ABOUT = frozenset(  # methods that say something about a tensor but its values
    ["is_floating_point", "is_complex", "is_contiguous", "get_device", "element_size", "is_signed", "type", "has_names"]
)


@dataclass(frozen=True)
class Call:
    """One call of a submodule: the values that entered it, the nodes it made, and its result."""

    path: str
    inputs: tuple[fx.Node, ...]
    nodes: frozenset[fx.Node]
    result: Any


class Tracer(fx.Tracer):
    """Remembers shapes, the calls it went through, the sizes that were read, and which submodule failed first."""

    proxy_buffer_attributes = True

    def __init__(self, sample: torch.Tensor, opaque: dict[str, str]) -> None:
        super().__init__()
        self.sample = sample
        self.opaque = opaque
        self.shapes: dict[fx.Node, Shape] = {}
        self.constants: set[fx.Node] = set()
        self.reads = Reads()
        self.calls: list[Call] = []
        self.failed: str | None = None
        self._running = False

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Any, list[Any]]:
        """One tensor; whatever else the forward takes keeps its default."""
        _, *parameters = inspect.signature(root_fn).parameters.values()
        plain = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        needed = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        if len(needed) > 1 or not (plain or any(p.kind is p.VAR_POSITIONAL for p in parameters)):
            kind = type(self.root).__name__
            raise UseError(f"net {kind}: forward must take one tensor, it takes {len(needed)} arguments")
        return root_fn, [self.root, self.create_proxy("placeholder", plain[0].name if plain else "x", (), {})]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if module_qualified_name in self.opaque or getattr(m, "is_layer", False):
            return True
        return type(m) not in SPELLED and super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if self._running:
            return forward(*args, **kwargs)
        path = self.path_of_module(m)
        if type(m) in SPELLED and path not in self.opaque:
            forward = types.MethodType(SPELLED[type(m)], m)
        before = len(self.graph.nodes)
        try:
            result = super().call_module(m, forward, args, kwargs)
        except UseError:
            raise
        except Exception:
            self.failed = self.failed or path
            raise
        made = frozenset(_last(self.graph, len(self.graph.nodes) - before))
        entered = tuple(v.node for v in (*args, *kwargs.values()) if isinstance(v, Value))
        self.calls.append(Call(path, entered, made, result.node if isinstance(result, Value) else None))
        return result

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        return attr_val if self._running else super().getattr(attr, attr_val, parameter_proxy_cache)

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, Length):
            return a
        if isinstance(a, torch.Tensor):
            known = any(a is t for t in (*self.root.parameters(), *self.root.buffers()))
            node: Any = super().create_arg(a) if known else self.create_node("get_attr", "constant", (), {})
            self.shapes[node] = tuple(a.shape)
            if not known:
                self.constants.add(node)
            return node
        return super().create_arg(a)

    def create_proxy(
        self,
        kind: str,
        target: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        name: str | None = None,
        type_expr: Any = None,
        proxy_factory_fn: Any = None,
    ) -> Any:
        if kind == "call_function" and isinstance(target, types.FunctionType) and not _of_torch(target):
            done, result = self._through(target, args, kwargs)
            if done:
                return result
        node = self.create_node(kind, target, self.create_arg(args), self.create_arg(kwargs), name, type_expr)
        result = self._wrapped(node, self._run(node, args, kwargs))
        if not isinstance(result, Value | tuple | list):
            self.graph.erase_node(node)  # it told something that is known without it
        return result

    def _through(self, function: Callable[..., Any], args: Any, kwargs: Any) -> tuple[bool, Any]:
        """Follow a function that fx was told to take as one step, if that is possible."""
        before = len(self.graph.nodes)
        try:
            return True, function(*args, **kwargs)
        except Exception:
            for node in _last(self.graph, len(self.graph.nodes) - before):
                self.graph.erase_node(node)
            return False, None

    def _run(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        if node.op == "placeholder":
            return self.sample
        self._running = True
        try:
            with torch.no_grad():
                return _step(self.root, node, _values(args), _values(kwargs))
        except Exception as error:
            at = f"module {node.target!r}" if node.op == "call_module" else f"step {node.name!r}"
            line = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UseError(f"net {type(self.root).__name__} does not fit the input: at {at}: {line}") from error
        finally:
            self._running = False

    def _wrapped(self, node: fx.Node, value: Any) -> Any:
        """The result of a step as the forward shall see it: tensors as proxies, tuples as tuples of them."""
        if isinstance(value, torch.Tensor):
            self.shapes[node] = tuple(value.shape)
            return Value(node, self, value)
        if isinstance(value, tuple | list) and any(isinstance(v, torch.Tensor | tuple | list) for v in value):
            out = [self._element(node, value, i) for i in range(len(value))]
            if hasattr(value, "_fields"):
                return type(value)(*out)
            return type(value)(out)
        if value is None or (node.op == "call_method" and node.target in _ABOUT) or node.target is getattr:
            return value
        raise fx.proxy.TraceError(f"{node.target} gives a {type(value).__name__} that depends on values")

    def _element(self, node: fx.Node, value: Any, place: int) -> Any:
        if not isinstance(value[place], torch.Tensor | tuple | list):
            return value[place]
        return self._wrapped(self.create_node("call_function", take, (node, place), {}), value[place])


def take(value: Any, place: int) -> Any:
    """The step that takes one element out of a tuple which another step returned."""
    return value[place]


def _last(graph: fx.Graph, count: int) -> list[fx.Node]:
    """The last `count` nodes, last first."""
    out: list[fx.Node] = []
    for node in reversed(graph.nodes):
        if len(out) == count:
            break
        out.append(node)
    return out


def _of_torch(function: Callable[..., Any]) -> bool:
    return str(getattr(function, "__module__", "")).split(".")[0] in ("torch", "operator", "_operator")


class Value(fx.Proxy):
    """A tensor of a net that is being traced. What its shape and type are is known; what it holds is not."""

    def __init__(self, node: fx.Node, tracer: Tracer, value: torch.Tensor) -> None:
        super().__init__(node, tracer)
        self.value = value

    def size(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[dim]

    @property
    def shape(self) -> Sizes:
        reads = self.tracer.reads  # type: ignore[attr-defined]
        return Sizes(Length.of(self.node, i, n, reads) for i, n in enumerate(self.value.shape))

    def dim(self) -> int:
        return self.value.dim()

    ndimension = dim
    ndim = property(dim)

    def numel(self) -> Any:
        return self.shape.numel()

    nelement = numel

    def __len__(self) -> int:
        return int(self.shape[0])

    def __iter__(self) -> Iterator[Any]:
        return iter([self[i] for i in range(len(self))])  # type: ignore[index]

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.value, name)  # AttributeError where a tensor has no such thing
        if callable(found):
            return lambda *args, **kwargs: self.tracer.create_proxy("call_method", name, (self, *args), kwargs)
        if isinstance(found, torch.Tensor):
            return self.tracer.create_proxy("call_function", getattr, (self, name), {})
        return found


def _values(found: Any) -> Any:
    """The tensors behind proxies, wherever they stand in the arguments of a step."""
    if isinstance(found, Value):
        return found.value
    if isinstance(found, torch.Tensor):
        return _real_tensor(found)
    if isinstance(found, tuple) and hasattr(found, "_fields"):
        return type(found)(*map(_values, found))
    if isinstance(found, tuple | list):
        return [_values(v) for v in found] if isinstance(found, list) else tuple(_values(v) for v in found)
    if isinstance(found, dict):
        return {k: _values(v) for k, v in found.items()}
    if isinstance(found, slice):
        return slice(_values(found.start), _values(found.stop), _values(found.step))
    return found


def _step(root: nn.Module, node: fx.Node, args: Any, kwargs: Any) -> Any:
    if node.op == "get_attr":
        path, _, name = str(node.target).rpartition(".")
        return _real_tensor(getattr(root.get_submodule(path), name))
    if node.op == "call_module":
        return _real(root.get_submodule(str(node.target)))(*args, **kwargs)
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    return node.target(*args, **kwargs)  # type: ignore[operator]


def _real_tensor(tensor: torch.Tensor) -> torch.Tensor:
    return torch.zeros(tensor.shape, dtype=tensor.dtype) if tensor.is_meta else tensor


def _real(module: nn.Module) -> nn.Module:
    """The module, or a copy filled with zeros of one that has no memory; it lives for one step."""
    empty = [t for t in (*module.parameters(), *module.buffers()) if t.is_meta]
    if not empty:
        return module
    return copy.deepcopy(module, {id(t): _real_tensor(t) for t in empty})
