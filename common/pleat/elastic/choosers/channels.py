"""Channels by importance: every group keeps the channels whose filters weigh most, wherever they stand (FedMP)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pleat.elastic.choosers.draw import Draw
from pleat.elastic.choosers.width import hidden, steps_kept
from pleat.elastic.selection import Selection, make
from pleat.errors import UseError
from pleat.modelmap import Group, ModelMap
from pleat.params import Params


def channels(model: ModelMap, rate: float, draw: Draw) -> Selection:
    """As many channels of each group as a prefix has, of largest score, in whole steps; of equal ones the first.

    Raises UseError without `draw.params`.
    """
    if draw.params is None:
        raise UseError("chooser 'channels' ranks filters and was given none; pass the global model in Draw.params")
    kept = {}
    for group in hidden(model):
        steps = scores(model, group, draw.params).reshape(-1, group.step).sum(axis=1)
        chosen = np.sort(np.argsort(-steps, kind="stable")[: steps_kept(group, rate)])
        kept[group.name] = (chosen[:, None] * group.step + np.arange(group.step)).reshape(-1)
    return make(model, kept)


def scores(model: ModelMap, group: Group, params: Params) -> NDArray[np.float64]:
    """l1 norm of the filters or rows that put each channel out, over all layers that the group couples."""
    out = np.zeros(group.size)
    for spec in model.tensors:
        if len(spec.shape) >= 2 and len(spec.axes[0]) == 1 and spec.axes[0][0].group == group.name:
            sums = np.abs(params[spec.name]).astype(np.float64).sum(axis=tuple(range(1, len(spec.shape))))
            out += sums.reshape(group.size, -1).sum(axis=1)
    return out
