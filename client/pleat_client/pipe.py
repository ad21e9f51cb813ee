"""The pipe between the daemon and its trainer child: small framed messages, without torch or numpy.

A frame is a four-byte little-endian length and that many bytes of MessagePack; the daemon writes `Train`, `Cancel` and
`Stop`, the child answers `Ready` once, then for each `Train`: `Started`, any number of `Progress`, and exactly one of
`Staged` (the report lies in the store and survives a crash) and `Failed` (nothing was staged). Both ends are on one
machine and trust each other; the length is still checked, so that a stray print fails loudly and not as a huge read.
"""

from __future__ import annotations

import struct
from typing import BinaryIO, TypeVar

import msgspec

from pleat.errors import LocalError

LARGEST = 1 << 31  # bytes of one frame
HEAD = 4  # bytes of a frame's length
_LENGTH = struct.Struct("<I")


class Message(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Base of all messages on the pipe."""


class Train(Message, frozen=True):
    """Do this order. `order`: its bytes as they came off the wire. `wait_s`, `down_s`: the daemon's share of the time
    split. `daemon_bytes`: the daemon's own resident memory, counted into the report's peak. `memory_bytes`: the owner's
    budget for daemon and child together, None = none. `threads`: 0 = let the child choose from the work's size."""

    order: bytes
    wait_s: float = 0.0
    down_s: float = 0.0
    daemon_bytes: int = 0
    memory_bytes: int | None = None
    threads: int = 0


class Cancel(Message, frozen=True):
    """Stop working on the current order; the child answers `Failed` with outcome "aborted" within a training step."""

    order: str = ""  # str(order id); empty: whatever runs


class Stop(Message, frozen=True):
    """Finish the current order as if cancelled, then leave."""


class Ready(Message, frozen=True):
    """The shard was read and checked. `classes`: 1 + the largest label."""

    samples: int
    holdout: int
    input_shape: tuple[int, ...]
    classes: int


class Started(Message, frozen=True):
    order: str  # str(order id)


class Progress(Message, frozen=True):
    order: str
    done: float  # share of the optimiser steps
    loss: float | None = None


class Residual(msgspec.Struct, frozen=True):
    """`entries` that are not 0 and their Euclidean `norm`; `state_bytes`: of the file that keeps them."""

    state_bytes: int
    entries: int
    norm: float


class Staged(Message, frozen=True):
    """The report for `run`/`round`/`rank` is in the store; `path` is its file. `outcome`: a report.Outcome value.
    `width`: share of its channels that the submodel kept; `residual`: what is not sent yet; None where not known."""

    run: str
    round: int
    rank: int
    path: str
    outcome: str
    reason: str = ""
    peak_bytes: int | None = None
    width: float | None = None
    residual: Residual | None = None


class Failed(Message, frozen=True):
    """Nothing was staged: the order could not be read, the disk refused the report, or the daemon had gone."""

    order: str
    reason: str


Request = Train | Cancel | Stop
Answer = Ready | Started | Progress | Staged | Failed

_Message = TypeVar("_Message")
_requests: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_answers: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)


def encode(message: Message) -> bytes:
    """One framed message."""
    body = msgspec.msgpack.encode(message)
    return _LENGTH.pack(len(body)) + body


def read_request(stream: BinaryIO) -> Request | None:
    """The next request; None at the end of the stream. Raises LocalError for anything that is no request."""
    body = read_frame(stream)
    return None if body is None else decode_request(body)


def read_answer(stream: BinaryIO) -> Answer | None:
    """The next answer; None at the end of the stream. Raises LocalError for anything that is no answer."""
    body = read_frame(stream)
    return None if body is None else decode_answer(body)


def decode_request(body: bytes) -> Request:
    return _decode(_requests, body)


def decode_answer(body: bytes) -> Answer:
    """An answer from a frame's body, for readers that do their own framing (asyncio)."""
    return _decode(_answers, body)


def frame_length(head: bytes) -> int:
    """Length of the body after a four-byte head. Raises LocalError when no honest frame is that long."""
    (length,) = _LENGTH.unpack(head)
    if length > LARGEST:
        raise LocalError(f"pipe to the trainer: a frame of {length} bytes; something else wrote to it")
    return int(length)


def read_frame(stream: BinaryIO) -> bytes | None:
    head = _exactly(stream, _LENGTH.size)
    if head is None:
        return None
    body = _exactly(stream, frame_length(head))
    if body is None:
        raise LocalError("pipe to the trainer: it ended inside a frame")
    return body


def _exactly(stream: BinaryIO, n: int) -> bytes | None:
    parts: list[bytes] = []
    while n:
        part = stream.read(n)
        if not part:
            if parts:
                raise LocalError("pipe to the trainer: it ended inside a frame")
            return None
        parts.append(part)
        n -= len(part)
    return b"".join(parts)


def _decode(decoder: msgspec.msgpack.Decoder[_Message], body: bytes) -> _Message:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise LocalError(f"pipe to the trainer: not a message: {error}") from None
