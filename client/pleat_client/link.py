"""The device's link to its server: one gRPC stream, opened by the device, opened again whenever it breaks.

Everything that decides is in `session.py`; here are only the socket, the clock and the waiting. All calls come from one
event loop. A report is sent until it is acknowledged or returned: each join sends what is still open again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc.aio

from pleat.errors import Fatal, LocalError, RemoteError
from pleat.exchange import address as addresses
from pleat.exchange import limits
from pleat.exchange.body import slices
from pleat.exchange.messages import Beat, Leave, Message
from pleat.exchange.report import Heartbeat, Profile
from pleat.exchange.session import Line, Outbox, Side
from pleat_client import link_channel, link_trust, session
from pleat_client.backoff import delay_s
from pleat_client.link_handler import Handler
from pleat_client.session import Device, Happens, Over, Stand

log = logging.getLogger("pleat.link")

GREETING_S = 30.0  # a server that has not answered the hello by then is given up
STEADY_S = 10.0  # a session that lasted so long starts the back-off afresh
ANSWER_S = 0.5  # for the server to answer the last reports before the goodbye
FLUSH_S = 1.0  # to say goodbye in


class Link:
    """Keeps one device connected to `address`. Raises UseError for an address or certificate that cannot be used.

    `secret`: the device's 32 bytes. `profile` is asked at every hello. `ca`: PEM file that the server's certificate is
    checked against; without it only this machine is talked to, unless `insecure`.
    """

    def __init__(
        self,
        address: str,
        handler: Handler,
        *,
        name: str,
        secret: bytes,
        profile: Callable[[], Profile],
        ca: Path | None = None,
        cert: Path | None = None,
        key: Path | None = None,
        insecure: bool = False,
        largest: int = limits.BODY,
        nonce: bytes | None = None,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        addresses.parse(address)
        limits.check_name(name)
        self.address = address
        self.device = Device(name, secret, nonce or secrets.token_bytes(16), handler.held, largest)
        self.stand = Stand.AWAY
        self.bytes_up = 0  # of serialised messages, over all connections
        self.bytes_down = 0
        self._handler = handler
        self._profile = profile
        self._ca, self._cert = ca, cert
        self._credentials = link_channel.credentials(address, ca, insecure, cert, key)
        self._clock = clock
        self._rng = rng or random.Random()
        self._outbox = Outbox()
        self._wake = asyncio.Event()
        self._changed = asyncio.Event()  # where it stands, or what is not answered yet
        self._stopping = asyncio.Event()
        self._running: asyncio.Future[None] | None = None
        self._failures = 0

    def report(self, order: str, report: Path | bytes) -> None:
        """Send the report on `order` ("run/round/rank"), now or at the next join, until it is acknowledged."""
        if self.device.report(order, report) and self.stand is Stand.JOINED:
            self._send(order, report)

    def beat(self, heartbeat: Heartbeat) -> None:
        """Tell how the device is, if it is joined."""
        if self.stand is Stand.JOINED:
            self._outbox.say(Beat(heartbeat))
            self._wake.set()

    async def stop(self) -> None:
        """Say goodbye and end `run`; a server that is there has `ANSWER_S` to answer what was reported."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._answered(), ANSWER_S)
        self._stopping.set()
        if self._running is not None:
            await asyncio.wait((self._running,))

    async def _answered(self) -> None:
        while self.stand is Stand.JOINED and self.device.reports:
            self._changed.clear()
            await self._changed.wait()

    async def run(self) -> None:
        """Connect, and stay connected, until `stop`. Raises Fatal when the server refuses this device for good."""
        self._running = asyncio.get_running_loop().create_future()
        try:
            while not self._stopping.is_set():
                began = self._clock()
                self.stand = session.after(self.stand, Happens.DIALLED)
                over = await self._connection()
                self._settle(over)
                if over.happens is Happens.STOPPED:
                    return
                self._failures = 1 if self._clock() - began > STEADY_S else self._failures + 1
                await self._pause(over)
        finally:
            self._running.set_result(None)

    def _settle(self, over: Over) -> None:
        self.stand = session.after(self.stand, over.happens)
        self._changed.set()
        if over.happens is not Happens.STOPPED:
            self._handler.on_lost(over.text)
        if over.happens is Happens.BARRED:
            raise Fatal(f"{self.address} refuses this device: {over.text}", exit_code=2)

    async def _pause(self, over: Over) -> None:
        """Back off. A failure is worth a warning once, then it is no news; a goodbye is none at all."""
        wait = delay_s(self._failures, self._rng)
        first = logging.INFO if over.happens is Happens.BYE else logging.WARNING
        level = first if self._failures == 1 else logging.DEBUG
        log.log(level, "link=away server=%s reason=%r again_s=%.1f", self.address, over.text, wait)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), wait)

    # ---- one connection

    async def _connection(self) -> Over:
        """From dialling to the end of one stream: how it ended."""
        self._outbox, self._wake = Outbox(), asyncio.Event()
        line = Line(Side.DEVICE)
        channel = link_channel.channel(self.address, self._credentials)
        try:
            call: Any = channel.stream_stream(limits.METHOD)()
            await call.write(line.send(self.device.hello(self._profile())))
            return await self._converse(call, line)
        except grpc.aio.AioRpcError as error:
            return Over(Happens.LOST, self._why(error))
        except asyncio.InvalidStateError:  # gRPC's word for writing to a stream that is over
            return Over(Happens.LOST, "the stream ended")
        except RemoteError as error:
            return Over(Happens.LOST, f"the server broke the protocol: {error}")
        finally:
            self.bytes_up += line.bytes_out
            self.bytes_down += line.bytes_in
            await channel.close()

    def _why(self, error: grpc.aio.AioRpcError) -> str:
        then = f"Look closer with: pleat-client doctor --server {self.address}"
        return link_trust.why(error, self.address, self._ca, then, self._cert)

    async def _converse(self, call: Any, line: Line) -> Over:
        tasks = [
            asyncio.ensure_future(c) for c in (self._read(call, line), self._write(call, line), self._stop_asked())
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            over = next(t.result() for t in tasks if t in done)  # what was read tells more than that writing failed
            if over.happens is Happens.STOPPED and line.joined:
                await self._goodbye(call, line, tasks[1])
            return over
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _stop_asked(self) -> Over:
        await self._stopping.wait()
        return Over(Happens.STOPPED, "stopped")

    async def _goodbye(self, call: Any, line: Line, writing: asyncio.Future[Over]) -> None:
        """Let the message under way go out, then leave."""
        self._outbox = Outbox()
        self._outbox.say(Leave("stopped"))
        self._wake.set()
        await asyncio.wait((writing,), timeout=FLUSH_S)
        with contextlib.suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):
            await call.done_writing()

    async def _read(self, call: Any, line: Line) -> Over:
        raw = await self._greeting(call)
        while raw is not grpc.aio.EOF:
            over = self._hear(line, raw)
            if over is not None:
                return over
            raw = await call.read()
        return Over(Happens.LOST, "the server closed the stream")

    def _hear(self, line: Line, raw: bytes) -> Over | None:
        """Do what a message asks for; its end of the connection, if it is one. Keeps no hold of an order's bytes."""
        for effect in self.device.hear(line.receive(raw), self._clock()):  # type: ignore[arg-type]
            if isinstance(effect, Over):
                return effect
            self._perform(effect)
        return None

    async def _greeting(self, call: Any) -> Any:
        try:
            return await asyncio.wait_for(call.read(), GREETING_S)
        except asyncio.TimeoutError:
            raise RemoteError(f"no answer to the hello within {GREETING_S:.0f} s") from None

    async def _write(self, call: Any, line: Line) -> Over:
        while not line.closed:
            message = self._next()
            if message is not None:
                await call.write(line.send(message))
                continue
            await self._wake.wait()
            self._wake.clear()
        return Over(Happens.STOPPED, "left")

    def _next(self) -> Message | None:
        try:
            return self._outbox.next()
        except (OSError, LocalError) as error:  # the report's file is gone or cut short
            order = self._outbox.sending
            log.error("report=%s unreadable=%r", order, str(error))
            self._forget(order)
            return self._outbox.next()

    def _perform(self, effect: session.Effect) -> None:
        """Carry out what a word of the server asks for."""
        match effect:
            case session.Joined():
                self.stand = session.after(self.stand, Happens.WELCOMED)
                log.info("link=joined server=%s run=%s", self.address, effect.run)
                self._handler.on_joined(effect.run)
            case session.Arrived():
                self._handler.on_order(effect.data, effect.down_s)
            case session.Acked():
                self._handler.on_ack(effect.order)
            case session.GivenBack():
                self._handler.on_returned(effect.order, effect.reason)
            case session.Cancelled():
                self._handler.on_cancel(effect.order)
            case session.Told():
                self._handler.on_notify(effect.text)
            case session.Answer():
                self._outbox.say(effect.message)
            case session.Send():
                self._send(effect.order, effect.report)
            case session.Forget():
                self._outbox.drop(effect.order, "returned")
        self._wake.set()
        self._changed.set()

    def _send(self, order: str, report: Path | bytes) -> None:
        try:
            size = len(report) if isinstance(report, bytes) else report.stat().st_size
        except OSError as error:
            log.error("report=%s unreadable=%r", order, str(error))
            self._forget(order)
            return
        self._outbox.body(order, size, lambda: slices([report]) if isinstance(report, bytes) else _read_slices(report))
        self._wake.set()

    def _forget(self, order: str) -> None:
        """A report that cannot be read cannot be sent: the server will ask again."""
        self.device.reports.pop(order, None)
        self._outbox.drop(order, "unreadable")


def _read_slices(path: Path) -> Iterator[bytes]:
    with path.open("rb", buffering=0) as file:
        while data := file.read(limits.CHUNK):
            yield data
