"""Named arrays: the one representation of parameters and updates, in sorted order.

`Params` maps tensor names to float32 arrays. An `Update` may hold a `Sparse` tensor in place of a dense one.
Everything here is pure; iteration order is sorted by name, so that no dictionary order changes a byte.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Params = dict[str, Array]

_PIECE = 8192  # entries: OpenBLAS shares products out from 10,000 on


@dataclass(frozen=True, eq=False)
class Sparse:
    """A tensor of `shape` that is zero but at flat positions `index` (int64, strictly increasing)."""

    shape: tuple[int, ...]
    index: NDArray[np.int64]
    values: Array

    def dense(self) -> Array:
        """The same tensor as an ordinary array of `shape`."""
        out = np.zeros(int(np.prod(self.shape, dtype=np.int64)), np.float32)
        out[self.index] = self.values
        return out.reshape(self.shape)


Update = Mapping[str, "Array | Sparse"]


def dense(update: Update) -> Params:
    """`update` with every sparse tensor written out."""
    return {name: t.dense() if isinstance(t, Sparse) else t for name, t in sorted(update.items())}


def subtract(left: Mapping[str, Array], right: Mapping[str, Array]) -> Params:
    """left - right, tensor by tensor. Raises KeyError if the names differ."""
    if left.keys() != right.keys():
        raise KeyError(f"tensor names differ: {sorted(left.keys() ^ right.keys())}")
    return {name: left[name] - right[name] for name in sorted(left)}


def dot(left: NDArray[np.floating[Any]], right: NDArray[np.floating[Any]]) -> float:
    """Inner product over all entries, of the same or of different precision, summed in float64 piece by piece.

    A piece is too short for BLAS to share out among threads, which would go on spinning on the other cores for longer
    than any such product takes; and no array of another precision is converted whole.
    """
    a, b = left.reshape(-1), right.reshape(-1)
    return sum(float(np.dot(a[i : i + _PIECE], b[i : i + _PIECE])) for i in range(0, a.size, _PIECE))


def count(params: Mapping[str, Array]) -> int:
    """Number of entries over all tensors."""
    return sum(int(a.size) for a in params.values())


def digest(params: Mapping[str, Array]) -> bytes:
    """SHA-256 over names, shapes and little-endian bytes: equal exactly when the parameters are, bit for bit."""
    h = hashlib.sha256()
    for name in sorted(params):
        a = np.ascontiguousarray(params[name])
        h.update(f"{name}\0{a.dtype.str}\0{a.shape}\0".encode())
        h.update(a.astype(a.dtype.newbyteorder("<"), copy=False).tobytes())
    return h.digest()
