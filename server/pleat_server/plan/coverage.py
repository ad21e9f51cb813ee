"""Nobody's entries are forgotten: which rows together hold which entries of the model.

An *atom* is a set of entries that the same rows hold, written as a bit mask over row indices (bit r: row r holds it).
A plan covers the model as far as it can if every atom that some feasible row holds is held by a chosen row. Only
minimal atoms matter: who holds the rarest entries also holds what every other row of that atom holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from itertools import product
from operator import and_

import numpy as np

from pleat.elastic.selection import Selection, axis_cut, coverage
from pleat.modelmap import ModelMap, TensorSpec
from pleat_server.plan.catalogue import Row


def atoms(model: ModelMap, rows: Sequence[Row]) -> tuple[int, ...]:
    """The minimal atoms of a catalogue, as masks over row indices; found per axis, per entry only under masks."""
    distinct = list({r.selection.digest: r.selection for r in rows}.values())
    place = {s.digest: i for i, s in enumerate(distinct)}
    found: set[int] = set()
    for spec in model.tensors:
        found |= _tensor_atoms(model, distinct, spec)
    minimal = _minimal(found - {0})
    spread = [sum(1 << r.index for r in rows if a >> place[r.selection.digest] & 1) for a in minimal]
    return tuple(sorted(spread))


def _tensor_atoms(model: ModelMap, selections: Sequence[Selection], spec: TensorSpec) -> set[int]:
    alive = sum(1 << i for i, s in enumerate(selections) if not (spec.unit and spec.unit in s.dropped))
    if any(spec.name in s.masks for s in selections):
        return _codes([coverage(model, s, spec.name).reshape(-1) for s in selections])
    axes = []
    for place, length in enumerate(spec.shape):
        held = []
        for i, s in enumerate(selections):
            cut = axis_cut(model, s, spec.axes[place]) if alive >> i & 1 else None
            where = np.ones(length, np.bool_)
            if cut is not None:
                where[:] = False
                where[cut] = True
            held.append(where)
        axes.append(_codes(held))
    if reduce(and_, (c for a in axes for c in a), alive):
        axes = [_minimal(codes) for codes in axes]  # some row holds everything: the rarest places of each axis decide
    return {reduce(and_, codes, alive) for codes in product(*axes)}


def _minimal(codes: set[int]) -> set[int]:
    return {a for a in codes if not any(b != a and b & a == b for b in codes)}


def _codes(held: Sequence[np.ndarray[tuple[int, ...], np.dtype[np.bool_]]]) -> set[int]:
    """The distinct columns of stacked booleans, each as a bit mask over its rows."""
    packed = np.unique(np.packbits(np.stack(held), axis=0, bitorder="little"), axis=1)
    return {int.from_bytes(column.tobytes(), "little") for column in packed.T}
