"""Layout: a submodel's entries as two runs of numbers, in an order that both ends derive and never send.

The *matrices* (tensors of two or more axes) and the *vectors* (biases, norms: one axis or none) are each joined, in
sorted order of names; of a masked tensor only the entries inside the mask are there. Runs are worked on in segments
of at most `SEGMENT` entries, which keeps scratch memory small and in the cache; a segment also ends with a tensor once
it holds `SEAM` entries, so that large tensors get a codebook and Huffman tables of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pleat.codec.bf16 import Words, to_bf16, upper
from pleat.codec.transform import Context
from pleat.elastic.selection import cut_array, cuts, held
from pleat.errors import UseError
from pleat.params import Array, Params, Sparse, Update

SEGMENT = 1 << 20
SEAM = 1 << 18


@dataclass(frozen=True, eq=False)
class Place:
    """One tensor of a submodel. `size`: entries that travel; `inside`: their flat positions, or None for all."""

    name: str
    shape: tuple[int, ...]
    size: int
    inside: NDArray[np.int64] | None = None


@dataclass(frozen=True, eq=False)
class Run:
    """Tensors joined end to end. `bounds`: where segments begin and end, from 0 to `size`."""

    places: tuple[Place, ...]
    size: int
    bounds: tuple[int, ...]

    def segments(self) -> list[tuple[int, int]]:
        return list(zip(self.bounds[:-1], self.bounds[1:], strict=True))


@dataclass(frozen=True, eq=False)
class Layout:
    vectors: Run
    matrices: Run

    @property
    def runs(self) -> tuple[Run, Run]:
        return self.vectors, self.matrices


def layout(ctx: Context) -> Layout:
    """The layout of the context's submodel."""
    groups: tuple[list[Place], list[Place]] = ([], [])
    for spec in sorted(held(ctx.model, ctx.selection), key=lambda s: s.name):
        cut = cuts(ctx.model, ctx.selection, spec)
        shape = tuple(n if c is None else int(c.size) for n, c in zip(spec.shape, cut, strict=True))
        mask, inside, size = ctx.selection.masks.get(spec.name), None, prod(shape)
        if mask is not None:
            inside = np.flatnonzero(cut_array(mask, cut))
            size = int(inside.size)
        groups[len(shape) >= 2].append(Place(spec.name, shape, size, inside))
    return Layout(_run(groups[0]), _run(groups[1]))


def _run(places: Sequence[Place]) -> Run:
    bounds, end = [0], 0
    for place in places:
        end += place.size
        if end - bounds[-1] >= SEAM or place is places[-1]:
            bounds.extend(range(bounds[-1] + SEGMENT, end, SEGMENT))
            if end > bounds[-1]:
                bounds.append(end)
    return Run(tuple(places), end, tuple(bounds))


def check_names(at: Layout, value: Mapping[str, Any]) -> None:
    """Raises UseError unless `value` holds exactly the submodel's tensors, in their shapes, and nothing else."""
    shapes = {p.name: p.shape for run in at.runs for p in run.places}
    if value.keys() != shapes.keys():
        odd = sorted(value.keys() ^ shapes.keys())
        raise UseError(f"tensors do not fit the submodel: {len(odd)} names differ, first {odd[0]!r}")
    for name, shape in shapes.items():
        check_shape(name, value[name].shape, shape)


def check_shape(name: str, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if tuple(found) != expected:
        raise UseError(f"tensor {name!r}: expected shape {expected}, got {tuple(found)}")


def flat(place: Place, tensor: Array) -> Array:
    """The tensor's entries that travel, one after another: a view where the tensor is contiguous and unmasked."""
    line = np.ascontiguousarray(tensor, np.float32).reshape(-1)
    return line if place.inside is None else line[place.inside]


def join(run: Run, params: Mapping[str, Array]) -> Array:
    """The run as one array; a view if it is a single contiguous tensor. Tensors missing in `params` are 0."""
    parts = [
        flat(p, params[p.name]) if p.name in params else np.zeros(p.size, np.float32) for p in run.places if p.size
    ]
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def join_bf16(run: Run, params: Mapping[str, Array], patterns: Callable[[Array], Words] = to_bf16) -> Words:
    """The bf16 patterns of the run, always a new array. Tensors missing in `params` are 0."""
    out, start = np.zeros(run.size, np.uint16), 0
    for place in run.places:
        array = params.get(place.name)
        if array is not None:
            check_shape(place.name, array.shape, place.shape)
            out[start : start + place.size] = patterns(flat(place, array))
        start += place.size
    return out


def join_base(run: Run, ctx: Context) -> Words:
    """The patterns of the context's base, always a new array; all 0 without one."""
    return join_bf16(run, ctx.base or {}, upper)


def split(run: Run, line: Array) -> Params:
    """Back to tensors: views of `line`, but for masked tensors."""
    out, start = {}, 0
    for place in run.places:
        part = line[start : start + place.size]
        start += place.size
        if place.inside is not None:
            whole = np.zeros(prod(place.shape), np.float32)
            whole[place.inside] = part
            part = whole
        out[place.name] = part.reshape(place.shape)
    return out


def join_sparse(run: Run, update: Update) -> tuple[NDArray[np.int64], Array]:
    """Positions in the run and values of sparse tensors, which must lie inside their masks."""
    index, values, start = [], [], 0
    for place in run.places:
        tensor = update[place.name]
        if not isinstance(tensor, Sparse):
            raise UseError(f"tensor {place.name!r} is dense beside sparse ones; select from all matrices or from none")
        own = tensor.index if place.inside is None else np.searchsorted(place.inside, tensor.index)
        index.append(own + start if start else own)
        values.append(tensor.values)
        start += place.size
    if len(index) == 1:
        return index[0], values[0]
    return np.concatenate(index), np.concatenate(values)


def split_sparse(run: Run, index: NDArray[np.int64], values: Array) -> dict[str, Sparse]:
    """Back to one `Sparse` a tensor."""
    out: dict[str, Sparse] = {}
    start = first = 0
    for place in run.places:
        last = index.size if place is run.places[-1] else int(np.searchsorted(index, start + place.size))
        own = index[first:last] - start if start else index[first:last]
        own = own if place.inside is None else place.inside[own]
        out[place.name] = Sparse(place.shape, own, values[first:last])
        start, first = start + place.size, last
    return out
