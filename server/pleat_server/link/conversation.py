"""One device's session as the server holds it: reads, writes, spools, answers. Lives on the carrier's event loop.

A report's chunks go to the spool as they come; whole, it is checked and made durable off the loop, and only then
acknowledged. What is not wanted is answered "returned" at once and dropped as it comes. A stream that ends early leaves
nothing behind.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import grpc
import grpc.aio

from pleat.errors import LocalError, RemoteError
from pleat.exchange.body import Part, slices
from pleat.exchange.messages import (
    Beat,
    Begin,
    Bye,
    Cancel,
    Chunk,
    Hello,
    Leave,
    Message,
    Ping,
    Pong,
    Refusal,
    Stop,
    Why,
)
from pleat.exchange.session import Line, Outbox, Side
from pleat_server.link.intake import Intake, Upload
from pleat_server.link.seats import Seat

log = logging.getLogger("pleat.link")

FLUSH_S = 1.0  # to say the last words in


class Host(Protocol):
    """What a conversation asks of the carrier."""

    intake: Intake

    async def seat(self, hello: Hello, talk: Conversation) -> Seat | Refusal: ...

    def pulse(self, device: str, beat: Beat) -> None: ...

    def broke(self, device: str, order: str | None, reason: str) -> None:
        """The device broke the protocol, or this side could not keep its report."""


@dataclass(eq=False)
class Conversation:
    host: Host
    context: Any  # grpc.aio.ServicerContext, which has no type of its own for raw bytes
    address: str
    run: str
    line: Line = field(default_factory=lambda: Line(Side.SERVER))
    outbox: Outbox = field(default_factory=Outbox)
    name: str = ""  # known once seated
    held: frozenset[str] = frozenset()  # orders the device said it has
    left: str = "connection lost"  # why it ended
    upload: Upload | None = None
    pongs: dict[int, asyncio.Event] = field(default_factory=dict)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _over: asyncio.Event = field(default_factory=asyncio.Event)

    # ---- what the carrier says through it, on the loop

    def say(self, message: Message) -> None:
        if not self._over.is_set():  # nothing comes after the last words
            self.outbox.say(message)
            self._wake.set()

    def give(self, order: str, size: int, parts: Sequence[Part]) -> None:
        """Send an order's body, unless the device said that it has it."""
        if order not in self.held and not self._over.is_set():
            self.outbox.body(order, size, lambda: slices(parts))
            self._wake.set()

    def withdraw(self, order: str) -> None:
        """Leave the order's body out or stop sending it, and tell the device to stop working on it."""
        if not self._over.is_set():
            self.held -= {order}
            self.outbox.drop(order, "cancelled")
            self.say(Cancel(order))

    async def answers(self, within_s: float) -> bool:
        """Whether the device answers a ping in time."""
        token = len(self.pongs) + 1
        heard = self.pongs[token] = asyncio.Event()
        self.say(Ping(token))
        try:
            await asyncio.wait_for(heard.wait(), within_s)
            return True
        except asyncio.TimeoutError:
            return False
        finally:
            del self.pongs[token]

    def end(self, reason: str, last: Message | None = None) -> None:
        """End the session; `last` words are sent first."""
        if self._over.is_set():
            return
        self.left = reason
        self.outbox = Outbox()
        if last is not None:
            self.outbox.say(last)
        self._over.set()
        self._wake.set()

    # ---- its life

    async def live(self, hello_s: float) -> None:
        """From the first message to the last. Leaves no file, task or seat's claim behind."""
        writing = asyncio.ensure_future(self._write())
        reading = asyncio.ensure_future(self._read(hello_s))
        over = asyncio.ensure_future(self._over.wait())
        try:
            await asyncio.wait((reading, writing, over), return_when=asyncio.FIRST_COMPLETED)
            self._over.set()
            self._wake.set()
            await asyncio.wait((writing,), timeout=FLUSH_S)
        finally:
            self._give_up()
            for task in (reading, writing, over):
                task.cancel()
            for result in await asyncio.gather(reading, writing, over, return_exceptions=True):
                _tell(result)

    async def _read(self, hello_s: float) -> None:
        try:
            if await self._greet(hello_s):
                while (raw := await self.context.read()) is not grpc.aio.EOF:
                    await self._hear(self.line.receive(raw))
        except RemoteError as error:
            self.host.broke(self.name, None, str(error))
            self.end(f"broke the protocol: {error}", Refusal(Why.BROKEN, str(error)))

    async def _greet(self, hello_s: float) -> bool:
        """Hear the hello and answer it; whether the device is in."""
        try:
            raw = await asyncio.wait_for(self.context.read(), hello_s)
        except asyncio.TimeoutError:
            raise RemoteError(f"no hello within {hello_s:g} s") from None
        if raw is grpc.aio.EOF:
            return False
        hello = self.line.receive(raw)
        if not isinstance(hello, Hello):
            raise RemoteError("the first message is not a hello")
        self.held = frozenset(hello.held)
        answer = await self.host.seat(hello, self)
        if isinstance(answer, Refusal):
            self.end(f"refused: {answer.text}", answer)
            return False
        return True

    async def _hear(self, said: Message) -> None:
        match said:
            case Begin():
                await self._begin(said)
            case Chunk():
                await self._take(said.data)
            case Stop():
                self._give_up()
            case Beat():
                self.host.pulse(self.name, said)
            case Pong():
                if said.token in self.pongs:
                    self.pongs[said.token].set()
            case Leave():
                self.end(said.reason or "left")

    async def _begin(self, begin: Begin) -> None:
        intake = self.host.intake
        self.upload = Upload(begin.order, begin.size, intake.now())
        try:
            answer = await intake.begin(self.name, self.upload)
        except LocalError as error:
            self._no_room(begin.order, error)
            return
        if answer is not None:
            self.say(answer)
        await self._take(begin.data)

    async def _take(self, data: bytes | memoryview) -> None:
        upload = self.upload
        if upload is None:
            return
        try:
            await self.host.intake.take(upload, data)
        except LocalError as error:
            self._no_room(upload.order, error)
            return
        if upload.got == upload.size:
            self.upload = None
            self.host.intake.end(self.name, upload)

    def _no_room(self, order: str, error: LocalError) -> None:
        """This side cannot keep the report: the device holds on to it and tries again after its back-off."""
        self.host.broke(self.name, order, str(error))
        self.end(str(error), Bye(str(error)))

    def _give_up(self) -> None:
        upload, self.upload = self.upload, None
        if upload is not None:
            self.host.intake.drop(upload)

    async def _write(self) -> None:
        """Send what there is to say until the session is over, then what is left of it."""
        while True:
            message = self.outbox.next()
            if message is not None:
                await self.context.write(self.line.send(message))
            elif self._over.is_set():
                return
            else:
                await self._wake.wait()
                self._wake.clear()


def _tell(result: object) -> None:
    """Log what ended a task, unless it is how streams end."""
    usual = (asyncio.CancelledError, grpc.RpcError, grpc.aio.UsageError, asyncio.InvalidStateError)
    if isinstance(result, BaseException) and not isinstance(result, usual):
        log.error("session=broken", exc_info=result)
