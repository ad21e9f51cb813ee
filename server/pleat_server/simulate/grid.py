"""The in-process carrier: virtual devices run the real device task, one at a time, in this process.

Orders and reports pass through their wire form, so bytes are counted as on a link and nothing is shared by reference.
Each device keeps its state, and a staged report until it is acknowledged, in a `VirtualDevice` that outlives the
carrier: stopping the server at any step and starting another carrier over the same devices is a crash and a restart.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from pleat.errors import RemoteError
from pleat.exchange.order import Order, OrderId
from pleat.exchange.report import Budgets, Profile
from pleat.exchange.wire import order_from_bytes, order_to_bytes, report_to_bytes
from pleat.shard import Shard
from pleat_client import task
from pleat_client.state import DeviceState
from pleat_server.carrier import Desk, Event, Joined, Rejected, Reported, Traffic, Verdict
from pleat_server.desk import receive
from pleat_server.keep.spool import Spool


@dataclass
class VirtualDevice:
    """One simulated device: its data, what it holds, and the report it has not been acknowledged for."""

    name: str
    shard: Shard
    holdout: Shard | None = None
    budgets: Budgets = field(default_factory=Budgets)
    state: DeviceState = field(default_factory=DeviceState)
    staged: dict[OrderId, tuple[Order, bytes, DeviceState]] = field(default_factory=dict)
    trained: int = 0  # orders carried out, for tests that count

    @property
    def profile(self) -> Profile:
        return Profile(
            board="simulated",
            samples=len(self.shard.y),
            input_shape=tuple(self.shard.x.shape[1:]),
            classes=int(self.shard.y.max()) + 1,
            holdout=0 if self.holdout is None else len(self.holdout.y),
            budgets=self.budgets,
        )


class InProcess:
    """Implements `carrier.Carrier`. `step` is called just before each durable step ("spool", "acknowledge")."""

    def __init__(
        self,
        devices: Iterable[VirtualDevice],
        spool: Spool,
        desk: Desk,
        step: Callable[[str], None] = lambda name: None,
    ) -> None:
        self._devices = {d.name: d for d in devices}
        self._spool, self._desk, self._step = spool, desk, step
        self._events: deque[Event] = deque()
        self._queue: deque[Order] = deque()
        self._traffic = dict.fromkeys(self._devices, Traffic())
        for device in self._devices.values():
            self._events.append(self._joined(device))

    def _joined(self, device: VirtualDevice) -> Joined:
        return Joined(device.name, hashlib.sha256(device.name.encode()).digest(), device.profile, "in process")

    def devices(self) -> dict[str, Joined]:
        return {name: self._joined(d) for name, d in self._devices.items()}

    def send(self, order: Order) -> bool:
        if order.device not in self._devices:
            return False
        if all(queued.id != order.id for queued in self._queue):
            self._queue.append(order)
        return True

    def notify(self, device: str, text: str) -> None:
        """A simulated device has no screen."""

    def cancel(self, order_id: OrderId) -> None:
        self._queue = deque(o for o in self._queue if o.id != order_id)

    def poll(self, timeout_s: float) -> list[Event]:
        """Carry out one queued order, if there is one, and return what happened. A new carrier is first told again
        what devices were not acknowledged for, as after a reconnect."""
        for device in self._devices.values():
            for order, *_ in list(device.staged.values()):
                self._deliver(device, order)
        if self._queue:
            self._carry_out(self._queue.popleft())
        events = list(self._events)
        self._events.clear()
        return events

    def _carry_out(self, order: Order) -> None:
        device = self._devices[order.device]
        if self._desk.verdict(device.name, order.id) is Verdict.ALREADY:  # a device does no order twice
            self._events.append(Reported(device.name, order.id, 0, 0.0))
            return
        wire = order_to_bytes(order)
        self._count(device.name, down=len(wire))
        if order.id not in device.staged:
            report, state = task.run(
                order_from_bytes(wire), device.state, device.shard, device.holdout, budgets=device.budgets
            )
            device.trained += 1
            device.staged[order.id] = (order, report_to_bytes(report), state)
        self._deliver(device, order)

    def _deliver(self, device: VirtualDevice, order: Order) -> None:
        _, data, state = device.staged[order.id]
        verdict = self._desk.verdict(device.name, order.id)
        if verdict is Verdict.TAKE:
            self._count(device.name, up=len(data))
            verdict = self._receive(device, order, data)
        if verdict is Verdict.RETURN:
            device.state = task.give_back(order, device.state, state, data)
        else:
            self._step("acknowledge")
            device.state = state
            self._events.append(Reported(device.name, order.id, len(data), 0.0))
        del device.staged[order.id]

    def _receive(self, device: VirtualDevice, order: Order, data: bytes) -> Verdict:
        self._step("spool")
        try:
            taken = receive(self._desk, self._spool, device.name, order.id, data)
        except RemoteError as error:
            self._events.append(Rejected(device.name, order.id, str(error)))
            return Verdict.RETURN
        return Verdict.TAKE if taken else Verdict.RETURN

    def _count(self, device: str, up: int = 0, down: int = 0) -> None:
        old = self._traffic[device]
        self._traffic[device] = replace(old, up=old.up + up, down=old.down + down)

    def traffic(self) -> dict[str, Traffic]:
        return dict(self._traffic)

    def close(self) -> None:
        """Nothing is open."""
