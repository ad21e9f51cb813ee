"""Reports on their way in: from the first chunk to the acknowledgement, off the event loop.

A report is acknowledged once it is checked and durable: `Desk.admit`, while its bytes go to the disk, then
`Desk.settle`, which gives it its name, then the spool's `sync`. Reports are checked one at a time in one thread, so
that memory holds one of them, however many arrive; the disk works in others. Two streams may bring the same report: the
first to be durable stays, both are acknowledged, the loop is told once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, TypeVar

from pleat.errors import LocalError, RemoteError
from pleat.exchange.messages import Ack, Bye, Returned
from pleat.exchange.order import OrderId
from pleat.exchange.wire import order_id
from pleat_server.carrier import Desk, Event, Rejected, Reported, Verdict
from pleat_server.keep.spool import Spool
from pleat_server.keep.spool_writer import SpoolWriter

log = logging.getLogger("pleat.link")

Result = TypeVar("Result")

LATE = "late: its round is closed, or it is no order of this device in this run"
WRITERS = 4  # threads that write to the spool

Answer = Callable[[str, Ack | Returned | Bye, Event | None], None]  # device, what it is told, what the loop is told


@dataclass
class Upload:
    """One report; `since`: when its first byte came. Without a `writer` it is dropped as it comes."""

    order: str
    size: int
    since: float
    writer: SpoolWriter | None = None
    got: int = 0
    work: Future[Any] | None = None  # what a thread does for it now, or did last


@dataclass(frozen=True)
class _Whole:
    """A report of which all bytes are here. `up_s`: seconds that they took."""

    device: str
    order: OrderId
    writer: SpoolWriter
    up_s: float


class Intake:
    """Where reports go. `answer` is called from another thread once a whole report was judged."""

    def __init__(self, spool: Spool, desk: Desk, answer: Answer, largest: int, clock: Callable[[], float]) -> None:
        self._spool, self._desk, self._answer, self._largest, self.now = spool, desk, answer, largest, clock
        self._writers = ThreadPoolExecutor(WRITERS, "pleat-spool")
        self._checker = ThreadPoolExecutor(1, "pleat-desk")

    async def begin(self, device: str, upload: Upload) -> Ack | Returned | None:
        """A report begins: what to answer at once; None if it goes to the spool. Raises LocalError for a full disk."""
        if upload.size > self._largest:
            reason = f"report of {upload.size} bytes, the limit is {self._largest}"
            self._answer(device, Returned(upload.order, reason), Rejected(device, order_id(upload.order), reason))
            return None
        opened = await self._in_thread(upload, lambda: self._open(device, order_id(upload.order), upload.size))
        if not isinstance(opened, SpoolWriter):
            return opened
        upload.writer = opened
        return None

    def _open(self, device: str, order: OrderId, size: int) -> SpoolWriter | Ack | Returned:
        verdict = self._desk.verdict(device, order)
        if verdict is Verdict.ALREADY:
            self._spool.sync(order)
            return Ack(str(order))
        if verdict is Verdict.RETURN:
            return Returned(str(order), LATE)
        return self._spool.writer(order, size)

    async def take(self, upload: Upload, data: bytes | memoryview) -> None:
        """The next bytes. Raises LocalError if they cannot be kept."""
        upload.got += len(data)
        writer = upload.writer
        if writer is not None and len(data):
            await self._in_thread(upload, lambda: writer.write(data))

    def end(self, device: str, upload: Upload) -> None:
        """All bytes are here: check them, make them durable, and answer, later."""
        if upload.writer is not None:
            came = _Whole(device, order_id(upload.order), upload.writer, self.now() - upload.since)
            flushing = self._writers.submit(came.writer.flush)
            self._checker.submit(self._guarded, came, lambda: self._check(came, flushing))

    def drop(self, upload: Upload) -> None:
        """The report will not be whole: leave nothing of it, once no thread is at it any more."""
        if upload.work is not None:
            upload.work.add_done_callback(lambda work: _abort(upload, work))

    def close(self) -> None:
        """Finish what was received whole."""
        self._checker.shutdown()
        self._writers.shutdown()

    def _check(self, came: _Whole, flushing: Future[None]) -> None:
        """In the checker: hold a report against its order, while its bytes go to the disk."""
        try:
            verdict = self._desk.verdict(came.device, came.order)  # again: much can happen while a report comes in
            if verdict is Verdict.TAKE:
                self._desk.admit(came.device, came.order, came.writer.data())
        finally:
            wait((flushing,))
        flushing.result()
        self._writers.submit(self._guarded, came, lambda: self._keep(came, verdict))

    def _keep(self, came: _Whole, verdict: Verdict) -> None:
        """In a writer: make a checked report durable, and acknowledge it."""
        with came.writer as writer:
            taken = verdict is Verdict.TAKE and self._desk.settle(came.device, came.order, lambda: _place(writer))
        if not taken and verdict is not Verdict.ALREADY:
            self._answer(came.device, Returned(str(came.order), LATE), None)
            return
        self._spool.sync(came.order)
        event = Reported(came.device, came.order, came.writer.size, came.up_s) if taken else None
        self._answer(came.device, Ack(str(came.order)), event)

    def _guarded(self, came: _Whole, work: Callable[[], None]) -> None:
        """Do `work`; where it fails, drop the report and answer why."""
        try:
            work()
            return
        except RemoteError as error:
            answer: Returned | Bye = Returned(str(came.order), str(error))
        except LocalError as error:  # a full disk: the device keeps its report, and sends it after its back-off
            answer = Bye(str(error))
        except Exception as error:
            log.exception("order=%s device=%s unchecked=%r", came.order, came.device, error)
            answer = Returned(str(came.order), f"the server failed to check it: {type(error).__name__}: {error}")
        came.writer.abort()
        self._answer(came.device, answer, Rejected(came.device, came.order, answer.reason))

    async def _in_thread(self, upload: Upload, call: Callable[[], Result]) -> Result:
        work = self._writers.submit(call)
        upload.work = work
        return await asyncio.wrap_future(work)


def _place(writer: SpoolWriter) -> None:
    writer.place()


def _abort(upload: Upload, work: Future[Any]) -> None:
    if upload.writer is not None:
        upload.writer.abort()
    elif not work.cancelled() and work.exception() is None and isinstance(work.result(), SpoolWriter):
        work.result().abort()  # opened for a stream that was gone by then
