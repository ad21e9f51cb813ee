"""ducb: the discounted upper confidence bound on the pruning rate, per device, as the notes write it.

Arms are the rows that fit. With discount L, in round k, for arm j of a device, over the rounds s < k it played:

    N_k(j) = sum_s L^(k-s) 1[j_s = j]           R_k(j) = sum_s L^(k-s) R_s 1[j_s = j] / N_k(j)
    c_k(j) = sqrt(2 ln(sum_j N_k(j)) / N_k(j))  play argmax R_k(j) + c_k(j)
    R_s = dvalue_s / |T_s - mean of T_s over the devices|,  dvalue_s = share of data value x max(0, drop of the loss)

Three things are added, since the formulas leave them open. Every feasible arm is played once first, highest pruning
rate (smallest submodel) first; one whose N fell below 1e-3 counts as unplayed. The logarithm's argument is at least
1.0001. The division is by at least `guard` times the mean time. Ties are broken by the seed. The rewards are as raw as
the notes leave them: policy.md shows what that costs, and `sweep` is the default.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pleat.errors import UseError
from pleat_server.plan.catalogue import Row
from pleat_server.plan.policies.base import Choice, State, draw, from_settings
from pleat_server.plan.situation import Outcome, Situation

UNPLAYED = 1e-3
LEAST_TOTAL = 1.0001

Arms = dict[str, list[float]]  # row index (as text, for JSON) -> [N, S], S the discounted sum of rewards


@dataclass(frozen=True)
class Ducb:
    discount: float = 0.98
    guard: float = 1e-3

    @staticmethod
    def of(settings: Mapping[str, float]) -> Ducb:
        policy = from_settings(Ducb, "ducb", settings)
        if not 0 < policy.discount <= 1 or not policy.guard > 0:
            raise UseError(
                "plan.settings of policy 'ducb': discount must be in (0, 1] and guard above 0, "
                f"got {policy.discount:g} and {policy.guard:g}"
            )
        return policy

    def begin(self, seed: int) -> State:
        return {"arms": {}, "rewards": {}}

    def choose(self, state: State, situation: Situation) -> Choice:
        plan: dict[str, int] = {}
        told: dict[str, Any] = {}
        for place, device in enumerate(situation.devices):
            offered = [r for r in range(len(situation.rows)) if situation.feasible[place, r]]
            if not offered:
                continue
            table = _table(state["arms"].get(device, {}), offered)
            plan[device] = _best(table, situation, device)
            told[device] = {
                "arms": offered,
                "rates": [1 - situation.rows[r].density for r in offered],
                "counts": [table[r].count for r in offered],
                "means": [table[r].mean for r in offered],
                "bounds": [table[r].bound for r in offered],
                "chosen": plan[device],
                "reward": state["rewards"].get(device),
            }
        return plan, state, {"policy": "ducb", "devices": told}

    def observe(self, state: State, outcome: Outcome) -> State:
        rewards = self.rewards(outcome)
        arms: dict[str, Arms] = {}
        for device in sorted({*state["arms"], *rewards}):
            table = {row: list(pair) for row, pair in state["arms"].get(device, {}).items()}
            if device in rewards:
                pair = table.setdefault(str(outcome.devices[device].row), [0.0, 0.0])
                pair[0] += 1.0
                pair[1] += rewards[device]
            arms[device] = {row: [self.discount * n, self.discount * s] for row, (n, s) in table.items()}
        return {"arms": arms, "rewards": {**state["rewards"], **rewards}}

    def rewards(self, outcome: Outcome) -> dict[str, float]:
        """R of every device that reported; an unknown loss counts as no drop."""
        results = outcome.devices
        if not results:
            return {}
        known = outcome.before is not None and outcome.after is not None
        drop = max(0.0, outcome.before - outcome.after) if known else 0.0  # type: ignore[operator]
        total = sum(max(0.0, r.value) for r in results.values())
        mean = sum(r.seconds for r in results.values()) / len(results)
        least = max(self.guard * mean, 1e-12)
        share = {d: max(0.0, r.value) / total if total > 0 else 1 / len(results) for d, r in results.items()}
        return {d: share[d] * drop / max(abs(r.seconds - mean), least) for d, r in results.items()}


@dataclass(frozen=True)
class _Arm:
    """None where the arm is unplayed."""

    count: float
    mean: float | None
    bound: float | None


def _table(arms: Arms, offered: list[int]) -> dict[int, _Arm]:
    pairs = {r: arms.get(str(r), [0.0, 0.0]) for r in offered}
    total = max(sum(n for n, _ in pairs.values()), LEAST_TOTAL)
    table = {}
    for row, (n, s) in pairs.items():
        if n < UNPLAYED:
            table[row] = _Arm(n, None, None)
        else:
            table[row] = _Arm(n, s / n, s / n + math.sqrt(2 * math.log(total) / n))
    return table


def _best(table: dict[int, _Arm], situation: Situation, device: str) -> int:
    unplayed = [r for r, arm in table.items() if arm.bound is None]
    if unplayed:
        return min(unplayed, key=lambda r: _smallest_first(situation.rows[r]))
    top = max(arm.bound for arm in table.values() if arm.bound is not None)
    ties = [r for r, arm in table.items() if arm.bound == top]
    return ties[draw(situation.seed, situation.round, device, len(ties))]


def _smallest_first(row: Row) -> tuple[float, float, float, int]:
    return (row.density, row.macs, row.up_bytes, row.index)
