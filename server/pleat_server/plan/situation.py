"""What a policy sees of a round, and what it is told afterwards; and the survey that makes the one from the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pleat.recipes.recipe import Recipe
from pleat_server.plan.budgets import fits, nearest_miss, needs
from pleat_server.plan.catalogue import Row
from pleat_server.plan.devices import Table

MUCH_OFF, MUCH_OFF_ROUNDS = 0.3, 10  # a median time error beyond this over so many rounds: predictions are corrected


@dataclass(frozen=True, eq=False)
class Situation:
    """[device, row] arrays follow the order of `devices` and `rows`. `atoms`: see `coverage.py`; empty = no law."""

    round: int
    seed: int
    devices: tuple[str, ...]
    feasible: NDArray[np.bool_]
    times: NDArray[np.float64]  # predicted seconds: compute, up and down
    values: NDArray[np.float64]  # [device] data value
    rows: tuple[Row, ...]
    atoms: tuple[int, ...] = ()


class Result(NamedTuple):
    """What one device did: the row, seconds from order to report, and the data value of its update."""

    row: int
    seconds: float
    value: float


@dataclass(frozen=True)
class Outcome:
    """A closed round. `before`, `after`: the model's loss, None where nothing measures it; `wall`: seconds of the whole
    round, None if unknown. Devices without an accepted report are absent."""

    round: int
    devices: Mapping[str, Result]
    before: float | None = None
    after: float | None = None
    wall: float | None = None


def survey(
    table: Table,
    names: Sequence[str],
    rows: tuple[Row, ...],
    recipe: Recipe,
    number: int,
    seed: int,
    atoms: tuple[int, ...] = (),
) -> tuple[Situation, dict[str, str]]:
    """The situation of round `number` for the devices `names`, and why some of them can be given nothing.

    `atoms` come from `coverage.atoms(model, rows)`, once per catalogue.
    """
    devices = [table[name] for name in sorted(names)]
    n = needs(devices, rows, recipe, number)
    good = fits(n) if recipe.plan.limits else np.ones(n.seconds.shape, np.bool_)
    some = np.asarray(good.any(axis=1))
    idle = {d.name: nearest_miss(n, i, rows, d.name) for i, d in enumerate(devices) if not some[i]}
    bias = np.array([_bias(d.errors) for d in devices])[:, None]
    times = n.seconds * bias if devices else n.seconds
    values = np.array([d.value for d in devices], np.float64)
    situation = Situation(number, seed, tuple(d.name for d in devices), good, times, values, rows, atoms)
    return situation, idle


def _bias(errors: Sequence[float]) -> float:
    """A factor on a device whose predictions were off by more than 30 % for ten rounds; 1 for all others."""
    if len(errors) < MUCH_OFF_ROUNDS:
        return 1.0
    middle = sorted(errors)[len(errors) // 2]
    return float(np.exp(middle)) if abs(middle) > np.log1p(MUCH_OFF) else 1.0
