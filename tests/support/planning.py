"""Hand-made rows, tables and situations for tests of the planner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pleat.elastic.choosers import Rung
from pleat.elastic.selection import WHOLE
from pleat.exchange.report import Budgets, Profile
from pleat.recipes.recipe import Recipe, Training
from pleat_server.plan.catalogue import Row
from pleat_server.plan.cost import CostFit
from pleat_server.plan.devices import Table
from pleat_server.plan.situation import Situation

MIB = 1 << 20
RECIPE = Recipe(training=Training(epochs=2, batch=32))


def row(index: int, density: float, *, keep: float = 1.0, bits: int = 32, up: int | None = None) -> Row:
    """A row of which everything is in proportion to its density; 100 MMACs and 100 MiB at density 1."""
    return Row(
        index=index,
        rung=Rung(density),
        density=density,
        keep=keep,
        bits=bits,
        selection=WHOLE,
        nested=(),
        params=round(1e6 * density),
        macs=1e8 * density,
        own_macs=1e8 * density,
        passes=1.0,
        up="raw",
        down="raw",
        up_bytes=round(4e6 * density * keep) if up is None else up,
        down_bytes=round(4e6 * density),
        memory_bytes=round(100 * MIB * density),
    )


def ladder(*densities: float) -> tuple[Row, ...]:
    return tuple(row(i, d) for i, d in enumerate(densities))


def table(*names: str, budgets: Budgets | None = None, memory_bytes: int | None = None) -> Table:
    """Devices of 320 samples that were timed: 0.1 s a GMAC, no overhead, 200 MiB when empty."""
    out = Table()
    for name in names:
        out = out.join(
            name, name.encode().hex(), Profile(samples=320, memory_bytes=memory_bytes, budgets=budgets or Budgets())
        )
        timed = replace(out[name], cost=CostFit.guess((0.0, 0.1)), base_bytes=200 * MIB)
        out = Table({**out.devices, name: timed})
    return out


def situation(
    rows: tuple[Row, ...],
    times: Sequence[Sequence[float]],
    *,
    values: Sequence[float] | None = None,
    feasible: Sequence[Sequence[bool]] | None = None,
    atoms: tuple[int, ...] = (),
    number: int = 1,
    seed: int = 0,
) -> Situation:
    seconds = np.array(times, np.float64)
    names = tuple("abcdefghijklmnopqrstuvwxyz"[: len(seconds)])
    allowed = np.ones(seconds.shape, np.bool_) if feasible is None else np.array(feasible, np.bool_)
    worth = np.ones(len(seconds)) if values is None else np.array(values, np.float64)
    return Situation(number, seed, names, allowed, seconds, worth, rows, atoms)
