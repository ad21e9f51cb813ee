"""sweep: value per second under a common deadline, fair to every device and to every entry of the model.

A row's value for a device is its data value times q(row): a prior (1 - a^2 for pruning rate a; less for coarser
codings), corrected by what rows turned out to be worth and kept monotone. The deadline comes from `deadline.py`, under
two constraints: no entry of the model is left without a device while budgets allow it, and no device's mean share over
ten rounds falls below `floor` (or below the most its budgets afford). What one device is owed stretches the deadline
for all, so everyone may use it. Source: policy.md 4.1, "Build"; with fewer than 20 devices no neighbouring rows are
probed, since the experiment there found that the correction gains nothing and each probe costs quality.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pleat.errors import UseError
from pleat_server.plan.catalogue import Row
from pleat_server.plan.policies import deadline as sweeping
from pleat_server.plan.policies.base import Choice, State, draw, from_settings
from pleat_server.plan.situation import Outcome, Situation

WINDOW = 10  # rounds of the coverage floor
PRIOR_COUNT = 2.0  # pseudo-count of a row's prior worth
OVERHEAD_BLEND = 0.3  # of a round's seconds that no device's order explains
LEAST_VALUE = 0.1  # of the mean: a device whose data looks worthless is not planned as if it were

Floats = NDArray[np.float64]


def prior_worth(rows: tuple[Row, ...]) -> Floats:
    """q before anything was learnt. Keeping fewer entries costs little, since what is not sent is sent later."""
    q = [(1 - (1 - r.density) ** 2) * r.keep**0.03 * (1 - 4.0 ** -max(1, r.bits)) for r in rows]
    return np.array(q, np.float64)


@dataclass(frozen=True)
class Sweep:
    floor: float = 0.35  # least mean share of the model over ten rounds; 0 = off
    discount: float = 0.99  # of what is known about rows
    probes: float = 0.05  # share of devices that try a neighbouring row each round
    cover: float = 1.0  # 0 lets a plan forget entries

    @staticmethod
    def of(settings: Mapping[str, float]) -> Sweep:
        policy = from_settings(Sweep, "sweep", settings)
        for key in ("floor", "discount", "probes", "cover"):
            if not 0 <= getattr(policy, key) <= 1:
                raise UseError(
                    f"plan.settings of policy 'sweep': {key} must be in [0, 1], got {getattr(policy, key):g}"
                )
        return policy

    def begin(self, seed: int) -> State:
        return {"worth": {}, "shares": {}, "values": {}, "overhead": 0.0}

    def choose(self, state: State, situation: Situation) -> Choice:
        some = np.asarray(situation.feasible.any(axis=1))
        if not some.any():
            return {}, state, {"policy": "sweep"}
        names = [d for d, s in zip(situation.devices, some, strict=True) if s]
        round_ = _Round(names, situation.times[some], situation.feasible[some], situation.atoms if self.cover else ())
        worth = self._worth(state, situation.rows)
        data = np.maximum(situation.values[some], 0.0)
        data = np.maximum(data, LEAST_VALUE * data.mean()) if data.any() else np.ones_like(data)
        values = data[:, None] * worth
        shares = np.array([r.density for r in situation.rows])
        best = round_.deadline(values, state["overhead"])
        pick = sweeping.under(round_.times, values, round_.feasible, best)
        enough = self._enough(state, round_, shares)
        due = ~enough[np.arange(len(pick)), pick]
        if due.any():
            owed = np.where(enough, round_.times, np.inf).argmin(axis=1)
            best = max(best, float(round_.times[due, owed[due]].max()))
            pick = np.where(due, owed, sweeping.under(round_.times, values, round_.feasible, best))
        pick = sweeping.cover(pick, round_.times, values, round_.feasible, best, round_.atoms)
        pick, probing = self._probe(pick, enough & (round_.times <= best), round_, situation)
        plan = {d: int(r) for d, r in zip(names, pick, strict=True)}
        return (
            plan,
            self._remember(state, plan, shares),
            {
                "policy": "sweep",
                "deadline_s": best,
                "overhead_s": state["overhead"],
                "worth": [float(q) for q in worth],
                "due": [n for n, d in zip(names, due, strict=True) if d],
                "probing": probing,
                "uncovered": sweeping.bare(pick, round_.feasible, round_.atoms),
            },
        )

    def _worth(self, state: State, rows: tuple[Row, ...]) -> Floats:
        """q, with each row's discounted mean of observed over expected value, made monotone in the prior's order."""
        prior = prior_worth(rows)
        seen = [state["worth"].get(str(r.index), [0.0, 0.0]) for r in rows]
        q: Floats = prior * np.array([(PRIOR_COUNT + s) / (PRIOR_COUNT + n) for n, s in seen])
        order = np.argsort(prior, kind="stable")
        q[order] = np.maximum.accumulate(q[order])
        return q

    def _enough(self, state: State, round_: _Round, shares: Floats) -> NDArray[np.bool_]:
        """[device, row]: whether the row keeps the device's mean share over the window at the floor, or at the most
        that its budgets afford now; a device too far behind has its largest rows only."""
        past = [state["shares"].get(name, [])[-(WINDOW - 1) :] for name in round_.names]
        sums, counts = np.array([sum(p) for p in past])[:, None], np.array([len(p) for p in past])[:, None]
        afforded = np.where(round_.feasible, shares, 0.0).max(axis=1, keepdims=True)
        mean = (sums + shares) / (counts + 1)
        reached = np.minimum(np.minimum(self.floor, afforded), (sums + afforded) / (counts + 1))
        enough: NDArray[np.bool_] = round_.feasible & (mean >= reached - 1e-9)
        return enough

    def _probe(
        self, pick: NDArray[np.int64], open_: NDArray[np.bool_], round_: _Round, situation: Situation
    ) -> tuple[NDArray[np.int64], list[str]]:
        """Some devices, drawn by the seed, try the next smaller or larger row of those `open_` to them: within the
        deadline, and enough for the floor."""
        count = int(self.probes * len(pick))
        if not count:
            return pick, []
        seed, number = situation.seed, situation.round
        order = sorted(
            range(len(situation.rows)), key=lambda r: (situation.rows[r].macs, situation.rows[r].up_bytes, r)
        )
        drawn = sorted(range(len(pick)), key=lambda i: draw(seed, number, "probe/" + round_.names[i], 1 << 62))[:count]
        bare, probing = sweeping.bare(pick, round_.feasible, round_.atoms), []
        for i in drawn:
            place = order.index(int(pick[i]))
            near = [order[p] for p in (place - 1, place + 1) if 0 <= p < len(order)]
            near = [r for r in near if open_[i, r]]
            if not near:
                continue
            trial = pick.copy()
            trial[i] = near[draw(seed, number, "side/" + round_.names[i], len(near))]
            if sweeping.bare(trial, round_.feasible, round_.atoms) <= bare:
                pick = trial
                probing.append(round_.names[i])
        return pick, sorted(probing)

    def _remember(self, state: State, plan: dict[str, int], shares: Floats) -> State:
        old = state["shares"]
        added = {d: [*old.get(d, [])[-(WINDOW - 1) :], float(shares[r])] for d, r in plan.items()}
        return {**state, "shares": {**old, **added}}

    def observe(self, state: State, outcome: Outcome) -> State:
        """Learn what rows are worth, against each device's own average, and what a round costs beside its orders."""
        worth = {row: [self.discount * n, self.discount * s] for row, (n, s) in state["worth"].items()}
        values: dict[str, Any] = dict(state["values"])
        for device, result in sorted(outcome.devices.items()):
            seen = max(0.0, result.value)
            usual, count = values.get(device, [0.0, 0])
            if count and usual > 0:
                pair = worth.setdefault(str(result.row), [0.0, 0.0])
                pair[0] += 1.0
                pair[1] += min(2.0, seen / usual)
            blend = max(0.05, 1 / (count + 1))
            values[device] = [usual + blend * (seen - usual), count + 1]
        slowest = max((r.seconds for r in outcome.devices.values()), default=0.0)
        overhead = state["overhead"]
        if outcome.wall is not None and outcome.devices:
            overhead += OVERHEAD_BLEND * (max(0.0, outcome.wall - slowest) - overhead)
        return {**state, "worth": worth, "values": values, "overhead": overhead}


@dataclass(frozen=True, eq=False)
class _Round:
    """The devices that something fits, and the constraint that no entry is forgotten."""

    names: list[str]
    times: Floats
    feasible: NDArray[np.bool_]
    atoms: tuple[int, ...]

    def deadline(self, values: Floats, overhead: float) -> float:
        """Everyone trains something: the deadline is at least the slowest device's fastest row."""
        least = float(np.where(self.feasible, self.times, np.inf).min(axis=1).max())
        least = max(least, sweeping.least_to_cover(self.times, self.feasible, self.atoms))
        return sweeping.best_deadline(self.times, values, self.feasible, overhead, least)
