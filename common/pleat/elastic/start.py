"""The first weights of nested sizes: every size begins with activations of the usual strength.

An initialiser scales a layer for its full fan-in; a smaller size sums over fewer inputs, so that deep in a narrow net
little is left. Here an input channel that the smallest sizes share is scaled for the smallest of them: with C inputs
in all and c in the smallest size that holds the channel, its weights are multiplied by sqrt(C / c). The full net keeps
its function class; with one size nothing changes.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from pleat.elastic.selection import Selection, axis_cut
from pleat.elastic.size import count
from pleat.modelmap import ModelMap
from pleat.params import Params


def scaled_start(model: ModelMap, params: Params, sizes: Iterable[Selection]) -> Params:
    """`params` with every weight's input channels (axis 1) scaled for the smallest of `sizes` that holds them."""
    out = dict(params)
    ladder = sorted(sizes, key=lambda selection: -count(model, selection))  # a smaller size has the last word
    for spec in model.tensors:
        if len(spec.shape) < 2 or not spec.positions:
            continue
        factor = np.ones(spec.shape[1], np.float32)
        for selection in ladder:
            if spec.unit and spec.unit in selection.dropped:
                continue
            cut = axis_cut(model, selection, spec.axes[1])
            if cut is not None:
                factor[cut] = np.sqrt(spec.shape[1] / cut.size)
        out[spec.name] = params[spec.name] * factor.reshape(1, -1, *[1] * (len(spec.shape) - 2))
    return out
