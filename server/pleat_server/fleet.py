"""The fleet as the loop sees it: the device table, the policy, and the timing of newcomers, behind one door.

Nothing here decides anything itself: budgets filter, the policy chooses, the cost fits learn. What must survive lives
in `State`; here is only what a restart may forget (who was asked for a timing and when) and the history for people.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from pleat.elastic.selection import Selection
from pleat.exchange.order import Kind, Order, OrderId
from pleat.exchange.report import Outcome, Profile, Report
from pleat.exchange.wire import report_from_bytes
from pleat.nets.arguments import classes_of, input_shape_of
from pleat_server.carrier import Event, Joined, Left, Pulse, Reported
from pleat_server.folding import Folded
from pleat_server.keep.history import History
from pleat_server.keep.spool import Spool
from pleat_server.plan.budgets import needs
from pleat_server.plan.catalogue import Row
from pleat_server.plan.coverage import atoms
from pleat_server.plan.devices import Table
from pleat_server.plan.policies import policy_of
from pleat_server.plan.situation import Outcome as RoundOutcome
from pleat_server.plan.situation import Result, survey
from pleat_server.round import Decisions, Setup, seed_of, work_of
from pleat_server.state import State

TIMED_STEPS = 3
RANKS = 1 << 20
DRAWS = 32  # cohorts drawn for a round before it waits for other devices
PATIENCE_S = 60.0  # how long a first plan waits for a newcomer's timing


class Fleet:
    """One run's devices. Methods that take a `State` return the next one."""

    def __init__(self, setup: Setup, history: History) -> None:
        plan = setup.recipe.plan
        self._policy = policy_of(plan.policy, plan.settings)
        self._atoms = atoms(setup.model, setup.rows)
        self._history = history
        self._asked: dict[str, tuple[Order, float]] = {}

    def close(self) -> None:
        self._history.close()

    def heard(self, state: State, event: Event) -> State:
        """The table after an event of the carrier."""
        table = state.table
        if isinstance(event, Joined):
            table = table.join(event.device, event.identity.hex(), event.profile)
        elif isinstance(event, Left):
            self._asked.pop(event.device, None)
            table = table.leave(event.device)
        elif isinstance(event, Pulse):
            table = table.pulse(event.device, event.heartbeat)
        return state if table is state.table else replace(state, table=table)

    def roll_call(self, state: State, here: Iterable[Joined]) -> State:
        """The table when a sitting begins: whoever is connected now is here, everyone else is away."""
        table = state.table
        for name in table.devices:
            table = table.leave(name)
        state = replace(state, table=table)
        for joined in here:
            state = self.heard(state, joined)
        return state

    def unmeasured(self, setup: Setup, state: State, here: list[str], now: float) -> list[Order]:
        """MEASURE orders for connected devices that were never timed and have not been asked."""
        if not setup.recipe.plan.timed:
            return []
        new = [d for d in here if d in state.table and state.table[d].cost is None and d not in self._asked]
        fresh = [d for d in new if not stranger(setup, d, state.table[d].profile)]
        orders = [self._measure_order(setup, state, device) for device in fresh]
        self._asked |= {order.device: (order, now) for order in orders}
        return orders

    def measuring(self, here: list[str], now: float) -> list[str]:
        """Who was asked and may still answer soon."""
        return [d for d in here if d in self._asked and now - self._asked[d][1] < PATIENCE_S]

    def _measure_order(self, setup: Setup, state: State, device: str) -> Order:
        rows = _timed(setup, state, device)
        sizes = tuple(Selection(r.selection.kept, r.selection.dropped) for r in rows)  # a mask changes no timing
        return Order(
            id=OrderId(state.run, 0, self._rank(device)),
            device=device,
            kind=Kind.MEASURE,
            net=setup.net,
            selection=sizes[-1],
            nested=sizes,
            work=replace(work_of(setup.recipe), steps=TIMED_STEPS),
            seed=seed_of(state.seed, "measure", device),
            memory_bytes=rows[-1].memory_bytes,
        )

    def _rank(self, device: str) -> int:
        """A rank for a timing that stays the same over restarts: 20 bits of the name, moved on where they are taken."""
        taken = {order.id.rank for name, (order, _) in self._asked.items() if name != device}
        rank = zlib.crc32(device.encode()) % RANKS
        while rank in taken:
            rank = (rank + 1) % RANKS
        return rank

    def measured(self, state: State, setup: Setup, event: Reported, spool: Spool) -> State:
        """The table after a timing; a refusal or failure leaves the device to the fleet's median."""
        report = report_from_bytes(spool.read(event.order_id))
        spool.discard(event.order_id)
        asked = self._asked.get(event.device)
        if asked is None or event.device not in state.table:
            return state
        rows = _timed(setup, state, event.device)
        self._asked[event.device] = (asked[0], -PATIENCE_S)
        if report.outcome is not Outcome.DONE or not report.measured:
            return state
        sizes = list(zip(rows, report.measured, strict=False))
        return replace(state, table=state.table.measured(event.device, sizes, setup.recipe.training.batch))

    def draw(self, setup: Setup, state: State, number: int, here: list[str]) -> Decisions:
        """A cohort of those connected, and who of it trains what. Where budgets leave a drawn cohort nothing to do, it
        is drawn anew, DRAWS times at most; without an end the same draw would be waited for."""
        for attempt in range(DRAWS):
            decisions = self.decide(setup, state, number, self.cohort(setup, state, number, here, attempt))
            if decisions.rows or setup.recipe.server.cohort >= 1:
                break
        return decisions

    def cohort(self, setup: Setup, state: State, number: int, here: list[str], attempt: int = 0) -> list[str]:
        """The devices drawn for a round: a function of seed, round, attempt and who is connected."""
        share = setup.recipe.server.cohort
        if share >= 1:
            return here
        rng = np.random.Generator(
            np.random.PCG64(seed_of(state.seed, "cohort", number, *([attempt] if attempt else [])))
        )
        size = max(1, round(share * len(here)))
        return sorted(here[i] for i in rng.permutation(len(here))[:size])

    def decide(self, setup: Setup, state: State, number: int, cohort: list[str]) -> Decisions:
        """Budgets filter, the policy chooses among what is left."""
        odd = {d: stranger(setup, d, state.table[d].profile) for d in cohort if d in state.table}
        known = [d for d, reason in odd.items() if not reason]
        seed = seed_of(state.seed, "policy", number)
        situation, idle = survey(state.table, known, setup.rows, setup.recipe, number, seed, self._atoms)
        before = self._policy.begin(seed_of(state.seed, "policy")) if state.policy is None else state.policy
        chosen, after, diagnostics = self._policy.choose(before, situation)
        place = {name: i for i, name in enumerate(situation.devices)}
        predicted = {d: float(situation.times[place[d], r]) for d, r in chosen.items()}
        idle = {**idle, **{d: reason for d, reason in odd.items() if reason}}
        return Decisions(number, dict(chosen), idle, predicted, after, diagnostics)

    def learn(
        self,
        setup: Setup,
        state: State,
        decisions: Decisions,
        folded: Folded,
        loss: float | None,
        wall_s: float | None = None,
    ) -> State:
        """What the round taught: cost fits, caps, data values, the policy's rewards; and the history for people."""
        table = state.table.idled(decisions.idle, [*decisions.rows, *decisions.idle])
        training, results = setup.recipe.training, {}
        for order, report in (*folded.accepted, *folded.empty):
            row, name = setup.rows[decisions.rows[order.device]], order.device
            if name not in table:
                continue
            if report.outcome is Outcome.DONE:
                table = table.observed(
                    name,
                    row,
                    report.seconds,
                    samples=report.samples,
                    epochs=training.epochs,
                    batch=training.batch,
                    up_bytes=row.up_bytes,
                    down_bytes=row.down_bytes,
                    peak_bytes=report.peak_bytes,
                    value=folded.values.get(name),
                    throttled=_throttled(report),
                )
                results[name] = Result(row.index, _duration(report), folded.values.get(name, 0.0))
            elif report.outcome is Outcome.REFUSED and report.reason.startswith("does not fit"):
                table = table.refused(name, row, decisions.round)
            elif report.outcome is Outcome.KILLED:
                table = table.killed(name, row, decisions.round)
        outcome = RoundOutcome(decisions.round, results, state.loss, loss, wall_s)
        policy = self._policy.observe(decisions.policy, outcome)
        self.remember(setup, table, decisions.rows)
        return replace(state, table=table, policy=policy, loss=loss)

    def remember(self, setup: Setup, table: Table, names: Iterable[str]) -> None:
        """Write these devices into the history for people."""
        self._history.upsert_all([history_row(setup, table, name) for name in names if name in table])


def stranger(setup: Setup, name: str, profile: Profile) -> str:
    """Why a device's data cannot train the model, as far as its profile tells; "" where they can."""
    shape, classes = input_shape_of(setup.net), classes_of(setup.net)
    if profile.input_shape and tuple(profile.input_shape) != shape:
        wrong = f"its samples have shape {tuple(profile.input_shape)}, the model takes {shape}"
    elif profile.classes > classes:
        wrong = f"its labels go up to {profile.classes - 1}, the model has classes 0 to {classes - 1}"
    else:
        return ""
    return f"idle: the data of {name} do not fit: {wrong}; start it with another --data, or serve another --model"


def history_row(setup: Setup, table: Table, name: str) -> dict[str, Any]:
    """One device as `pleat devices` shows it; plain facts."""
    plain: dict[str, Any] = table.to_plain()["devices"][name]
    plain["submodels"] = [setup.rows[i].rung.label for i in plain.pop("rows")]
    return plain


def _timed(setup: Setup, state: State, device: str) -> list[Row]:
    """Two or three sizes to time, smallest first: the smallest, middle and largest that the memory allows."""
    distinct = list({r.selection.digest: r for r in setup.rows}.values())
    n = needs([state.table[device]], distinct, setup.recipe)
    fitting = [r for r, m in zip(distinct, n.memory[0] <= n.allowed["memory"][0], strict=True) if m]
    rows = sorted(fitting or [min(distinct, key=lambda r: r.memory_bytes)], key=lambda r: r.macs)
    return list({r.index: r for r in (rows[0], rows[len(rows) // 2], rows[-1])}.values())


def _throttled(report: Report) -> bool | None:
    return bool(report.sensors["throttled"]) if "throttled" in report.sensors else None


def _duration(report: Report) -> float:
    s = report.seconds
    return s.down + s.build + s.train + s.encode + s.up
