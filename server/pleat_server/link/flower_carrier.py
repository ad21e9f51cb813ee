"""The carrier on a Flower `Grid` that is not ours: SuperLink's, or the simulation engine's, as a ServerApp is given it.

Nodes run `pleat_client.flower_app`. Who is there is asked by a query message, which a device answers with its hello and
the reports that nobody answered yet; orders go out as messages and reports come back as replies, which are checked by
the desk and durable in the spool before the loop hears of them. What became of a report rides along with the next
message to its device; until a message that told so is answered, it is told again. A report whose order is closed by
then is given back, so that it joins the device's residual. A device has one order on its way at a time: one that is
behind its round gets the newest when it has answered, and does not work through all it missed.

One thread uses a carrier, as Flower's grids have it. Written against flwr 1.41.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.serverapp import Grid

from pleat.errors import LocalError, RemoteError
from pleat.exchange.envelope import parse_device
from pleat.exchange.flower import LOAD_FAILED, RECORD
from pleat.exchange.messages import Hello
from pleat.exchange.order import Order, OrderId
from pleat.exchange.wire import order_to_bytes, report_from_bytes
from pleat_server.carrier import Desk, Event, Joined, Left, Rejected, Reported, Traffic, Verdict
from pleat_server.desk import receive
from pleat_server.keep.spool import Spool

LOOK_S = 2.0  # between two looks at who is there
PULL_S = 0.25  # between two looks for replies
ASK_AGAIN_S = 60.0  # until a node that could not say who it is, or took another's name, is asked once more
LEAST_S = 120.0  # a round's shortest deadline here: every message starts Python, torch and pleat on the device


@dataclass
class _Sent:
    """A message on its way. `answers`: what it told its device; `order`: None for a query."""

    node: int
    order: Order | None
    answers: dict[OrderId, bool]
    size: int


@dataclass
class _Node:
    """A SuperNode as far as it is known. `name`: "" until it said who it is, or while it may not take part."""

    name: str = ""
    asked: float = float("-inf")  # when it was asked who it is; `open`: and has not answered yet
    open: bool = False


@dataclass
class _Device:
    joined: Joined
    node: int
    answers: dict[OrderId, bool] = field(default_factory=dict)  # True: the server has it; False: it comes back
    next: Order | None = None  # for when it has answered the order that is on its way


class FlowerCarrier:
    """Implements `carrier.Carrier` on `grid`, for the run named `run`."""

    def __init__(
        self,
        grid: Grid,
        spool: Spool,
        desk: Desk,
        run: str,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._grid, self._spool, self._desk, self._run = grid, spool, desk, run
        self._clock, self._sleep = clock, sleep
        self._nodes: dict[int, _Node] = {}
        self._devices: dict[str, _Device] = {}
        self._sent: dict[str, _Sent] = {}  # by message id
        self._events: list[Event] = []
        self._traffic: dict[str, Traffic] = {}
        self._looked = float("-inf")

    def devices(self) -> dict[str, Joined]:
        return {name: d.joined for name, d in self._devices.items() if self._here(d)}

    def _here(self, device: _Device) -> bool:
        return device.node in self._nodes

    def send(self, order: Order) -> bool:
        device = self._devices.get(order.device)
        if device is None or not self._here(device):
            return False
        ahead = [s.order for s in self._sent.values() if s.order is not None and s.node == device.node]
        if not ahead:
            return self._push(device.node, "train", {"order": order_to_bytes(order)}, order, device)
        device.next = None if ahead[0].id == order.id else order
        return True

    def notify(self, device: str, text: str) -> None:
        """A message would start a process on the device only to print this; the server's log has it."""

    def cancel(self, order_id: OrderId) -> None:
        """Flower takes no message back: a device at work on it will be late, and its report is given back."""
        for device in self._devices.values():
            if device.next is not None and device.next.id == order_id:
                device.next = None

    def poll(self, timeout_s: float) -> list[Event]:
        until = self._clock() + timeout_s
        while True:
            self._look()
            self._pull()
            left = until - self._clock()
            if self._events or left <= 0:
                break
            self._sleep(min(PULL_S, left))
        events, self._events = self._events, []
        return events

    def traffic(self) -> dict[str, Traffic]:
        """Per device name: bytes of Flower's message objects, without its own requests around them."""
        return dict(self._traffic)

    def close(self) -> None:
        """The grid is its owner's. Reports that were not answered stay staged on their devices."""

    # ---- who is there

    def _look(self) -> None:
        now = self._clock()
        if now - self._looked < LOOK_S:
            return
        self._looked = now
        here = set(self._grid.get_node_ids())
        for gone in sorted(self._nodes.keys() - here):
            self._leave(gone)
        for number in sorted(here):
            node = self._nodes.setdefault(number, _Node())
            if not node.name and not node.open and now - node.asked >= ASK_AGAIN_S:
                node.asked = now
                node.open = self._push(number, "query", {"run": self._run}, None, None)

    def _leave(self, number: int) -> None:
        node = self._nodes.pop(number)
        for other in self._nodes.values():
            if not other.name:
                other.asked = float("-inf")  # it may have waited for this one's name
        if node.name:
            self._events.append(Left(node.name, f"SuperNode {number} is offline"))

    def _greeted(self, sent: _Sent, message: Message) -> None:
        """The answer to "who are you": the device joins, and what it sends along is looked at as any report."""
        number = sent.node
        node = self._nodes.get(number)
        if node is None:
            return
        node.open = False
        record = _record(message)
        hello = parse_device(_bytes(record, "hello"))
        if not isinstance(hello, Hello):
            raise RemoteError(f"answered with a {type(hello).__name__.lower()}, expected a hello")
        holder = self._devices.get(hello.name)
        if holder is not None and self._here(holder) and holder.node != number:
            raise RemoteError(
                f"calls itself {hello.name}, as SuperNode {holder.node} does; it waits until that one is gone. Give it "
                f"a name of its own: --node-config 'name=\"{hello.name}-2\"'"
            )
        node.name = hello.name
        joined = Joined(hello.name, hello.identity, hello.profile, f"SuperNode {number}")
        same = holder is not None and holder.joined.identity == hello.identity
        self._devices[hello.name] = _Device(joined, number, holder.answers if holder is not None and same else {})
        self._count(hello.name, up=_size(message), down=sent.size)
        self._events.append(joined)
        unsent = record.get("reports", ())
        for data in unsent if isinstance(unsent, list) else ():
            self._arrived(hello.name, data)

    # ---- messages

    def _push(
        self, number: int, kind: str, record: Mapping[str, Any], order: Order | None, device: _Device | None
    ) -> bool:
        answers = dict(device.answers) if device is not None else {}
        told = {"acked": [str(i) for i, has in answers.items() if has]}
        told["returned"] = [str(i) for i, has in answers.items() if not has]
        content = RecordDict({RECORD: ConfigRecord({**record, **{k: v for k, v in told.items() if v}})})
        group = str(order.id.round) if order is not None else ""
        message = Message(content, dst_node_id=number, message_type=kind, group_id=group)
        size = _size(message)
        message_id = next(iter(self._grid.push_messages([message])), None)
        if not message_id:  # Flower has logged why
            return False
        self._sent[message_id] = _Sent(number, order, answers, size)
        if order is not None:
            self._count(order.device, down=size)
        return True

    def _pull(self) -> None:
        if not self._sent:
            return
        for message in self._grid.pull_messages(list(self._sent)):
            sent = self._sent.pop(message.metadata.reply_to_message_id, None)
            if sent is not None:
                self._replied(sent, message)
                self._go_on(sent)

    def _go_on(self, sent: _Sent) -> None:
        """A device that has answered gets the order that came up meanwhile."""
        device = self._devices[sent.order.device] if sent.order is not None else None
        if device is not None and device.next is not None and device.node == sent.node:
            order, device.next = device.next, None
            self.send(order)

    def _replied(self, sent: _Sent, message: Message) -> None:
        order, number = sent.order, sent.node
        device = order.device if order is not None else f"SuperNode {number}"
        try:
            if message.has_error():
                raise RemoteError(_reason(message.error))
            if order is None:
                self._greeted(sent, message)
                return
            for read in sent.answers:
                self._devices[order.device].answers.pop(read, None)
            self._count(order.device, up=_size(message))
            self._arrived(order.device, _record(message).get("report"))
        except RemoteError as error:
            if order is None and number in self._nodes:
                self._nodes[number].open = False
            if order is not None and any(s.order is not None and s.order.id == order.id for s in self._sent.values()):
                return  # it is on its way to the node that the device came back as
            self._events.append(Rejected(device, order.id if order is not None else None, str(error)))

    def _arrived(self, device: str, data: object) -> None:
        """One report: to the spool, or back."""
        if not isinstance(data, bytes):
            raise RemoteError(f"{device}: a report must be bytes, got {type(data).__name__}")
        order_id = report_from_bytes(data).order_id
        answers = self._devices[device].answers
        verdict = self._desk.verdict(device, order_id)
        if verdict is Verdict.TAKE:
            try:
                taken = receive(self._desk, self._spool, device, order_id, data)
            except RemoteError as error:
                answers[order_id] = False
                self._events.append(Rejected(device, order_id, str(error)))
                return
            except LocalError as error:  # no room here: it stays staged on the device, which offers it again
                self._events.append(Rejected(device, order_id, str(error)))
                return
            if taken:
                self._events.append(Reported(device, order_id, len(data), 0.0))
            answers[order_id] = taken
            return
        answers[order_id] = verdict is Verdict.ALREADY

    def _count(self, device: str, up: int = 0, down: int = 0) -> None:
        old = self._traffic.get(device, Traffic())
        self._traffic[device] = replace(old, up=old.up + up, down=old.down + down)


def _reason(error: Error) -> str:
    """One line of why a node answered with an error."""
    reason = " ".join((error.reason or "").split())
    if error.code == LOAD_FAILED or "No module named 'pleat" in reason:
        return (
            "cannot load pleat's ClientApp; install pleat, of this server's version, in the environment of that "
            "flower-supernode: pip install -c constraints.txt '.[flower]'"
        )
    return reason or f"Flower's error {error.code}"


def _record(message: Message) -> ConfigRecord:
    record = message.content.get(RECORD)
    if not isinstance(record, ConfigRecord):
        raise RemoteError(f"reply without a {RECORD!r} record: the node's ClientApp is not pleat_client.flower_app")
    return record


def _bytes(record: ConfigRecord, key: str) -> bytes:
    value = record.get(key)
    if not isinstance(value, bytes):
        raise RemoteError(f"reply of pleat's ClientApp: {key!r} must be bytes, got {type(value).__name__}")
    return value


def _size(thing: Any) -> int:
    """Bytes of a Flower message as it is stored and shipped: the object and all that it consists of."""
    return len(thing.deflate()) + sum(_size(part) for part in (thing.children or {}).values())
