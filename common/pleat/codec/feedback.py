"""Error feedback: what a coding loses today is added to tomorrow's update (EF14).

v = u + e is coded, and e becomes v less what was decoded. So the decoded values telescope: their sum is the sum of the
updates plus the first residual less the last, in the model's *global* coordinates, whatever was selected in between.
The inner coding must be a contraction (top-k, nearest levels); unbiased codings of large variance diverge under it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pleat.codec.transform import Context, Transform
from pleat.elastic.place import Cuts, is_run
from pleat.elastic.selection import cut_array, cuts, held
from pleat.errors import UseError
from pleat.params import Array, Params, Sparse, Update, dense


def feedback(inner: Transform) -> Transform:
    """Wrap a whole coding. State: the residual, tensors by name in global shapes; an absent tensor is 0.

    `inner` starts afresh from the context each time: the residual is all that is carried over.
    """

    def encode(value: Params, state: Params, ctx: Context) -> tuple[object, Params]:
        coded, _, residual = fed_back(inner, value, state, ctx)
        return coded, residual

    return Transform(lambda ctx: {}, encode, inner.decode)


def fed_back(inner: Transform, value: Params, residual: Params, ctx: Context) -> tuple[Any, Update, Params]:
    """What `feedback(inner)` encodes: the coded value, what it decodes to, and the next residual."""
    whole = _plus(value, restrict(residual, ctx))
    coded, _ = inner.encode(whole, inner.init(ctx), ctx)
    sent: Update = inner.decode(coded, ctx)
    return coded, sent, _replace(residual, _less(whole, sent), ctx)


def restore(residual: Params, update: Update, ctx: Context) -> Params:
    """The residual after a decoded update, in the submodel's shapes, came back refused: as if nothing had been sent."""
    return _replace(residual, _plus(dense(update), restrict(residual, ctx)), ctx)


def restrict(residual: Params, ctx: Context) -> Params:
    """The residual as today's submodel sees it: cut to its shapes, 0 outside masks; tensors without one are absent."""
    out: Params = {}
    for spec in held(ctx.model, ctx.selection):
        whole = residual.get(spec.name)
        if whole is None:
            continue
        if whole.shape != spec.shape:
            raise UseError(f"residual of {spec.name!r}: expected shape {spec.shape}, got {whole.shape}")
        axis_cuts, mask = cuts(ctx.model, ctx.selection, spec), ctx.selection.masks.get(spec.name)
        part = cut_array(whole, axis_cuts)
        out[spec.name] = part if mask is None else np.where(cut_array(mask, axis_cuts), part, np.float32(0))
    return out


def _plus(value: Params, own: Params) -> Params:
    return {name: array + own[name] if name in own else array for name, array in value.items()}


def _less(whole: Params, sent: Update) -> Params:
    out: Params = {}
    for name, array in whole.items():
        tensor = sent[name]
        if isinstance(tensor, Sparse):
            left = array.reshape(-1).copy()
            left[tensor.index] -= tensor.values
            out[name] = left.reshape(array.shape)
        else:
            out[name] = array - tensor
    return out


def _replace(residual: Params, part: Params, ctx: Context) -> Params:
    """`residual` with the submodel's entries replaced by `part`; entries that are not held stay as they are."""
    out = dict(residual)
    for spec in held(ctx.model, ctx.selection):
        axis_cuts, mask = cuts(ctx.model, ctx.selection, spec), ctx.selection.masks.get(spec.name)
        own: Array = np.ascontiguousarray(part[spec.name], np.float32)
        if mask is None and all(c is None for c in axis_cuts):
            out[spec.name] = own
            continue
        whole = residual[spec.name].copy() if spec.name in residual else np.zeros(spec.shape, np.float32)
        where = _where(spec.shape, axis_cuts)
        whole[where] = own if mask is None else np.where(mask[where], own, whole[where])
        out[spec.name] = whole
    return {name: out[name] for name in sorted(out)}


def _where(shape: tuple[int, ...], axis_cuts: Cuts) -> Any:
    """An index expression for the submodel's entries of a global tensor, to read or to assign."""
    if all(is_run(c) for c in axis_cuts):
        return tuple(slice(None) if c is None else slice(int(c[0]), int(c[-1]) + 1) for c in axis_cuts)
    return np.ix_(*(np.arange(n) if c is None else c for n, c in zip(shape, axis_cuts, strict=True)))
