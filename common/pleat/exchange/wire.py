"""Orders and reports, native <-> bytes. Everything a stranger sent is checked here or refused by name.

Laws: `order_from_bytes(order_to_bytes(x)) == x`, the same for reports (their `seconds` to float32). The bytes do not
depend on the order of dictionaries. What cannot be checked without the model (group sizes, mask shapes, codings) is
checked by whoever holds it; here memory taken stays within a small multiple of the bytes that came, and
within MASK_BITS for coded masks.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from google.protobuf.message import DecodeError

from pleat.errors import LocalError, RemoteError
from pleat.exchange import body, limits
from pleat.exchange.body import (
    SECONDS_FIELDS,
    checked_id,
    cut_frames,
    join,
    refusal_report,
    seconds_to_wire,
    split,
)
from pleat.exchange.limits import COUNT, ENTRIES, LABEL, NAME, PLACES, SECONDS, at_most, few, label, number, numbers
from pleat.exchange.order import Kind, NetSpec, Order, OrderId, Part, Payload, Return, Scalar, Work
from pleat.exchange.parts import Listed, Names, selection_from_wire, selection_to_wire
from pleat.exchange.pb import fleet_pb2 as pb
from pleat.exchange.report import Measured, Outcome, Report, Seconds

_KINDS, _OUTCOMES, _PARTS = tuple(Kind), tuple(Outcome), tuple(Part)

__all__ = [
    "order_from_bytes",
    "order_id",
    "order_to_bytes",
    "order_to_parts",
    "refusal_report",
    "report_from_bytes",
    "report_to_bytes",
]


def order_id(text: str) -> OrderId:
    """The order id that prints as `text`. Raises RemoteError."""
    return OrderId(*limits.order_parts(text))


def order_to_bytes(order: Order) -> bytes:
    """The order's body: head, then frames."""
    return b"".join(order_to_parts(order))


def order_to_parts(order: Order) -> list[body.Part]:
    """The same bytes in parts, its frames shared and not copied."""
    head = pb.Order(device=order.device, kind=order.kind.name, deadline=order.deadline_s)
    names = Names()
    _id_to_wire(order.id, head.id)
    _net_to_wire(order.net, head.net)
    selection_to_wire(order.selection, head.selection, names, order.known)
    for nested in order.nested:
        selection_to_wire(nested, head.nested.add(), names, order.known)
    _work_to_wire(order.work, head.work)
    frames = _payloads_to_wire(order.payloads, head.payloads, names, order.known)
    for back in order.returns:
        head.returns.add(name=back.name, coding=back.coding, part=back.part.name)
    head.personal.extend(names.place(name) for name in order.personal)
    head.seed, head.memory = order.seed, order.memory_bytes
    head.names.extend(names.listed)
    return join(head.SerializeToString(deterministic=True), frames)


def order_from_bytes(data: bytes | memoryview) -> Order:
    """The inverse. Raises RemoteError naming the first thing that does not fit."""
    head, frames = _parse(data, pb.Order, "order")
    where = _id_from_wire(head.id)
    listed = _listed(head.names)
    few(head.nested, ENTRIES, "nested selections")
    few(head.returns, ENTRIES, "returns")
    few(head.personal, PLACES, "personal tensors")
    return Order(
        id=where,
        device=limits.checked_name(head.device),
        kind=_member(_KINDS, head.kind, "order.kind"),
        net=_net_from_wire(head.net),
        selection=selection_from_wire(head.selection, listed),
        nested=tuple(selection_from_wire(n, listed) for n in head.nested),
        work=_work_from_wire(head.work),
        payloads=_payloads_from_wire(head.payloads, frames, listed, f"order {where}"),
        returns=tuple(
            Return(_short(r.name, "return"), label(r.coding, LABEL, "coding"), _member(_PARTS, r.part, "return.part"))
            for r in head.returns
        ),
        seed=head.seed,
        deadline_s=number(head.deadline, 0, SECONDS, "order.deadline"),
        memory_bytes=at_most(head.memory, limits.BYTES, "order.memory"),
        personal=tuple(listed.name(place) for place in head.personal),
    )


def report_to_bytes(report: Report) -> bytes:
    """The report's body: head, then frames."""
    head = pb.Report(device=report.device, outcome=report.outcome.name, samples=report.samples)
    names = Names()
    _id_to_wire(report.order_id, head.id)
    head.reason = limits.words(report.reason)
    frames = _payloads_to_wire(report.payloads, head.payloads, names)
    head.labels.extend(report.labels)
    head.metrics.update(_finite(report.metrics, "metrics"))
    seconds_to_wire(report.seconds, head.seconds)
    if report.peak_bytes is not None:
        head.peak = report.peak_bytes
    for measured in report.measured:
        head.measured.add(step=measured.step_s, peak=measured.peak_bytes)
    head.sensors.update(_finite(report.sensors, "sensors"))
    head.names.extend(names.listed)
    return b"".join(join(head.SerializeToString(deterministic=True), frames))


def report_from_bytes(data: bytes | memoryview) -> Report:
    """The inverse. Raises RemoteError naming the first thing that does not fit."""
    head, frames = _parse(data, pb.Report, "report")
    where = _id_from_wire(head.id)
    listed = _listed(head.names)
    few(head.labels, PLACES, "labels")
    few(head.measured, ENTRIES, "measurements")
    return Report(
        order_id=where,
        device=limits.checked_name(head.device),
        outcome=_member(_OUTCOMES, head.outcome, "report.outcome"),
        reason=limits.words(head.reason),
        payloads=_payloads_from_wire(head.payloads, frames, listed, f"report {where}"),
        samples=at_most(head.samples, COUNT, "report.samples"),
        labels=tuple(at_most(n, limits.CHANNELS, "label") for n in head.labels),
        metrics=numbers(head.metrics, "report.metrics"),
        seconds=Seconds(*(number(getattr(head.seconds, n), 0, SECONDS, f"report.seconds.{n}") for n in SECONDS_FIELDS)),
        peak_bytes=at_most(head.peak, limits.BYTES, "report.peak") if head.HasField("peak") else None,
        measured=tuple(
            Measured(number(m.step, 0, SECONDS, "measured.step"), at_most(m.peak, limits.BYTES, "measured.peak"))
            for m in head.measured
        ),
        sensors=numbers(head.sensors, "report.sensors"),
    )


def _parse(data: bytes | memoryview, kind: Any, what: str) -> tuple[Any, memoryview]:
    head, frames = split(data, what)
    try:
        return kind.FromString(bytes(head)), frames
    except DecodeError:
        raise RemoteError(f"{what}: its head of {len(head)} bytes is not a pleat.v1 {kind.DESCRIPTOR.name}") from None


def _listed(names: Any) -> Listed:
    few(names, PLACES, "names")
    return Listed(tuple(label(n, LABEL, "name") for n in names))


def _short(text: str, what: str) -> str:
    return label(text, NAME, what)


def _member(members: tuple[Any, ...], index: int, what: str) -> Any:
    if not 0 <= index < len(members):
        raise RemoteError(f"{what} is {index}, which this version does not know; it knows 0 to {len(members) - 1}")
    return members[index]


def _finite(values: Mapping[str, float], what: str) -> dict[str, float]:
    for name, value in values.items():
        if not math.isfinite(value):
            raise LocalError(f"report.{what}[{name!r}] is {value}; only finite numbers are reported")
    return {name: float(value) for name, value in values.items()}


def _id_to_wire(order: OrderId, out: Any) -> None:
    out.run, out.round, out.rank = order.run, order.round, order.rank


def _id_from_wire(wire: Any) -> OrderId:
    return OrderId(*checked_id(wire))


# ---- net and work


def _net_to_wire(net: NetSpec, out: Any) -> None:
    out.factory, out.digest = net.factory, net.digest
    for name, value in net.arguments.items():
        scalar = out.arguments[name]
        if isinstance(value, bool):  # before int: a bool is one
            scalar.truth = value
        elif isinstance(value, int):
            scalar.whole = value
        elif isinstance(value, float):
            scalar.real = value
        else:
            scalar.text = value


def _net_from_wire(wire: Any) -> NetSpec:
    few(wire.arguments, ENTRIES, "arguments of the net")
    if len(wire.digest) != 32:
        raise RemoteError(f"net.digest of {len(wire.digest)} bytes, expected 32")
    arguments = {_short(n, "argument"): _scalar(wire.arguments[n], n) for n in sorted(wire.arguments)}
    return NetSpec(label(wire.factory, LABEL, "net.factory"), arguments, wire.digest)


def _scalar(wire: Any, name: str) -> Scalar:
    which = wire.WhichOneof("value")
    if which is None:
        raise RemoteError(f"argument {name!r} of the net has no value this version knows")
    value: Scalar = getattr(wire, which)
    if isinstance(value, str):
        return label(value, LABEL, f"argument {name!r}")
    if isinstance(value, float):
        return number(value, -math.inf, math.inf, f"argument {name!r}")
    return value


_WORK = ("epochs", "batch", "steps", "rate", "momentum", "decay", "clip", "scaler", "gate", "adjust")


def _work_to_wire(work: Work, out: Any) -> None:
    out.objective = work.objective
    out.settings.update({name: float(value) for name, value in work.settings.items()})
    for name in _WORK:
        setattr(out, name, getattr(work, name))


def _work_from_wire(wire: Any) -> Work:
    return Work(
        objective=_short(wire.objective, "work.objective"),
        settings=numbers(wire.settings, "work.settings"),
        epochs=at_most(wire.epochs, 10**6, "work.epochs"),
        batch=at_most(wire.batch, 10**6, "work.batch"),
        rate=number(wire.rate, 0, math.inf, "work.rate"),
        momentum=number(wire.momentum, 0, math.inf, "work.momentum"),
        decay=number(wire.decay, 0, math.inf, "work.decay"),
        clip=number(wire.clip, 0, math.inf, "work.clip"),
        steps=at_most(wire.steps, 10**6, "work.steps"),
        scaler=wire.scaler,
        gate=_name_or_none(wire.gate, "work.gate"),
        adjust=_name_or_none(wire.adjust, "work.adjust"),
    )


def _name_or_none(text: str, what: str) -> str:
    return _short(text, what) if text else ""


# ---- payloads


def _payloads_to_wire(
    payloads: tuple[Payload, ...], out: Any, names: Names, known: Collection[bytes] = ()
) -> list[body.Part]:
    for p in payloads:
        wire = out.add(name=p.name, coding=p.coding, size=len(p.frame), version=p.version, base=p.base + 1)
        if p.selection is not None:
            selection_to_wire(p.selection, wire.selection, names, known)
    return [p.frame for p in payloads]


def _payloads_from_wire(payloads: Any, frames: memoryview, listed: Listed, what: str) -> tuple[Payload, ...]:
    few(payloads, ENTRIES, "payloads")
    parts = cut_frames(frames, [p.size for p in payloads], what)
    return tuple(
        Payload(
            name=_short(p.name, "payload"),
            coding=label(p.coding, LABEL, "coding"),
            frame=frame,
            version=p.version,
            base=at_most(p.base, limits.BYTES, "payload.base") - 1,
            selection=selection_from_wire(p.selection, listed) if p.HasField("selection") else None,
        )
        for p, frame in zip(payloads, parts, strict=True)
    )
