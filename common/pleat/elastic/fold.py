"""Fold: what many devices return, joined into one step of the global model, entry by entry; a streaming monoid.

With p_k = weight_k / W over the fold, C_i the devices that held entry i and W_i = sum of p_k over C_i
(elastic.md section 1, "fill rules"):

    finish(a):           step_i = sum over C_i of p_k delta_k,i / W_i^a    a = 1: coverage average, a = 0: residual
    zero_fill(params):   step_i = sum over C_i of p_k delta_k,i - (1 - W_i) params_i    eLF's zero-filled weights

and step_i = 0 where nobody held i. Buffers (running statistics) are always averaged by coverage: to average zeros into
a variance would inflate activations. Sums are float64, so the order of `add` matters to about 1e-15 only.

Memory does not grow with the number of updates: one float64 per entry for the sum; coverage is kept as selections and
their summed weight while that is smaller than an array, and as one float64 per entry from then on.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pleat.elastic.cover import Cover, add_weight, inside, restricted, row_positions
from pleat.elastic.place import (
    CHUNK,
    Doubles,
    Index,
    add_scaled,
    flat_index,
    gather,
    masked,
    plane,
)
from pleat.elastic.selection import Selection, check_part, cuts, held
from pleat.errors import LocalError, UseError
from pleat.modelmap import ModelMap, TensorSpec
from pleat.params import Array, Params, Sparse, Update

_SLABS = 16  # pieces in which `finish` makes a large model's step, so that it needs little beside what it returns


class Fold:
    """The neutral element of the monoid; `add` and `merge` grow it, `finish` reads it and changes nothing."""

    def __init__(self, model: ModelMap) -> None:
        self.model = model
        self.weight = 0.0  # sum of the weights added
        self.updates = 0  # how many updates were added
        self._sums: dict[str, Doubles] = {t.name: np.zeros(t.shape) for t in model.tensors}
        self._covers: dict[tuple[bytes, ...], tuple[Cover, float]] = {}
        self._cover_bytes = 0
        self._slab = max(CHUNK, sum(total.size for total in self._sums.values()) // _SLABS)  # entries a piece
        self._covered: dict[str, Doubles] | None = None  # weight per entry, once selections would take more room
        self._scratch: Doubles = np.empty(CHUNK)

    def add(self, update: Update, selection: Selection, weight: float, rows: Mapping[str, Index] | None = None) -> None:
        """Add one device's update, in its submodel's coordinates.

        `rows`: tensor -> rows of axis 0 (global, increasing) that alone count on this device, such as the logits of
        the classes it has seen. Raises UseError, with the fold unchanged, if names, shapes or the weight do not fit.
        """
        if not (math.isfinite(weight) and weight > 0):
            raise UseError(f"an update's weight must be a finite number above 0, got {weight!r}")
        check_part(self.model, selection, update)
        cover = Cover(selection, dict(rows or {}))
        for name, tensor in update.items():
            if isinstance(tensor, Sparse):
                _check_index(name, tensor)
        for spec in held(self.model, selection):
            self._add_tensor(spec, cover, update[spec.name], weight)
        self._cover(cover, weight)
        self.weight += weight
        self.updates += 1

    def merge(self, other: Fold) -> None:
        """Take in everything that was added to `other`. Raises UseError if it folds another model."""
        if other.model.digest != self.model.digest:
            raise UseError("folds of two different models cannot be merged")
        for name, total in self._sums.items():
            total += other._sums[name]
        if other._covered is not None:
            self._spill()
            assert self._covered is not None  # _spill makes it
            for name, weights in self._covered.items():
                weights += other._covered[name]
        for cover, weight in other._covers.values():
            self._cover(cover, weight)
        self.weight += other.weight
        self.updates += other.updates

    def finish(self, exponent: float, dtype: type[np.floating[Any]] = np.float32) -> Params:
        """The step of the global model for the fill exponent a in [0, 1]; names and shapes are the model's.

        Raises LocalError if nothing was added.
        """
        if not 0 <= exponent <= 1:
            raise UseError(f"the fold's exponent must lie in [0, 1], got {exponent!r}")
        self._need_updates()
        out: Params = {}
        for spec in self.model.tensors:
            power = 1.0 if spec.role == "buffer" else exponent
            step = np.zeros(spec.shape, dtype)
            if self._plain(spec.name, step):
                out[spec.name] = step
                continue
            for at, total, share in self._slabs(spec):
                divisor = _power(share, power)
                np.divide(total, divisor * self.weight, out=total, where=share > 0)
                step[at] = total
            out[spec.name] = step
        return out

    def zero_fill(self, params: Params, dtype: type[np.floating[Any]] = np.float32) -> Params:
        """The step that leads from `params` to the plain average of zero-filled weights (eLF)."""
        self._need_updates()
        out: Params = {}
        for spec in self.model.tensors:
            step = np.zeros(spec.shape, dtype)
            if self._plain(spec.name, step):
                out[spec.name] = step
                continue
            for at, total, share in self._slabs(spec):
                if spec.role == "buffer":
                    np.divide(total, share * self.weight, out=total, where=share > 0)
                else:
                    total /= self.weight
                    total -= (1.0 - share) * params[spec.name][at]
                step[at] = total
            out[spec.name] = step
        return out

    def _plain(self, name: str, step: NDArray[np.floating[Any]]) -> bool:
        """Fill `step` with the plain average where every update held all of the tensor; all fills agree there."""
        everywhere = self._held_by_all(name)
        if everywhere:
            np.divide(self._sums[name], self.weight, out=step, casting="unsafe")
        return everywhere

    @property
    def sums(self) -> Mapping[str, Doubles]:
        """Sum of weight x update per entry, in global shapes; the fold's own arrays, not to be changed."""
        return self._sums

    def held_weight(self, name: str) -> float | Doubles:
        """Summed weight of the updates that held each entry of `name`: one number where all of them held all of it."""
        return self.weight if self._held_by_all(name) else np.asarray(self.covered(name) * self.weight)

    def _held_by_all(self, name: str) -> bool:
        spec = self.model.tensor[name]
        return self._covered is None and all(
            not (spec.unit and spec.unit in cover.selection.dropped)
            and name not in cover.selection.masks
            and name not in cover.rows
            and all(c is None for c in cuts(self.model, cover.selection, spec))
            for cover, _ in self._covers.values()
        )

    def covered(self, name: str) -> Doubles:
        """Share of the fold's weight that held each entry of tensor `name`: W_i, in [0, 1]."""
        self._need_updates()
        spec = self.model.tensor[name]
        out = np.zeros(spec.shape)
        for at, _, share in self._slabs(spec):
            out[at] = share
        return out

    def _need_updates(self) -> None:
        if not self.updates:
            raise LocalError("no update was folded: a round in which none was accepted has no step")

    def _add_tensor(self, spec: TensorSpec, cover: Cover, part: Array | Sparse, weight: float) -> None:
        total, mask = self._sums[spec.name], cover.selection.masks.get(spec.name)
        part_cuts = cuts(self.model, cover.selection, spec)
        if isinstance(part, Sparse):
            index, values = flat_index(part.index, plane(spec.shape, part_cuts)), part.values
            counts = inside(index, spec, mask, cover.rows.get(spec.name))
            if counts is not None:
                index, values = index[counts], values[counts]
            total.reshape(-1)[index] += values.astype(np.float64) * weight
            return
        if mask is not None:
            part = masked(part, gather(mask, part_cuts))
        rows = cover.rows.get(spec.name)
        if rows is not None:
            part = part[row_positions(rows, part_cuts, spec.shape[0])]
        add_scaled(total, plane(spec.shape, restricted(part_cuts, rows)), part, weight, self._scratch)

    def _cover(self, cover: Cover, weight: float) -> None:
        if self._covered is not None:
            self._cover_dense(cover, weight)
            return
        known, so_far = self._covers.get(cover.key, (None, 0.0))
        self._covers[cover.key] = (known or cover, so_far + weight)
        self._cover_bytes += 0 if known else cover.nbytes
        if 2 * self._cover_bytes > sum(total.nbytes for total in self._sums.values()):
            self._spill()

    def _spill(self) -> None:
        """From selections to one number per entry."""
        if self._covered is not None:
            return
        self._covered = {name: np.zeros(total.shape) for name, total in self._sums.items()}
        for cover, weight in self._covers.values():
            self._cover_dense(cover, weight)
        self._covers, self._cover_bytes = {}, 0

    def _cover_dense(self, cover: Cover, weight: float) -> None:
        assert self._covered is not None  # callers have spilt
        for spec in held(self.model, cover.selection):
            add_weight(self._covered[spec.name], spec, cover, cuts(self.model, cover.selection, spec), weight)

    def _slabs(self, spec: TensorSpec) -> Iterator[tuple[Any, Doubles, Doubles]]:
        """Row ranges of one tensor, with a copy of its sum and its W_i there."""
        held_by = [
            (cover, cuts(self.model, cover.selection, spec), weight)
            for cover, weight in self._covers.values()
            if not (spec.unit and spec.unit in cover.selection.dropped)
        ]
        height = spec.shape[0] if spec.shape else 1
        step = max(1, self._slab // max(1, math.prod(spec.shape[1:])))
        for start in range(0, height, step):
            at: Any = slice(start, min(start + step, height)) if spec.shape else ...
            total = np.array(self._sums[spec.name][at], np.float64)
            if self._covered is not None:
                share = np.array(self._covered[spec.name][at], np.float64)
            else:
                share = np.zeros(total.shape)
                for cover, part_cuts, weight in held_by:
                    add_weight(share, spec, cover, part_cuts, weight, start)
            share /= self.weight
            yield at, total, share


def _power(share: Doubles, exponent: float) -> Doubles | float:
    if exponent == 0:
        return 1.0
    if exponent == 1:
        return share
    return np.sqrt(share) if exponent == 0.5 else np.power(share, exponent)


def _check_index(name: str, tensor: Sparse) -> None:
    index, size = tensor.index, math.prod(tensor.shape)
    if index.shape != tensor.values.shape or index.ndim != 1:
        raise UseError(f"sparse tensor {name!r}: {index.shape} positions but {tensor.values.shape} values")
    if index.size and (index[0] < 0 or index[-1] >= size or not (index[1:] > index[:-1]).all()):
        raise UseError(f"sparse tensor {name!r}: positions must increase strictly within 0..{size - 1}")
