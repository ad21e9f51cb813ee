"""Carrier: how orders reach devices and reports come back; the one interface of every way to run a fleet.

The gRPC link (`link/servicer.py`) and the in-process carrier (`simulate/grid.py`) implement `Carrier`; the loop and
Flower's `Grid` sit on top of it. A report is handed over only after it has been spooled, admitted and fsynced.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from pleat.exchange.order import Order, OrderId
from pleat.exchange.report import Heartbeat, Profile


class Verdict(Enum):
    TAKE = "take"  # spool it
    ALREADY = "already"  # durable here: acknowledge again, store nothing
    RETURN = "return"  # late, refused or unknown: the device puts it back into its residual


class Desk(Protocol):
    """What the carrier asks of whoever owns the run. Called off the event loop, in threads; must be thread-safe."""

    def verdict(self, device: str, order_id: OrderId) -> Verdict: ...

    def admit(self, device: str, order_id: OrderId, data: bytes) -> None:
        """Decode and check one report, given as serialised bytes. Raises RemoteError to refuse it by name."""

    def settle(self, device: str, order_id: OrderId, commit: Callable[[], object]) -> bool:
        """Call `commit` (rename into the spool, fsync) if the order is still open, and tell whether it was.

        Closing a round waits for a commit under way: no report becomes durable unseen by the fold. False: return it.
        """


@dataclass(frozen=True)
class Joined:
    device: str
    identity: bytes  # SHA-256 of the device's secret
    profile: Profile
    address: str = ""


@dataclass(frozen=True)
class Left:
    device: str
    reason: str = ""


@dataclass(frozen=True)
class Pulse:
    device: str
    heartbeat: Heartbeat


@dataclass(frozen=True)
class Reported:
    """A durable report; read it with `Spool.read(order_id)`. `up_s`: seconds from the first chunk to the last."""

    device: str
    order_id: OrderId
    nbytes: int
    up_s: float


@dataclass(frozen=True)
class Rejected:
    """A report that was refused by `Desk.admit`, or a device that broke the protocol; nothing was kept."""

    device: str
    order_id: OrderId | None
    reason: str


Event = Joined | Left | Pulse | Reported | Rejected


@dataclass(frozen=True)
class Traffic:
    """Bytes of serialised messages since the carrier started: everything, hello and heartbeats included."""

    up: int = 0
    down: int = 0


class Carrier(Protocol):
    """Thread-safe. `send` to a device that is away queues nothing and returns False; who sent it sends on `Joined`."""

    def devices(self) -> dict[str, Joined]: ...

    def send(self, order: Order) -> bool: ...

    def notify(self, device: str, text: str) -> None:
        """Tell a device its state in words ("idle: nothing fits ..."); it shows them in its log and status."""

    def cancel(self, order_id: OrderId) -> None:
        """The order is of no more use; a device still working on it stops."""

    def poll(self, timeout_s: float) -> list[Event]:
        """Wait up to `timeout_s` for events and return all that are there, in their order of arrival."""

    def traffic(self) -> dict[str, Traffic]:
        """Per device name."""

    def close(self) -> None: ...
