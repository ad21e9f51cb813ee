"""The protocol as tables, without I/O: who may say what, and when. Both ends run the same code.

A session is two machines, one per speaker, each in one of five states. TABLE says what a speaker may say in its state
and where that leads; LINKED says what one speaker's words do to the other's machine. What is in neither is illegal:
LocalError if this end was about to say it, RemoteError if the peer did, and neither changes the state.

    device   OPEN --hello--> GREETED ==welcome==> JOINED <--begin / last, stop--> SENDING
    server   OPEN ==hello==> GREETED --welcome--> JOINED <--begin / last, stop--> SENDING        (== said by the other)

One body at a time per direction; small messages may come between its chunks. A `Line` is one end: it checks, counts
bytes both ways and turns messages into bytes and back. `Outbox` orders what one end has to say.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum

from pleat.errors import LocalError, RemoteError
from pleat.exchange import envelope, limits, messages
from pleat.exchange.messages import Begin, Chunk, Message, Stop


class Side(Enum):
    DEVICE = "device"
    SERVER = "server"

    @property
    def peer(self) -> Side:
        return Side.SERVER if self is Side.DEVICE else Side.DEVICE


class State(Enum):
    OPEN = "open"  # nothing said
    GREETED = "greeted"  # hello said, not answered
    JOINED = "joined"
    SENDING = "sending"  # in the middle of a body
    CLOSED = "closed"


class Said(Enum):
    HELLO = "hello"
    BEGIN = "begin"  # a body of which more is to come
    WHOLE = "whole"  # a begin that holds its whole body
    CHUNK = "chunk"
    LAST = "last chunk"
    STOP = "stop"
    BEAT = "heartbeat"
    PONG = "pong"
    LEAVE = "leave"
    WELCOME = "welcome"
    ACK = "ack"
    RETURNED = "returned"
    CANCEL = "cancel"
    NOTICE = "notice"
    PING = "ping"
    BYE = "bye"
    REFUSAL = "refusal"


def _joined(small: tuple[Said, ...], end: tuple[Said, ...]) -> dict[State, dict[Said, State]]:
    """The part that both speakers share: bodies, with small words in between, until one of the closing words."""
    ends = dict.fromkeys(end, State.CLOSED)
    between = {Said.BEGIN: State.SENDING, Said.WHOLE: State.JOINED, **dict.fromkeys(small, State.JOINED), **ends}
    within = {Said.CHUNK: State.SENDING, Said.LAST: State.JOINED, Said.STOP: State.JOINED}
    return {
        State.JOINED: between,
        State.SENDING: {**within, **dict.fromkeys(small, State.SENDING), **ends},
        State.CLOSED: {},
    }


TABLE: dict[Side, dict[State, dict[Said, State]]] = {
    Side.DEVICE: {
        State.OPEN: {Said.HELLO: State.GREETED},
        State.GREETED: {},
        **_joined((Said.BEAT, Said.PONG), (Said.LEAVE,)),
    },
    Side.SERVER: {
        State.OPEN: {Said.REFUSAL: State.CLOSED},
        State.GREETED: {Said.WELCOME: State.JOINED, Said.REFUSAL: State.CLOSED},
        **_joined((Said.ACK, Said.RETURNED, Said.CANCEL, Said.NOTICE, Said.PING), (Said.BYE, Said.REFUSAL)),
    },
}

LINKED: dict[Said, State] = {  # where these words put the *other* speaker
    Said.HELLO: State.GREETED,
    Said.WELCOME: State.JOINED,
    Said.LEAVE: State.CLOSED,
    Said.BYE: State.CLOSED,
    Said.REFUSAL: State.CLOSED,
}

_WORDS: dict[type, Said] = {
    messages.Hello: Said.HELLO,
    messages.Stop: Said.STOP,
    messages.Beat: Said.BEAT,
    messages.Pong: Said.PONG,
    messages.Leave: Said.LEAVE,
    messages.Welcome: Said.WELCOME,
    messages.Ack: Said.ACK,
    messages.Returned: Said.RETURNED,
    messages.Cancel: Said.CANCEL,
    messages.Notice: Said.NOTICE,
    messages.Ping: Said.PING,
    messages.Bye: Said.BYE,
    messages.Refusal: Said.REFUSAL,
}


@dataclass(frozen=True)
class Talk:
    """Both speakers' states."""

    device: State = State.OPEN
    server: State = State.OPEN

    def of(self, side: Side) -> State:
        return self.device if side is Side.DEVICE else self.server


def step(talk: Talk, side: Side, said: Said) -> Talk | None:
    """The states after `side` said `said`; None if it may not."""
    after = TABLE[side][talk.of(side)].get(said)
    if after is None:
        return None
    other = LINKED.get(said, talk.of(side.peer))
    return Talk(after, other) if side is Side.DEVICE else Talk(other, after)


@dataclass(frozen=True)
class Body:
    """A body under way: `got` of `size` bytes."""

    order: str
    size: int
    got: int = 0


def advance(body: Body | None, message: Message) -> tuple[Said, Body | None]:
    """What a message amounts to, given the body under way in its direction, and the body after it.

    Raises RemoteError for a chunk that is empty or goes past the declared size.
    """
    if isinstance(message, Begin):
        whole = len(message.data) == message.size
        return (Said.WHOLE, None) if whole else (Said.BEGIN, Body(message.order, message.size, len(message.data)))
    if not isinstance(message, Chunk):
        return _WORDS[type(message)], None if isinstance(message, Stop) else body
    if body is None:
        return Said.CHUNK, None
    got = body.got + len(message.data)
    if not message.data or len(message.data) > limits.CHUNK or got > body.size:
        raise RemoteError(
            f"chunk of {len(message.data)} bytes after {body.got} of {body.size} of {body.order}: "
            f"expected 1 to {min(limits.CHUNK, body.size - body.got)}"
        )
    return (Said.LAST, None) if got == body.size else (Said.CHUNK, Body(body.order, body.size, got))


class Line:
    """One end of a session: messages in, bytes out, and back. `run` is learnt from the welcome."""

    def __init__(self, side: Side) -> None:
        self.side = side
        self.talk = Talk()
        self.run = ""
        self.bytes_out = 0
        self.bytes_in = 0
        self.incoming: Body | None = None
        self.outgoing: Body | None = None

    def send(self, message: Message) -> bytes:
        """The bytes to write. Raises LocalError if the tables forbid it."""
        try:
            said, body = advance(self.outgoing, message)
        except RemoteError as error:
            raise LocalError(f"about to send a {error}") from None
        after = step(self.talk, self.side, said)
        if after is None:
            raise LocalError(f"the {self.side.value} may not say {said.value} when {self.talk.of(self.side).value}")
        raw = envelope.pack(message, self.run)
        if len(raw) > limits.MESSAGE:
            raise LocalError(f"about to send a {said.value} of {len(raw)} bytes, the limit is {limits.MESSAGE}")
        self._learn(message)
        self.talk, self.outgoing = after, body
        self.bytes_out += len(raw)
        return raw

    def receive(self, raw: bytes) -> Message:
        """What the peer said. Raises RemoteError if it does not parse or the tables forbid it."""
        peer = self.side.peer
        self.bytes_in += len(raw)
        message: Message = _PARSE[peer](raw, self.run)
        said, body = advance(self.incoming, message)
        after = step(self.talk, peer, said)
        if after is None:
            raise RemoteError(f"the {peer.value} may not say {said.value} when {self.talk.of(peer).value}")
        self._learn(message)
        self.talk, self.incoming = after, body
        return message

    def _learn(self, message: Message) -> None:
        if isinstance(message, messages.Welcome):
            self.run = message.run

    @property
    def joined(self) -> bool:
        return self.talk.device in (State.JOINED, State.SENDING)

    @property
    def closed(self) -> bool:
        return self.talk.device is State.CLOSED


_PARSE: dict[Side, Callable[[bytes, str], Message]] = {
    Side.DEVICE: envelope.parse_device,
    Side.SERVER: envelope.parse_server,
}


class Outbox:
    """What one end has to say, in order: small words first, then one body after the other, slice by slice.

    A body is given as a function that yields its slices (each at most `CHUNK` bytes), called when its turn comes; it is
    cut short where `drop` is told its order.
    """

    def __init__(self) -> None:
        self._words: deque[Message] = deque()
        self._bodies: deque[tuple[str, int, Callable[[], Iterator[bytes | memoryview]]]] = deque()
        self._slices: Iterator[bytes | memoryview] | None = None
        self._left = 0
        self.sending = ""  # order of the body under way

    def say(self, message: Message) -> None:
        self._words.append(message)

    def body(self, order: str, size: int, slices: Callable[[], Iterator[bytes | memoryview]]) -> None:
        self._bodies.append((order, size, slices))

    def drop(self, order: str, reason: str) -> None:
        """Leave the bodies of `order` out, or stop the one under way."""
        self._bodies = deque(b for b in self._bodies if b[0] != order)
        if self.sending == order:
            self._slices, self.sending = None, ""
            self._words.append(Stop(reason))

    def next(self) -> Message | None:
        """The next message to send; None if there is nothing to say now."""
        if self._words:
            return self._words.popleft()
        if self._slices is not None:
            return Chunk(self._slice())
        if not self._bodies:
            return None
        order, size, slices = self._bodies.popleft()
        self._slices, self.sending = slices(), order
        if size > limits.INLINE:
            self._left = size
            return Begin(order, size)
        data = b"".join(self._slices)
        self._slices, self.sending = None, ""
        return Begin(order, size, data)

    def _slice(self) -> bytes | memoryview:
        data = next(self._slices or iter(()), b"")
        if not data:
            raise LocalError(f"the body of {self.sending} ends {self._left} bytes early")
        self._left -= len(data)
        if self._left <= 0:
            self._slices, self.sending = None, ""
        return data
