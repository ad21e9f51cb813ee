"""Named arrays: the one representation of parameters and updates, in sorted order.

`Params` maps tensor names to float32 arrays. An `Update` may hold a `Sparse` tensor in place of a dense one.
Everything here is pure; iteration order is sorted by name, so that no dictionary order changes a byte.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Params = dict[str, Array]


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
