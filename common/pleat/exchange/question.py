"""A question to a server that takes no seat in its run, and the answer; native <-> protobuf. Free of numpy.

Padding up and down turns the time of a question into the speed of the link.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from google.protobuf.message import DecodeError

from pleat import __version__
from pleat.errors import RemoteError
from pleat.exchange import limits
from pleat.exchange.pb import fleet_pb2 as pb

METHOD = "/pleat.v1.Fleet/Ask"
_Kind = TypeVar("_Kind", pb.Question, pb.Answer)


@dataclass(frozen=True)
class Answer:
    """`smallest`: bytes that training the smallest submodel takes above an idle trainer, None = not known yet.
    Of a server of another protocol only `protocol` and `software` are known."""

    protocol: int
    software: str = ""
    run: str = ""
    smallest: int | None = None


def question(up: int = 0, down: int = 0) -> bytes:
    """A question that carries `up` bytes of padding and wants `down` bytes back."""
    asked = pb.Question(protocol=limits.PROTOCOL, software=__version__[:32], padding=bytes(up), wanted=down)
    return asked.SerializeToString(deterministic=True)


def reply(raw: bytes, run: str, smallest: int | None) -> bytes:
    """The server's answer to a question. Raises RemoteError for what is none, or asks for more than the limit."""
    asked = _parsed(raw, pb.Question)
    wanted = limits.at_most(asked.wanted, limits.CHUNK, "padding wanted")
    limits.at_most(len(asked.padding), limits.CHUNK, "padding of a question")
    said = pb.Answer(protocol=limits.PROTOCOL, software=__version__[:32], run=run, padding=bytes(wanted))
    if smallest is not None:
        said.smallest = smallest
    return said.SerializeToString(deterministic=True)


def answer(raw: bytes) -> Answer:
    """What the server answered. Raises RemoteError."""
    said = _parsed(raw, pb.Answer)
    software = limits.words(said.software, 32)
    if said.protocol != limits.PROTOCOL:
        return Answer(said.protocol, software)
    smallest = limits.at_most(said.smallest, limits.BYTES, "smallest submodel") if said.HasField("smallest") else None
    return Answer(said.protocol, software, limits.checked_run(said.run), smallest)


def _parsed(raw: bytes, kind: type[_Kind]) -> _Kind:
    if len(raw) > limits.MESSAGE:
        raise RemoteError(f"message of {len(raw)} bytes, the limit is {limits.MESSAGE}")
    try:
        return kind.FromString(raw)
    except DecodeError:
        raise RemoteError(f"message of {len(raw)} bytes is not a pleat.v1.{kind.DESCRIPTOR.name}") from None
