"""Selection: which channels, depth units and entries of a model a device holds; cutting and putting back.

Laws (tests/laws): `extract(embed(x)) == x`; entries where `coverage` is 0 are 0 after `embed`; selections form a
semilattice under `compose` (associative, commutative, idempotent; the whole model is its neutral element; where no
group is emptied). A selection made by `make` is canonical: two are equal exactly when they drop the same units and
cover the same entries. Shapes are always checked, never broadcast. The arithmetic of places is in `place.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pleat.elastic.place import Cut, Cuts, Index, Where, flat_index, gather, masked, place, plane, scatter
from pleat.errors import UseError
from pleat.modelmap import Axis, ModelMap, TensorSpec
from pleat.params import Array, Params, Sparse, Update

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Selection:
    """A part of a model, in the model's global coordinates.

    `kept`: group -> strictly increasing channel indices (int64); a group not named is whole.
    `dropped`: depth units that are bypassed. `masks`: tensor -> bool array of the tensor's *global* shape.
    Build through `make`, which checks and normalises; two selections are equal when their digests are.
    """

    kept: Mapping[str, Index] = field(default_factory=dict)
    dropped: frozenset[str] = frozenset()
    masks: Mapping[str, Mask] = field(default_factory=dict)
    lent: bytes = b""  # came from a peer with the digest of its masks in their place: to be looked up before use

    @cached_property
    def masks_digest(self) -> bytes:
        """SHA-256 of the masks alone: names, shapes and entries."""
        h = hashlib.sha256()
        for name in sorted(self.masks):
            h.update(f"{name}\0{self.masks[name].shape}\0".encode() + np.packbits(self.masks[name]).tobytes())
        return h.digest()

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the canonical form; every field is preceded by its length, so that no two forms run together."""
        h = hashlib.sha256()

        def put(kind: bytes, name: str, data: bytes) -> None:
            text = name.encode()
            h.update(kind + len(text).to_bytes(8, "little") + text + len(data).to_bytes(8, "little") + data)

        for name in sorted(self.kept):
            put(b"g", name, self.kept[name].astype("<i8").tobytes())
        for name in sorted(self.dropped):
            put(b"u", name, b"")
        for name in sorted(self.masks):
            put(b"m", name, np.packbits(self.masks[name]).tobytes())
        if self.lent:
            put(b"l", "", self.lent)
        return h.digest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Selection) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def is_whole(self) -> bool:
        return not (self.kept or self.dropped or self.masks or self.lent)


WHOLE = Selection()


def make(
    model: ModelMap,
    kept: Mapping[str, Iterable[int] | Index] | None = None,
    dropped: Iterable[str] = (),
    masks: Mapping[str, Mask] | None = None,
) -> Selection:
    """Check and bring to canonical form: whole groups, cuts inside dropped units, and masks that hide nothing of what
    the cuts keep are left out; a mask is false wherever the cuts already are.

    Raises UseError for an unknown group, unit or tensor, indices out of range or not increasing, runs that break the
    group's step, a frozen group cut, an emptied group, no exit left or one without its trunk, a mask of another form.
    """
    gone = frozenset(dropped)
    unknown = sorted(gone - set(model.units))
    if unknown:
        raise UseError(f"selection drops unit {unknown[0]!r}; the model's units are {list(model.units)}")
    cut, absent = {}, model.absent(gone)
    for name, indices in sorted((kept or {}).items()):
        index = _checked_cut(model, name, np.asarray(indices))
        group = model.group[name]
        if name in absent or index.size == group.size:
            continue
        if index.size == 0:
            raise UseError(f"selection leaves no channel of group {name!r}; drop its unit or keep {group.step} or more")
        cut[name] = index
    bare = Selection(cut, gone)
    hidden = {}
    for name, mask in sorted((masks or {}).items()):
        _check_mask(model, name, mask)
        area = coverage(model, bare, name)
        if (area & ~mask).any():
            hidden[name] = _frozen(np.asarray(area & mask))
    return Selection(cut, gone, hidden) if hidden else bare


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    array.setflags(write=False)
    return array


def _checked_cut(model: ModelMap, name: str, found: NDArray[Any]) -> Index:
    group = model.group.get(name)
    if group is None:
        raise UseError(f"selection cuts group {name!r}; the model's groups are {sorted(model.group)}")
    if found.size and found.dtype.kind not in "iu":
        raise UseError(f"indices of group {name!r} must be integers, got {found.dtype}")
    index = found.astype(np.int64)  # a copy: the caller's array may change, a selection may not
    outside = index.size > 0 and (int(index.min()) < 0 or int(index.max()) >= group.size)
    if index.ndim != 1 or outside or (np.diff(index) <= 0).any():
        raise UseError(f"indices of group {name!r} must increase strictly within 0..{group.size - 1}")
    if group.role == "frozen" and index.size != group.size:
        raise UseError(f"group {name!r} cannot be cut: {group.reason or 'it is frozen'}")
    if group.step > 1 and not _in_steps(index, group.step):
        raise UseError(f"group {name!r} must be cut in whole runs of {group.step} channels, as its norm groups them")
    return _frozen(index)


def _in_steps(index: Index, step: int) -> bool:
    """Whether `index` consists of whole runs of `step` that start at multiples of `step`."""
    if index.size % step:
        return False
    runs = index.reshape(-1, step)
    return not (runs[:, 0] % step).any() and bool((runs - runs[:, :1] == np.arange(step)).all())


def _check_mask(model: ModelMap, name: str, mask: Mask) -> None:
    spec = model.tensor.get(name)
    if spec is None:
        raise UseError(f"selection masks tensor {name!r}, which the model does not have")
    if mask.dtype != np.bool_ or mask.shape != spec.shape:
        raise UseError(f"mask of {name!r} must be bool of shape {spec.shape}, got {mask.dtype} of shape {mask.shape}")


def compose(model: ModelMap, left: Selection, right: Selection) -> Selection:
    """What both hold: the meet of two selections, in global coordinates. Raises UseError where a group would be left
    without channels, or a net without exits, since no net can be built from that."""
    kept = dict(left.kept)
    for name, index in right.kept.items():
        kept[name] = np.intersect1d(kept[name], index, assume_unique=True) if name in kept else index
    masks = dict(left.masks)
    for name, mask in right.masks.items():
        masks[name] = masks[name] & mask if name in masks else mask
    return make(model, kept, left.dropped | right.dropped, masks)


def within(model: ModelMap, inner: Selection, outer: Selection) -> bool:
    """Whether everything `inner` holds is also held by `outer`."""
    return outer.dropped <= inner.dropped and compose(model, inner, outer) == inner


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


def cuts(model: ModelMap, selection: Selection, spec: TensorSpec) -> Cuts:
    """Kept indices of every axis of `spec`."""
    return tuple(axis_cut(model, selection, axis) for axis in spec.axes)


def shape_of(model: ModelMap, selection: Selection, spec: TensorSpec) -> tuple[int, ...]:
    """Shape of `spec` under `selection`."""
    return tuple(map(_length, cuts(model, selection, spec), spec.shape))


def _length(cut: Cut, size: int) -> int:
    return size if cut is None else int(cut.size)


def shapes(model: ModelMap, selection: Selection) -> dict[str, tuple[int, ...]]:
    """Tensor name -> shape in the submodel; dropped tensors are absent."""
    return {t.name: shape_of(model, selection, t) for t in held(model, selection)}


def cut_array(array: NDArray[Any], axis_cuts: Cuts) -> NDArray[Any]:
    """`array` restricted to the outer product of `axis_cuts`; a view where every cut is a run, else a copy."""
    return gather(array, axis_cuts)


def global_index(spec: TensorSpec, axis_cuts: Cuts) -> Where:
    """An index expression that addresses the submodel's entries inside the global tensor, for reading or assignment."""
    return place(spec.shape, axis_cuts)


def extract(model: ModelMap, selection: Selection, params: Mapping[str, Array]) -> Params:
    """The submodel's own arrays, contiguous, masked-out entries 0; arrays that are held whole are shared, not copied.

    Raises UseError if names or shapes are not the model's.
    """
    _check_names(params, (t.name for t in model.tensors), "the model")
    out: Params = {}
    for spec in held(model, selection):
        whole, axis_cuts = params[spec.name], cuts(model, selection, spec)
        _check_shape(spec.name, whole.shape, spec.shape)
        part = gather(whole, axis_cuts)
        mask = selection.masks.get(spec.name)
        if mask is not None:
            part = masked(part, gather(mask, axis_cuts))
        out[spec.name] = np.asarray(part, order="C")
    return out


def embed(model: ModelMap, selection: Selection, update: Update) -> Update:
    """Put a submodel's tensors back at their global places; everything else is 0 (dropped tensors: empty `Sparse`).

    Dense tensors come back dense, `Sparse` ones `Sparse`; entries outside a mask, whatever they are, become 0 or are
    left out. Raises UseError if names or shapes are not the submodel's.
    """
    check_part(model, selection, update)
    out: dict[str, Array | Sparse] = {}
    for spec in model.tensors:
        if spec.name not in update:
            out[spec.name] = Sparse(spec.shape, np.zeros(0, np.int64), np.zeros(0, np.float32))
            continue
        part, axis_cuts, mask = update[spec.name], cuts(model, selection, spec), selection.masks.get(spec.name)
        if isinstance(part, Sparse):
            out[spec.name] = _embed_sparse(spec, axis_cuts, part, mask)
        else:
            whole = part if all(c is None for c in axis_cuts) else scatter(part, spec.shape, axis_cuts)
            out[spec.name] = whole if mask is None else masked(whole, mask)
    return out


def _embed_sparse(spec: TensorSpec, axis_cuts: Cuts, part: Sparse, mask: Mask | None) -> Sparse:
    index, values = flat_index(part.index, plane(spec.shape, axis_cuts)), part.values
    if mask is not None:
        inside = mask.reshape(-1)[index]
        index, values = index[inside], values[inside]
    return Sparse(spec.shape, index, values)


def coverage(model: ModelMap, selection: Selection, name: str) -> Mask:
    """Where the tensor `name` was on the device: bool of the global shape."""
    spec = model.tensor[name]
    if spec.unit and spec.unit in selection.dropped:
        return np.zeros(spec.shape, np.bool_)
    mask = selection.masks.get(name)
    if mask is not None:
        return mask.copy()  # canonical: already false outside the cuts
    axis_cuts = cuts(model, selection, spec)
    return scatter(np.ones(tuple(map(_length, axis_cuts, spec.shape)), np.bool_), spec.shape, axis_cuts)


def check_part(model: ModelMap, selection: Selection, update: Update) -> None:
    """Raises UseError unless `update` has exactly the submodel's names and shapes."""
    specs = held(model, selection)
    _check_names(update, (t.name for t in specs), "the submodel")
    for spec in specs:
        _check_shape(spec.name, update[spec.name].shape, shape_of(model, selection, spec))


def _check_names(found: Iterable[str], expected: Iterable[str], of: str) -> None:
    have, want = set(found), set(expected)
    if have != want:
        odd = sorted(have ^ want)
        kind = "unknown" if odd[0] in have else "missing"
        raise UseError(f"tensors do not fit {of}: {len(odd)} names differ, first {odd[0]!r} ({kind})")


def _check_shape(name: str, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if tuple(found) != tuple(expected):
        raise UseError(f"tensor {name!r}: expected shape {tuple(expected)}, got {tuple(found)}")
