"""Both ends of the wire for tests: a desk with a list of open orders, a handler that writes down what it hears, the
real carrier with real links on loopback, and a raw device that says what no honest one would."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import random
import socket
import threading
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from pleat.errors import RemoteError
from pleat.exchange.limits import METHOD
from pleat.exchange.messages import Hello, Message
from pleat.exchange.order import Kind, NetSpec, Order, OrderId, Payload, Return
from pleat.exchange.report import Profile, Report
from pleat.exchange.session import Line, Side
from pleat.exchange.wire import report_from_bytes, report_to_bytes
from pleat_client.link import Link
from pleat_server.carrier import Event, Verdict
from pleat_server.keep.spool import Spool
from pleat_server.link.servicer import GrpcCarrier

RUN = "run-1"


def order(device: str = "a", round: int = 1, rank: int = 0, frame: bytes = b"model") -> Order:
    return Order(
        OrderId(RUN, round, rank),
        device,
        Kind.TRAIN,
        NetSpec("pleat.nets.zoo:mlp", {}, bytes(32)),
        payloads=(Payload("model", "raw", frame),),
        returns=(Return("update", "raw"),),
    )


def report(device: str = "a", round: int = 1, rank: int = 0, frame: bytes = b"update") -> bytes:
    payloads = (Payload("update", "raw", frame),)
    return report_to_bytes(Report(OrderId(RUN, round, rank), device, payloads=payloads, samples=1))


class OpenDesk:
    """A desk with a set of open orders: a report that parses is admitted, unless its frame is b"bad"."""

    def __init__(self, spool: Spool) -> None:
        self.open: dict[OrderId, str] = {}
        self._spool = spool
        self._lock = threading.Lock()

    def verdict(self, device: str, order_id: OrderId) -> Verdict:
        if self.open.get(order_id) != device:
            return Verdict.RETURN
        return Verdict.ALREADY if self._spool.has(order_id) else Verdict.TAKE

    def admit(self, device: str, order_id: OrderId, data: bytes) -> None:
        told = report_from_bytes(data)
        if any(p.frame == b"bad" for p in told.payloads):
            raise RemoteError(f"report {order_id} of {device}: frame is bad")

    def settle(self, device: str, order_id: OrderId, commit: Callable[[], None]) -> bool:
        with self._lock:
            if order_id not in self.open:
                return False
            commit()
            return True


@dataclass
class Heard:
    """A `link.Handler` that writes everything down, and answers an order where `answer` makes a report for it."""

    answer: Callable[[bytes], tuple[str, bytes] | None] = lambda data: None
    link: Link | None = None
    lines: list[tuple[str, ...]] = field(default_factory=list)
    orders: list[bytes] = field(default_factory=list)
    working: list[str] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def held(self) -> Sequence[str]:
        return tuple(self.working)

    def on_joined(self, run: str) -> None:
        self._note("joined", run)

    def on_lost(self, reason: str) -> None:
        self._note("lost", reason)

    def on_order(self, data: bytes, down_s: float) -> None:
        self.orders.append(data)
        self._note("order", str(len(data)))
        answered = self.answer(data)
        if answered is not None and self.link is not None:
            self.link.report(*answered)

    def on_cancel(self, order: str) -> None:
        self._note("cancel", order)

    def on_ack(self, order: str) -> None:
        self._note("ack", order)

    def on_returned(self, order: str, reason: str) -> None:
        self._note("returned", order, reason)

    def on_notify(self, text: str) -> None:
        self._note("notify", text)

    def _note(self, *line: str) -> None:
        self.lines.append(line)
        self.news.set()

    def kinds(self) -> list[str]:
        return [line[0] for line in self.lines]

    async def until(self, kind: str, count: int = 1, word: str = "") -> tuple[str, ...]:
        """Wait for the `count`-th line of a kind, of those that are about `word`."""
        while True:
            found = [line for line in self.lines if line[0] == kind and (not word or word in line[1])]
            if len(found) >= count:
                return found[count - 1]
            self.news.clear()
            await asyncio.wait_for(self.news.wait(), 20)


class RawDevice:
    """A stream to a carrier, one message at a time."""

    def __init__(self, address: str) -> None:
        self.line = Line(Side.DEVICE)
        self._channel = grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
        self.call: Any = self._channel.stream_stream(METHOD)()

    async def raw(self, data: bytes) -> None:
        await self.call.write(data)

    async def say(self, message: Message) -> None:
        await self.raw(self.line.send(message))

    async def hear(self) -> Message | None:
        """The next message; None at the end of the stream."""
        data = await asyncio.wait_for(self.call.read(), 20)
        return None if data is grpc.aio.EOF else self.line.receive(data)

    async def join(self, name: str, secret: bytes = b"secret", nonce: bytes = b"nonce") -> Message | None:
        identity = hashlib.sha256(secret).digest()
        await self.say(Hello(name, identity, nonce.ljust(16, b".")))
        return await self.hear()

    async def vanish(self) -> None:
        self.call.cancel()
        await self._channel.close()


def steady_address() -> str:
    """A loopback address that nobody else is given while a test closes it and listens again: below the ports that the
    kernel hands out by itself."""
    while True:
        port = random.SystemRandom().randrange(20_000, 30_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return f"127.0.0.1:{port}"


def in_time(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an asynchronous test, for a minute at most."""

    @functools.wraps(test)
    def run(*args: Any, **fixtures: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **fixtures), 60))

    return run


class Fleet:
    """A carrier on a free loopback port, with links that end with it."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.spool = Spool(folder / "spool")
        self.desk: OpenDesk = options.pop("desk", OpenDesk)(self.spool)
        self.carrier = GrpcCarrier(options.pop("listen", "127.0.0.1:0"), self.spool, self.desk, RUN, **options)
        self.address = self.carrier.start()
        self.tasks: list[tuple[Link, asyncio.Task[None]]] = []
        self.events: list[Event] = []

    def device(self, name: str, heard: Heard, secret: bytes | None = None, **options: Any) -> Link:
        link = Link(
            options.pop("address", self.address),
            heard,
            name=name,
            secret=secret or name.encode().ljust(32, b"."),
            profile=options.pop("profile", Profile),
            rng=random.Random(name),
            **options,
        )
        heard.link = link
        self.tasks.append((link, asyncio.ensure_future(link.run())))
        return link

    async def event(self, kind: type[Event], count: int = 1) -> Any:
        """Wait for the `count`-th event of a kind."""
        for _ in range(200):
            found = [e for e in self.events if isinstance(e, kind)]
            if len(found) >= count:
                return found[count - 1]
            self.events += await asyncio.to_thread(self.carrier.poll, 0.1)
        raise TimeoutError(f"no {kind.__name__} number {count} among {self.events}")

    async def close(self) -> None:
        for link, _ in self.tasks:
            await link.stop()
        await asyncio.gather(*(task for _, task in self.tasks), return_exceptions=True)
        await asyncio.to_thread(self.carrier.close)

    async def __aenter__(self) -> Fleet:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    def files(self) -> list[Path]:
        """Everything in the spool."""
        return sorted(p for p in self.spool.root.rglob("*") if p.is_file())

    async def emptied(self) -> None:
        """Wait until nothing of an unfinished report is left."""
        while self.files():
            await asyncio.sleep(0.01)
