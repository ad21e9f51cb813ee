"""Drift: the server's half of FedDyn, by which devices that train long on unlike data still come to one optimum. Pure.

With C_i the devices that held entry i in a round and K all that the run knows,

    h_i -= |C_i| / K (mean of C_i - model)_i,    model_i = mean_i - h_i    where somebody held i, else as it was

in weights alone, not in running statistics. alpha stands on both sides of the method's own rule and falls out.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pleat.elastic.fold import Fold
from pleat.params import Array, Params

DRIFT = "drift"  # the name of h among the method's tensors


def holders_of(total: Fold, reports: int) -> dict[str, Array]:
    """Weight -> how many of the `reports` folded are from devices that held each entry, counted by what they weigh."""
    share = reports / total.weight
    names = (t.name for t in total.model.tensors if t.role == "weight")
    return {name: np.asarray(total.held_weight(name) * share, np.float32) for name in names}


def drifted(
    params: Params, step: Params, holders: Mapping[str, Array], before: Params, devices: int
) -> tuple[Params, Params]:
    """(params - h, h): `params` are the mean, `step` led to it, `before` is h until now, empty at first."""
    out, h = dict(params), dict(before)
    for name, held in holders.items():
        change = np.float32(1 / devices) * held * step[name]
        h[name] = before[name] - change if name in before else -change
        out[name] = params[name] - np.where(held > 0, h[name], np.float32(0))
    return out, h
