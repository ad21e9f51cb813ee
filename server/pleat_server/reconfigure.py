"""Reconfiguration: the shared mask after gradients came of entries that it leaves out. Pure.

`swapped` (FedTiny): in every tensor the smallest active weights give way to as many entries of largest gradient.

`reconfigured` (PruneFL): the mask that lowers the loss most per second. Of every masked tensor the share rho of
smallest active weights is freed; freed and inactive entries are candidates, the others stay. With z_j the squared
gradient of entry j (the loss that it can take away) and t_j the seconds that it costs a round, candidates are added by
falling z_j / t_j for as long as that is above what the whole mask has by then:

    z_j / t_j > (sum of z held) / (c + sum of t held)

which maximises the right-hand side over all sets that hold what stays. What is added begins at 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from pleat.elastic.choosers.magnitude import top
from pleat.modelmap import ModelMap
from pleat.params import Params
from pleat.recipes.recipe import Recipe
from pleat_server.plan.bandwidth import UNKNOWN_RATE
from pleat_server.plan.catalogue import BACKWARD
from pleat_server.plan.cost import UNKNOWN
from pleat_server.plan.devices import Device, Table

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
FLOAT = 4  # bytes of a weight on the wire


def swapped(params: Params, masks: Mapping[str, Bools], squares: Params, share: float) -> dict[str, Bools]:
    """The next masks: of each the `share` of smallest weights goes, rounded down, and as many of the entries outside
    with the largest mean squared gradient come, but only where a gradient came at all; what has none displaces nothing.
    Of equal ones the first."""
    out = {}
    for name, mask in masks.items():
        worth = np.where(mask, 0, squares[name])
        count = min(math.floor(round(share * int(mask.sum()), 9)), int(np.count_nonzero(worth > 0)))
        weights = np.where(mask, np.abs(params[name]) + 1, 0)
        stays = mask & top(weights, (int(mask.sum()) - count) / mask.size) if count < mask.sum() else mask & False
        out[name] = stays | top(worth, count / mask.size) if count else mask
    return out


def share_at(share: float, until: int, number: int) -> float:
    """The share that may go in round `number`: half a cosine from `share` to 0 in round `until`, constant without."""
    return share / 2 * (1 + math.cos(math.pi * min(1.0, number / until))) if until else share


def reconfigured(
    params: Params,
    masks: Mapping[str, Bools],
    squares: Params,
    seconds: Mapping[str, float],
    rest_s: float,
    free: float,
) -> dict[str, Bools]:
    """The next masks. `seconds`: of one more entry of a tensor, a round; `rest_s`: of all that has no mask; `free`: the
    share of each mask's smallest weights that may go."""
    names = sorted(masks)
    stays = {n: masks[n] & top(np.where(masks[n], np.abs(params[n]) + 1, 0), _kept(masks[n], free)) for n in names}
    worth = np.concatenate([squares[n].reshape(-1).astype(np.float64) for n in names])
    cost = np.concatenate([np.full(masks[n].size, seconds[n]) for n in names])
    fixed = np.concatenate([stays[n].reshape(-1) for n in names])
    chosen = fixed | select(worth, cost, ~fixed, float(worth[fixed].sum()), rest_s + float(cost[fixed].sum()))
    out, start = {}, 0
    for n in names:
        out[n] = chosen[start : start + masks[n].size].reshape(masks[n].shape)
        start += masks[n].size
    return out


def _kept(mask: Bools, free: float) -> float:
    """The share of all of a tensor's entries that stays."""
    active = int(mask.sum())
    return max(0, active - int(round(free * active, 9))) / mask.size


def select(worth: Floats, cost: Floats, candidates: Bools, value: float, seconds: float) -> Bools:
    """The candidates to add to what has `value` and takes `seconds`; of equal ratios the first."""
    index = np.flatnonzero(candidates)
    index = index[np.argsort(-(worth[index] / cost[index]), kind="stable")]
    values = value + np.concatenate([[0.0], np.cumsum(worth[index])[:-1]])
    times = seconds + np.concatenate([[0.0], np.cumsum(cost[index])[:-1]])
    better = worth[index] * times > values * cost[index]
    count = int(index.size if better.all() else np.argmin(better))
    out = np.zeros(worth.size, np.bool_)
    out[index[:count]] = True
    return out


def time_model(model: ModelMap, recipe: Recipe, table: Table) -> tuple[dict[str, float], float]:
    """Seconds a round of one entry of each tensor, and of everything besides the matrices, on the median device here.

    Compute and link as they were measured (the cost fits and the planned rates of the device table); a device nobody
    timed counts as a slow board on a slow link."""
    here = [d for d in table.devices.values() if d.here] or [Device("nobody")]
    theta = np.median([d.cost.theta if d.cost else UNKNOWN for d in here], axis=0)
    wire = float(np.median([sum(1 / (way.planned or UNKNOWN_RATE) for way in (d.link.up, d.link.down)) for d in here]))
    training = recipe.training
    samples = float(np.median([max(1, d.profile.samples) for d in here]))
    passes = training.epochs * samples
    entry = {t.name: float(theta[1]) * BACKWARD * passes * t.positions / 1e9 + FLOAT * wire for t in model.tensors}
    vectors = sum(FLOAT * wire * int(np.prod(t.shape)) for t in model.tensors if len(t.shape) < 2)
    return entry, float(theta[0]) * passes / training.batch + vectors
