"""Data value of a device: the cosine of its update to the aggregate of the others, where both hold the model.

    v_n = max(0, cos(u_n, mean of u_m over m != n)) x min(1, |u_n| / median |u|)          (policy.md 4.5)

Two passes over the reports, one report and one tensor in memory at a time beside a sum and its weights: the first pass
sums, the second leaves each device out again. Work is done in submodel coordinates, so a small submodel costs little.
It punishes devices with rare classes, so `mixed` blends in the share of samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pleat.elastic.place import flat_index, plane
from pleat.elastic.selection import Selection, coverage, cut_array, cuts, global_index, held
from pleat.modelmap import ModelMap, TensorSpec
from pleat.params import Array, Params, Sparse, Update, dot

Contribution = tuple[str, Update, Selection, float]  # device, update in its submodel's coordinates, selection, weight
AnyArray = NDArray[np.floating[Any]]
Sums = Mapping[str, AnyArray]
Weights = Mapping[str, "float | AnyArray"]  # summed weight per entry of a tensor; a number where all entries are equal


def data_values(model: ModelMap, contributions: Callable[[], Iterable[Contribution]]) -> dict[str, float]:
    """v of every device, in [0, 1]. `contributions()` yields them anew each time. A device alone is worth 1."""
    total = {t.name: np.zeros(t.shape, np.float32) for t in model.tensors}
    seen: dict[bytes, tuple[Selection, float]] = {}
    for _, update, selection, weight in contributions():
        _add(model, total, update, selection, weight)
        seen[selection.digest] = (selection, seen.get(selection.digest, (selection, 0.0))[1] + weight)
        del update  # before the next one is read
    weights = {t.name: _weights(model, t.name, list(seen.values())) for t in model.tensors}
    return values_within(model, total, weights, contributions())


def values_within(
    model: ModelMap, total: Sums, weights: Weights, contributions: Iterable[Contribution]
) -> dict[str, float]:
    """The second pass alone, for whoever has the sums already: `total` = sum of weight x update, global shapes."""
    norms, cosines = dict[str, float](), dict[str, float]()
    squares = {name: dot(t, t) for name, t in total.items() if isinstance(weights[name], float)}
    for device, update, selection, weight in contributions:
        norms[device] = math.sqrt(sum(_square(t) for t in update.values()))
        cosines[device] = _cosine(model, update, selection, weight, total, weights, squares)
        del update
    if len(norms) < 2:
        return {device: float(norm > 0) for device, norm in norms.items()}
    median = float(np.median(list(norms.values())))
    return {d: max(0.0, c) * min(1.0, norms[d] / median if median > 0 else 0.0) for d, c in cosines.items()}


def mixed(values: Mapping[str, float], samples: Mapping[str, int], size_share: float = 0.5) -> dict[str, float]:
    """`values` blended with each device's samples relative to the largest, so that rare classes are not starved."""
    most = max((samples[d] for d in values), default=0)
    return {d: (1 - size_share) * v + size_share * (samples[d] / most if most else 1.0) for d, v in values.items()}


def _add(model: ModelMap, total: Params, update: Update, selection: Selection, weight: float) -> None:
    """Adds weight x update at its places, in place. Sparse tensors are not written out."""
    for spec in held(model, selection):
        own = _inside(model, selection, spec, update[spec.name])
        if isinstance(own, Sparse):
            index = flat_index(own.index, plane(spec.shape, cuts(model, selection, spec)))
            total[spec.name].reshape(-1)[index] += np.float32(weight) * own.values
        else:
            total[spec.name][global_index(spec, cuts(model, selection, spec))] += np.float32(weight) * own


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
    model: ModelMap,
    update: Update,
    selection: Selection,
    weight: float,
    total: Sums,
    weights: Weights,
    squares: Mapping[str, float],
) -> float:
    """Over entries this device and at least one other hold; the others' mean there is (total - own) / (W - w)."""
    product = own_square = other_square = 0.0
    for spec in held(model, selection):
        part = _inside(model, selection, spec, update[spec.name])
        everyone = weights[spec.name]
        if isinstance(everyone, float):  # all hold all of it: three products, and nothing its size is made
            rest = everyone - weight
            if rest <= 1e-6 * weight:
                continue
            both, mine = _dot_with(total[spec.name], part), _square(part)
            product += (both - weight * mine) / rest
            own_square += mine
            other_square += max(0.0, squares[spec.name] - 2 * weight * both + weight**2 * mine) / rest**2
            continue
        own = part.dense() if isinstance(part, Sparse) else part
        places = cuts(model, selection, spec)
        others = cut_array(total[spec.name], places) - np.float32(weight) * own
        own, others = _common(own, others, cut_array(everyone, places) - np.float32(weight), weight)
        mask = selection.masks.get(spec.name)
        if mask is not None:
            others *= cut_array(mask, places)
        product += dot(own, others)
        own_square += dot(own, own)
        other_square += dot(others, others)
    if own_square <= 0 or other_square <= 0:
        return 0.0
    return product / math.sqrt(own_square * other_square)


def _common(own: Array, others: AnyArray, rest: AnyArray, weight: float) -> tuple[Array, AnyArray]:
    """Both with 0 where nobody else holds the entry, `others` divided by the others' weight elsewhere."""
    common: NDArray[np.bool_] = rest > 1e-6 * weight
    if common.all():
        others /= rest
        return own, others
    divided = np.divide(others, rest, out=np.zeros_like(others), where=common)
    return own * common, divided


def _square(tensor: Array | Sparse) -> float:
    values = tensor.values if isinstance(tensor, Sparse) else tensor
    return dot(values, values)


def _dot_with(total: AnyArray, part: Array | Sparse) -> float:
    if isinstance(part, Sparse):
        return dot(total.reshape(-1)[part.index], part.values)
    return dot(total, part)
