"""ModelMap: what can be cut from a net, and what it costs, as plain data without torch.

A *group* is a set of coupled channels that live or die together (elastic.md, "coupled channels"): the output rows of
one layer, its norm, and the input columns of the next. Each tensor axis is a list of segments (group, repeat): channel
c of the group stands `repeat` times in a row on that axis (a flattened C x H x W axis repeats H*W). The anonymous group
"" has size 1 and is never cut, so an axis of fixed length n is the single segment ("", n).

A *unit* is a depth unit: a residual block that may be bypassed. A group or tensor whose `unit` is set lives wholly
inside that unit and goes with it.

A net with *exits* answers at several depths. Each exit is a unit, and so is a *tail*: a part of the trunk that cannot
be bypassed, but that only deeper exits need, so that it may go together with them.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Literal

from pleat.errors import UseError


@dataclass(frozen=True)
class Segment:
    group: str
    repeat: int = 1


Axis = tuple[Segment, ...]

OUTPUT = "the net's output"  # the reason for which the logits of a net stay whole; so they are told from other groups


@dataclass(frozen=True)
class Group:
    """Coupled channels. `step`: kept counts are multiples of it (a GroupNorm's group size). A `frozen` group (model
    input, logits, whatever cannot be traced) stays whole; `reason` says why."""

    name: str
    size: int
    step: int = 1
    role: Literal["hidden", "frozen"] = "hidden"
    unit: str = ""
    reason: str = ""


@dataclass(frozen=True)
class TensorSpec:
    """One parameter (or float buffer). `positions`: output positions per sample at which a weight is applied, so that
    forward MACs = entries held x positions; 0 for biases and norms."""

    name: str
    shape: tuple[int, ...]
    axes: tuple[Axis, ...]
    positions: int = 0
    unit: str = ""
    role: Literal["weight", "buffer"] = "weight"


@dataclass(frozen=True)
class Activation:
    """One stored activation of a training step: `floats` per sample = expanded length of `axis` x `positions`."""

    axis: Axis
    positions: int
    unit: str = ""


@dataclass(frozen=True)
class ModelMap:
    """Tensors, groups and units of one net, sorted by name. `nets/trace.py` builds and checks it."""

    tensors: tuple[TensorSpec, ...]
    groups: tuple[Group, ...]
    units: tuple[str, ...] = ()  # in the order in which they run, each before the shallowest exit that needs it
    activations: tuple[Activation, ...] = ()
    branches: tuple[str, ...] = ()  # the units that, left out, add 0 to a sum; the others become the identity
    exits: tuple[str, ...] = ()  # the units that give logits, shallowest first; () for a net of one answer
    tails: tuple[str, ...] = ()  # the units that may only be left out with every exit behind them in `units`

    @cached_property
    def spare(self) -> frozenset[str]:
        """The units of which each may be left out, whatever else is held."""
        return frozenset(self.units).difference(self.exits, self.tails)

    def absent(self, dropped: frozenset[str]) -> frozenset[str]:
        """The groups of which nothing is left without these units. Raises UseError where that leaves no exit, or one
        without its trunk."""
        if self.exits and dropped.issuperset(self.exits):
            raise UseError(f"selection leaves no exit; keep one of {list(self.exits)}")
        tails = dropped.intersection(self.tails)
        for tail in sorted(tails):
            behind = self.units[self.units.index(tail) :]
            needing = next((e for e in self.exits if e in behind and e not in dropped), None)
            if needing is not None:
                raise UseError(f"selection drops {tail!r} and keeps exit {needing!r}, which needs it; drop both")
        if not tails:
            return frozenset(g.name for g in self.groups if g.unit and g.unit in dropped)
        present = {s.group for t in self.tensors if not (t.unit and t.unit in dropped) for axis in t.axes for s in axis}
        return frozenset(self.group).difference(present)

    @cached_property
    def group(self) -> dict[str, Group]:
        return {g.name: g for g in self.groups}

    @cached_property
    def tensor(self) -> dict[str, TensorSpec]:
        return {t.name: t for t in self.tensors}

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the canonical JSON form: devices and server agree on the net exactly when these are equal."""
        plain = {key: value for key, value in asdict(self).items() if value or key not in ("exits", "tails")}
        text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).digest()
