"""Data value of a device: the cosine of its update to the aggregate of the others, where both hold the model.

    v_n = max(0, cos(u_n, mean of u_m over m != n)) x min(1, |u_n| / median |u|)          (policy.md 4.5)

Two passes over the reports, one report and one tensor in memory at a time beside a sum and its weights: the first pass
sums, the second leaves each device out again. Work is done in submodel coordinates, so a small submodel costs little.
It punishes devices with rare classes, so `mixed` blends in the share of samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from pleat.elastic.place import flat_index, plane
from pleat.elastic.selection import Selection, coverage, cut_array, cuts, global_index, held
from pleat.modelmap import ModelMap, TensorSpec
from pleat.params import Array, Params, Sparse, Update

Contribution = tuple[str, Update, Selection, float]  # device, update in its submodel's coordinates, selection, weight
Weights = Mapping[str, "float | Array"]  # summed weight per entry of a tensor; a number where all entries are equal


def data_values(model: ModelMap, contributions: Callable[[], Iterable[Contribution]]) -> dict[str, float]:
    """v of every device, in [0, 1]. `contributions()` yields them anew each time. A device alone is worth 1."""
    total = {t.name: np.zeros(t.shape, np.float32) for t in model.tensors}
    seen: dict[bytes, tuple[Selection, float]] = {}
    norms: dict[str, float] = {}
    for device, update, selection, weight in contributions():
        norms[device] = _add(model, total, update, selection, weight)
        seen[selection.digest] = (selection, seen.get(selection.digest, (selection, 0.0))[1] + weight)
        del update
    if len(norms) < 2:
        return {device: float(norm > 0) for device, norm in norms.items()}
    weights = {t.name: _weights(model, t.name, list(seen.values())) for t in model.tensors}
    median = float(np.median(list(norms.values())))
    out = {}
    for device, update, selection, weight in contributions():
        cosine = _cosine(model, update, selection, weight, total, weights)
        out[device] = max(0.0, cosine) * min(1.0, norms[device] / median if median > 0 else 0.0)
        del update  # before the next one is read
    return out


def mixed(values: Mapping[str, float], samples: Mapping[str, int], size_share: float = 0.5) -> dict[str, float]:
    """`values` blended with each device's samples relative to the largest, so that rare classes are not starved."""
    most = max((samples[d] for d in values), default=0)
    return {d: (1 - size_share) * v + size_share * (samples[d] / most if most else 1.0) for d, v in values.items()}


def _add(model: ModelMap, total: Params, update: Update, selection: Selection, weight: float) -> float:
    """Adds weight x update at its places, in place; returns the update's norm. Sparse tensors are not written out."""
    square = 0.0
    for spec in held(model, selection):
        own = _inside(model, selection, spec, update[spec.name])
        if isinstance(own, Sparse):
            index = flat_index(own.index, plane(spec.shape, cuts(model, selection, spec)))
            total[spec.name].reshape(-1)[index] += np.float32(weight) * own.values
            square += _dot(own.values, own.values)
        else:
            total[spec.name][global_index(spec, cuts(model, selection, spec))] += np.float32(weight) * own
            square += _dot(own, own)
    return math.sqrt(square)


def _inside(model: ModelMap, selection: Selection, spec: TensorSpec, own: Array | Sparse) -> Array | Sparse:
    """`own` with entries outside the selection's mask, which count nowhere, set to 0."""
    mask = selection.masks.get(spec.name)
    if mask is None:
        return own
    part = cut_array(mask, cuts(model, selection, spec))
    if isinstance(own, Sparse):
        return Sparse(own.shape, own.index, own.values * part.reshape(-1)[own.index])
    return np.where(part, own, np.float32(0))


def _weights(model: ModelMap, name: str, seen: list[tuple[Selection, float]]) -> float | Array:
    covers = [(coverage(model, selection, name), weight) for selection, weight in seen]
    if all(where.all() for where, _ in covers):
        return float(sum(weight for _, weight in covers))
    out = np.zeros(model.tensor[name].shape, np.float32)
    for where, weight in covers:
        out[where] += np.float32(weight)
    return out


def _cosine(
    model: ModelMap, update: Update, selection: Selection, weight: float, total: Params, weights: Weights
) -> float:
    """Over entries this device and at least one other hold; the others' mean there is (total - own) / (W - w)."""
    dot = own_square = other_square = 0.0
    for spec in held(model, selection):
        part = _inside(model, selection, spec, update[spec.name])
        own = part.dense() if isinstance(part, Sparse) else part
        places = cuts(model, selection, spec)
        everyone = weights[spec.name]
        if isinstance(everyone, float):  # all hold all of it: three products, and nothing its size is made
            rest = everyone - weight
            if rest <= 1e-6 * weight:
                continue
            both, mine, all_ = _dot(total[spec.name], own), _dot(own, own), _dot(total[spec.name], total[spec.name])
            dot += (both - weight * mine) / rest
            own_square += mine
            other_square += max(0.0, all_ - 2 * weight * both + weight**2 * mine) / rest**2
            continue
        others = cut_array(total[spec.name], places) - np.float32(weight) * own
        own, others = _common(own, others, cut_array(everyone, places) - np.float32(weight), weight)
        mask = selection.masks.get(spec.name)
        if mask is not None:
            others *= cut_array(mask, places)
        dot += _dot(own, others)
        own_square += _dot(own, own)
        other_square += _dot(others, others)
    if own_square <= 0 or other_square <= 0:
        return 0.0
    return dot / math.sqrt(own_square * other_square)


def _common(own: Array, others: Array, rest: Array, weight: float) -> tuple[Array, Array]:
    """Both with 0 where nobody else holds the entry, `others` divided by the others' weight elsewhere."""
    common: NDArray[np.bool_] = rest > 1e-6 * weight
    if common.all():
        others /= rest
        return own, others
    divided = np.divide(others, rest, out=np.zeros_like(others), where=common)
    return own * common, divided


def _dot(left: Array, right: Array) -> float:
    return float(np.dot(left.reshape(-1), right.reshape(-1)))
