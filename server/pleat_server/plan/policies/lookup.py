"""lookup: the largest row that fits, by MACs, then keep, then bits. A static table, as eLF reads its budgets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pleat_server.plan.catalogue import Row
from pleat_server.plan.policies.base import Choice, State, from_settings
from pleat_server.plan.situation import Outcome, Situation


def by_size(rows: tuple[Row, ...]) -> list[int]:
    """Row indices, largest first."""
    return sorted(range(len(rows)), key=lambda r: (-rows[r].macs, -rows[r].params, -rows[r].keep, -rows[r].bits, r))


@dataclass(frozen=True)
class Lookup:
    @staticmethod
    def of(settings: Mapping[str, float]) -> Lookup:
        return from_settings(Lookup, "lookup", settings)

    def begin(self, seed: int) -> State:
        return {}

    def choose(self, state: State, situation: Situation) -> Choice:
        order = by_size(situation.rows)
        largest = np.argmax(situation.feasible[:, order], axis=1)
        some = np.asarray(situation.feasible.any(axis=1))
        plan = {d: order[largest[i]] for i, d in enumerate(situation.devices) if some[i]}
        return plan, state, {"policy": "lookup"}

    def observe(self, state: State, outcome: Outcome) -> State:
        return state
