"""Selection: which channels, depth units and entries of a model a device holds; cutting and putting back.

Laws (tests/laws): `extract(embed(x)) == x`; entries where `coverage` is 0 are 0 after `embed`; selections form a
semilattice under `compose` (associative, commutative, idempotent; the whole model is its neutral element); and
`extract(inner of extract(outer)) == extract(compose(outer, inner))`. Shapes are always checked, never broadcast.
Source of the common frame: elastic.md section 1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pleat.errors import UseError
from pleat.modelmap import Axis, ModelMap, TensorSpec
from pleat.params import Array, Params, Sparse, Update

Index = NDArray[np.int64]
Cut = Index | None  # kept indices of one axis, strictly increasing; None: the whole axis


@dataclass(frozen=True, eq=False)
class Selection:
    """A part of a model, in the model's global coordinates.

    `kept`: group -> strictly increasing channel indices (int64); a group not named is whole.
    `dropped`: depth units that are bypassed. `masks`: tensor -> bool array of the tensor's *global* shape.
    Build through `make`, which checks and normalises; two selections are equal when their digests are.
    """

    kept: Mapping[str, Index] = field(default_factory=dict)
    dropped: frozenset[str] = frozenset()
    masks: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)

    @cached_property
    def digest(self) -> bytes:
        h = hashlib.sha256()
        for name in sorted(self.kept):
            h.update(b"g" + name.encode() + b"\0" + self.kept[name].astype("<i8").tobytes())
        for name in sorted(self.dropped):
            h.update(b"u" + name.encode() + b"\0")
        for name in sorted(self.masks):
            h.update(b"m" + name.encode() + b"\0" + np.packbits(self.masks[name]).tobytes())
        return h.digest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Selection) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def is_whole(self) -> bool:
        return not (self.kept or self.dropped or self.masks)


WHOLE = Selection()


def make(
    model: ModelMap,
    kept: Mapping[str, Iterable[int] | Index] | None = None,
    dropped: Iterable[str] = (),
    masks: Mapping[str, NDArray[np.bool_]] | None = None,
) -> Selection:
    """Check and normalise: whole groups, all-true masks, and cuts inside dropped units are left out.

    Raises UseError for an unknown group, unit or tensor, indices out of range or not increasing, a count that is no
    multiple of the group's step, a frozen group cut, an emptied group outside a dropped unit, a mask of another shape.
    """
    gone = frozenset(dropped)
    unknown = sorted(gone - set(model.units))
    if unknown:
        raise UseError(f"selection drops unit {unknown[0]!r}, which the model does not have; it has {list(model.units)}")
    cuts = {}
    for name, indices in sorted((kept or {}).items()):
        index = _checked_cut(model, name, np.asarray(indices, np.int64))
        group = model.group[name]
        if (group.unit and group.unit in gone) or index.size == group.size:
            continue
        if index.size == 0:
            raise UseError(f"selection leaves no channel of group {name!r}; drop its unit or keep at least {group.step}")
        cuts[name] = index
    held = {name: _checked_mask(model, name, mask) for name, mask in sorted((masks or {}).items())}
    held = {name: m for name, m in held.items() if not m.all() and not (model.tensor[name].unit in gone)}
    return Selection(cuts, gone, held)


def _checked_cut(model: ModelMap, name: str, index: Index) -> Index:
    group = model.group.get(name)
    if group is None:
        raise UseError(f"selection names group {name!r}, which the model does not have; it has {sorted(model.group)}")
    if index.ndim != 1 or (index.size and (index[0] < 0 or index[-1] >= group.size or (np.diff(index) <= 0).any())):
        raise UseError(f"indices of group {name!r} must increase strictly within 0..{group.size - 1}")
    if group.role == "frozen" and index.size != group.size:
        raise UseError(f"group {name!r} cannot be cut: {group.reason or 'it is frozen'}")
    if group.step > 1 and index.size:
        blocks = index.reshape(-1, group.step) if index.size % group.step == 0 else None
        if blocks is None or (blocks[:, 0] % group.step).any() or (blocks - blocks[:, :1] != np.arange(group.step)).any():
            raise UseError(f"group {name!r} must be cut in whole runs of {group.step} channels, as its norm groups them")
    return index


def _checked_mask(model: ModelMap, name: str, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    spec = model.tensor.get(name)
    if spec is None:
        raise UseError(f"selection masks tensor {name!r}, which the model does not have")
    if mask.dtype != np.bool_ or mask.shape != spec.shape:
        raise UseError(f"mask of {name!r} must be bool of shape {spec.shape}, got {mask.dtype} of shape {mask.shape}")
    return mask


def compose(model: ModelMap, left: Selection, right: Selection) -> Selection:
    """What both hold: the meet of two selections, in global coordinates."""
    kept = dict(left.kept)
    for name, index in right.kept.items():
        kept[name] = np.intersect1d(kept[name], index, assume_unique=True) if name in kept else index
    masks = dict(left.masks)
    for name, mask in right.masks.items():
        masks[name] = masks[name] & mask if name in masks else mask
    return make(model, kept, left.dropped | right.dropped, masks)


def within(model: ModelMap, inner: Selection, outer: Selection) -> bool:
    """Whether everything `inner` holds is also held by `outer`."""
    return compose(model, inner, outer) == inner


def held(model: ModelMap, selection: Selection) -> list[TensorSpec]:
    """Specs of the tensors that exist under `selection`, sorted by name."""
    return [t for t in model.tensors if not (t.unit and t.unit in selection.dropped)]


def axis_cut(model: ModelMap, selection: Selection, axis: Axis) -> Cut:
    """Kept indices of one tensor axis: each segment's channels, every one expanded by the segment's repeat."""
    if not any(s.group in selection.kept for s in axis):
        return None
    parts, offset = [], 0
    for segment in axis:
        size = model.group[segment.group].size if segment.group else 1
        index = selection.kept.get(segment.group)
        channels = np.arange(size, dtype=np.int64) if index is None else index
        expanded = (channels[:, None] * segment.repeat + np.arange(segment.repeat)).reshape(-1)
        parts.append(offset + expanded)
        offset += size * segment.repeat
    return np.concatenate(parts)


def cuts(model: ModelMap, selection: Selection, spec: TensorSpec) -> tuple[Cut, ...]:
    return tuple(axis_cut(model, selection, axis) for axis in spec.axes)


def shape_of(model: ModelMap, selection: Selection, spec: TensorSpec) -> tuple[int, ...]:
    """Shape of `spec` under `selection`."""
    return tuple(n if c is None else int(c.size) for n, c in zip(spec.shape, cuts(model, selection, spec), strict=True))


def shapes(model: ModelMap, selection: Selection) -> dict[str, tuple[int, ...]]:
    """Tensor name -> shape in the submodel; dropped tensors are absent."""
    return {t.name: shape_of(model, selection, t) for t in held(model, selection)}


def cut_array(array: NDArray[np.generic], axis_cuts: tuple[Cut, ...]) -> NDArray[np.generic]:
    """`array` restricted to the outer product of `axis_cuts`; a view where every cut is a run of consecutive indices."""
    if all(c is None or _is_run(c) for c in axis_cuts):
        return array[tuple(slice(None) if c is None else slice(int(c[0]), int(c[-1]) + 1) for c in axis_cuts)]
    full = [np.arange(n) if c is None else c for n, c in zip(array.shape, axis_cuts, strict=True)]
    return array[np.ix_(*full)]


def _is_run(index: Index) -> bool:
    return index.size > 0 and int(index[-1]) - int(index[0]) + 1 == index.size


def extract(model: ModelMap, selection: Selection, params: Mapping[str, Array]) -> Params:
    """The submodel's own dense arrays; masked-out entries are 0. Raises UseError if names or shapes are not the model's."""
    _check_names(params, (t.name for t in model.tensors), "the model")
    out: Params = {}
    for spec in held(model, selection):
        whole = params[spec.name]
        _check_shape(spec.name, whole.shape, spec.shape)
        if spec.name in selection.masks:
            whole = whole * selection.masks[spec.name]
        out[spec.name] = np.ascontiguousarray(cut_array(whole, cuts(model, selection, spec)))
    return out


def embed(model: ModelMap, selection: Selection, update: Update) -> Update:
    """Put a submodel's tensors back at their global places; everything else is 0 (dropped tensors: empty `Sparse`).

    Dense tensors come back dense, `Sparse` ones `Sparse`; entries outside a mask are set to 0 / left out.
    Raises UseError if names or shapes are not the submodel's.
    """
    specs = held(model, selection)
    _check_names(update, (t.name for t in specs), "the submodel")
    out: dict[str, Array | Sparse] = {}
    for spec in model.tensors:
        if spec.name not in update:
            out[spec.name] = Sparse(spec.shape, np.zeros(0, np.int64), np.zeros(0, np.float32))
            continue
        part, axis_cuts, mask = update[spec.name], cuts(model, selection, spec), selection.masks.get(spec.name)
        _check_shape(spec.name, part.shape, shape_of(model, selection, spec))
        if isinstance(part, Sparse):
            out[spec.name] = _embed_sparse(spec, axis_cuts, part, mask)
        else:
            out[spec.name] = _embed_dense(spec, axis_cuts, part, mask)
    return out


def _embed_dense(spec: TensorSpec, axis_cuts: tuple[Cut, ...], part: Array, mask: NDArray[np.bool_] | None) -> Array:
    if all(c is None for c in axis_cuts):
        return part if mask is None else part * mask
    whole = np.zeros(spec.shape, np.float32)
    whole[global_index(spec, axis_cuts)] = part
    return whole if mask is None else whole * mask


def global_index(spec: TensorSpec, axis_cuts: tuple[Cut, ...]) -> tuple[slice, ...] | tuple[Index, ...]:
    """An index expression that addresses the submodel's entries inside the global tensor, for reading or assignment."""
    if all(c is None or _is_run(c) for c in axis_cuts):
        return tuple(slice(None) if c is None else slice(int(c[0]), int(c[-1]) + 1) for c in axis_cuts)
    full = [np.arange(n) if c is None else c for n, c in zip(spec.shape, axis_cuts, strict=True)]
    return np.ix_(*full)


def _embed_sparse(
    spec: TensorSpec, axis_cuts: tuple[Cut, ...], part: Sparse, mask: NDArray[np.bool_] | None
) -> Sparse:
    index, values = part.index, part.values
    if any(c is not None for c in axis_cuts):
        places = np.unravel_index(index, part.shape)
        places = tuple(p if c is None else c[p] for p, c in zip(places, axis_cuts, strict=True))
        index = np.ravel_multi_index(places, spec.shape).astype(np.int64)
    if mask is not None:
        inside = mask.reshape(-1)[index]
        index, values = index[inside], values[inside]
    return Sparse(spec.shape, index, values)


def coverage(model: ModelMap, selection: Selection, name: str) -> NDArray[np.bool_]:
    """Where the tensor `name` was on the device: bool of the global shape."""
    spec = model.tensor[name]
    if spec.unit and spec.unit in selection.dropped:
        return np.zeros(spec.shape, np.bool_)
    axis_cuts = cuts(model, selection, spec)
    if all(c is None for c in axis_cuts):
        where = np.ones(spec.shape, np.bool_)
    else:
        where = np.zeros(spec.shape, np.bool_)
        where[global_index(spec, axis_cuts)] = True
    mask = selection.masks.get(name)
    return where if mask is None else where & mask


def _check_names(found: Iterable[str], expected: Iterable[str], of: str) -> None:
    have, want = set(found), set(expected)
    if have != want:
        odd = sorted(have ^ want)
        raise UseError(f"tensors do not fit {of}: {len(odd)} names differ, first {odd[0]!r}")


def _check_shape(name: str, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if tuple(found) != tuple(expected):
        raise UseError(f"tensor {name!r}: expected shape {tuple(expected)}, got {tuple(found)}")
