"""Order: what the server asks of one device, whatever the method; plain data, no protobuf.

An order names the net, the submodel (a selection), the work, what to return and how it is to be coded, and carries
named payloads. Randomness on the device is a function of `seed` alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the idle daemon knows order ids and has no use for numpy, 13 MB
    from pleat.elastic.selection import Selection

Scalar = int | float | str | bool
SQUARES = "squares"  # a payload of squared gradients, summed over the order's steps before they are squared
STATISTICS = "statistics"  # a payload of running statistics: the order's submodel's; "statistics-1": its first nested
OWN_DATA = "own_data"  # a setting of EVALUATE: 1 = score on the training shard where nothing is held out
NEEDS_FULL = "needs full"  # begins the reason of a refusal that a complete model would cure


@dataclass(frozen=True, order=True)
class OrderId:
    """`run`: the run's name; `round`: from 1 (0: before the first); `rank`: place of the device's name in the round."""

    run: str
    round: int
    rank: int

    def __str__(self) -> str:
        return f"{self.run}/{self.round}/{self.rank}"


def _whole() -> Selection:
    from pleat.elastic.selection import WHOLE

    return WHOLE


class Kind(str, Enum):
    TRAIN = "train"  # decode, train, return the update
    MEASURE = "measure"  # time a few steps of each selection in `nested`; no payloads back
    EVALUATE = "evaluate"  # score the decoded submodel on the device's hold-out; statistics back, where asked for


@dataclass(frozen=True)
class NetSpec:
    """The net by name: `factory` is "package.module:function", called with `arguments`; `digest` is its ModelMap's."""

    factory: str
    arguments: Mapping[str, Scalar]
    digest: bytes


@dataclass(frozen=True)
class Work:
    """What is trained. `objective` names an entry of the device's objectives, `settings` its numbers (temperature,
    weight of distillation, proximal mu, ...). `clip`: bound on the norm of a batch's summed gradient, 0 = none."""

    objective: str = "cross_entropy"
    settings: Mapping[str, float] = field(default_factory=dict)
    epochs: int = 1
    batch: int = 32
    rate: float = 0.05
    momentum: float = 0.9
    decay: float = 0.0
    clip: float = 0.0
    steps: int = 0  # MEASURE: timed steps per selection
    scaler: bool = False  # divide what a cut layer puts out by the share of it that is held, in training
    gate: str = ""  # how weights enter the net in training: an entry of the device's gates; empty: as they are
    adjust: str = ""  # how the device changes its masks: an entry of its adjusters; empty: not at all


@dataclass(frozen=True)
class Payload:
    """Coded bytes under a name ("model", "update", a mask, features, ...).

    `coding`: a chain in the codec's text form, such as "bf16-delta" or "topk:0.05/lloyd:4". `version`: the published
    model version that decoding yields (down) or that an update is relative to (up). `base`: the version it is coded
    against, held by the device under the selection it acknowledged; -1 = none. `selection`: its own, or None for the
    order's.
    """

    name: str
    coding: str
    frame: bytes | memoryview  # a view of the body it came in: megabytes are not copied to be looked at
    version: int = 0
    base: int = -1
    selection: Selection | None = None


class Part(str, Enum):
    """Which entries come back; personal tensors never do."""

    OWN = "own"  # those of the order's selection
    OUTSIDE = "outside"  # of tensors that the model's payload masks, what it left out; of others all
    CHOSEN = "chosen"  # the device may change the order's masks: then its payload has a selection of its own
    DENSE = "dense"  # those of the order's selection, inside its masks and outside


@dataclass(frozen=True)
class Return:
    """What to send back: `name` ("update"), in `coding`."""

    name: str
    coding: str
    part: Part = Part.OWN


@dataclass(frozen=True)
class Order:
    id: OrderId
    device: str
    kind: Kind
    net: NetSpec
    selection: Selection = field(default_factory=_whole)
    nested: tuple[Selection, ...] = ()  # smaller selections the objective trains along, or MEASURE's sizes; global
    work: Work = Work()
    payloads: tuple[Payload, ...] = ()
    returns: tuple[Return, ...] = ()
    seed: int = 0
    deadline_s: float = 0.0  # seconds from receipt after which the report is of no use; 0 = none
    memory_bytes: int = 0  # what the server predicts the training needs; the device checks its own estimate too
    personal: tuple[str, ...] = ()  # tensors that stay on the device: its own where the payload leaves them out
    known: frozenset[bytes] = field(default=frozenset(), compare=False)  # masks that travel by digest; not on the wire

    @property
    def leans(self) -> bool:
        """Whether the device must hold something from before, so that it may ask for everything instead."""
        withheld = bool(self.personal) and any(p.selection is not None for p in self.payloads)
        return bool(self.known) or withheld or any(p.base >= 0 for p in self.payloads)
