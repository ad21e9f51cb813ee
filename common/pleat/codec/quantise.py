"""Sign and magnitude: the Lloyd-Max quantiser, fitted to the very values it codes.

Magnitudes are binned by the upper bits of their float32 pattern, so fitting and coding cost one table look-up a value.
Levels start where Panter and Dite place them (density to the power 1/3) and settle in a few of Lloyd's iterations
(each level the mean of its values, each border midway between levels). Levels travel as bf16.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pleat.codec.bf16 import LARGEST, Words, from_bf16, to_bf16
from pleat.params import Array

Codes = NDArray[np.uint8]

DROP = 15  # low bits of a float32 left out of its bin: 256 bins an octave, a relative error of 0.1 %
PASSES = 12


@dataclass(frozen=True, eq=False)
class Quantised:
    """`levels`: bf16 magnitudes, strictly increasing; a code is 2 x (place of the level) + 1 for a negative value."""

    levels: Words
    codes: Codes


def quantise(values: Array, bits: int) -> Quantised:
    """Codes of at least one finite value; `bits` counts the sign, so there are at most 2^(bits-1) levels."""
    pattern = values.view(np.uint32)
    bins = pattern << 1  # without the sign
    bins >>= DROP + 1
    first = int(bins.min())
    bins -= np.uint32(first)
    counts = np.bincount(bins)
    edges = (np.arange(first, first + counts.size + 1, dtype=np.uint32) << DROP).view(np.float32).astype(np.float64)
    centres = (edges[1:] + edges[:-1]) / 2
    if first == 0:
        centres[0] = 0.0
    used = np.flatnonzero(counts)
    levels = _fit(counts[used], np.diff(edges)[used], centres[used], 1 << (bits - 1))
    words = np.unique(np.minimum(to_bf16(levels.astype(np.float32)), LARGEST))
    table = _nearest(centres, from_bf16(words).astype(np.float64))
    codes = np.take(table, bins)
    codes <<= 1
    codes |= (pattern >> 31).astype(np.uint8)
    return Quantised(words, codes)


def _fit(
    counts: NDArray[np.int64], widths: NDArray[np.float64], centres: NDArray[np.float64], n: int
) -> NDArray[np.float64]:
    """At most `n` levels of least squared error for values counted in bins, none of them empty."""
    if counts.size <= n:
        return centres
    ease = np.cumsum(np.cbrt(counts / widths) * widths)
    levels: NDArray[np.float64] = centres[np.searchsorted(ease, (np.arange(n) + 0.5) / n * ease[-1])]
    number = np.concatenate(([0], np.cumsum(counts)))
    total = np.concatenate(([0.0], np.cumsum(counts * centres)))
    for _ in range(PASSES):
        borders = np.concatenate(([0], np.searchsorted(centres, (levels[1:] + levels[:-1]) / 2), [centres.size]))
        held = np.diff(number[borders])
        means = np.where(held > 0, np.diff(total[borders]) / np.maximum(held, 1), levels)
        if np.array_equal(means, levels):
            break
        levels = means
    return levels


def _nearest(points: NDArray[np.float64], levels: NDArray[np.float64]) -> Codes:
    """For each point the place of the nearest level."""
    return np.searchsorted((levels[1:] + levels[:-1]) / 2, points).astype(np.uint8)


def per_byte(bits: int) -> int:
    """How many codes fit into one byte."""
    return 8 // bits


def pack(codes: Codes, bits: int, each: int) -> Codes:
    """`each` codes a byte, the first in the low bits; the last byte is filled with zeros."""
    if each == 1:
        return codes
    padded = codes
    if codes.size % each:
        padded = np.concatenate((codes, np.zeros(-codes.size % each, np.uint8)))
    packed = padded[::each].copy()
    for i in range(1, each):
        packed |= padded[i::each] << np.uint8(i * bits)
    return packed


def table(levels: Words, bits: int, each: int) -> Array:
    """What each byte decodes to: float32 of shape (256, each); NaN stands for a code that has no level."""
    signed = np.full(1 << bits, np.nan, np.float32)
    magnitudes = from_bf16(levels)
    signed[: 2 * levels.size : 2] = magnitudes
    signed[1 : 2 * levels.size : 2] = -magnitudes
    byte = np.arange(256)
    shifts = byte[:each] * bits
    out: Array = signed[(byte[:, None] >> shifts) & ((1 << bits) - 1)]
    out[byte >= 1 << (bits * each)] = np.nan
    return out


def unpack(packed: Codes, lookup: Array, size: int) -> Array:
    """The `size` values that `packed` stands for."""
    each = lookup.shape[1]
    if each == 2:  # one 8-byte gather for two values
        return np.take(lookup.view(np.float64).reshape(-1), packed).view(np.float32)[:size]
    return np.take(lookup, packed, axis=0).reshape(-1)[:size]
