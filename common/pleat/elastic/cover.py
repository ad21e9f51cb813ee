"""Cover: where one update counts, a selection and the rows of some tensors, and the arithmetic of that."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pleat.elastic.place import CHUNK, Cuts, Doubles, Index, Plane, add_number, add_scaled, gather, plane
from pleat.elastic.selection import Selection
from pleat.modelmap import TensorSpec


@dataclass(frozen=True, eq=False)
class Cover:
    """One distinct coverage: a selection, and rows (axis 0, global) outside of which a tensor does not count."""

    selection: Selection
    rows: Mapping[str, Index]

    @property
    def key(self) -> tuple[bytes, ...]:
        return (self.selection.digest, *(n.encode() + b"\0" + r.tobytes() for n, r in sorted(self.rows.items())))

    @property
    def nbytes(self) -> int:
        arrays = [*self.selection.kept.values(), *self.selection.masks.values(), *self.rows.values()]
        return sum(int(a.nbytes) for a in arrays)


def inside(index: Index, spec: TensorSpec, mask: NDArray[np.bool_] | None, rows: Index | None) -> Any:
    """Which global positions count, or None for all."""
    inside = None if mask is None else mask.reshape(-1)[index]
    if rows is not None:
        counts = np.zeros(spec.shape[0], np.bool_)
        counts[rows] = True
        of_row = counts[index // math.prod(spec.shape[1:])]
        inside = of_row if inside is None else inside & of_row
    return inside


def row_positions(rows: Index, part_cuts: Cuts, height: int) -> NDArray[np.bool_]:
    """Which rows of a cut tensor count, given the global rows that do."""
    counts = np.zeros(height, np.bool_)
    counts[rows] = True
    return counts if part_cuts[0] is None else counts[part_cuts[0]]


def restricted(part_cuts: Cuts, rows: Index | None) -> Cuts:
    if rows is None:
        return part_cuts
    first = rows if part_cuts[0] is None else np.intersect1d(rows, part_cuts[0], assume_unique=True)
    return (first, *part_cuts[1:])


def add_weight(share: Doubles, spec: TensorSpec, cover: Cover, part_cuts: Cuts, weight: float, start: int = 0) -> None:
    """share += weight where `cover` holds the rows start.. of a tensor; `share` has those rows only."""
    part_cuts = restricted(part_cuts, cover.rows.get(spec.name))
    if spec.shape and part_cuts[0] is not None:
        rows = part_cuts[0]
        part_cuts = (rows[(rows >= start) & (rows < start + share.shape[0])] - start, *part_cuts[1:])
    mask = cover.selection.masks.get(spec.name)
    at: Plane = plane(share.shape, part_cuts)
    if mask is None:
        add_number(share, at, weight)
        return
    part = gather(mask[start : start + share.shape[0]] if spec.shape else mask, part_cuts)
    add_scaled(share, at, part.astype(np.float32), weight, np.empty(CHUNK))
