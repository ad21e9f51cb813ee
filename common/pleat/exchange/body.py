"""Bodies: a head and the frames behind it, and the one report that is made without numpy.

    4 bytes   length of the head, little-endian unsigned
    head      one serialised Order or Report
    frames    one after the other, no slack

The daemon handles orders and reports as such bytes and reads no more of them than `order_of`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

from google.protobuf.message import DecodeError

from pleat.errors import RemoteError
from pleat.exchange import limits
from pleat.exchange.pb import fleet_pb2 as pb
from pleat.exchange.report import Outcome, Seconds

Part = bytes | memoryview

_LENGTH = struct.Struct("<I")


def join(head: bytes, frames: Sequence[Part]) -> list[Part]:
    """The body's bytes, in parts: frames may be large and shared, so they are not copied."""
    return [_LENGTH.pack(len(head)) + head, *frames]


def split(data: bytes | memoryview, what: str) -> tuple[memoryview, memoryview]:
    """Head and frames of a body, not copied. Raises RemoteError if the head does not fit."""
    view = memoryview(data)
    if len(view) < _LENGTH.size:
        raise RemoteError(f"{what} of {len(view)} bytes is cut short")
    (size,) = _LENGTH.unpack_from(view)
    if size > limits.HEAD:
        raise RemoteError(f"{what}: head of {size} bytes, the limit is {limits.HEAD}")
    if _LENGTH.size + size > len(view):
        raise RemoteError(f"{what} of {len(view)} bytes is cut short: its head alone has {size}")
    return view[_LENGTH.size : _LENGTH.size + size], view[_LENGTH.size + size :]


def cut_frames(frames: memoryview, sizes: Sequence[int], what: str) -> list[memoryview]:
    """The frames, by their declared sizes, not copied. Raises RemoteError unless they fill the body exactly."""
    if sum(sizes) != len(frames):
        raise RemoteError(f"{what}: its payloads declare {sum(sizes)} bytes, {len(frames)} follow the head")
    out, at = [], 0
    for size in sizes:
        out.append(frames[at : at + size])
        at += size
    return out


def slices(parts: Sequence[Part]) -> Iterator[memoryview]:
    """The bytes of `parts`, in runs of at most CHUNK, not copied."""
    for part in parts:
        view = memoryview(part)
        for at in range(0, len(view), limits.CHUNK):
            yield view[at : at + limits.CHUNK]


def order_of(data: bytes) -> str:
    """The order id, as text, of an order's or report's body; both have it in field 1. Raises RemoteError."""
    head, _ = split(data, "body")
    try:
        wire = pb.Head.FromString(bytes(head)).id
    except DecodeError:
        raise RemoteError(f"body of {len(data)} bytes has no readable head") from None
    return limits.order_text(
        limits.checked_run(wire.run), wire.round, limits.at_most(wire.rank, limits.CHANNELS, "rank")
    )


def checked_id(wire: pb.OrderId) -> tuple[str, int, int]:
    """Run, round and rank of a pb OrderId that names its run. Raises RemoteError."""
    return limits.checked_run(wire.run), wire.round, limits.at_most(wire.rank, limits.CHANNELS, "order rank")


def refusal_report(
    order: str,
    device: str,
    outcome: Outcome,
    reason: str,
    *,
    seconds: Seconds | None = None,
    peak_bytes: int | None = None,
    samples: int = 0,
) -> bytes:
    """A report without payloads: why `order` ("run/round/rank") was not done. Serialised; needs no numpy."""
    head = pb.Report(device=device, outcome=outcome.name, reason=limits.words(reason), samples=samples)
    head.id.run, head.id.round, head.id.rank = limits.order_parts(order)
    if seconds is not None:
        seconds_to_wire(seconds, head.seconds)
    if peak_bytes is not None:
        head.peak = peak_bytes
    return b"".join(join(head.SerializeToString(deterministic=True), ()))


def seconds_to_wire(seconds: Seconds, out: pb.Seconds) -> None:
    """Fill a pb Seconds."""
    for name in SECONDS_FIELDS:
        setattr(out, name, getattr(seconds, name))


SECONDS_FIELDS = ("wait", "down", "build", "train", "encode", "up")
