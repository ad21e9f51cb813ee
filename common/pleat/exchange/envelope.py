"""The messages of a session, native <-> protobuf. Bodies are opaque here: free of numpy, so the idle daemon imports it.

`pack` and `parse` are inverse to each other. `parse` takes bytes of a stranger: whatever does not fit is one
RemoteError, and nothing larger than the message itself is allocated. Order ids are texts, "run/round/rank"; on the wire
the run is left out where it is the session's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf.message import DecodeError

from pleat.errors import RemoteError
from pleat.exchange import limits
from pleat.exchange.facts import beat_from_wire, beat_to_wire, profile_from_wire, profile_to_wire
from pleat.exchange.messages import (
    Ack,
    Beat,
    Begin,
    Bye,
    Cancel,
    Chunk,
    DeviceSays,
    Hello,
    Leave,
    Message,
    Notice,
    Ping,
    Pong,
    Refusal,
    Returned,
    ServerSays,
    Stop,
    Welcome,
    Why,
)
from pleat.exchange.pb import fleet_pb2 as pb

_CHUNK_TAG = b"\x1a"  # field 3, length-delimited: `chunk` in both directions


def pack(message: Message, run: str = "") -> bytes:
    """The serialised message; `run` is the session's own run, left out of order ids."""
    if isinstance(message, Chunk):  # by hand, byte for byte what protobuf writes: one copy of a large slice, not three
        return b"".join((_CHUNK_TAG, _varint(len(message.data)), message.data))
    from_device = isinstance(message, (Hello, Beat, Pong, Leave))
    outer: Any = pb.DeviceMessage() if from_device else pb.ServerMessage()
    _WRITE[type(message)](outer, message, run)
    data: bytes = outer.SerializeToString(deterministic=True)
    return data


def parse_device(raw: bytes, run: str = "") -> DeviceSays:
    """What a device said. Raises RemoteError."""
    said: DeviceSays = _parse(raw, run, pb.DeviceMessage, _READ_DEVICE)
    return said


def parse_server(raw: bytes, run: str = "") -> ServerSays:
    """What a server said. Raises RemoteError."""
    said: ServerSays = _parse(raw, run, pb.ServerMessage, _READ_SERVER)
    return said


def _parse(raw: bytes, run: str, kind: Any, readers: dict[str, Callable[[Any, str], Any]]) -> Any:
    if len(raw) > limits.MESSAGE:
        raise RemoteError(f"message of {len(raw)} bytes, the limit is {limits.MESSAGE}")
    slice_ = _chunk_of(raw)
    if slice_ is not None:
        return Chunk(slice_)
    try:
        outer = kind.FromString(raw)
    except DecodeError:
        raise RemoteError(f"message of {len(raw)} bytes is not a pleat.v1.{kind.DESCRIPTOR.name}") from None
    which = outer.WhichOneof("kind")
    if which is None:
        raise RemoteError(f"message of {len(raw)} bytes says nothing this version knows")
    return readers[which](getattr(outer, which), run)


def _chunk_of(raw: bytes) -> memoryview | None:
    """The slice in `raw` without a copy, if `raw` is one chunk and nothing else."""
    if raw[:1] != _CHUNK_TAG:
        return None
    size = shift = 0
    for at in range(1, min(len(raw), 6)):
        size |= (raw[at] & 0x7F) << shift
        shift += 7
        if raw[at] < 0x80:
            return memoryview(raw)[at + 1 :] if len(raw) == at + 1 + size else None
    return None


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


# ---- order ids


def _id_to_wire(out: Any, order: str, run: str) -> None:
    own, out.round, out.rank = limits.order_parts(order)
    if own != run:
        out.run = own
    out.SetInParent()


def _id_from_wire(wire: Any, run: str) -> str:
    limits.at_most(wire.rank, limits.CHANNELS, "order rank")
    return limits.order_text(limits.checked_run(wire.run or run), wire.round, wire.rank)


# ---- native -> protobuf


def _hello(outer: Any, m: Hello, run: str) -> None:
    wire = outer.hello
    wire.protocol, wire.software, wire.name = m.protocol, m.software, m.name
    wire.identity, wire.nonce = m.identity, m.nonce
    profile_to_wire(m.profile, wire.profile)
    for order in m.held[: limits.ENTRIES]:
        _id_to_wire(wire.held.add(), order, run)


def _begin(outer: Any, m: Begin, run: str) -> None:
    outer.begin.size, outer.begin.data = m.size, m.data
    _id_to_wire(outer.begin.id, m.order, run)


def _returned(outer: Any, m: Returned, run: str) -> None:
    outer.returned.reason = limits.words(m.reason)
    _id_to_wire(outer.returned.id, m.order, run)


def _welcome(outer: Any, m: Welcome, run: str) -> None:
    outer.welcome.protocol, outer.welcome.software, outer.welcome.run = m.protocol, m.software, m.run


def _refusal(outer: Any, m: Refusal, run: str) -> None:
    outer.refusal.why, outer.refusal.text = int(m.why), limits.words(m.text)


def _text(field: str, part: str, attribute: str) -> Callable[[Any, Any, str], None]:
    def write(outer: Any, m: Any, run: str) -> None:
        getattr(outer, field).SetInParent()
        setattr(getattr(outer, field), part, limits.words(getattr(m, attribute)))

    return write


def _token(field: str) -> Callable[[Any, Any, str], None]:
    def write(outer: Any, m: Any, run: str) -> None:
        getattr(outer, field).SetInParent()
        getattr(outer, field).token = m.token

    return write


_WRITE: dict[type, Callable[[Any, Any, str], None]] = {
    Hello: _hello,
    Begin: _begin,
    Stop: _text("stop", "reason", "reason"),
    Beat: lambda outer, m, run: beat_to_wire(m.heartbeat, outer.heartbeat),
    Pong: _token("pong"),
    Leave: _text("leave", "reason", "reason"),
    Welcome: _welcome,
    Ack: lambda outer, m, run: _id_to_wire(outer.ack, m.order, run),
    Returned: _returned,
    Cancel: lambda outer, m, run: _id_to_wire(outer.cancel, m.order, run),
    Notice: _text("notice", "text", "text"),
    Ping: _token("ping"),
    Bye: _text("bye", "reason", "reason"),
    Refusal: _refusal,
}


# ---- protobuf -> native


def _read_hello(wire: Any, run: str) -> Hello:
    if wire.protocol != limits.PROTOCOL:  # of another version only these three fields mean anything
        return Hello("", b"", b"", protocol=wire.protocol, software=limits.words(wire.software, 32))
    if len(wire.identity) != 32 or len(wire.nonce) != 16:
        raise RemoteError(
            f"hello: identity of {len(wire.identity)} bytes and nonce of {len(wire.nonce)}, expected 32 and 16"
        )
    limits.few(wire.held, limits.ENTRIES, "held orders in hello")
    return Hello(
        limits.checked_name(wire.name),
        wire.identity,
        wire.nonce,
        profile_from_wire(wire.profile),
        tuple(_id_from_wire(h, run) for h in wire.held),
        wire.protocol,
        limits.label(wire.software, 32, "software version"),
    )


def _read_begin(wire: Any, run: str) -> Begin:
    if len(wire.data) > min(wire.size, limits.CHUNK):
        raise RemoteError(f"begin holds {len(wire.data)} bytes of a body of {wire.size}")
    return Begin(_id_from_wire(wire.id, run), limits.at_most(wire.size, limits.BYTES, "size of a body"), wire.data)


def _read_refusal(wire: Any, run: str) -> Refusal:
    known = wire.why in Why.__members__.values()
    return Refusal(Why(wire.why) if known else Why.UNKNOWN, limits.words(wire.text))


def _read_welcome(wire: Any, run: str) -> Welcome:
    if wire.protocol != limits.PROTOCOL:
        raise RemoteError(f"the server welcomes in protocol {wire.protocol}, this device speaks {limits.PROTOCOL}")
    return Welcome(limits.checked_run(wire.run), wire.protocol, limits.label(wire.software, 32, "software version"))


_READ_DEVICE: dict[str, Callable[[Any, str], DeviceSays]] = {
    "hello": _read_hello,
    "begin": _read_begin,
    "chunk": lambda data, run: Chunk(data),
    "stop": lambda wire, run: Stop(limits.words(wire.reason)),
    "heartbeat": lambda wire, run: Beat(beat_from_wire(wire)),
    "pong": lambda wire, run: Pong(wire.token),
    "leave": lambda wire, run: Leave(limits.words(wire.reason)),
}
_READ_SERVER: dict[str, Callable[[Any, str], ServerSays]] = {
    "welcome": _read_welcome,
    "begin": _read_begin,
    "chunk": lambda data, run: Chunk(data),
    "stop": lambda wire, run: Stop(limits.words(wire.reason)),
    "ack": lambda wire, run: Ack(_id_from_wire(wire, run)),
    "returned": lambda wire, run: Returned(_id_from_wire(wire.id, run), limits.words(wire.reason)),
    "cancel": lambda wire, run: Cancel(_id_from_wire(wire, run)),
    "notice": lambda wire, run: Notice(limits.words(wire.text)),
    "ping": lambda wire, run: Ping(wire.token),
    "bye": lambda wire, run: Bye(limits.words(wire.reason)),
    "refusal": _read_refusal,
}
