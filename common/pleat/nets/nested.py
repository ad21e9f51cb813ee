"""Nested: a smaller submodel as slices of a larger one's tensors, so that both train the same weights."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from pleat.elastic.place import Cut
from pleat.elastic.selection import Selection, cuts, held
from pleat.errors import UseError
from pleat.modelmap import ModelMap
from pleat.nets.slices import part


def views(
    model: ModelMap, inner: Selection, outer: Selection, tensors: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Those of the outer submodel's `tensors` that the inner one has too, cut to the inner's shapes.

    Differentiable; views of the same memory wherever kept channels are evenly spaced, always so for a prefix. Masks are
    not applied. Raises UseError where the outer submodel lacks what the inner one holds.
    """
    missing = sorted(outer.dropped - inner.dropped)
    if missing:
        raise UseError(f"the smaller selection holds unit {missing[0]!r}, which the larger one dropped")
    out = {}
    for spec in held(model, inner):
        if spec.name in tensors:
            small, large = cuts(model, inner, spec), cuts(model, outer, spec)
            places = tuple(_within(a, b, spec.name) for a, b in zip(small, large, strict=True))
            out[spec.name] = part(tensors[spec.name], places)
    return out


def _within(small: Cut, large: Cut, name: str) -> Cut:
    """Where the kept indices `small` stand among the kept indices `large`."""
    if large is None or small is large:
        return small if large is None else None
    places = np.searchsorted(large, small) if small is not None else None
    if places is None or small is None or places[-1] >= large.size or not np.array_equal(large[places], small):
        raise UseError(f"the smaller selection holds channels of {name!r} that the larger one does not")
    return places
