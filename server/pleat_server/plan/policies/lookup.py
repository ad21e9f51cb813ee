"""lookup: the best row that fits, from a static table, as eLF reads its budgets; it learns nothing.

Where rows were scored on proxy samples, the best is the most accurate. Rows that so few samples cannot tell from it,
within one standard error, count as equal: of them the largest is taken, as where no row was scored; by MACs, then
parameters, keep and bits. (Of equal rows the one of the lowest loss, tried instead, gave devices of any budget small
sizes.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pleat_server.plan.catalogue import Row, Worth
from pleat_server.plan.policies.base import Choice, State, from_settings
from pleat_server.plan.situation import Outcome, Situation


def by_size(rows: tuple[Row, ...]) -> list[int]:
    """Row indices, largest first."""
    return sorted(range(len(rows)), key=lambda r: (-rows[r].macs, -rows[r].params, -rows[r].keep, -rows[r].bits, r))


def alike(worths: list[Worth], feasible: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """[device, row]: the feasible rows that cannot be told from the device's most accurate one."""
    accuracy, n = np.array([w.accuracy for w in worths]), worths[0].samples
    top = np.where(feasible, accuracy, 0.0).max(axis=1, keepdims=True)
    share = (top * n + 1) / (n + 2)  # smoothed: that all of a few samples are right is not certain either
    out: NDArray[np.bool_] = feasible & (accuracy >= top - np.sqrt(share * (1 - share) / n))
    return out


@dataclass(frozen=True)
class Lookup:
    @staticmethod
    def of(settings: Mapping[str, float]) -> Lookup:
        return from_settings(Lookup, "lookup", settings)

    def begin(self, seed: int) -> State:
        return {}

    def choose(self, state: State, situation: Situation) -> Choice:
        order = by_size(situation.rows)
        good, worths = situation.feasible[:, order], [situation.rows[r].worth for r in order]
        scored = [w for w in worths if w is not None]
        if len(scored) == len(worths):
            good = alike(scored, good)
        best = np.argmax(good, axis=1)
        some = np.asarray(situation.feasible.any(axis=1))
        plan = {d: order[best[i]] for i, d in enumerate(situation.devices) if some[i]}
        return plan, state, {"policy": "lookup"}

    def observe(self, state: State, outcome: Outcome) -> State:
        return state
