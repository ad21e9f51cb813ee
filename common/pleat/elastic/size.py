"""Sizes of a submodel in closed form: entries, floats to allocate, multiply-adds, stored activations. Pure.

A mask hides entries but shrinks no dense array: it lowers `count` (what is worth sending), and neither `allocated` nor
`macs` nor `activation_floats` (what a device's memory and clock feel).
"""

from __future__ import annotations

import math

from pleat.elastic.selection import Selection, axis_cut, held, shape_of
from pleat.modelmap import Axis, ModelMap, TensorSpec


def count(model: ModelMap, selection: Selection) -> int:
    """Entries the submodel holds, masked-out ones left out; running statistics included, for they travel too."""
    return sum(_entries(model, selection, t) for t in held(model, selection))


def parameters(model: ModelMap, selection: Selection) -> int:
    """Entries that are trained, masked-out ones left out."""
    return sum(_entries(model, selection, t) for t in held(model, selection) if t.role == "weight")


def _entries(model: ModelMap, selection: Selection, spec: TensorSpec) -> int:
    mask = selection.masks.get(spec.name)
    return int(mask.sum()) if mask is not None else math.prod(shape_of(model, selection, spec))


def width(model: ModelMap, selection: Selection) -> float:
    """Share of their channels that the groups keep, averaged over those that may be cut; a dropped unit's keep none."""
    shares = [
        0.0 if g.unit in selection.dropped else len(selection.kept.get(g.name, range(g.size))) / g.size
        for g in model.groups
        if g.role == "hidden"
    ]
    return math.fsum(shares) / len(shares) if shares else 1.0


def allocated(model: ModelMap, selection: Selection) -> int:
    """Floats of the submodel's dense arrays, masked-out entries included."""
    return sum(math.prod(shape_of(model, selection, t)) for t in held(model, selection))


def macs(model: ModelMap, selection: Selection) -> int:
    """Multiply-adds of one forward pass of one sample, dense kernels; a training step costs about three times it."""
    return sum(t.positions * math.prod(shape_of(model, selection, t)) for t in held(model, selection) if t.positions)


def activation_floats(model: ModelMap, selection: Selection) -> int:
    """Floats a training step stores per sample for the backward pass."""
    return sum(
        a.positions * _length(model, selection, a.axis)
        for a in model.activations
        if not (a.unit and a.unit in selection.dropped)
    )


def _length(model: ModelMap, selection: Selection, axis: Axis) -> int:
    cut = axis_cut(model, selection, axis)
    if cut is not None:
        return int(cut.size)
    return sum(s.repeat * (model.group[s.group].size if s.group else 1) for s in axis)
