"""Who may take a seat in the run: the answer to a hello, as a pure function of who sits already.

The same process (identity and nonce) replaces its old stream. Another process with the same identity (a cloned SD card)
and another device with the same name are refused while whoever sits there still answers a ping; one that is gone
without having said so makes room.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pleat import __version__
from pleat.exchange import limits
from pleat.exchange.messages import Hello, Refusal, Why


@dataclass(frozen=True)
class Seat:
    """One connected device. `identity`: SHA-256 of its secret; `address`: where its stream comes from."""

    name: str
    identity: bytes
    nonce: bytes
    address: str


@dataclass(frozen=True)
class Clash:
    """`holder` keeps its seat, and the newcomer hears `refusal`, if it answers a ping; else its seat is free."""

    holder: Seat
    refusal: Refusal


@dataclass(frozen=True)
class Judgement:
    """A hello that may be welcomed. `replaces`: its own old stream; `clashes`: whoever sits in its way, to be asked."""

    seat: Seat
    replaces: tuple[Seat, ...] = ()
    clashes: tuple[Clash, ...] = ()


def judge(hello: Hello, address: str, seated: Iterable[Seat], most: int) -> Judgement | Refusal:
    """The answer to `hello` from `address`; at most `most` devices are seated."""
    if hello.protocol != limits.PROTOCOL:
        return _version(hello)
    seats = tuple(seated)
    seat = Seat(hello.name, hello.identity, hello.nonce, address)
    own = tuple(s for s in seats if s.identity == seat.identity and s.nonce == seat.nonce)
    others = [s for s in seats if s not in own and (s.identity == seat.identity or s.name == seat.name)]
    if len(seats) - len(own) >= most:
        text = f"this server has {most} devices connected, its limit; try again later"
        return Refusal(Why.FULL, text)
    return Judgement(seat, own, tuple(Clash(s, _taken(seat, s)) for s in others))


def _version(hello: Hello) -> Refusal:
    older = hello.protocol < limits.PROTOCOL
    which, advice = ("older", "upgrade pleat on the device") if older else ("newer", "upgrade pleat on the server")
    return Refusal(
        Why.OLDER if older else Why.NEWER,
        f"this device speaks protocol {hello.protocol} (pleat {hello.software or 'of unknown version'}), {which} than "
        f"the server's {limits.PROTOCOL} (pleat {__version__}); {advice}",
    )


def _taken(new: Seat, holder: Seat) -> Refusal:
    if new.identity == holder.identity:
        return Refusal(
            Why.CLONE,
            f"the identity of device {new.name!r} at {new.address} is in use by {holder.name!r} at {holder.address}: "
            "two processes have the secret of one state folder (a cloned SD card?); stop one, or delete the copy's "
            "state folder",
        )
    return Refusal(
        Why.NAME,
        f"the name {new.name!r} is taken: a device at {holder.address} has it, another asks for it from {new.address}; "
        "give one of them another --name",
    )
