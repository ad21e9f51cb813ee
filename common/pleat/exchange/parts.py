"""Selections, native <-> protobuf: prefixes as counts, other cuts and masks as bitmaps, names by place in one table.

A selection that came from a peer is well-formed (indices increase, masks have the bits their shapes ask for) but not
yet a part of any model: `selection.make` checks that where the model is known.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pleat.elastic.selection import Selection
from pleat.errors import RemoteError
from pleat.exchange.limits import CHANNELS, PLACES, at_most, few

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


def selection_to_wire(selection: Selection, out: Any, names: Names) -> None:
    """Fill a pb Selection. Sorted by name, so equal selections give equal bytes."""
    out.SetInParent()
    for name in sorted(selection.kept):
        index = selection.kept[name]
        if index.size and int(index[-1]) == index.size - 1:
            out.first.extend((names.place(name), index.size))
        else:
            bits = np.zeros(int(index[-1]) + 1 if index.size else 0, np.bool_)
            bits[index] = True
            out.cuts.add(group=names.place(name), kept=_packed(bits))
    out.dropped.extend(names.place(unit) for unit in sorted(selection.dropped))
    for name in sorted(selection.masks):
        mask = selection.masks[name]
        out.masks.add(tensor=names.place(name), shape=mask.shape, held=_packed(mask.reshape(-1)))


def selection_from_wire(wire: Any, names: tuple[str, ...]) -> Selection:
    """The inverse, well-formed by itself. Raises RemoteError."""
    few(wire.first, 2 * PLACES, "prefixes in a selection")
    for listed, what in ((wire.cuts, "cuts"), (wire.dropped, "dropped units"), (wire.masks, "masks")):
        few(listed, PLACES, f"{what} in a selection")
    if len(wire.first) % 2:
        raise RemoteError(f"a selection lists {len(wire.first)} prefix numbers, expected pairs")
    prefixes = list(zip(wire.first[::2], wire.first[1::2], strict=True))
    at_most(sum(n for _, n in prefixes), CHANNELS, "channels kept in a selection")
    kept: dict[str, NDArray[np.int64]] = {}
    for place, n in prefixes:
        _put(kept, names, place, np.arange(n, dtype=np.int64))
    for cut in wire.cuts:
        _put(kept, names, cut.group, _indices(cut.kept))
    dropped = frozenset(_name(names, place) for place in wire.dropped)
    masks: dict[str, NDArray[np.bool_]] = {}
    for mask in wire.masks:
        _put(masks, names, mask.tensor, _mask(tuple(mask.shape), mask.held))
    return Selection(kept, dropped, masks)


def _put(table: dict[str, Any], names: tuple[str, ...], place: int, value: Any) -> None:
    name = _name(names, place)
    if name in table:
        raise RemoteError(f"a selection names {name!r} twice")
    table[name] = value


def _name(names: tuple[str, ...], place: int) -> str:
    if place >= len(names):
        raise RemoteError(f"a selection names place {place}, {len(names)} names are listed")
    return names[place]


def _packed(bits: NDArray[np.bool_]) -> bytes:
    return np.packbits(bits, bitorder="little").tobytes()


def _indices(packed: bytes) -> NDArray[np.int64]:
    at_most(len(packed) * 8, CHANNELS, "channels in a cut")
    if not packed or packed[-1] == 0:
        raise RemoteError(f"a cut of {len(packed)} bytes must end with a byte that is not 0")
    return np.flatnonzero(np.unpackbits(np.frombuffer(packed, np.uint8), bitorder="little")).astype(np.int64)


def _mask(shape: tuple[int, ...], packed: bytes) -> NDArray[np.bool_]:
    few(shape, _AXES, "axes of a mask")
    size = math.prod(shape)
    if len(packed) != (size + 7) // 8:
        raise RemoteError(f"mask of shape {shape} has {len(packed)} bytes, expected {(size + 7) // 8}")
    bits = np.unpackbits(np.frombuffer(packed, np.uint8), bitorder="little")
    if bits[size:].any():
        raise RemoteError(f"mask of shape {shape} has bits beyond its last entry")
    return bits[:size].astype(np.bool_).reshape(shape)
