"""Top-magnitude masks: a layer's largest weights, wherever they stand; dense kernels gain nothing, the wire does."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from pleat.elastic.choosers.draw import Draw
from pleat.elastic.selection import Selection, make
from pleat.errors import UseError
from pleat.modelmap import ModelMap
from pleat.params import Array


def magnitude(model: ModelMap, rate: float, draw: Draw) -> Selection:
    """The share `rate` of largest |w| of every matrix and kernel; biases, norms and buffers whole. Ties by index, so
    that falling rates are nested. Raises UseError without `draw.params`."""
    if draw.params is None:
        raise UseError("chooser 'magnitude' ranks weights and was given none; pass the global model in Draw.params")
    ranked = [t for t in model.tensors if t.role == "weight" and len(t.shape) >= 2]
    return make(model, masks={t.name: top(draw.params[t.name], rate) for t in ranked})


def top(weights: Array, rate: float) -> NDArray[np.bool_]:
    """Where the ceil(rate n) largest magnitudes are; of equal ones the first."""
    size = np.abs(weights).reshape(-1)
    keep = min(size.size, max(1, math.ceil(round(rate * size.size, 9))))
    threshold = np.partition(size, size.size - keep)[size.size - keep]
    chosen: NDArray[np.bool_] = size > threshold
    ties = np.flatnonzero(size == threshold)
    chosen[ties[: keep - int(chosen.sum())]] = True
    out: NDArray[np.bool_] = chosen.reshape(weights.shape)
    return out
