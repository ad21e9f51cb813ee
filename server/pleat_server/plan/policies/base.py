"""The interface of a policy, and reading its settings."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

import msgspec

from pleat.errors import UseError, hint
from pleat_server.plan.situation import Outcome, Situation

State = dict[str, Any]  # plain data: dict, list, str, float, int
Choice = tuple[dict[str, int], State, dict[str, Any]]  # device -> row index, next state, diagnostics for the journal


class Policy(Protocol):
    """`choose` leaves out devices that nothing fits. Neither call changes the state it is given."""

    def begin(self, seed: int) -> State: ...

    def choose(self, state: State, situation: Situation) -> Choice: ...

    def observe(self, state: State, outcome: Outcome) -> State: ...


P = TypeVar("P")


def from_settings(kind: type[P], name: str, settings: Mapping[str, float]) -> P:
    """A policy's frozen dataclass of numbers from a recipe's `plan.settings`. Raises UseError, naming the key."""
    fields = list(getattr(kind, "__dataclass_fields__", {}))
    for key in settings:
        if key not in fields:
            raise UseError(f"plan.settings of policy {name!r}: unknown key {key!r}; {hint(key, fields, 'it has')}")
    try:
        return msgspec.convert(dict(settings), kind, strict=False)
    except msgspec.ValidationError as error:
        raise UseError(f"plan.settings of policy {name!r}: {error}") from None


def draw(seed: int, number: int, device: str, below: int) -> int:
    """A number in 0..below-1 that is a function of its arguments alone."""
    text = f"policy/{seed}/{number}/{device}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "little") % below
