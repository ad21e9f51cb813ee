"""fixed: the row each device is told to train, by settings; with the same seed every carrier yields the same model.

Settings map device names (or patterns such as "pi-*") to row indices; `row` is for all others, by default 0. Where the
row does not fit, the largest smaller one that does is taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from pleat.errors import UseError
from pleat_server.plan.policies.base import Choice, State
from pleat_server.plan.policies.lookup import by_size
from pleat_server.plan.situation import Outcome, Situation


@dataclass(frozen=True)
class Fixed:
    rows: tuple[tuple[str, int], ...] = ()  # (pattern, row index)
    row: int = 0

    @staticmethod
    def of(settings: Mapping[str, float]) -> Fixed:
        for key, value in settings.items():
            if value != int(value) or value < 0:
                raise UseError(f"plan.settings of policy 'fixed': {key!r} must be a row index from 0, got {value:g}")
        named = tuple((k, int(v)) for k, v in settings.items() if k != "row")
        return Fixed(named, int(settings.get("row", 0)))

    def begin(self, seed: int) -> State:
        return {}

    def choose(self, state: State, situation: Situation) -> Choice:
        order = by_size(situation.rows)
        plan = {}
        for place, device in enumerate(situation.devices):
            wanted = self._wanted(device)
            if wanted >= len(order):
                raise UseError(
                    f"plan.settings of policy 'fixed': row {wanted} for {device}; the catalogue has rows "
                    f"0..{len(order) - 1}"
                )
            smaller = order[order.index(wanted) :]
            row = next((r for r in smaller if situation.feasible[place, r]), None)
            if row is not None:
                plan[device] = row
        return plan, state, {"policy": "fixed"}

    def _wanted(self, device: str) -> int:
        exact = [row for pattern, row in self.rows if pattern == device]
        alike = [row for pattern, row in self.rows if fnmatchcase(device, pattern)]
        return (exact or alike or [self.row])[0]

    def observe(self, state: State, outcome: Outcome) -> State:
        return state
