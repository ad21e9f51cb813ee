"""Data value of a device: the cosine of its update to the aggregate of the others, where both hold the model.

    v_n = max(0, cos(u_n, mean of u_m over m != n)) x min(1, |u_n| / median |u|)          (policy.md 4.5)

Two passes over the reports, one report in memory at a time: the first sums, the second leaves each one out again. It
punishes devices with rare classes, so `mixed` blends in the share of samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from pleat.elastic.selection import Selection, coverage, embed
from pleat.modelmap import ModelMap
from pleat.params import Sparse, Update

Contribution = tuple[str, Update, Selection, float]  # device, update in its submodel's coordinates, selection, weight
Weights = float | NDArray[np.float32]  # summed weight per entry of a tensor; a number where all entries are equal


def data_values(model: ModelMap, contributions: Callable[[], Iterable[Contribution]]) -> dict[str, float]:
    """v of every device, in [0, 1]. `contributions()` yields them anew each time. A device alone is worth 1."""
    total = {t.name: np.zeros(t.shape, np.float32) for t in model.tensors}
    held: dict[bytes, tuple[Selection, float]] = {}
    norms: dict[str, float] = {}
    for device, update, selection, weight in contributions():
        norms[device] = _add(total, embed(model, selection, update), weight)
        held[selection.digest] = (selection, held.get(selection.digest, (selection, 0.0))[1] + weight)
    if len(norms) < 2:
        return {device: float(norm > 0) for device, norm in norms.items()}
    weights = {t.name: _weights(model, t.name, list(held.values())) for t in model.tensors}
    median = float(np.median(list(norms.values())))
    out = {}
    for device, update, selection, weight in contributions():
        cosine = _cosine(model, embed(model, selection, update), selection, weight, total, weights)
        out[device] = max(0.0, cosine) * min(1.0, norms[device] / median if median > 0 else 0.0)
    return out


def mixed(values: Mapping[str, float], samples: Mapping[str, int], size_share: float = 0.5) -> dict[str, float]:
    """`values` blended with each device's samples relative to the largest, so that rare classes are not starved."""
    most = max((samples[d] for d in values), default=0)
    return {d: (1 - size_share) * v + size_share * (samples[d] / most if most else 1.0) for d, v in values.items()}


def _add(total: dict[str, NDArray[np.float32]], update: Update, weight: float) -> float:
    """Adds weight x update in place; returns the update's norm."""
    square = 0.0
    for name, tensor in update.items():
        flat = total[name].reshape(-1)
        if isinstance(tensor, Sparse):
            flat[tensor.index] += np.float32(weight) * tensor.values
            square += float(np.dot(tensor.values, tensor.values))
        else:
            u = tensor.reshape(-1)
            flat += np.float32(weight) * u
            square += float(np.dot(u, u))
    return math.sqrt(square)


def _weights(model: ModelMap, name: str, held: list[tuple[Selection, float]]) -> Weights:
    covers = [(coverage(model, selection, name), weight) for selection, weight in held]
    if all(where.all() for where, _ in covers):
        return float(sum(weight for _, weight in covers))
    out = np.zeros(model.tensor[name].shape, np.float32)
    for where, weight in covers:
        out[where] += np.float32(weight)
    return out


def _cosine(
    model: ModelMap,
    update: Update,
    selection: Selection,
    weight: float,
    total: Mapping[str, NDArray[np.float32]],
    weights: Mapping[str, Weights],
) -> float:
    """Over entries this device and at least one other hold; the others' mean there is (total - own) / (W - w)."""
    dot = own_square = other_square = 0.0
    for name, tensor in update.items():
        own = tensor.dense() if isinstance(tensor, Sparse) else tensor
        rest = np.asarray(weights[name], np.float32) - np.float32(weight)
        common = (rest > 1e-6 * weight) & coverage(model, selection, name)
        if not common.any():
            continue
        own = own[common]
        others = (total[name][common] - np.float32(weight) * own) / np.broadcast_to(rest, common.shape)[common]
        dot += float(np.dot(own, others))
        own_square += float(np.dot(own, own))
        other_square += float(np.dot(others, others))
    if own_square <= 0 or other_square <= 0:
        return 0.0
    return dot / math.sqrt(own_square * other_square)
