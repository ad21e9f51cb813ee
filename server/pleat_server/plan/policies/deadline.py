"""The deadline sweep: for one round, the common deadline with the most value per second, and the arms under it.

    for each D among the predicted times: every device takes its most valuable feasible row with time <= D
    score(D) = sum of values / (overhead + D);  keep the best D

Exact for one round (policy.md 4.1) and O(NR log NR): a device's best value under D is a step function of D, so all
candidate sums are one cumulative sum over sorted steps.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Indices = NDArray[np.int64]


def best_deadline(times: Floats, values: Floats, feasible: Bools, overhead: float, least: float) -> float:
    """The deadline >= `least` with the highest score; `times`, `values`, `feasible` are [device, row]."""
    t = np.where(feasible, times, np.inf)
    order = np.argsort(t, axis=1, kind="stable")
    t = np.take_along_axis(t, order, 1)
    v = np.take_along_axis(np.where(feasible, values, 0.0), order, 1)
    best = np.maximum.accumulate(v, axis=1)
    steps = np.diff(best, axis=1, prepend=0.0).ravel()
    ends = t.ravel()
    known = np.isfinite(ends)
    ends, steps = ends[known], steps[known]
    if ends.size == 0:
        return least
    by_time = np.argsort(ends, kind="stable")
    ends, total = ends[by_time], np.cumsum(steps[by_time])
    last = np.append(ends[1:] > ends[:-1], True)  # the sum is complete at the last step of each distinct time
    ends, total = np.maximum(ends[last], least), total[last]
    allowed = np.append(ends[1:] > ends[:-1], True)  # times below `least` count as `least`
    ends, total = ends[allowed], total[allowed]
    return float(ends[int(np.argmax(total / np.maximum(overhead + ends, 1e-12)))])


def under(times: Floats, values: Floats, feasible: Bools, deadline: float) -> Indices:
    """Each device's most valuable feasible row within the deadline, of equals the fastest; -1 where there is none."""
    within = feasible & (times <= deadline)
    v = np.where(within, values, -np.inf)
    top = v.max(axis=1, keepdims=True)
    t = np.where(within & (v == top), times, np.inf)
    return np.where(within.any(axis=1), t.argmin(axis=1), -1)


def least_to_cover(times: Floats, feasible: Bools, atoms: Sequence[int]) -> float:
    """The earliest deadline under which every atom that some feasible row holds can be held by someone."""
    fastest = np.where(feasible, times, np.inf).min(axis=0, initial=np.inf)
    need = 0.0
    for atom in atoms:
        soonest = min((float(t) for r, t in enumerate(fastest) if atom >> r & 1), default=np.inf)
        if np.isfinite(soonest):
            need = max(need, soonest)
    return need


def cover(
    pick: Indices, times: Floats, values: Floats, feasible: Bools, deadline: float, atoms: Sequence[int]
) -> Indices:
    """`pick` with as few and as cheap swaps as a greedy search finds, so that no atom is left that could be held.

    A swap gives one device another row within the deadline that holds the atom and leaves no other atom bare.
    """
    pick = pick.copy()
    for atom in atoms:
        if _held(pick, atom):
            continue
        mine = np.array([bool(atom >> r & 1) for r in range(times.shape[1])])
        loss = np.where(pick >= 0, values[np.arange(len(pick)), pick], 0.0)[:, None] - values
        loss = np.where(feasible & (times <= deadline) & mine, loss, np.inf)
        safe = [a for a in atoms if _held(pick, a)]
        for flat in np.argsort(loss, axis=None, kind="stable"):
            device, row = divmod(int(flat), loss.shape[1])
            if not np.isfinite(loss[device, row]):
                break
            trial = pick.copy()
            trial[device] = row
            if all(_held(trial, a) for a in safe):
                pick = trial
                break
    return pick


def _held(pick: Indices, atom: int) -> bool:
    return any(atom >> int(r) & 1 for r in set(pick.tolist()) if r >= 0)


def bare(pick: Indices, feasible: Bools, atoms: Sequence[int]) -> int:
    """How many atoms are left that a feasible row could have held."""
    possible = feasible.any(axis=0)
    can = [a for a in atoms if any(a >> r & 1 for r in np.flatnonzero(possible).tolist())]
    return sum(not _held(pick, a) for a in can)
