"""The gRPC carrier: device sessions on an asyncio loop in a thread of its own, for callers that know no asyncio.

Who sits in the run is decided in `seats.py`, a session lives in `conversation.py`, reports come in through `intake.py`.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
import time
import urllib.parse
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from pleat import __version__
from pleat.errors import RemoteError, UseError
from pleat.exchange import address as addresses
from pleat.exchange import limits
from pleat.exchange import question as questions
from pleat.exchange.body import Part
from pleat.exchange.messages import Ack, Beat, Bye, Hello, Notice, Refusal, Returned, Welcome
from pleat.exchange.order import Order, OrderId
from pleat.exchange.wire import order_id, order_to_parts
from pleat_server.carrier import Desk, Event, Joined, Left, Pulse, Rejected, Traffic
from pleat_server.keep.spool import Spool
from pleat_server.link.conversation import Conversation
from pleat_server.link.intake import Intake
from pleat_server.link.seats import Seat, judge
from pleat_server.link.service import Service

OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", limits.MESSAGE),
    ("grpc.max_send_message_length", limits.MESSAGE),
    ("grpc.so_reuseport", 0),  # a port in use is an error, not a second server
    ("grpc.keepalive_time_ms", 20_000),  # notices a device that vanished without a word
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
]
GRACE_S = 2.0  # for sessions to end when the server closes
REFUSED = ""  # name under which the bytes of devices that were turned away, or only asked, are counted


@dataclass(frozen=True)
class Limits:
    """`report_bytes`: of one report; `devices`: connected at once; `hello_s`: seconds from connecting to the hello;
    `ping_s`: seconds in which a device answers a ping to keep its seat."""

    report_bytes: int = limits.BODY
    devices: int = 4096
    hello_s: float = 10.0
    ping_s: float = 3.0


class GrpcCarrier:
    """`carrier.Carrier` over gRPC. Raises UseError for an address that cannot be used.

    `listen`: HOST:PORT, port 0 for any. Without `tls` only this machine is listened to, unless `insecure`.
    """

    def __init__(
        self,
        listen: str,
        spool: Spool,
        desk: Desk,
        run: str,
        tls: grpc.ServerCredentials | None = None,
        insecure: bool = False,
        caps: Limits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if tls is None:
            addresses.check_plaintext(listen, insecure, "give --cert FILE and --key FILE")
        self._host, self._port = addresses.parse(listen)
        self._run, self._tls = limits.check_run(run), tls
        self._limits = caps or Limits()
        self._seats: dict[str, tuple[Joined, Seat, Conversation]] = {}
        self._where: dict[OrderId, str] = {}  # orders sent and not answered: their devices
        self._told: dict[str, list[int]] = {}  # bytes up, down of sessions that are over, by name
        self._talks: set[Conversation] = set()
        self._events: deque[Event] = deque()
        self._news = threading.Condition()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing: asyncio.Event | None = None
        self.smallest: int | None = None  # see question.Answer; whoever knows the rows on offer sets it
        self._thread: threading.Thread | None = None
        self.intake = Intake(spool, desk, self._answer, self._limits.report_bytes, clock)

    # ---- Carrier: called from any thread

    def start(self) -> str:
        """Listen; returns HOST:PORT. Raises UseError if the port is taken or the address is not this machine's."""
        _probe(self._host, self._port)
        ready: Future[int] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(ready)), name="pleat-link", daemon=True)
        self._thread.start()
        self._port = ready.result()
        return addresses.join(self._host, self._port)

    def devices(self) -> dict[str, Joined]:
        return {name: seat[0] for name, seat in sorted(self._seats.copy().items())}

    def send(self, order: Order) -> bool:
        if order.device not in self._seats:
            return False
        parts = order_to_parts(order)
        self._where[order.id] = order.device
        return self._post(self._give, order.device, str(order.id), parts)

    def notify(self, device: str, text: str) -> None:
        self._post(self._say, device, Notice(text))

    def cancel(self, order_id: OrderId) -> None:
        device = self._where.pop(order_id, None)
        if device is not None:
            self._post(self._withdraw, device, str(order_id))

    def poll(self, timeout_s: float) -> list[Event]:
        with self._news:
            self._news.wait_for(lambda: self._events, timeout_s)
            events = list(self._events)
            self._events.clear()
        return events

    def traffic(self) -> dict[str, Traffic]:
        sums = {name: list(pair) for name, pair in self._told.copy().items()}
        for talk in self._talks.copy():
            _count(sums, talk)
        return {name: Traffic(up, down) for name, (up, down) in sorted(sums.items())}

    def close(self) -> None:
        """Tell every device that the server goes, and stop listening. Safe to call twice."""
        loop, closing, thread = self._loop, self._closing, self._thread
        if loop is not None and closing is not None and thread is not None and thread.is_alive():
            self._post(closing.set)
            thread.join()
        self.intake.close()

    def _post(self, call: Callable[..., object], *args: object) -> bool:
        """Have the loop make a call; False if there is no loop (any more)."""
        try:
            if self._loop is None:
                return False
            self._loop.call_soon_threadsafe(call, *args)
            return True
        except RuntimeError:  # the loop is closed
            return False

    # ---- on the loop

    async def _serve(self, ready: Future[int]) -> None:
        server = grpc.aio.server(options=OPTIONS)
        server.add_generic_rpc_handlers((Service(self._session, self._asked),))
        where = addresses.join(self._host, self._port)
        try:
            port = server.add_secure_port(where, self._tls) if self._tls else server.add_insecure_port(where)
            await server.start()
        except Exception as error:
            ready.set_exception(UseError(f"cannot listen on {where}: {error}"))
            return
        self._loop, self._closing = asyncio.get_running_loop(), asyncio.Event()
        ready.set_result(port)
        await self._closing.wait()
        for talk in self._talks.copy():
            talk.end("the server is closing", Bye("the server is closing"))
        await server.stop(GRACE_S)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:  # gRPC's own, still at the last words; cancelled, they would say so on stderr
            await asyncio.wait(others, timeout=GRACE_S)

    async def _session(self, _: Any, context: Any) -> None:
        talk = Conversation(self, context, _address(context.peer()), self._run)
        self._talks.add(talk)
        try:
            await talk.live(self._limits.hello_s)
        finally:
            self._talks.discard(talk)
            _count(self._told, talk)
            sits = self._seats.get(talk.name)
            if sits is not None and sits[2] is talk:
                del self._seats[talk.name]
                self._tell(Left(talk.name, talk.left))

    async def _asked(self, raw: bytes, context: Any) -> bytes:
        try:
            answer = questions.reply(raw, self._run, self.smallest)
        except RemoteError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            raise
        pair = self._told.setdefault(REFUSED, [0, 0])
        pair[0] += len(raw)
        pair[1] += len(answer)
        return answer

    def _give(self, device: str, order: str, parts: list[Part]) -> None:
        sits = self._seats.get(device)
        if sits is not None:
            sits[2].give(order, sum(map(len, parts)), parts)

    def _say(self, device: str, message: Ack | Returned | Notice | Bye) -> None:
        sits = self._seats.get(device)
        if sits is None:
            return
        if isinstance(message, Bye):
            sits[2].end(message.reason, message)
        else:
            sits[2].say(message)

    def _withdraw(self, device: str, order: str) -> None:
        sits = self._seats.get(device)
        if sits is not None:
            sits[2].withdraw(order)

    def _tell(self, event: Event) -> None:
        with self._news:
            self._events.append(event)
            self._news.notify_all()

    # ---- conversation.Host

    async def seat(self, hello: Hello, talk: Conversation) -> Seat | Refusal:
        """Judge the hello, asking whoever is in the way whether it is still there; then seat it."""
        while True:
            judged = judge(hello, talk.address, [s for _, s, _ in self._seats.values()], self._limits.devices)
            if isinstance(judged, Refusal):
                return judged
            for clash in judged.clashes:
                sits = self._seats.get(clash.holder.name)
                if sits is not None and await sits[2].answers(self._limits.ping_s):
                    return clash.refusal
                if sits is not None:
                    self._unseat(sits[2], "did not answer")
            if not judged.clashes:  # nothing was awaited since the judgement, so it still holds
                break
        for seat in judged.replaces:
            self._unseat(self._seats[seat.name][2], "replaced by its own new connection")
        talk.name = hello.name
        joined = Joined(hello.name, hello.identity, hello.profile, talk.address)
        self._seats[hello.name] = (joined, judged.seat, talk)
        talk.say(Welcome(self._run, software=__version__[:32]))
        self._tell(joined)
        return judged.seat

    def _unseat(self, talk: Conversation, reason: str) -> None:
        if self._seats.get(talk.name, (None, None, None))[2] is talk:
            del self._seats[talk.name]
            self._tell(Left(talk.name, reason))
        talk.end(reason)

    def pulse(self, device: str, beat: Beat) -> None:
        self._tell(Pulse(device, beat.heartbeat))

    def broke(self, device: str, order: str | None, reason: str) -> None:
        self._tell(Rejected(device, order_id(order) if order else None, reason))

    def _answer(self, device: str, answer: Ack | Returned | Bye, event: Event | None) -> None:
        """What became of a whole report; from the desk's thread."""
        if not isinstance(answer, Bye):
            self._where.pop(order_id(answer.order), None)
        if event is not None:
            self._tell(event)
        self._post(self._say, device, answer)


def _count(sums: dict[str, list[int]], talk: Conversation) -> None:
    pair = sums.setdefault(talk.name or REFUSED, [0, 0])
    pair[0] += talk.line.bytes_in
    pair[1] += talk.line.bytes_out


def _address(peer: str) -> str:
    """gRPC's "ipv4:10.0.0.7:53412" as an address."""
    return urllib.parse.unquote(peer.partition(":")[2])


def _probe(host: str, port: int) -> None:
    """Whether the address can be listened on, asked of the kernel: its answer is clearer than gRPC's."""
    where = addresses.join(host, port)
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(target)
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        advice = "another program has this port; stop it, or choose another with --listen HOST:PORT"
        raise UseError(
            f"cannot listen on {where}: {advice if taken else f'{error.strerror or error}; check --listen HOST:PORT'}"
        ) from None
