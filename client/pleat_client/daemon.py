"""The daemon: the device's only endless loop. It keeps the link, hands orders to the trainer, sends what is staged.

It promises: no torch in this process; the death of the child, of the server or of the network is an event and never the
end; an order that arrived ends in one report, unless it was cancelled, and a daemon that is stopped says what it leaves
undone; what is staged is sent again after every reconnect until it is answered. Orders travel through it as bytes of
which it reads only the id.
"""

from __future__ import annotations

import asyncio
import logging
import platform
import time
from collections import deque
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import msgspec

from pleat.errors import PleatError
from pleat.exchange import body, limits
from pleat.exchange.order import OrderId
from pleat.exchange.report import Budgets, Heartbeat, Outcome, Profile, Seconds
from pleat_client import pipe, status
from pleat_client.child import Died, Trainer
from pleat_client.config import Config
from pleat_client.probe import board, memory, sensors, throttle
from pleat_client.probe.files import ROOT
from pleat_client.store import Store
from pleat_client.work import Work, report_bytes

BEAT_S = 10.0
CANCELLED, OVERTAKEN, STOPPED = "cancelled", "overtaken by a newer order", "the daemon was stopped"
Answer = pipe.Staged | pipe.Failed | Died
log = logging.getLogger("pleat")


class Sender(Protocol):
    """What the daemon asks of the link."""

    def report(self, order: str, report: Path | bytes) -> None: ...

    def beat(self, heartbeat: Heartbeat) -> None: ...


class Daemon:
    """Everything between the link and the child; its methods run on one event loop.

    The link calls the methods `on_...`; they return at once. `on_status` hears every change of its status.
    """

    def __init__(
        self,
        config: Config,
        store: Store,
        trainer: Trainer,
        root: Path = ROOT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config, self._store, self._trainer, self._root, self._clock = config, store, trainer, root, clock
        self._board = board.board(root)
        self._waiting: deque[Work] = deque()
        self._arrived = asyncio.Event()
        self._current: Work | None = None
        fresh = status.Status(name=config.name, server=config.server, budgets=config.budgets)
        self._status = status.begun(config.state, fresh)
        self._told = -BEAT_S  # when progress was last written down
        self.on_status: Callable[[status.Status], None] = lambda said: None
        trainer.heard = self._heard

    async def profile(self) -> Profile:
        """What this device is; starts the child, which reads and checks the shard. Raises UseError for a bad one."""
        return describe(self._board, await self._trainer.ready(), self._config.budgets)

    async def serve(self, link: Sender) -> None:
        """Do orders as they come, until cancelled; then answer those that are left undone."""
        for order_id, path in self._store.staged():
            link.report(str(order_id), path)
        self._say(state="idle", unsent=len(self._store.staged()))
        beating = asyncio.ensure_future(self._beat(link))
        try:
            while True:
                await self._do(await self._next(), link)
        finally:
            beating.cancel()
            await self._abandon(link)
            self._say(state="stopped", joined=False)

    # What the link says.

    def held(self) -> list[str]:
        return [work.order for work in self._works() if not work.dropped]

    def on_joined(self, run: str) -> None:
        self._say(joined=True, run=run, notice="")

    def on_lost(self, reason: str) -> None:
        self._say(joined=False, notice=reason)

    def on_order(self, data: bytes, down_s: float) -> None:
        new = Work(body.order_of(data), data, down_s, self._clock(), len(data))
        for work in self._works():
            if _order_id(work.order).run == _order_id(new.order).run and _order_id(work.order) < _order_id(new.order):
                self._drop(work, OVERTAKEN)
        self._waiting.append(new)
        self._arrived.set()

    def on_ack(self, order: str) -> None:
        self._settle(order, self._store.commit, "acked")

    def on_returned(self, order: str, reason: str) -> None:
        log.info("returned order=%s reason=%s", order, reason)
        self._settle(order, self._store.give_back, "returned")

    def on_cancel(self, order: str) -> None:
        for work in self._works():
            if work.order == order:
                self._drop(work, CANCELLED)

    def on_notify(self, text: str) -> None:
        log.info("server says: %s", text)
        self._say(notice=text)

    # One order.

    def _works(self) -> list[Work]:
        return [work for work in (self._current, *self._waiting) if work is not None]

    def _drop(self, work: Work, why: str) -> None:
        log.info("dropped order=%s reason=%r", work.order, why)
        work.dropped = why
        if work is self._current:
            self._trainer.cancel(work.order)

    async def _next(self) -> Work:
        while not self._waiting:
            self._arrived.clear()
            await self._arrived.wait()
        return self._waiting.popleft()

    async def _do(self, work: Work, link: Sender) -> None:
        self._current = work
        self._say(state="training", order=work.order)
        answer = await self._trained(work)
        self._current = None
        outcome, reason = _end(work, answer)
        log.info("done order=%s outcome=%s reason=%r", work.order, outcome.value, reason)
        report = self._report(work, answer, outcome, reason)
        if report is not None:
            link.report(work.order, report)
        if self._board.small:
            await self._trainer.stop()
        self._say(
            state="idle",
            outcome=outcome.value,
            reason=reason,
            orders=self._status.orders + 1,
            unsent=len(self._store.staged()),
            progress=None,
            loss=None,
            rounds=status.ended(self._status, self._done(work, answer, outcome, reason, report)),
            residual=(answer.residual if isinstance(answer, pipe.Staged) else None) or self._status.residual,
        )

    def _done(
        self, work: Work, answer: Answer, outcome: Outcome, reason: str, report: Path | bytes | None
    ) -> status.Done:
        return status.Done(
            order=work.order,
            outcome=outcome.value,
            reason=reason,
            width=answer.width if isinstance(answer, pipe.Staged) else None,
            seconds=round(self._clock() - work.at, 3),
            bytes_down=work.size,
            bytes_up=report_bytes(report),
            at=time.time(),
        )

    async def _abandon(self, link: Sender) -> None:
        """End the child at once, and tell the server of every order here that it need not wait for it."""
        await self._trainer.stop()
        staged = dict(self._store.staged())
        for work in self._works():
            report: Path | bytes | None = staged.get(_order_id(work.order))  # it was done in the last moment
            if report is None or work.dropped:
                work.dropped = work.dropped or STOPPED
                answer = Died(work.dropped, False)
                report = self._report(work, answer, Outcome.ABORTED, work.dropped)
                done = self._done(work, answer, Outcome.ABORTED, work.dropped, report)
                self._say(rounds=status.ended(self._status, done))
            log.info("left order=%s reason=%r", work.order, work.dropped or "done")
            if report is not None:
                link.report(work.order, report)

    async def _trained(self, work: Work) -> Answer:
        try:
            if not work.dropped:
                await self._trainer.ready()
        except PleatError as error:
            return pipe.Failed(work.order, str(error))
        if work.dropped:
            return Died(work.dropped, False)
        return await self._trainer.do(
            pipe.Train(
                order=work.taken(),
                wait_s=self._clock() - work.at,
                down_s=work.down_s,
                daemon_bytes=memory.rss_bytes(None, self._root) or 0,
                memory_bytes=self._config.memory,
                threads=self._config.threads,
            )
        )

    def _report(self, work: Work, answer: Answer, outcome: Outcome, reason: str) -> Path | bytes | None:
        """What answers an order that ended so; None where nobody wants an answer."""
        if work.dropped == CANCELLED and outcome is Outcome.ABORTED:
            self._store.give_back(_order_id(work.order))
            return None
        if isinstance(answer, pipe.Staged):
            return Path(answer.path)
        seconds = Seconds(down=work.down_s, train=max(0.0, self._clock() - work.at))
        peak = answer.peak_bytes if isinstance(answer, Died) else None
        report = body.refusal_report(work.order, self._config.name, outcome, reason, seconds=seconds, peak_bytes=peak)
        try:
            return self._store.stage(_order_id(work.order), report)
        except PleatError as error:  # it cannot be kept, but it can be said
            log.error("order=%s unstaged=%r", work.order, str(error))
            return report

    def _settle(self, order: str, how: Callable[[Any], None], answer: str) -> None:
        try:
            how(_order_id(order))
        except (OSError, PleatError) as error:  # it stays staged: the next start sends it, and is answered, once more
            log.error("order=%s unsettled=%r", order, str(error))
        self._say(unsent=len(self._store.staged()), rounds=status.answered(self._status, order, answer))

    def _heard(self, answer: pipe.Started | pipe.Progress) -> None:
        if isinstance(answer, pipe.Progress):
            log.debug("progress order=%s done=%.2f loss=%s", answer.order, answer.done, answer.loss)
            if self._clock() - self._told >= BEAT_S:  # cards wear
                self._told = self._clock()
                self._say(progress=round(answer.done, 3), loss=answer.loss)

    # What it says of itself.

    async def _beat(self, link: Sender) -> None:
        ask = throttle.vcgencmd if self._board.kind == "pi" else None
        while True:
            await asyncio.sleep(BEAT_S)
            link.beat(sensors.heartbeat(self._status.state, self._root, ask))

    def _say(self, **change: Any) -> None:
        fresh = msgspec.structs.replace(self._status, **change)
        if fresh != self._status:
            self._status = msgspec.structs.replace(fresh, since=time.time())
            status.write(self._config.state, self._status)
            self.on_status(self._status)


def describe(on: board.Board, shard: pipe.Ready, budgets: Budgets) -> Profile:
    """What a server is told of a device."""
    return Profile(
        board=on.model,
        machine=on.machine,
        system=on.system,
        python=platform.python_version(),
        torch=_version("torch"),
        cores=on.cores,
        memory_bytes=on.memory_bytes,
        accelerator=on.accelerator,
        samples=shard.samples,
        input_shape=shard.input_shape,
        classes=shard.classes,
        holdout=shard.holdout,
        budgets=budgets,
    )


def _end(work: Work, answer: Answer) -> tuple[Outcome, str]:
    if isinstance(answer, pipe.Staged):
        return Outcome(answer.outcome), answer.reason
    if work.dropped:
        return Outcome.ABORTED, work.dropped
    if isinstance(answer, Died) and answer.killed:
        return Outcome.KILLED, answer.reason
    return Outcome.FAILED, answer.reason


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def _order_id(order: str) -> OrderId:
    return OrderId(*limits.order_parts(order))
