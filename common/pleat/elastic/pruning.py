"""Iterative magnitude pruning as an algebra: who is pruned, in which order, and the one score that tells it. Pure.

Each cycle prunes the share q of what *remains*, the smallest |w| first and of equal ones the last first, so that n
cycles leave (1 - q)^n. The order in which entries went becomes a score: the share of entries that had gone once this
one went, in (0, 1]; survivors follow by their size at the end. Then

    M_density = {score > 1 - density}

holds the share `density`, nests for any two densities, and is what a cycle left wherever the density is a cycle's. One
array serves all devices, and any chooser that ranks (`choosers/magnitude.py`) reads it in the place of weights.

`across` "layer": each matrix is a pool of its own. "net": all are one pool, in which each keeps FLOOR of the share that
is left at least. Only matrices and kernels are ranked: biases, norms and buffers stay whole.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from pleat.elastic.choosers.magnitude import FLOOR
from pleat.modelmap import ModelMap, TensorSpec
from pleat.params import Array, Params

Bools = NDArray[np.bool_]
Places = NDArray[np.int32]
Across = Literal["layer", "net"]
Scalar = TypeVar("Scalar", bound=np.generic)


def ranked(model: ModelMap) -> list[TensorSpec]:
    """The tensors that may be masked."""
    return [t for t in model.tensors if t.role == "weight" and len(t.shape) >= 2]


def smallest_first(mask: Bools, values: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """Flat positions of the entries of `mask` by rising magnitude; of equal ones the last first."""
    index = np.flatnonzero(mask)[::-1]
    out: NDArray[np.int64] = index[np.argsort(np.abs(values.reshape(-1)[index]).astype(np.float64), kind="stable")]
    return out


def keep_largest(mask: Bools, values: Array, count: int) -> Bools:
    """The `count` entries of `mask` with the largest magnitudes; of equal ones the first."""
    order, out = smallest_first(mask, values), mask.copy()
    out.reshape(-1)[order[: max(0, order.size - count)]] = False
    return out


def going(held: int, share: float) -> int:
    """How many of `held` entries go when the share `share` is pruned; one at least stays."""
    return max(0, min(held - 1, math.floor(round(share * held, 9))))


def pruned(masks: Mapping[str, Bools], weights: Params, share: float) -> dict[str, Bools]:
    """Each mask without floor(share x entries held) of its smallest weights; one entry at least stays."""
    return {n: keep_largest(m, weights[n], (held := int(m.sum())) - going(held, share)) for n, m in masks.items()}


@dataclass(frozen=True, eq=False)
class Pruning:
    """Where pruning stands after `cycle` cycles. `places`: tensor -> per entry the place at which it went, counted in
    its pool from 1, 0 while it is left. `start`: the weights that survivors go back to; `last`: those of the last
    training, by which they are ranked."""

    cycle: int
    places: Mapping[str, Places]
    start: Params
    last: Params

    @property
    def masks(self) -> dict[str, Bools]:
        """What is left."""
        return {name: place == 0 for name, place in self.places.items()}

    @property
    def density(self) -> float:
        """Share of the ranked entries that is left."""
        total = sum(p.size for p in self.places.values())
        return sum(int((p == 0).sum()) for p in self.places.values()) / max(1, total)


def begin(model: ModelMap, params: Params) -> Pruning:
    """Before the first cycle: everything is left, and `params` are where training begins."""
    return Pruning(0, {t.name: np.zeros(t.shape, np.int32) for t in ranked(model)}, params, params)


def advance(state: Pruning, share: float, across: Across, trained: Params, start: Params | None = None) -> Pruning:
    """One cycle on: prune `share` of what is left by the weights `trained`. `start`: new weights to go back to."""
    places: dict[str, Places] = {}
    for names in _pools(state.places, across):
        place, weights = _joined(state.places, names), _joined(trained, names)
        left = int((place == 0).sum())
        free = (place == 0) & ~_protected(state.places, trained, names, share)
        gone = smallest_first(free, weights)[: going(left, share)]
        place[gone] = place.size - left + 1 + np.arange(gone.size, dtype=np.int32)
        places |= _parted(place, state.places, names)
    fresh = state.start if start is None else start
    return replace(state, cycle=state.cycle + 1, places=places, start=fresh, last=trained)


def scores(state: Pruning, across: Across) -> Params:
    """Per ranked tensor the score of every entry, in (0, 1]: the later it went the higher, survivors by their size."""
    out: Params = {}
    for names in _pools(state.places, across):
        place, weights = _joined(state.places, names), _joined(state.last, names)
        left = smallest_first(place == 0, weights)
        place[left] = place.size - left.size + 1 + np.arange(left.size, dtype=np.int32)
        out |= _parted((place / place.size).astype(np.float32), state.places, names)
    return dict(sorted(out.items()))


def _pools(places: Mapping[str, Places], across: Across) -> list[list[str]]:
    """The names of the tensors that are ranked together."""
    names = sorted(places)
    return [[n] for n in names] if across == "layer" else [names] * bool(names)


def _joined(arrays: Mapping[str, NDArray[Scalar]], names: list[str]) -> NDArray[Scalar]:
    """The tensors of a pool as one flat array, a copy."""
    return np.concatenate([arrays[n].reshape(-1) for n in names])


def _parted(flat: NDArray[Scalar], like: Mapping[str, Places], names: list[str]) -> dict[str, NDArray[Scalar]]:
    """The inverse of `_joined`."""
    ends = np.cumsum([like[n].size for n in names])[:-1]
    return {n: part.reshape(like[n].shape) for n, part in zip(names, np.split(flat, ends), strict=True)}


def _protected(places: Mapping[str, Places], weights: Params, names: list[str], share: float) -> Bools:
    """Of a pool of several tensors, the entries of each that a floor keeps: its largest, FLOOR of the share of the
    pool that is left after the cycle, one at least."""
    if len(names) == 1:
        return np.zeros(places[names[0]].size, np.bool_)
    left = sum(int((places[n] == 0).sum()) for n in names)
    rate = FLOOR * (left - going(left, share)) / sum(places[n].size for n in names)
    kept = [keep_largest(places[n] == 0, weights[n], max(1, math.ceil(rate * places[n].size))) for n in names]
    return np.concatenate([k.reshape(-1) for k in kept])
