"""Policies: who trains which row. Each is `begin`, `choose`, `observe` over plain, serialisable states; one file each.

A new policy is one class and one row of the table. States are dicts of lists, strings and numbers, so that the
checkpoint needs no code of theirs; randomness is a function of (seed, round, device name).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pleat.errors import named
from pleat_server.plan.policies.base import Choice, Policy, State
from pleat_server.plan.policies.ducb import Ducb
from pleat_server.plan.policies.fixed import Fixed
from pleat_server.plan.policies.lookup import Lookup
from pleat_server.plan.policies.sweep import Sweep

__all__ = ["POLICIES", "Choice", "Policy", "State", "policy_of"]

POLICIES: dict[str, Callable[[Mapping[str, float]], Policy]] = {
    "sweep": Sweep.of,
    "ducb": Ducb.of,
    "lookup": Lookup.of,
    "fixed": Fixed.of,
}


def policy_of(name: str, settings: Mapping[str, float]) -> Policy:
    """The policy `name` with `settings`. Raises UseError for an unknown name or setting, with the nearest one."""
    return named("policy", name, POLICIES)(settings)
