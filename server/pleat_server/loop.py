"""The loop: rounds, deadlines, resuming. It owns the one State and is the only caller of the keepers.

A round is: decide (or read the decisions that an interrupted sitting wrote) -> orders -> wait for quorum or deadline ->
fold the spool -> close -> checkpoint -> journal -> drop the spool. Each step may be the last one before a crash:
decisions are durable before the first order, reports before their acknowledgement, and the checkpoint carries the
journal line, so that resuming repeats nothing that counted and forgets nothing that was acknowledged. The disk works
while the next round is decided and coded: no order goes out before the checkpoint that it follows from is durable, and
no report is dropped before the checkpoint that contains it is.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from pleat.errors import Fatal
from pleat.exchange.order import NEEDS_FULL, Order, OrderId
from pleat.exchange.report import Report
from pleat.exchange.wire import order_to_parts, report_from_bytes
from pleat_server import round as rounds
from pleat_server.background import Background
from pleat_server.carrier import Carrier, Event, Joined, Rejected, Reported
from pleat_server.closing import advance
from pleat_server.desk import OrderBook
from pleat_server.election import elected
from pleat_server.fleet import Fleet
from pleat_server.folding import Folding
from pleat_server.keep import checkpoint
from pleat_server.keep.run import Keep
from pleat_server.record import Traffics, journal_line, moved, seen
from pleat_server.round import Decisions, Setup
from pleat_server.scores import Evaluator, scores_of
from pleat_server.state import State, to_checkpoint
from pleat_server.statistics import renewed

Watch = Callable[[dict[str, Any]], None]
Rejections = list[dict[str, str]]

FAILED_IN_A_ROW = 3  # rounds without one accepted report after which the run ends with an error
DEADLINE_LEAST_S = 30.0  # however fast the plan thinks a round is, a device gets this long
DEADLINE_FACTOR = 4.0  # times the predicted seconds of the slowest device
NOTICE_EVERY_S = 30.0
SMALL_REPORT = 4096  # bytes; a refusal is smaller, and a larger report need not be read to know it is none


@dataclass
class Loop:
    """`step` is called with the name of each durable step just before it is taken; tests stop the server there."""

    setup: Setup
    fleet: Fleet
    carrier: Carrier
    book: OrderBook
    keep: Keep
    state: State
    evaluate: Evaluator | None = None
    watch: Watch = lambda event: None
    clock: Callable[[], float] = time.monotonic
    step: Callable[[str], None] = lambda name: None
    span_s: tuple[float, float] = (DEADLINE_LEAST_S, math.inf)  # the shortest and the longest deadline of a round
    deadlines: bool = True  # False where devices run one after another, and a deadline would measure this machine
    _before_orders: Background = field(default_factory=lambda: Background(2))  # checkpoint and plan: both durable first
    _some_time: Background = field(default_factory=Background)
    _total: int = 0  # rounds that are to be closed
    _said: dict[str, float] = field(default_factory=dict)
    _idle: dict[str, str] = field(default_factory=dict)

    def run(self, total: int) -> State:
        """Close rounds until `total` are closed. Raises Fatal after FAILED_IN_A_ROW without an accepted report."""
        self._total = total
        self.state = self.fleet.roll_call(self.state, self.carrier.devices().values())
        try:
            self._run(total)
            return self.state
        finally:
            self.settle()

    def settle(self) -> None:
        """Until all that closed rounds began is on disk. Raises what went wrong."""
        try:
            self._before_orders.wait()
        finally:
            self._some_time.wait()

    def _run(self, total: int) -> None:
        while self.state.round < total:
            self.one()
            if self.state.failed_rounds >= FAILED_IN_A_ROW:
                raise Fatal(
                    f"run {self.state.run}: no report was accepted in {FAILED_IN_A_ROW} rounds in a row; the model is "
                    f"unchanged since round {self.state.round - FAILED_IN_A_ROW}. See `pleat devices` and the journal, "
                    f"then type `pleat resume {self.keep.folder}`"
                )

    def one(self) -> None:
        """One round, from decisions to a dropped spool."""
        started, before = self.clock(), self._bytes()
        decisions = self._decisions()
        self.state = elected(self.setup, self.state, decisions, self._ask, self._notice)
        published = rounds.publication(self.setup, self.state)
        asked = rounds.orders(self.setup, published, decisions)
        self._before_orders.wait()
        earlier = self._moved_earlier(asked)
        self.watch({"event": "round_started", "round": decisions.round, "devices": dict(decisions.rows)})
        sent = self.clock()
        folding = Folding(self.setup, asked, self.keep.spool.read)
        rejected = self._collect(decisions, asked, folding)
        wall_s = self.clock() - sent
        self.step("fold")
        ids = self.keep.spool.ids(self.state.run, decisions.round)
        folded = folding.close(published, ids)
        closed = advance(self.setup, replace(published, table=self.state.table), folded)
        closed = renewed(self.setup, closed, decisions, [o.device for o, _ in folded.accepted], self._ask)
        scores = scores_of(self.setup, closed, folded, self.evaluate, self._total)
        closed = self.fleet.learn(self.setup, closed, decisions, folded, scores.get("loss"), wall_s)
        silent = [o for o in asked if o.id not in set(ids)]
        went = moved(self._bytes(), before, earlier)
        line = journal_line(self.setup, decisions, folded, scores, went, rejected, silent)
        self._close(closed, {**line, "seconds": self.clock() - started})

    def _moved_earlier(self, asked: list[Order]) -> Traffics:
        """The reports that lie in the spool before any order of the round is sent, and the orders that they answer."""
        spooled, size = self.keep.spool.has, self.keep.spool.size
        return {o.device: (size(o.id), sum(map(len, order_to_parts(o)))) for o in asked if spooled(o.id)}

    def _close(self, state: State, line: dict[str, Any]) -> None:
        self.step("checkpoint")
        arrays, facts = to_checkpoint(state, self.setup.model)
        self._some_time.wait()  # the last round's; long done
        saved = self._before_orders.start(
            checkpoint.save, self.keep.checkpoints, state.round, arrays, {**facts, "line": line}, False
        )
        self.state = state
        self.book.serve(self.setup.model, state.done)
        self.step("journal")
        self._some_time.start(self._log, saved, line)
        self.step("drop")
        self._some_time.start(self._sweep, saved, state.run, state.round)
        self.watch({"event": "round", **line})

    def _log(self, saved: Future[Path], line: dict[str, Any]) -> None:
        saved.result()
        self.keep.journal.append(line)

    def _sweep(self, saved: Future[Path], run: str, number: int) -> None:
        """Forget what the checkpoint of round `number` contains, if it could be saved."""
        saved.result()
        self.keep.spool.drop(run, number)
        checkpoint.forget(self.keep.checkpoints)

    def _decisions(self) -> Decisions:
        """What an interrupted sitting decided for this round, else a new decision, durable before it is acted on."""
        number = self.state.round + 1
        kept = self.keep.spool.read_plan(self.state.run, number)
        if kept is not None:
            return Decisions.from_plain(msgspec.json.decode(kept))
        while True:
            here = self._gather(number)
            decisions = self.fleet.draw(self.setup, self.state, number, here)
            self._tell_idle(decisions.idle)
            if decisions.rows:
                break
            self._notice(f"round {number}: waiting: none of the {len(here)} devices here can take part", again=True)
            self._pump(1.0)
        self.step("plan")
        plain = msgspec.json.encode(decisions.to_plain())  # `one` waits until it is durable
        self._before_orders.start(self.keep.spool.write_plan, self.state.run, number, plain)
        return decisions

    def _gather(self, number: int) -> list[str]:
        """Wait until enough devices are connected and measured; returns their names in order."""
        least = self.setup.recipe.server.least
        while True:
            self._pump(0.0)
            here = sorted(self.carrier.devices())
            waiting = self._measure(here)
            if len(here) >= least and not waiting:
                return here
            missing = f"measuring {', '.join(waiting)}" if waiting else f"{len(here)} of {least} devices connected"
            self._notice(f"round {number}: waiting: {missing}", again=True)
            self._pump(0.5)

    def _tell_idle(self, idle: Mapping[str, str]) -> None:
        """Tell each device that nothing fits, and why, once for as long as the reason stays."""
        for device, reason in idle.items():
            if self._idle.get(device) != reason:
                self.carrier.notify(device, reason)
                self._notice(reason)
        self._idle = dict(idle)
        self.fleet.remember(self.setup, self.state.table.idled(idle, list(idle)), idle)

    def _notice(self, text: str, again: bool = False) -> None:
        """Say it; what is said `again` and again is said every NOTICE_EVERY_S only."""
        now = self.clock()
        if again and now - self._said.get(text, -NOTICE_EVERY_S) < NOTICE_EVERY_S:
            return
        self._said = {text: now} if again else self._said
        self.watch({"event": "notice", "text": text})

    def _measure(self, here: list[str]) -> list[str]:
        """Ask connected devices that were never timed to time a few steps; who still has to answer, within patience."""
        fresh = self.fleet.unmeasured(self.setup, self.state, here, self.clock())
        self.book.open(fresh)
        for order in fresh:
            self.carrier.send(order)
        return self.fleet.measuring(here, self.clock())

    def _deadline(self, decisions: Decisions) -> float:
        if not self.deadlines:
            return math.inf
        slowest, fixed = max(decisions.predicted_s.values(), default=0.0), self.setup.recipe.server.deadline_s
        return min(self.span_s[1], fixed or max(self.span_s[0], DEADLINE_FACTOR * slowest))

    def _collect(self, decisions: Decisions, asked: list[Order], folding: Folding | None = None) -> Rejections:
        """Send, wait for quorum or deadline, fold what comes. After this nothing more becomes durable for `asked`."""
        here = set(self.keep.spool.ids(self.state.run, decisions.round))
        waiting = {o.id: o for o in asked if o.id not in here}
        enough = len(asked) - max(1, round(self.setup.recipe.server.quorum * len(asked)))
        deadline_s = self._deadline(decisions)
        until, rejected = self.clock() + deadline_s, Rejections()
        self.book.open(asked)
        for order in waiting.values():
            self.carrier.send(order)
        while len(waiting) > enough:
            if self.clock() >= until:
                if len(waiting) < len(asked) or self.carrier.devices().keys() & {o.device for o in waiting.values()}:
                    break
                self._notice("every device of this round is away; waiting for one to come back", again=True)
                until = self.clock() + deadline_s
            for event in self._pump(min(0.5, until - self.clock())):
                if isinstance(event, Joined):
                    for order in [o for o in waiting.values() if o.device == event.device]:
                        self.carrier.send(order)
                elif isinstance(event, Reported) and self._wants_full(event, waiting):
                    waiting[event.order_id] = self._send_full(decisions, event)
                elif isinstance(event, Reported) and event.order_id in waiting:
                    here.add(waiting.pop(event.order_id).id)
                elif isinstance(event, Rejected):
                    if event.order_id is not None:
                        waiting.pop(event.order_id, None)
                    rejected.append({"device": event.device, "reason": event.reason})
            if folding:
                folding.take(here)
        self.book.close(o.id for o in asked)
        for order_id in waiting:
            self.carrier.cancel(order_id)
        return rejected

    def _ask(self, decisions: Decisions, asked: list[Order]) -> dict[OrderId, Report]:
        """What devices answer to orders beside the round's training, as far as they do."""
        self._before_orders.wait()
        self._collect(decisions, asked)
        spool = self.keep.spool
        return {o.id: report_from_bytes(spool.read(o.id)) for o in asked if spool.has(o.id)}

    def _wants_full(self, event: Reported, waiting: Mapping[OrderId, Order]) -> bool:
        """Whether a device lacks the version its order is coded against: after a damaged checkpoint or a lost store."""
        asked = waiting.get(event.order_id)
        if asked is None or not asked.leans or event.nbytes > SMALL_REPORT:
            return False
        return report_from_bytes(self.keep.spool.read(event.order_id)).reason.startswith(NEEDS_FULL)

    def _send_full(self, decisions: Decisions, event: Reported) -> Order:
        """The same order once more, its model coded against nothing; the refusal is forgotten."""
        holdings = {d: h for d, h in self.state.holdings.items() if d != event.device}
        again = rounds.orders(self.setup, replace(self.state, holdings=holdings), decisions)
        order = next(o for o in again if o.id == event.order_id)
        self._notice(f"{event.device} lacks the version it was sent a difference to; sending the whole submodel")
        self.keep.spool.discard(order.id)
        self.book.open([order])
        self.carrier.send(order)
        return order

    def _pump(self, timeout_s: float) -> list[Event]:
        """Events since the last call; the device table learns from each."""
        events = self.carrier.poll(timeout_s)
        for event in events:
            if isinstance(event, Reported) and event.order_id.round == 0:
                self.state = self.fleet.measured(self.state, self.setup, event, self.keep.spool)
                self.book.close([event.order_id])
                continue
            self.state = self.fleet.heard(self.state, event)
            self._tell(event)
        return events

    def _tell(self, event: Event) -> None:
        if isinstance(event, Rejected):
            self._notice(f"{event.device}: {event.reason}")
        else:
            self.watch(seen(event))

    def _bytes(self) -> Traffics:
        return {device: (t.up, t.down) for device, t in self.carrier.traffic().items()}
