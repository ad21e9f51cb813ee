"""Trace: from a module to its ModelMap, from the module itself, without a word from whoever wrote it.

What is certain is exact: cutting the channels of a group gives the net that zeroing them gives (tests/laws). What is
not certain is a frozen group with a reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from torch import fx, nn

from pleat.errors import UseError
from pleat.exchange.order import NetSpec, Scalar
from pleat.modelmap import Activation, Group, ModelMap, TensorSpec
from pleat.nets.arguments import classes_of, input_shape_of
from pleat.nets.channels import Labels
from pleat.nets.exits import names_of
from pleat.nets.factory import skeleton
from pleat.nets.graph import BATCH, Graph, follow
from pleat.nets.layers import LAYERS
from pleat.nets.rules import STEP_FUNCTIONS, STEP_METHODS, STEP_MODULES
from pleat.nets.sequences import SEQUENCES
from pleat.nets.units import Kind, Unit, depths, own_groups, units
from pleat.nets.walk import Walk, walk


@dataclass(frozen=True)
class Look:
    """What was seen of a net: its map, its units with their kinds, and the submodules of which nothing is cut, with the
    reason."""

    model: ModelMap
    units: tuple[Unit, ...]
    whole: Mapping[str, str]


def trace(module: nn.Module, input_shape: tuple[int, ...]) -> ModelMap:
    """The ModelMap of `module` for samples of `input_shape`; the module is left as it was.

    Raises UseError, naming the module, where it cannot be traced or does not fit the input.
    """
    return look(module, input_shape).model


def look(module: nn.Module, input_shape: tuple[int, ...], classes: int | None = None) -> Look:
    """As `trace`, with all that was seen. Raises UseError also where `classes` is given and the net does not give that
    many logits for every sample."""
    graph = follow(module, input_shape)
    _check_logits(graph, classes)
    try:
        seen = walk(graph, {**STEP_MODULES, **LAYERS, **SEQUENCES}, STEP_FUNCTIONS, STEP_METHODS)
        found = units(seen)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        what = f"{type(error).__name__}: {error}"
        raise UseError(f"net {type(module).__name__}: a step of its forward is not understood ({what})") from error
    loose = tuple(u for u in found if u.kind != "fixed")

    def of(*kinds: Kind) -> tuple[str, ...]:
        return tuple(u.path for u in loose if u.kind in kinds)

    paths, stored = tuple(u.path for u in loose), _stored(seen, loose)
    model = ModelMap(
        _tensors(seen, loose), _groups(seen, found), paths, stored, of("branch"), names_of(module), of("tail")
    )
    return Look(model, loose, seen.whole)


def _check_logits(graph: Graph, classes: int | None) -> None:
    """Raises UseError where the results are not as many as the exits, or not of one logit a class."""
    kind, exits = type(graph.module).__name__, names_of(graph.module)
    if exits and len(graph.outputs) != len(exits):
        raise UseError(
            f"net {kind}: expected {len(exits)} results, one of each exit ({', '.join(exits)}), "
            f"got {len(graph.outputs)}; let its forward return them as a tuple, shallowest first"
        )
    for place, node in enumerate(graph.outputs):
        logits = graph.shapes[node]
        if classes is not None and logits != (BATCH, classes):
            given, exit = "x".join(map(str, logits[1:])) or "a single number", f"exit {exits[place]}: " if exits else ""
            raise UseError(f"net {kind}: {exit}expected {classes} logits for every sample, one a class, got {given}")


def model_map(net: NetSpec) -> ModelMap:
    """The ModelMap of a net by name; remembered for the last few nets of this process."""
    return look_at(net).model


def look_at(net: NetSpec) -> Look:
    """All that is seen of a net by name; remembered for the last few nets of this process."""
    return _look_at(net.factory, tuple(sorted(net.arguments.items())))


@lru_cache(maxsize=8)
def _look_at(factory: str, arguments: tuple[tuple[str, Scalar], ...]) -> Look:
    net = NetSpec(factory, dict(arguments), b"")
    try:
        return look(skeleton(factory, net.arguments), input_shape_of(net), classes_of(net))
    except UseError as error:
        named = str(error).startswith(f"net {factory}")
        raise UseError(str(error) if named else f"{factory} with {net.arguments}: {error}") from error


def _tensors(seen: Walk, blocks: tuple[Unit, ...]) -> tuple[TensorSpec, ...]:
    trained = {name for name, _ in seen.graph.module.named_parameters()}
    out = []
    for name in sorted(seen.axes):
        axes = tuple(seen.channels.axis(label) for label in seen.axes[name])
        role = "weight" if name in trained else "buffer"
        shape, positions = tuple(seen.tensors[name].shape), seen.positions.get(name, 0)
        out.append(TensorSpec(name, shape, axes, positions, _home(name, blocks), role))  # type: ignore[arg-type]
    return tuple(out)


def _home(name: str, blocks: tuple[Unit, ...]) -> str:
    """The unit that the tensor `name` goes with."""
    return next((u.path for u in blocks if name.startswith(u.path + ".")), "")


def _groups(seen: Walk, blocks: tuple[Unit, ...]) -> tuple[Group, ...]:
    home = {group: unit.path for unit in blocks for group in own_groups(seen, unit.path)}
    groups = seen.channels.groups(list(seen.labels_in_use()))
    return tuple(Group(g.name, g.size, g.step, g.role, home.get(g.name, ""), g.reason) for g in groups)


def _stored(seen: Walk, blocks: tuple[Unit, ...]) -> tuple[Activation, ...]:
    """What a training step keeps for its backward pass, along the axis of each value that may shrink."""
    out, home = [], _homes(seen, blocks)
    for node in (n for n in seen.graph.order if n in seen.stored and seen.labels.get(n)):
        labels, unit = seen.labels[node], home.get(node, "")
        axis = _shrinking(seen, labels)
        positions = seen.per_sample(node, axis) * seen.stored[node]
        out.append(Activation(seen.channels.axis(labels[axis]), positions, unit))
    for node, label, positions in seen.inside:
        out.append(Activation(seen.channels.axis(label), positions, home.get(node, "")))
    return tuple(out)


def _homes(seen: Walk, blocks: tuple[Unit, ...]) -> dict[fx.Node, str]:
    """The unit that each step goes with: the one it lies in, or a tail that goes when no exit needs the step."""
    needed = depths(seen.graph)
    tails = {min(needed[n] for n in u.nodes if n in needed): u.path for u in blocks if u.kind == "tail"}
    home = {node: tails[place] for node, place in needed.items() if place in tails}
    return home | {node: u.path for u in blocks for node in u.nodes}


def _shrinking(seen: Walk, labels: Labels) -> int:
    axes = range(1, len(labels))
    return next((i for i in axes if not seen.channels.is_fixed(labels[i])), len(labels) - 1)
