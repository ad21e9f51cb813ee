"""What the two ends of a session say to each other: plain values, no protobuf. Order ids are texts, "run/round/rank".

The proto file says what each field means and how large it may be. Free of numpy: the idle daemon imports it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from pleat.exchange import limits
from pleat.exchange.report import Heartbeat, Profile


class Why(IntEnum):
    """Why a server refuses a device; numbers as in the proto."""

    UNKNOWN = 0
    OLDER = 1
    NEWER = 2
    NAME = 3
    CLONE = 4
    BROKEN = 5
    FULL = 6


@dataclass(frozen=True)
class Hello:
    name: str
    identity: bytes  # SHA-256 of the device's secret
    nonce: bytes  # of this process
    profile: Profile = field(default_factory=Profile)
    held: tuple[str, ...] = ()  # orders at work, or reported and not yet acknowledged
    protocol: int = limits.PROTOCOL
    software: str = ""


@dataclass(frozen=True)
class Begin:
    """A body of `size` bytes follows; `data` is its beginning. `order`: what it is, or what it answers."""

    order: str
    size: int
    data: bytes = b""


@dataclass(frozen=True)
class Chunk:
    data: bytes | memoryview


@dataclass(frozen=True)
class Stop:
    reason: str = ""


@dataclass(frozen=True)
class Beat:
    heartbeat: Heartbeat


@dataclass(frozen=True)
class Pong:
    token: int


@dataclass(frozen=True)
class Leave:
    reason: str = ""


@dataclass(frozen=True)
class Welcome:
    run: str
    protocol: int = limits.PROTOCOL
    software: str = ""


@dataclass(frozen=True)
class Ack:
    order: str


@dataclass(frozen=True)
class Returned:
    order: str
    reason: str = ""


@dataclass(frozen=True)
class Cancel:
    order: str


@dataclass(frozen=True)
class Notice:
    text: str


@dataclass(frozen=True)
class Ping:
    token: int


@dataclass(frozen=True)
class Bye:
    reason: str = ""


@dataclass(frozen=True)
class Refusal:
    why: Why
    text: str


DeviceSays = Hello | Begin | Chunk | Stop | Beat | Pong | Leave
ServerSays = Welcome | Begin | Chunk | Stop | Ack | Returned | Cancel | Notice | Ping | Bye | Refusal
Message = DeviceSays | ServerSays
