"""Selections: which entries of an update are sent at all.

Exact top-k: the k entries of largest magnitude over all matrices together, the lowest index first on ties. A random
sample sets a threshold that with near certainty lets a few more than k entries through; only these survivors are
ranked, so the result is that of a full partition at many times its speed. Should fewer than k survive, all are
ranked: the sample never changes the result. Entries that are 0 are never kept.

Structured: whole filters and channels of little weight become 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor, sqrt

import numpy as np
from numpy.typing import NDArray

from pleat.codec.layout import check_names, flat, layout
from pleat.codec.transform import Context, Transform, stateless
from pleat.errors import LocalError
from pleat.params import Array, Params, Sparse, Update

Index = NDArray[np.int64]

SAMPLE = 1 << 14
BIN_BITS = 14
CHUNK = 1 << 16  # entries looked at at once: 256 KiB of scratch, which a core's second-level cache holds


def kept(share: float, size: int) -> int:
    """How many of `size` entries a share of `share` keeps, at most: rounded up."""
    return min(size, ceil(share * size - 1e-9))


def topk(share: float) -> Transform:
    """Matrices become `Sparse`, with the `share` of their entries that is largest over all of them; vectors stay."""

    def encode(value: Params, ctx: Context) -> Update:
        at = layout(ctx)
        check_names(at, value)
        lines = [flat(p, value[p.name]) for p in at.matrices.places]
        out: dict[str, Array | Sparse] = {p.name: value[p.name] for p in at.vectors.places}
        for place, line, index in zip(
            at.matrices.places, lines, largest(lines, kept(share, at.matrices.size)), strict=True
        ):
            own = index if place.inside is None else place.inside[index]
            out[place.name] = Sparse(place.shape, own, line[index])
        return {name: out[name] for name in sorted(out)}

    return stateless(encode, lambda coded, ctx: coded)


def topk_each(share: float) -> Transform:
    """The same of every matrix by itself, rounded down: no layer goes without for another's larger entries."""

    def encode(value: Params, ctx: Context) -> Update:
        at = layout(ctx)
        check_names(at, value)
        out: dict[str, Array | Sparse] = {p.name: value[p.name] for p in at.vectors.places}
        for place in at.matrices.places:
            line = flat(place, value[place.name])
            (index,) = largest([line], floor(share * line.size + 1e-9))
            out[place.name] = Sparse(place.shape, index if place.inside is None else place.inside[index], line[index])
        return {name: out[name] for name in sorted(out)}

    return stateless(encode, lambda coded, ctx: coded)


def structured(tau: float) -> Transform:
    """Every matrix without its filters and channels of little weight (FedSCR): each scores the sum of its magnitudes,
    divided by the largest such sum of the tensor, and those of `tau` or less become 0. `tau` = 0 changes nothing.

    A filter is a place of axis 0, a channel one of axis 1, with all that lies on the other axes.
    """

    def encode(value: Params, ctx: Context) -> Params:
        return {name: _without(array, tau) if array.ndim >= 2 else array for name, array in value.items()}

    return stateless(encode, lambda coded, ctx: coded)


def _without(array: Array, tau: float) -> Array:
    size, out = np.abs(array, dtype=np.float64), array
    for axis in (0, 1):
        score = size.sum(axis=tuple(a for a in range(array.ndim) if a != axis))
        goes = score <= tau * score.max(initial=0.0)
        if goes.any():
            out = out.copy() if out is array else out
            np.moveaxis(out, axis, 0)[goes] = 0
    return out


def largest(lines: Sequence[Array], k: int) -> list[Index]:
    """Per line, the sorted positions of the k largest magnitudes over all. Raises LocalError for NaN or infinity."""
    size = sum(line.size for line in lines)
    if k <= 0 or size == 0:
        return [np.zeros(0, np.int64) for _ in lines]
    found, magnitudes = _above(lines, _threshold(lines, size, k))
    if magnitudes.size < k:
        found, magnitudes = _above(lines, np.float32(0))
    return found if magnitudes.size <= k else _narrow(found, magnitudes, k)


def _threshold(lines: Sequence[Array], size: int, k: int) -> np.float32:
    """A magnitude that slightly more than k entries reach: four standard errors of the sample below its quantile."""
    share = k / size
    high = share + 4 * sqrt(share * (1 - share) / SAMPLE) + 1e-4
    if size <= 4 * SAMPLE or high >= 1:
        return np.float32(0)
    places = np.random.Generator(np.random.Philox(k)).integers(0, size, SAMPLE)
    sample, start = [], 0
    for line in lines:
        own = places[(places >= start) & (places < start + line.size)] if len(lines) > 1 else places
        sample.append(np.abs(line[own - start]))
        start += line.size
    drawn = np.sort(np.concatenate(sample))  # sorting is not slowed by many equal values, as partitioning is
    return np.float32(drawn[int(SAMPLE * (1 - high))])


def _above(lines: Sequence[Array], threshold: np.float32) -> tuple[list[Index], Array]:
    """Positions, and joined magnitudes, of the nonzero entries that reach `threshold`."""
    scratch = np.empty(min(CHUNK, max(line.size for line in lines)), np.float32)
    flags = np.empty(scratch.size, np.bool_)
    compare = np.greater_equal if threshold > 0 else np.greater
    found: list[Index] = []
    magnitudes: list[Array] = []
    for line in lines:
        parts = []
        for start in range(0, line.size, CHUNK):
            part = line[start : start + CHUNK]
            size = np.abs(part, out=scratch[: part.size])
            if not np.isfinite(size.max()):
                raise LocalError(
                    "the update holds NaN or infinite entries and was not coded; lower the learning rate or clip"
                )
            index = np.flatnonzero(compare(size, threshold, out=flags[: part.size]))
            magnitudes.append(size[index])
            parts.append(index + start if start else index)
        found.append(parts[0] if len(parts) == 1 else np.concatenate(parts) if parts else np.zeros(0, np.int64))
    return found, magnitudes[0] if len(magnitudes) == 1 else np.concatenate(magnitudes)


def _narrow(found: list[Index], magnitudes: Array, k: int) -> list[Index]:
    """The k largest of the survivors: everything above the k-th magnitude, then ties from the lowest index on."""
    least = _smallest(magnitudes, magnitudes.size - k)
    keep = magnitudes >= least
    surplus = int(np.count_nonzero(keep)) - k
    if surplus:
        ties = np.flatnonzero(magnitudes == least)
        keep[ties[ties.size - surplus :]] = False
    out, start = [], 0
    for index in found:
        out.append(index[keep[start : start + index.size]])
        start += index.size
    return out


def _smallest(magnitudes: Array, rank: int) -> np.float32:
    """The value at place `rank` in ascending order: counted by its leading bits, then sorted among its likes.

    The patterns of floats that are not negative rise with them; counting costs a quarter of a partition.
    """
    patterns = magnitudes.view(np.uint32)
    first, last = int(patterns.min()), int(patterns.max())
    shift = max(0, (last - first).bit_length() - BIN_BITS)
    bins = (patterns - np.uint32(first)) >> np.uint32(shift)
    upto = np.cumsum(np.bincount(bins))
    own = int(np.searchsorted(upto, rank, side="right"))
    alike = np.sort(magnitudes[bins == own])
    return np.float32(alike[rank - (int(upto[own - 1]) if own else 0)])
