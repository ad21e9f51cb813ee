"""Portions: what is left of a selection when tensors, or what another selection brought, are taken away."""

from __future__ import annotations

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


def only_held(model: ModelMap, params: Params, selections: Collection[Selection]) -> Params:
    """`params`, in global shapes, with 0 wherever the masks of none of `selections` hold an entry; tensors that one of
    them does not mask are shared, not copied."""
    out = dict(params)
    for name in params:
        if selections and all(name in s.masks for s in selections):
            held = np.logical_or.reduce([coverage(model, s, name) for s in selections])
            out[name] = masked(params[name], held)
    return out
