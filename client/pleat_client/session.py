"""The device's end of a session without I/O: where it stands, what it owes, and what each word of the server does.

`TABLE` is the life of the connection; `Device` turns messages into effects that `link.py` carries out. What must
outlive a connection is kept here: the reports not yet acknowledged, which every join sends again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from pleat import __version__
from pleat.errors import LocalError, RemoteError
from pleat.exchange import limits
from pleat.exchange.body import order_of, refusal_report
from pleat.exchange.messages import (
    Ack,
    Begin,
    Bye,
    Cancel,
    Chunk,
    Hello,
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
from pleat.exchange.report import Outcome, Profile


class Stand(Enum):
    """Where the device stands with its server."""

    AWAY = "away"  # no connection; the next attempt waits for the back-off
    GREETING = "greeting"  # hello sent
    JOINED = "joined"
    ENDED = "ended"  # stopped, or refused for good


class Happens(Enum):
    DIALLED = "dialled"
    WELCOMED = "welcomed"
    LOST = "lost"
    BYE = "bye"
    PUT_OFF = "put off"  # refused, but trying later can help
    BARRED = "barred"  # refused, and only a person can help
    STOPPED = "stopped"


TABLE: dict[Stand, dict[Happens, Stand]] = {
    Stand.AWAY: {Happens.DIALLED: Stand.GREETING, Happens.STOPPED: Stand.ENDED},
    Stand.GREETING: {
        Happens.WELCOMED: Stand.JOINED,
        Happens.LOST: Stand.AWAY,
        Happens.PUT_OFF: Stand.AWAY,
        Happens.BARRED: Stand.ENDED,
        Happens.STOPPED: Stand.ENDED,
    },
    Stand.JOINED: {
        Happens.LOST: Stand.AWAY,
        Happens.BYE: Stand.AWAY,
        Happens.PUT_OFF: Stand.AWAY,
        Happens.BARRED: Stand.ENDED,
        Happens.STOPPED: Stand.ENDED,
    },
    Stand.ENDED: {},
}

_FOR_GOOD = (Why.OLDER, Why.NEWER, Why.NAME, Why.CLONE)


def after(stand: Stand, happens: Happens) -> Stand:
    """The next stand. Raises LocalError for what cannot happen there."""
    if happens not in TABLE[stand]:
        raise LocalError(f"a device that is {stand.value} cannot be {happens.value}")
    return TABLE[stand][happens]


# ---- effects: what the link is to do


@dataclass(frozen=True)
class Arrived:
    """An order is here whole. `down_s`: seconds from its first byte to its last."""

    data: bytes
    down_s: float


@dataclass(frozen=True)
class Joined:
    run: str


@dataclass(frozen=True)
class Acked:
    order: str


@dataclass(frozen=True)
class GivenBack:
    order: str
    reason: str


@dataclass(frozen=True)
class Cancelled:
    order: str


@dataclass(frozen=True)
class Told:
    text: str


@dataclass(frozen=True)
class Answer:
    message: Pong


@dataclass(frozen=True)
class Send:
    """Send the report on `order`: a file, or its bytes."""

    order: str
    report: Path | bytes


@dataclass(frozen=True)
class Forget:
    """Leave the report on `order` out, or stop sending it."""

    order: str


@dataclass(frozen=True)
class Over:
    """The connection is over. `happens` is BYE, PUT_OFF or BARRED."""

    happens: Happens
    text: str


Effect = Arrived | Joined | Acked | GivenBack | Cancelled | Told | Answer | Send | Forget | Over


@dataclass
class _Download:
    order: str
    size: int
    since: float
    wanted: bool  # what is not wanted is dropped as it comes
    parts: list[bytes | memoryview] = field(default_factory=list)
    got: int = 0


@dataclass
class Device:
    """What one daemon process owes its server. `secret` never leaves it: the server is told its SHA-256.

    `held` tells the orders that are being done; they and those reported on need not be sent again. `largest`: bytes of
    an order beyond which it is refused before memory is taken.
    """

    name: str
    secret: bytes
    nonce: bytes  # of this process
    held: Callable[[], Sequence[str]]
    largest: int = limits.BODY
    reports: dict[str, Path | bytes] = field(default_factory=dict)  # not acknowledged, in order of staging
    _download: _Download | None = None

    def hello(self, profile: Profile) -> Hello:
        """Forget what the last connection left half-done, and introduce this device."""
        self._download = None
        identity = hashlib.sha256(self.secret).digest()
        held = tuple(self._held())[: limits.ENTRIES]
        return Hello(self.name, identity, self.nonce, profile, held, software=__version__[:32])

    def report(self, order: str, report: Path | bytes) -> bool:
        """Keep a report until it is acknowledged; whether it is new here."""
        new = order not in self.reports
        self.reports[order] = report
        return new

    def _held(self) -> dict[str, None]:
        return dict.fromkeys((*self.held(), *self.reports))

    def hear(self, said: ServerSays, now: float) -> list[Effect]:
        """What `said` asks for, in order. `now`: seconds of a monotonic clock. Raises RemoteError for a lying body."""
        match said:
            case Begin():
                return self._begin(said, now)
            case Chunk():
                return self._take(said.data, now)
            case Stop():
                self._download = None
            case Welcome():
                return [Joined(said.run), *(Send(o, r) for o, r in self.reports.items())]
            case Ack():
                return [Acked(said.order)] if self.reports.pop(said.order, None) is not None else []
            case Returned():
                known = self.reports.pop(said.order, None) is not None
                return [Forget(said.order), GivenBack(said.order, said.reason)] if known else []
            case Cancel():
                return [Cancelled(said.order)]
            case Notice():
                return [Told(said.text)]
            case Ping():
                return [Answer(Pong(said.token))]
            case Bye():
                return [Over(Happens.BYE, said.reason)]
            case Refusal():
                return [Over(Happens.BARRED if said.why in _FOR_GOOD else Happens.PUT_OFF, said.text)]
        return []

    def _begin(self, begin: Begin, now: float) -> list[Effect]:
        known = begin.order in self._held()
        small = begin.size <= self.largest
        self._download = _Download(begin.order, begin.size, now, small and not known)
        effects: list[Effect] = []
        if not small and not known:
            text = f"order of {begin.size} bytes, this device takes at most {self.largest}"
            report = refusal_report(begin.order, self.name, Outcome.REFUSED, text)
            self.reports[begin.order] = report
            effects.append(Send(begin.order, report))
        return effects + self._take(begin.data, now)

    def _take(self, data: bytes | memoryview, now: float) -> list[Effect]:
        download = self._download
        if download is None:
            return []
        download.got += len(data)
        if download.wanted:
            download.parts.append(data)
        if download.got < download.size:
            return []
        self._download = None
        if not download.wanted:
            return []
        data = b"".join(download.parts)
        if order_of(data) != download.order:
            raise RemoteError(f"order {download.order} holds {order_of(data)}")
        return [Arrived(data, now - download.since)]
