"""Portions: what is left of a selection when tensors, or what another selection brought, are taken away."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable

import numpy as np

from pleat.elastic.place import gather, masked
from pleat.elastic.selection import Selection, coverage, cuts, make
from pleat.modelmap import ModelMap
from pleat.params import Params


def less(model: ModelMap, selection: Selection, tensors: Iterable[str]) -> Selection:
    """`selection` without any entry of these tensors: their masks are false everywhere."""
    nothing = {name: np.zeros(model.tensor[name].shape, np.bool_) for name in tensors}
    return make(model, selection.kept, selection.dropped, {**selection.masks, **nothing})


def outside(model: ModelMap, outer: Selection, inner: Selection) -> Selection:
    """What `outer` holds and the masks of `inner` leave out; tensors that `inner` does not mask as in `outer`."""
    masks = {name: coverage(model, outer, name) & ~mask for name, mask in inner.masks.items()}
    return make(model, outer.kept, outer.dropped, {**outer.masks, **masks})


def within_masks(model: ModelMap, selection: Selection, part: Params) -> Params:
    """A submodel's tensors, 0 outside the masks of `selection`; tensors without a mask are shared, not copied."""
    out = dict(part)
    for name, mask in selection.masks.items():
        out[name] = masked(part[name], gather(mask, cuts(model, selection, model.tensor[name])))
    return out


def only_held(model: ModelMap, params: Params, selections: Collection[Selection], votes: float = 0.0) -> Params:
    """`params`, in global shapes, with 0 wherever the masks of none of `selections`, or of fewer than the share `votes`
    of them, hold an entry; tensors that enough of them do not mask are shared, not copied."""
    out, need = dict(params), max(1, math.ceil(round(votes * len(selections), 9)))
    for name in params:
        masks = [coverage(model, s, name) for s in selections if name in s.masks]
        free = len(selections) - len(masks)  # hold all of it
        if selections and free < need:
            held = np.asarray(np.sum(masks, axis=0, dtype=np.int64) + free >= need)
            out[name] = masked(params[name], held)
    return out
