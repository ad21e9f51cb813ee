"""`ConnectionPair`: both ends of a session joined in memory, every message through its bytes."""

from __future__ import annotations

from pleat.exchange import messages
from pleat.exchange.messages import Message
from pleat.exchange.report import Heartbeat
from pleat.exchange.session import Line, Said, Side

ORDER = "run-1/3/2"
HELLO = messages.Hello("kitchen", bytes(32), bytes(16))
WELCOME = messages.Welcome("run-1")
FIRST = messages.Begin(ORDER, 10, b"0123")
SAID: dict[Said, Message] = {  # one message for everything that can be said, with a body of 10 bytes begun by FIRST
    Said.HELLO: HELLO,
    Said.BEGIN: FIRST,
    Said.WHOLE: messages.Begin(ORDER, 4, b"0123"),
    Said.CHUNK: messages.Chunk(b"45"),
    Said.LAST: messages.Chunk(b"456789"),
    Said.STOP: messages.Stop(),
    Said.BEAT: messages.Beat(Heartbeat()),
    Said.PONG: messages.Pong(1),
    Said.LEAVE: messages.Leave(),
    Said.WELCOME: WELCOME,
    Said.ACK: messages.Ack(ORDER),
    Said.RETURNED: messages.Returned(ORDER),
    Said.CANCEL: messages.Cancel(ORDER),
    Said.NOTICE: messages.Notice("idle"),
    Said.PING: messages.Ping(1),
    Said.BYE: messages.Bye(),
    Said.REFUSAL: messages.Refusal(messages.Why.FULL, "full"),
}


class ConnectionPair:
    """What one end says, the other hears; both must then see the same session."""

    def __init__(self) -> None:
        self.ends = {side: Line(side) for side in Side}

    def say(self, side: Side, message: Message) -> Message:
        heard = self.ends[side.peer].receive(self.ends[side].send(message))
        assert self.ends[side].talk == self.ends[side.peer].talk
        assert self.ends[side].outgoing == self.ends[side.peer].incoming
        return heard

    def joined(self) -> ConnectionPair:
        self.say(Side.DEVICE, HELLO)
        self.say(Side.SERVER, WELCOME)
        return self
