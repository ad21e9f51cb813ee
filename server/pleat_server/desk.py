"""The desk: open orders, and the check every report passes before it is acknowledged.

A report is decoded once, whole, against the order it answers; only then is it durable and acknowledged, and after that
nothing about it is rejected. Safe to call from several threads; one report is decoded at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from pleat.codec.coding import build
from pleat.codec.transform import Context
from pleat.elastic.selection import Selection
from pleat.errors import RemoteError, UseError
from pleat.exchange.order import Order, OrderId, Payload
from pleat.exchange.report import Outcome, Report
from pleat.exchange.returned import reported_part, returned_model
from pleat.exchange.wire import report_from_bytes
from pleat.modelmap import ModelMap
from pleat.params import Sparse, Update, dot
from pleat_server.carrier import Desk, Verdict
from pleat_server.keep.spool import Spool

LARGEST_NORM = 1e6  # an update of a larger Euclidean norm is refused: no honest training step gets there


def decode_payload(model: ModelMap, order: Order, payload: Payload, checked: bool = False) -> Update:
    """One payload of a report, decoded in the coordinates of its part of the model. Raises RemoteError.

    `checked`: it passed the desk before and comes from the spool, which has a checksum of its own.
    """
    asked = {r.name: r.coding for r in order.returns}
    if asked.get(payload.name) != payload.coding:
        raise RemoteError(
            f"report {order.id} of {order.device}: payload {payload.name!r} in {payload.coding!r}, asked for {asked}"
        )
    part = part_of(model, order, payload)
    of = returned_model(model, payload.name)
    context = Context(of, part, order.id.round, order.seed, _version(order), checked=checked)
    update: Update = build(payload.coding).decode(payload.frame, context)
    return update


def part_of(model: ModelMap, order: Order, payload: Payload) -> Selection:
    """Where in the model a report's payload lies: what the order asks for, or the masks that the device chose."""
    wanted = next(r for r in order.returns if r.name == payload.name)
    return reported_part(model, order, wanted, payload)


def _version(order: Order) -> int:
    return order.payloads[0].version if order.payloads else 0


def norm(update: Update) -> float:
    """Euclidean norm over all tensors."""
    arrays = (t.values if isinstance(t, Sparse) else t.reshape(-1) for t in update.values())
    return float(np.sqrt(sum(dot(a, a) for a in arrays)))


def check_report(model: ModelMap, order: Order, device: str, data: bytes) -> Report:
    """Decode one report whole and hold it against its order. Raises RemoteError naming the device and the fault."""
    report = report_from_bytes(data)
    if report.order_id != order.id or report.device != order.device or device != order.device:
        raise RemoteError(f"report {report.order_id} of {report.device} came from {device} for order {order.id}")
    if report.outcome is not Outcome.DONE:
        return report
    returned, asked = [p.name for p in report.payloads], [r.name for r in order.returns]
    if returned != asked:
        raise RemoteError(f"report {order.id} of {device}: payloads {returned}, asked for {asked}")
    if asked and report.samples < 1:
        raise RemoteError(
            f"report {order.id} of {device}: {report.samples} samples; at least 1 is needed to be averaged"
        )
    for payload in report.payloads:
        size = norm(decode_payload(model, order, payload))
        if not np.isfinite(size) or size > LARGEST_NORM:
            raise RemoteError(
                f"report {order.id} of {device}: norm {size:.3g} of {payload.name!r} exceeds {LARGEST_NORM:g}"
            )
    return report


def receive(desk: Desk, spool: Spool, device: str, order_id: OrderId, data: bytes) -> bool:
    """One whole report to the spool, checked before it is durable; False if its order was closed meanwhile.

    Raises RemoteError where the desk refuses it and LocalError where the disk does; then nothing is kept.
    """
    with spool.writer(order_id, len(data)) as writer:
        writer.write(data)
        desk.admit(device, order_id, data)
        return desk.settle(device, order_id, writer.commit)


class OrderBook:
    """The open orders of one run; implements `carrier.Desk`.

    `has` tells whether a report lies in the spool. A report there, or folded by a closed round, is "already here": a
    device whose acknowledgement was lost is acknowledged again and nothing is counted twice.
    """

    def __init__(self, run: str, has: Callable[[OrderId], bool]) -> None:
        self._run, self._has = run, has
        self._model: ModelMap | None = None
        self._done: Mapping[int, tuple[int, ...]] = {}
        self._open: dict[OrderId, Order] = {}
        self._lock = threading.Lock()
        self._decoding = threading.Lock()

    def serve(self, model: ModelMap, done: Mapping[int, tuple[int, ...]]) -> None:
        """From now on reports are of `model`; `done`: closed round -> ranks whose reports it contains."""
        with self._lock:
            self._model, self._done = model, done

    def open(self, orders: Iterable[Order]) -> None:
        with self._lock:
            self._open.update({o.id: o for o in orders})

    def close(self, ids: Iterable[OrderId]) -> None:
        """After this, nothing more becomes durable for `ids`: reports for them are returned to their devices."""
        with self._lock:
            for order_id in ids:
                self._open.pop(order_id, None)

    def verdict(self, device: str, order_id: OrderId) -> Verdict:
        with self._lock:
            order = self._open.get(order_id)
            done = order_id.run == self._run and order_id.rank in self._done.get(order_id.round, ())
        if done or self._has(order_id):
            return Verdict.ALREADY
        return Verdict.RETURN if order is None or order.device != device else Verdict.TAKE

    def admit(self, device: str, order_id: OrderId, data: bytes) -> None:
        with self._lock:
            order = self._open.get(order_id)
        if order is None or self._model is None:
            raise RemoteError(f"report {order_id} of {device}: its round is closed")
        with self._decoding:
            try:
                check_report(self._model, order, device, data)
            except UseError as error:  # a shape or name that does not fit is the device's fault here
                raise RemoteError(f"report {order_id} of {device}: {error}") from None

    def settle(self, device: str, order_id: OrderId, commit: Callable[[], object]) -> bool:
        with self._lock:
            order = self._open.get(order_id)
            if order is None or order.device != device:
                return False
            commit()
            return True
