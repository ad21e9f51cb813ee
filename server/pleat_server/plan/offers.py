"""The lookup table: what each size on offer holds, costs and was worth on proxy samples, and which sizes are worth
their cost. Pure.

A row stands on the Pareto front if no other row costs at most as much in everything, is at least as accurate, and is
better in one of these. Rows that tie in all of it stand there together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pleat.elastic.selection import Selection
from pleat_server.plan.catalogue import Row, Worth

COSTS = ("up_bytes", "down_bytes", "macs", "memory_bytes")
Line = dict[str, Any]


def front(costs: NDArray[np.float64], gains: NDArray[np.float64]) -> NDArray[np.bool_]:
    """[row] from [row, cost] and [row]: which rows no other one beats."""
    no_dearer = (costs[:, None] <= costs[None]).all(axis=2) & (gains[:, None] >= gains[None])
    better = (costs[:, None] < costs[None]).any(axis=2) | (gains[:, None] > gains[None])
    beaten: NDArray[np.bool_] = np.any(no_dearer & better, axis=0)
    return np.logical_not(beaten)


def lines(rows: Sequence[Row], worths: Mapping[Selection, Worth]) -> list[Line]:
    """One line a row, in the catalogue's order. `macs` are those of a training pass of one sample, bytes those of a
    round, memory what training holds above the idle trainer."""
    costs = np.array([[getattr(r, c) for c in COSTS] for r in rows], np.float64).reshape(-1, len(COSTS))
    best = front(costs, np.array([worths[r.selection].accuracy for r in rows]))
    return [
        {
            "row": r.index,
            "size": r.rung.label,
            "rates": list(r.rung),
            "keep": r.keep,
            "bits": r.bits,
            "params": r.params,
            **{c: getattr(r, c) for c in COSTS},
            **asdict(worths[r.selection]),
            "front": bool(b),
        }
        for r, b in zip(rows, best, strict=True)
    ]


def laid_on(rows: Sequence[Row], table: Sequence[Line]) -> tuple[Row, ...]:
    """The rows with what the table says of their worth; as they are where the table is of other rows."""
    known = {(tuple(e["rates"]), e["keep"], e["bits"]): e for e in table}
    keys = [(tuple(r.rung), r.keep, r.bits) for r in rows]
    if any(key not in known for key in keys):
        return tuple(rows)
    worths = [Worth(*(known[key][f] for f in ("accuracy", "loss", "samples"))) for key in keys]
    return tuple(replace(row, worth=worth) for row, worth in zip(rows, worths, strict=True))
