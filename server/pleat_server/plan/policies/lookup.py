"""lookup: the best row that fits, from a static table, as eLF reads its budgets; it learns nothing.

Where rows were scored on proxy samples, the best is the most accurate. Rows that so few samples cannot tell from it,
within one standard error, count as equal: of them the one of the lowest loss is taken. Otherwise the best is the
largest, by MACs, then keep, then bits.
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


def most_accurate(worths: list[Worth], feasible: NDArray[np.bool_]) -> NDArray[np.int64]:
    """[device] from [device, row]: the place of the row to take, where any is feasible; of equal ones the first."""
    accuracy, loss, n = np.array([w.accuracy for w in worths]), np.array([w.loss for w in worths]), worths[0].samples
    top = np.where(feasible, accuracy, 0.0).max(axis=1, keepdims=True)
    share = (top * n + 1) / (n + 2)  # smoothed: that all of a few samples are right is not certain either
    error = np.sqrt(share * (1 - share) / n)
    out: NDArray[np.int64] = np.argmin(np.where(feasible & (accuracy >= top - error), loss, np.inf), axis=1)
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
        feasible, worths = situation.feasible[:, order], [situation.rows[r].worth for r in order]
        scored = [w for w in worths if w is not None]
        best = most_accurate(scored, feasible) if len(scored) == len(worths) else np.argmax(feasible, axis=1)
        some = np.asarray(situation.feasible.any(axis=1))
        plan = {d: order[best[i]] for i, d in enumerate(situation.devices) if some[i]}
        return plan, state, {"policy": "lookup"}

    def observe(self, state: State, outcome: Outcome) -> State:
        return state
