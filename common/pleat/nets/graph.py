"""Graph: a module as a list of steps with the shapes of one sample, by torch.fx and one forward pass.

A submodule that cannot be followed (control flow that depends on values) becomes a single step of the graph; what
enters it will be frozen by `rules`. Only a net whose own forward cannot be followed is an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from pleat.errors import UseError
from pleat.nets.exits import names_of
from pleat.nets.lengths import Reads
from pleat.nets.tracer import Call, Shape, Tracer

__all__ = ["BATCH", "Call", "Graph", "Shape", "follow"]

BATCH = 2  # samples in the pass: with one, a reshape that mixes samples and channels would look like one that does not


@dataclass(frozen=True)
class Graph:
    """`order`: the steps, first to last. `shapes`: of every step whose value is a tensor, for a batch of `BATCH`.
    `opaque`: path -> why it could not be looked into. `constants`: steps whose value is no tensor of the module.
    `outputs`: the steps whose values the net returns."""

    module: nn.Module
    order: tuple[fx.Node, ...]
    shapes: dict[fx.Node, Shape]
    calls: tuple[Call, ...]
    opaque: dict[str, str]
    constants: frozenset[fx.Node]
    reads: Reads
    outputs: tuple[fx.Node, ...]


def follow(module: nn.Module, input_shape: Shape) -> Graph:
    """Trace `module` and run it once in eval mode on zeros; the module is left as it was.

    Raises UseError, naming the module, when its forward cannot be followed, does not accept the input or does not
    return one tensor, or one of each exit that it names.
    """
    _plain(module)
    modes = {m: m.training for m in module.modules()}
    try:
        module.eval()
        tracer, graph = _traced(module, torch.zeros(BATCH, *input_shape))
    finally:
        for part, training in modes.items():
            part.training = training
    last: Any = next(iter(reversed(graph.nodes))).args[0]
    outputs = tuple(last) if isinstance(last, tuple | list) and names_of(module) else (last,)
    if any(value not in tracer.shapes for value in outputs):
        raise UseError(
            f"net {_kind(module)}: forward must return one tensor of logits, it returned {type(last).__name__}; "
            f"wrap it in a module that returns the logits alone, or name the heads that give them in an attribute exits"
        )
    order, constants = tuple(graph.nodes), frozenset(tracer.constants)
    return Graph(module, order, tracer.shapes, tuple(tracer.calls), tracer.opaque, constants, tracer.reads, outputs)


def _plain(module: nn.Module) -> None:
    """Raises UseError for a net with compiled parts, whose tensors nothing else can be put in place of."""
    for path, part in module.named_modules():
        compiled = isinstance(part, torch.jit.ScriptModule) or hasattr(part, "_orig_mod")
        if compiled:
            at = f"its part {path!r}" if path else "it"
            raise UseError(f"net {_kind(module)}: {at} is compiled ({_kind(part)}); build the net without compiling it")


def _kind(module: nn.Module) -> str:
    return type(module).__name__


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _traced(module: nn.Module, sample: torch.Tensor) -> tuple[Tracer, fx.Graph]:
    """Trace, and begin again stepping over the innermost submodule that failed, until it works."""
    opaque: dict[str, str] = {}
    while True:
        tracer = Tracer(sample, opaque)
        try:
            return tracer, tracer.trace(module)
        except UseError:
            raise
        except Exception as error:
            if tracer.failed is None:
                raise UseError(
                    f"net {_kind(module)}: its forward cannot be traced: {_line(error)}; "
                    f"move what depends on the data into a submodule, whose channels then stay whole"
                ) from error
            opaque = {**opaque, tracer.failed: _line(error)}
