"""Flower's `Grid` on any carrier: pleat's orders, and the plain arrays of stock Flower strategies, by one door.

A message that carries an order ("pleat" record) is that order; its reply carries the id under which the report lies in
the spool. Any other train or evaluate message is a stock one: its `ArrayRecord` goes out as a dense payload, the device
trains the whole net with the settings of the message's `ConfigRecord`, and the reply carries an `ArrayRecord` and a
`MetricRecord` as Flower's `FedAvg` expects them. Written against flwr 1.41; `tests/loopback` checks the signatures.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import grpc
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from pleat.errors import LocalError, UseError
from pleat.exchange.flower import FAILED, RECORD, params_of, stock_order, stock_reply
from pleat.exchange.order import Kind, NetSpec, Order, OrderId, Work
from pleat.exchange.report import Outcome
from pleat.exchange.wire import order_from_bytes, report_from_bytes
from pleat.modelmap import ModelMap
from pleat.nets.trace import model_map
from pleat.params import Params
from pleat_server.carrier import Carrier, Joined, Rejected, Reported
from pleat_server.desk import OrderBook
from pleat_server.keep.spool import Spool
from pleat_server.link.flower_carrier import FlowerCarrier
from pleat_server.link.servicer import GrpcCarrier

POLL_S = 0.2


def node_id_of(device: str) -> int:
    """Flower's number for a device: 63 bits of SHA-256 of its name, the same in every run."""
    return int.from_bytes(hashlib.sha256(device.encode()).digest()[:8], "little") >> 1


class FleetGrid(Grid):
    """`Grid` over `carrier`. `net` and `work` say what stock messages train, unless their config says otherwise."""

    address: str = ""  # where devices join, if the grid listens itself

    def __init__(
        self,
        carrier: Carrier,
        book: OrderBook,
        spool: Spool,
        run: str,
        model: ModelMap,
        net: NetSpec,
        work: Work | None = None,
        hosted: bool = False,
    ) -> None:
        """`hosted`: a Flower runtime runs this process and has told it who it is."""
        self.carrier, self.book, self.spool = carrier, book, spool
        self._run_name, self._model, self._net, self._work = run, model, net, work or Work()
        self._open: dict[str, Order] = {}
        self._asked: dict[str, Message] = {}
        self._ready: dict[str, Message] = {}
        self._pushes = 0
        run_id = node_id_of(run)
        self._run = Run.create_empty(run_id)
        if hosted:
            return
        # Flower's Message constructor reads these; one run per server process.
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run_id, 1, run_id

    @staticmethod
    def listen(
        address: str,
        folder: Path,
        net: NetSpec,
        work: Work | None = None,
        tls: grpc.ServerCredentials | None = None,
        insecure: bool = False,
    ) -> FleetGrid:
        """A grid of the devices that join at `address` (HOST:PORT, port 0 for any; `grid.address` tells), as a context.

        `net` comes from `pleat.nets.build.spec`; what arrives is spooled in `folder`. Raises UseError for an address
        that cannot be used.
        """
        spool, model = Spool(folder / "spool"), model_map(net)
        book = OrderBook(folder.name, spool.has)
        book.serve(model, {})
        carrier = GrpcCarrier(address, spool, book, folder.name, tls=tls, insecure=insecure)
        grid = FleetGrid(carrier, book, spool, folder.name, model, net, work)
        grid.address = carrier.start()
        return grid

    @staticmethod
    def over(grid: Grid, folder: Path, net: NetSpec, work: Work | None = None) -> FleetGrid:
        """A grid on top of Flower's own, whose nodes run `pleat_client.flower_app`; the run is kept in `folder`."""
        spool, model = Spool(folder / "spool"), model_map(net)
        book = OrderBook(folder.name, spool.has)
        book.serve(model, {})
        carrier = FlowerCarrier(grid, spool, book, folder.name)
        return FleetGrid(carrier, book, spool, folder.name, model, net, work, hosted=True)

    def __enter__(self) -> FleetGrid:
        return self

    def __exit__(self, *error: object) -> None:
        self.carrier.close()

    def wait_for(self, devices: int, timeout_s: float = math.inf) -> None:
        """Until so many devices are connected. Raises LocalError after `timeout_s` seconds."""
        until = time.monotonic() + timeout_s
        while len(self.carrier.devices()) < devices:
            if time.monotonic() > until:
                raise LocalError(f"{len(self.carrier.devices())} of {devices} devices joined at {self.address} in time")
            self._pump(POLL_S)

    def set_run(self, run: Run) -> None:
        self._run = run

    @property
    def run(self) -> Run:
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Numbers of the devices connected now."""
        self._pump(0.0)
        return [node_id_of(name) for name in sorted(self.carrier.devices())]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send; a message to a device that is away is answered with an error reply at once."""
        self._pump(0.0)  # who joined before now needs nothing sent again
        self._pushes += 1
        names = {node_id_of(name): name for name in self.carrier.devices()}
        ids = []
        for rank, message in enumerate(messages):
            device = names.get(message.metadata.dst_node_id)
            order = self._order(message, device or "", rank)
            message_id = str(order.id)
            message.metadata.__dict__["_message_id"] = message_id  # Flower gives grids no public setter
            self._open[message_id], self._asked[message_id] = order, message
            self.book.open([order])
            if device is None or not self.carrier.send(order):
                self._fail(message_id, f"device of node {message.metadata.dst_node_id} is not connected")
            ids.append(message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Replies that are ready among `message_ids`; does not wait."""
        self._pump(0.0)
        return [self._ready.pop(i) for i in list(message_ids) if i in self._ready]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send and wait for all replies, or until `timeout` seconds have passed; late reports are returned."""
        waiting = set(self.push_messages(messages))
        until = None if timeout is None else time.monotonic() + timeout
        replies: list[Message] = []
        while waiting and (until is None or time.monotonic() < until):
            self._pump(POLL_S)
            for message_id in sorted(waiting & self._ready.keys()):
                replies.append(self._ready.pop(message_id))
                waiting.discard(message_id)
        for message_id in waiting:
            order = self._close(message_id)
            self.carrier.cancel(order.id)
        return replies

    def _pump(self, timeout_s: float) -> None:
        for event in self.carrier.poll(timeout_s):
            if isinstance(event, Reported) and str(event.order_id) in self._open:
                self._reply(str(event.order_id))
            elif isinstance(event, Rejected) and event.order_id is not None and str(event.order_id) in self._open:
                self._fail(str(event.order_id), event.reason)
            elif isinstance(event, Joined):
                for order in [o for o in self._open.values() if o.device == event.device]:
                    self.carrier.send(order)

    def _close(self, message_id: str) -> Order:
        order = self._open.pop(message_id)
        self._asked.pop(message_id)
        self.book.close([order.id])
        return order

    def _fail(self, message_id: str, reason: str) -> None:
        asked = self._asked[message_id]
        self._close(message_id)
        self._ready[message_id] = Message(Error(FAILED, reason), reply_to=asked)

    def _order(self, message: Message, device: str, rank: int) -> Order:
        record = message.content.get(RECORD)
        if isinstance(record, ConfigRecord):
            return order_from_bytes(_bytes(record["order"]))
        kind = Kind.EVALUATE if message.metadata.message_type.startswith("evaluate") else Kind.TRAIN
        params = params_of(_only(message.content.array_records, "ArrayRecord"))
        config: Mapping[str, Any] = next(iter(message.content.config_records.values()), {})
        order_id = OrderId(self._run_name, self._pushes, rank)
        seed = node_id_of(f"{order_id}")
        return stock_order(order_id, device, kind, self._net, self._model, params, config, self._work, seed)

    def _reply(self, message_id: str) -> None:
        asked, order = self._asked[message_id], self._open[message_id]
        if RECORD in asked.content:
            self._close(message_id)
            content = RecordDict({RECORD: ConfigRecord({"report": message_id})})
            self._ready[message_id] = Message(content, reply_to=asked)
            return
        report = report_from_bytes(self.spool.read(order.id))
        if report.outcome is not Outcome.DONE:
            self._fail(message_id, f"{report.device}: {report.outcome.value}: {report.reason}")
            return
        self._close(message_id)
        arrays, metrics = stock_reply(self._model, order, report)
        content = RecordDict({"metrics": MetricRecord(metrics)})
        if arrays is not None:
            content["arrays"] = to_arrays(arrays)
        self._ready[message_id] = Message(content, reply_to=asked)


def to_arrays(params: Params) -> ArrayRecord:
    """Parameters as Flower's `ArrayRecord`, names kept."""
    return ArrayRecord({name: Array(a) for name, a in params.items()})


def from_arrays(arrays: ArrayRecord) -> Params:
    """The inverse of `to_arrays`."""
    return params_of(arrays)


def _only(records: Mapping[str, ArrayRecord], what: str) -> ArrayRecord:
    if len(records) != 1:
        raise UseError(f"a message to a pleat device carries exactly one {what}, got {len(records)}")
    return next(iter(records.values()))


def _bytes(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise UseError(f"the 'order' of a pleat record must be bytes, got {type(value).__name__}")
    return value
