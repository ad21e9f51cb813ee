"""Masks of the most important entries, wherever they stand; dense kernels gain nothing, the wire does.

Importance is |w| of the model that the draw brings. What share of each tensor is held:

    layer     the same of every tensor: a predictable cost, and no layer dies
    global    the largest over all tensors, and of each at least FLOOR of the rate: better at high sparsity
    erk       the more, the smaller a tensor is against its fan-in and fan-out (Erdos-Renyi-Kernel)
    sensitive the more, the larger its gradients are among those of all tensors

Biases, norms and buffers are held whole. Ties go by index and scores do not depend on the rate: falling rates nest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from pleat.elastic.choosers.draw import Draw
from pleat.elastic.importance import SQUARES
from pleat.elastic.selection import Selection, make
from pleat.errors import UseError
from pleat.modelmap import ModelMap
from pleat.params import Array, Params

FLOOR = 0.1


def magnitude(model: ModelMap, rate: float, draw: Draw) -> Selection:
    """The share `rate` of largest |w| of every matrix and kernel. Raises UseError without `draw.params`."""
    scores = _sizes(model, draw, "magnitude")
    return make(model, masks={name: top(score, rate) for name, score in scores.items()})


def magnitude_global(model: ModelMap, rate: float, draw: Draw) -> Selection:
    """The share `rate` of largest |w| over all matrices and kernels, and FLOOR x `rate` of each at least."""
    return make(model, masks=_over_all(_sizes(model, draw, "magnitude-global"), rate))


def _over_all(scores: Params, rate: float) -> dict[str, NDArray[np.bool_]]:
    """The share `rate` of largest scores over all tensors, and FLOOR x `rate` of each at least."""
    if not scores:
        return {}
    chosen, start = top(np.concatenate([score.reshape(-1) for score in scores.values()]), rate), 0
    masks = {}
    for name, score in scores.items():
        masks[name] = chosen[start : start + score.size].reshape(score.shape) | top(score, FLOOR * rate)
        start += score.size
    return masks


def magnitude_erk(model: ModelMap, rate: float, draw: Draw) -> Selection:
    """The largest |w| of every matrix and kernel, `rate` of all entries shared out by `erk`."""
    scores = _sizes(model, draw, "magnitude-erk")
    shares = erk({name: score.shape for name, score in scores.items()}, rate)
    return make(model, masks={name: top(score, shares[name]) for name, score in scores.items()})


def sensitive(model: ModelMap, rate: float, draw: Draw) -> Selection:
    """The largest |w| of every matrix and kernel, as many of each as it has among the share `rate` of largest mean
    squared gradients over all; before any has come, `magnitude`."""
    squares = draw.extras.get(SQUARES)
    if squares is None:
        return magnitude(model, rate, draw)
    scores = _sizes(model, draw, "sensitive")
    shares = {n: float(m.mean()) for n, m in _over_all({n: squares[n] for n in scores}, rate).items()}
    return make(model, masks={name: top(score, shares[name]) for name, score in scores.items()})


def stored(model: ModelMap, rate: float, draw: Draw) -> Selection:
    """The masks that the method keeps in `extras["mask"]`, 1 where an entry is held; before it has any, `magnitude`."""
    masks = draw.extras.get("mask")
    if masks is None:
        return magnitude(model, rate, draw)
    return make(model, masks={name: mask != 0 for name, mask in masks.items()})


def erk(shapes: Mapping[str, tuple[int, ...]], rate: float) -> dict[str, float]:
    """Density of each tensor in proportion to (sum of its axes) / (their product), at most 1, `rate` over all.

    As RigL's code has it; its text puts sparsity in proportion to 1 minus that (Evci et al. 2020).
    """
    entries = {name: math.prod(shape) for name, shape in shapes.items()}
    wish = {name: sum(shape) / entries[name] for name, shape in shapes.items()}
    full: set[str] = set()
    while len(full) < len(shapes):
        room = rate * sum(entries.values()) - sum(entries[n] for n in full)
        scale = room / sum(wish[n] * entries[n] for n in shapes if n not in full)
        over = {n for n in shapes if n not in full and scale * wish[n] > 1}
        if not over:
            return {n: 1.0 if n in full else scale * wish[n] for n in shapes}
        full |= over
    return dict.fromkeys(shapes, 1.0)


def _sizes(model: ModelMap, draw: Draw, chooser: str) -> Params:
    if draw.params is None:
        raise UseError(f"chooser {chooser!r} ranks weights and was given none; pass the global model in Draw.params")
    ranked = [t for t in model.tensors if t.role == "weight" and len(t.shape) >= 2]
    return {t.name: np.abs(draw.params[t.name]) for t in ranked}


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
