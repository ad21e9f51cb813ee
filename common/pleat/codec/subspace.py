"""Subspaces: a part of every matrix's entries, or combinations of them, that an update is confined to (structured
updates). Both ends draw it from the seed of the order, so that only coefficients travel.

    low-rank:SHARE   H = A B: A is orthonormal, of ceil(SHARE x rows) columns drawn from the seed; B travels
    random:SHARE     ceil(SHARE x n) entries drawn from the seed; their values travel, without positions

The device trains within it: an update then *is* its coefficients, and nothing is lost by sending these alone. Vectors
are free, and sent whole. The coefficients of a submodel are a model of their own, which any coding codes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil, prod
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pleat.codec.layout import Place, layout
from pleat.codec.transform import Context, Transform
from pleat.elastic.selection import WHOLE, shapes
from pleat.errors import UseError
from pleat.modelmap import ModelMap, Segment, TensorSpec
from pleat.params import Array, Params, Sparse, Update, dense


@dataclass(frozen=True)
class Subspace:
    """What kind, and the share of a matrix's entries that its coefficients are as many as."""

    kind: Literal["low-rank", "random"]
    share: float


@dataclass(frozen=True, eq=False)
class Span:
    """What one matrix may move in: the columns of `basis` (orthonormal), or the flat entries `places` (rising)."""

    basis: Array | None = None
    places: NDArray[np.int64] | None = None


def spans(subspace: Subspace, ctx: Context) -> dict[str, Span]:
    """The span of every matrix of the context's submodel of which anything travels. Raises UseError where a low rank is
    asked of a tensor with a mask: a product keeps to no mask."""
    out = {}
    for place in _matrices(subspace, ctx):
        rng = np.random.Generator(np.random.Philox(_seed(ctx, place.name)))
        if subspace.kind == "random":
            drawn = np.sort(rng.permutation(place.size)[: _part(subspace.share, place.size)])
            out[place.name] = Span(places=drawn if place.inside is None else place.inside[drawn])
        else:
            rows = place.shape[0]
            out[place.name] = Span(basis=_orthonormal(rng, rows, _part(subspace.share, rows)))
    return out


def _matrices(subspace: Subspace, ctx: Context) -> list[Place]:
    places = [p for p in layout(ctx).matrices.places if p.size]
    masked = next((p.name for p in places if p.inside is not None), None)
    if subspace.kind == "low-rank" and masked is not None:
        raise UseError(
            f"coding low-rank: {masked!r} has a mask, which no product of factors keeps to; confine masked tensors to "
            "random:SHARE"
        )
    return places


def _seed(ctx: Context, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{ctx.seed}\0subspace\0{name}".encode()).digest()[:8], "little")


def _part(share: float, size: int) -> int:
    return min(size, ceil(share * size - 1e-9))


def _orthonormal(rng: np.random.Generator, rows: int, rank: int) -> Array:
    """Columns of a uniformly drawn orthonormal frame; the signs are those that make R's diagonal positive, so that
    every LAPACK gives the same columns."""
    q, r = np.linalg.qr(rng.standard_normal((rows, rank)))
    return np.asarray(q * np.where(np.diag(r) < 0, -1.0, 1.0), np.float32)


def within(subspace: Subspace, inner: Transform) -> Transform:
    """`inner` on the coefficients of an update, in a context of their own."""

    def encode(value: Params, state: Any, ctx: Context) -> tuple[Any, Any]:
        return inner.encode(coefficients(subspace, value, ctx), state, context_of(subspace, ctx))

    def decode(coded: Any, ctx: Context) -> Update:
        return expanded(subspace, inner.decode(coded, context_of(subspace, ctx)), ctx)

    return Transform(lambda ctx: inner.init(context_of(subspace, ctx)), encode, decode)


def context_of(subspace: Subspace, ctx: Context) -> Context:
    """The context whose model is the coefficients of this one's submodel."""
    shape = {p.name: p.shape for p in layout(ctx).vectors.places}
    for place in _matrices(subspace, ctx):
        if subspace.kind == "low-rank":
            shape[place.name] = (_part(subspace.share, place.shape[0]), prod(place.shape[1:]))
        else:
            shape[place.name] = (1, _part(subspace.share, place.size))
    specs = [TensorSpec(n, s, tuple((Segment("", k),) for k in s)) for n, s in sorted(shape.items())]
    return replace(ctx, model=ModelMap(tuple(specs), ()), selection=WHOLE)


def coefficients(subspace: Subspace, value: Mapping[str, Array], ctx: Context) -> Params:
    """What an update is in terms of its spans: A^T H, or the values at the places. What lies outside is left out."""
    span = spans(subspace, ctx)
    whole = {n: a for n, a in value.items() if a.ndim < 2 or n in span}
    return {n: _coefficients(span[n], a) if n in span else a for n, a in whole.items()}


def _coefficients(span: Span, array: Array) -> Array:
    if span.basis is not None:
        return np.ascontiguousarray(span.basis.T @ array.reshape(array.shape[0], -1))
    assert span.places is not None  # a span is one or the other
    return array.reshape(-1)[span.places][None]


def expanded(subspace: Subspace, found: Update, ctx: Context) -> Update:
    """The update of these coefficients, in the submodel's shapes: matrices by places are `Sparse`."""
    span, values, out = spans(subspace, ctx), dense(found), dict[str, Array | Sparse]()
    for name, shape in shapes(ctx.model, ctx.selection).items():
        if name not in span:
            nothing = Sparse(shape, np.zeros(0, np.int64), np.zeros(0, np.float32))
            out[name] = values.get(name, nothing)
            continue
        basis, places = span[name].basis, span[name].places
        if basis is not None:
            out[name] = (basis @ values[name]).reshape(shape)
        elif places is not None:
            out[name] = Sparse(shape, places, values[name].reshape(-1))
    return out
