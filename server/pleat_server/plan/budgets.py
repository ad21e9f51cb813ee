"""Hard budgets: which rows a device may be given, and if none, what came nearest. Fails closed.

What cannot be predicted does not fit a budget that was set: a comparison with an unknown (NaN) is false. A row fits
the memory if the empty trainer plus 1.15 times what the row adds stays within the limit; seconds are compute and link.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pleat.recipes.recipe import Recipe
from pleat_server.plan.bandwidth import UNKNOWN_RATE
from pleat_server.plan.catalogue import Row
from pleat_server.plan.cost import SHORTEST_S, UNKNOWN
from pleat_server.plan.devices import Device

MARGIN = 1.15  # on predicted memory above the empty trainer

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Needs:
    """[device, row] arrays of what is needed, and [device] arrays of what is allowed (inf: no limit)."""

    memory: Floats
    added: Floats  # [row] memory above the empty trainer
    seconds: Floats  # predicted, with a guess where nothing was measured
    measured: Bools  # [device] whether the seconds rest on a measurement
    up: Floats  # [row]
    down: Floats  # [row]
    allowed: dict[str, Floats]


def needs(devices: Sequence[Device], rows: Sequence[Row], recipe: Recipe, number: int = 0) -> Needs:
    """What every device would need for every row in round `number`."""
    epochs, batch = recipe.training.epochs, recipe.training.batch
    added = np.array([r.memory_bytes for r in rows], np.float64)
    up, down = np.array([(r.up_bytes + r.beside_up, r.down_bytes + r.beside_down) for r in rows], np.float64).T
    samples = np.array([max(1, d.profile.samples) for d in devices], np.float64)
    passes = epochs * np.ceil(samples / batch)[:, None] * np.array([r.passes for r in rows])
    gmacs = (epochs * samples / 1e9)[:, None] * np.array([r.macs for r in rows])
    theta = _thetas(devices)
    compute = np.maximum(SHORTEST_S, theta[:, :1] * passes + theta[:, 1:] * gmacs)
    rates = np.array([(d.link.up.planned or UNKNOWN_RATE, d.link.down.planned or UNKNOWN_RATE) for d in devices])
    rates = rates.reshape(-1, 2)
    rtt = np.array([2 * d.link.rtt for d in devices], np.float64)[:, None]
    budgets = [d.budgets for d in devices]
    return Needs(
        memory=np.array([d.empty_bytes for d in devices], np.float64)[:, None] + MARGIN * added,
        added=added,
        seconds=compute + up / rates[:, :1] + down / rates[:, 1:] + rtt,
        measured=np.array([d.cost is not None for d in devices], np.bool_),
        up=up,
        down=down,
        allowed={
            "memory": np.array([d.memory_limit for d in devices], np.float64),
            "cap": np.array([d.cap(number) for d in devices], np.float64),
            "seconds": _limits([b.seconds for b in budgets]),
            "up": _limits([b.upload_bytes for b in budgets]),
            "down": _limits([b.download_bytes for b in budgets]),
        },
    )


def _thetas(devices: Sequence[Device]) -> Floats:
    """Cost coefficients [device, 2]; a device nobody timed is taken to be the fleet's median."""
    known = [d.cost.theta for d in devices if d.cost is not None]
    middle = tuple(np.median(np.array(known), axis=0)) if known else UNKNOWN
    return np.array([middle if d.cost is None else d.cost.theta for d in devices], np.float64).reshape(-1, 2)


def _limits(values: Sequence[float | None]) -> Floats:
    return np.array([math.inf if v is None else v for v in values], np.float64)


def ratios(n: Needs) -> dict[str, Floats]:
    """needed / allowed as [device, row] per budget; at most 1 fits, NaN is unknown. A cap must be undercut strictly."""
    with np.errstate(divide="ignore", invalid="ignore"):
        seconds = np.where(n.measured[:, None] | np.isinf(n.allowed["seconds"])[:, None], n.seconds, np.nan)
        return {
            "memory": n.memory / n.allowed["memory"][:, None],
            "cap": (n.added + 1) / n.allowed["cap"][:, None],
            "seconds": seconds / n.allowed["seconds"][:, None],
            "up": n.up / n.allowed["up"][:, None],
            "down": n.down / n.allowed["down"][:, None],
        }


def fits(n: Needs) -> Bools:
    """[device, row]: whether every budget holds."""
    out = np.ones(n.seconds.shape, np.bool_)
    for ratio in ratios(n).values():
        out &= ratio <= 1.0
    return out


def nearest_miss(n: Needs, place: int, rows: Sequence[Row], name: str) -> str:
    """Why device number `place` can be given nothing, by the row that came nearest."""
    over = {key: ratio[place] for key, ratio in ratios(n).items()}
    worst = np.max(np.where(np.isnan(np.stack(list(over.values()))), np.inf, np.stack(list(over.values()))), axis=0)
    unknown_only = np.array([all(not o[r] > 1 for o in over.values()) for r in range(len(rows))])
    row = int(np.argmin(np.where(unknown_only, 1.0, worst)))
    told = [_miss(key, n, place, row) for key, ratio in over.items() if not ratio[row] <= 1.0]
    r = rows[row]
    which = f"size {r.rung.label}" + (f" keep {r.keep:g}" if r.keep != 1 else "")
    return f"idle: nothing fits {name}; nearest is {which}, which needs {' and '.join(told)}"


def _miss(key: str, n: Needs, place: int, row: int) -> str:
    limit = float(n.allowed[key][place])
    if key == "memory":
        return f"{_bytes(float(n.memory[place, row]))} of memory, limit {_bytes(limit)} (raise --memory)"
    if key == "cap":
        much = f"{_bytes(float(n.added[row]))} above the empty trainer, where {_bytes(limit)} were too much lately"
        return f"{much} (raise --memory, or stop what else runs there)"
    if key == "seconds" and not n.measured[place]:
        return f"a timing to hold against the budget of {limit:g} s, and there is none yet (it is timed when it joins)"
    if key == "seconds":
        return f"{float(n.seconds[place, row]):.3g} s, budget {limit:g} s (raise --seconds)"
    needed, flag = (n.up[row], "--upload") if key == "up" else (n.down[row], "--download")
    return f"{_bytes(float(needed))} of {flag[2:]}, budget {_bytes(limit)} (raise {flag})"


def _bytes(n: float) -> str:
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if n >= size:
            return f"{n / size:.3g} {unit}" if n / size < 100 else f"{n / size:.0f} {unit}"
    return f"{n:.0f} bytes"


def feasible(device: Device, rows: Sequence[Row], recipe: Recipe, number: int = 0) -> tuple[tuple[bool, ...], str]:
    """Which rows fit one device in round `number`; and where none does, the nearest miss in words."""
    n = needs([device], rows, recipe, number)
    good = fits(n)[0]
    return tuple(bool(g) for g in good), "" if good.any() else nearest_miss(n, 0, rows, device.name)
