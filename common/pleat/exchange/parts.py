"""Selections, native <-> protobuf: prefixes as counts, other cuts and masks as bitmaps or coded, names listed.

A selection that came from a peer is well-formed (indices increase, masks have the bits their shapes ask for) but not
yet a part of any model: `selection.make` checks that where the model is known.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pleat.codec.masks import read_mask, write_mask
from pleat.elastic.selection import Selection
from pleat.errors import RemoteError
from pleat.exchange.limits import CHANNELS, MASK_BITS, PLACES, at_most, few

_AXES = 8


class Names:
    """Names that selections of one body mention, each listed once, in order of first use."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}

    def place(self, name: str) -> int:
        return self._places.setdefault(name, len(self._places))

    @property
    def listed(self) -> list[str]:
        return list(self._places)


class Listed:
    """The names a body lists, as selections in it refer to them, and how many channels they may still keep in all:
    a few bytes can say a million channels, sixty-four times, or a billion entries of a mask."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names
        self._kept = 0
        self._bits = 0

    def name(self, place: int) -> str:
        if place >= len(self._names):
            raise RemoteError(f"a selection names place {place}, {len(self._names)} names are listed")
        return self._names[place]

    def take_bits(self, bits: int) -> None:
        self._bits = at_most(self._bits + bits, MASK_BITS, "entries of all coded masks")

    def take(self, channels: int) -> None:
        self._kept = at_most(self._kept + channels, CHANNELS, "channels kept in all selections")


def selection_to_wire(selection: Selection, out: Any, names: Names, known: Collection[bytes] = ()) -> None:
    """Fill a pb Selection. Sorted by name, so equal selections give equal bytes. `known`: digests of masks that the
    receiver has already; these are named and not sent."""
    out.SetInParent()
    for name in sorted(selection.kept):
        index = selection.kept[name]
        if not index.size or int(index[-1]) == index.size - 1:
            out.first.extend((names.place(name), index.size))
        else:
            bits = np.zeros(int(index[-1]) + 1, np.bool_)
            bits[index] = True
            out.cuts.add(group=names.place(name), kept=_packed(bits))
    out.dropped.extend(names.place(unit) for unit in sorted(selection.dropped))
    if selection.lent or (selection.masks and selection.masks_digest in known):
        out.lent = selection.lent or selection.masks_digest
        return
    for name in sorted(selection.masks):
        mask = selection.masks[name]
        wire, plain, coded = out.masks.add(tensor=names.place(name), shape=mask.shape), _packed(mask), write_mask(mask)
        if len(coded) < len(plain):
            wire.coded = coded
        else:
            wire.held = plain


def selection_from_wire(wire: Any, listed: Listed) -> Selection:
    """The inverse, well-formed by itself. Raises RemoteError."""
    few(wire.first, 2 * PLACES, "prefixes in a selection")
    for items, what in ((wire.cuts, "cuts"), (wire.dropped, "dropped units"), (wire.masks, "masks")):
        few(items, PLACES, f"{what} in a selection")
    if len(wire.first) % 2:
        raise RemoteError(f"a selection lists {len(wire.first)} prefix numbers, expected pairs")
    kept: dict[str, NDArray[np.int64]] = {}
    for place, n in zip(wire.first[::2], wire.first[1::2], strict=True):
        listed.take(n)
        _put(kept, listed.name(place), np.arange(n, dtype=np.int64))
    for cut in wire.cuts:
        listed.take(len(cut.kept) * 8)
        _put(kept, listed.name(cut.group), _indices(cut.kept))
    dropped = frozenset(listed.name(place) for place in wire.dropped)
    masks: dict[str, NDArray[np.bool_]] = {}
    for mask in wire.masks:
        _put(masks, listed.name(mask.tensor), _mask(tuple(mask.shape), mask.held, mask.coded, listed))
    if wire.lent and (masks or len(wire.lent) != 32):
        raise RemoteError(
            f"a selection with {len(masks)} masks of its own names others by {len(wire.lent)} bytes, not 32"
        )
    return Selection(kept, dropped, masks, wire.lent)


def _put(table: dict[str, Any], name: str, value: Any) -> None:
    if name in table:
        raise RemoteError(f"a selection names {name!r} twice")
    table[name] = value


def _packed(bits: NDArray[np.bool_]) -> bytes:
    return np.packbits(bits.reshape(-1), bitorder="little").tobytes()


def _indices(packed: bytes) -> NDArray[np.int64]:
    if not packed or packed[-1] == 0:
        raise RemoteError(f"a cut of {len(packed)} bytes must end with a byte that is not 0")
    return np.flatnonzero(np.unpackbits(np.frombuffer(packed, np.uint8), bitorder="little")).astype(np.int64)


def _mask(shape: tuple[int, ...], packed: bytes, coded: bytes, listed: Listed) -> NDArray[np.bool_]:
    few(shape, _AXES, "axes of a mask")
    size = math.prod(shape)
    if coded and not packed:
        listed.take_bits(size)
        return read_mask(coded, size).reshape(shape)
    if coded:
        raise RemoteError(f"mask of shape {shape} has its bits twice, plain and coded")
    if len(packed) != (size + 7) // 8:
        raise RemoteError(f"mask of shape {shape} has {len(packed)} bytes, expected {(size + 7) // 8}")
    bits = np.unpackbits(np.frombuffer(packed, np.uint8), bitorder="little")
    if bits[size:].any():
        raise RemoteError(f"mask of shape {shape} has bits beyond its last entry")
    return bits[:size].astype(np.bool_).reshape(shape)
