"""DeviceState: what a device remembers between the orders of one run, as a value and as bytes.

`residual` is the error not yet sent, in the model's global coordinates; `held` the last published version it can build
on. A report that has been staged but not yet answered carries its own state, and the states follow each other:

    acknowledged: nothing to do, the state after the report is the state;
    returned:     what was sent goes back, residual += sent.

Both are additive, so reports may be answered in any order and no part of an update is lost or counted twice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from pleat.elastic.selection import WHOLE, Selection
from pleat.errors import LocalError
from pleat.exchange.order import OrderId
from pleat.params import Params, Sparse, Update, count
from pleat_client.store import Past


@dataclass(frozen=True, eq=False)
class DeviceState:
    """`version`, `selection`, `held`: the published version it holds, cut by the selection it came under; -1 = none.
    `sent`: the update of this state's report, decoded, in global coordinates; empty where nothing can be given back.
    `own`: its personal tensors, `sets`: named sets of tensors that its methods keep; both in global shapes. `masks`:
    digest -> the masks it was last sent, or made itself. `absorbed`: the orders ("round-rank") whose returned updates
    are in this residual already."""

    version: int = -1
    selection: Selection = WHOLE
    held: Params = field(default_factory=dict)
    residual: Params = field(default_factory=dict)
    sent: Update = field(default_factory=dict)
    absorbed: tuple[str, ...] = ()
    own: Params = field(default_factory=dict)
    masks: Mapping[bytes, Mapping[str, NDArray[np.bool_]]] = field(default_factory=dict)
    sets: Mapping[str, Params] = field(default_factory=dict)


def recall(past: list[Past]) -> tuple[DeviceState, list[OrderId]]:
    """The state that the next order starts from, and the returned orders that it absorbs.

    The residual is the newest there is, whatever became of its report, plus everything that came back since, and so is
    what is personal; the version and masks held are the acknowledged ones, for the server builds on no others.
    """
    acked = [p for p in past if p.fate == "acked"]
    state = from_bytes(acked[-1].state) if acked else DeviceState()
    newest = from_bytes(past[-1].state) if past else state
    back = [p.order_id for p in past if p.fate == "returned"]
    absorbed = tuple(_label(i) for i in back)
    state = replace(state, residual=newest.residual, own=newest.own, sets=newest.sets, sent={}, absorbed=absorbed)
    for one in past:
        if one.fate == "returned" and _label(one.order_id) not in newest.absorbed:
            state = returned(state, from_bytes(one.state).sent)
    return state, back


def _label(order_id: OrderId) -> str:
    return f"{order_id.round}-{order_id.rank}"


def returned(state: DeviceState, sent: Update) -> DeviceState:
    """`state` after an update that was sent has come back."""
    residual = dict(state.residual)
    for name, part in sorted(sent.items()):
        old = residual.get(name)
        if isinstance(part, Sparse):
            new = np.zeros(part.shape, np.float32) if old is None else old.copy()
            new.reshape(-1)[part.index] += part.values
        else:
            new = part if old is None else old + part
        residual[name] = new
    return replace(state, residual=residual)


def limited(state: DeviceState, cap_bytes: int) -> DeviceState:
    """`state` with at most `cap_bytes` of residual: the largest tensors' least entries are forgotten first.

    What is forgotten is lost to the model, as it would be without error feedback; a card that fills up loses more.
    """
    room = cap_bytes // _ENTRY_BYTES
    if count(state.residual) <= room:
        return state
    entries = sum(_nonzero(a) for a in state.residual.values())
    if entries <= room:
        return state
    sizes = np.concatenate([np.abs(a[a != 0]) for a in state.residual.values()])
    least = np.partition(sizes, entries - room)[entries - room] if room else np.inf
    kept = {n: np.where(np.abs(a) >= least, a, np.float32(0)) for n, a in state.residual.items()}
    return replace(state, residual=kept)


def residual_size(state: DeviceState) -> tuple[int, float]:
    """Entries of the residual that are not 0, and its Euclidean norm."""
    entries = sum(_nonzero(a) for a in state.residual.values())
    squares = sum(float(np.vdot(a, a)) for a in state.residual.values())
    return entries, math.sqrt(squares)


_ENTRY_BYTES = 8  # of a sparse entry on disk: a 32-bit place and a float

# As bytes: MessagePack of the array (version, selection, held, residual, sent, absorbed, own, masks, sets); states of
# before there were sets end with the masks. A tensor is (shape, form, places, values): all values, or those that are
# not 0 with their places; as halves where every value is a bf16 number.

_FULL, _HALVES = "f", "h"
_Tensor = tuple[tuple[int, ...], str, bytes | None, bytes]
_Masks = dict[str, tuple[tuple[int, ...], bytes]]


class _Plain(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    version: int
    selection: tuple[dict[str, bytes], list[str], _Masks]
    held: dict[str, _Tensor]
    residual: dict[str, _Tensor]
    sent: dict[str, _Tensor]
    absorbed: list[str]
    own: dict[str, _Tensor]
    masks: list[_Masks]
    sets: dict[str, dict[str, _Tensor]] = {}


def to_bytes(state: DeviceState) -> bytes:
    """The state as bytes; tensors that are mostly zero are kept sparse."""
    cut = state.selection
    selection = (
        {name: index.astype("<i8").tobytes() for name, index in sorted(cut.kept.items())},
        sorted(cut.dropped),
        _pack_masks(cut.masks),
    )
    tensors = ({n: _pack(t) for n, t in sorted(part.items())} for part in (state.held, state.residual, state.sent))
    own = {n: _pack(t) for n, t in sorted(state.own.items())}
    masks = [_pack_masks(state.masks[digest]) for digest in sorted(state.masks)]
    sets = {name: {n: _pack(t) for n, t in sorted(kept.items())} for name, kept in sorted(state.sets.items())}
    return msgspec.msgpack.encode((state.version, selection, *tensors, list(state.absorbed), own, masks, sets))


def from_bytes(data: bytes) -> DeviceState:
    """The inverse of `to_bytes`. Raises LocalError where the bytes are not a state."""
    try:
        plain = msgspec.msgpack.decode(data, type=_Plain)
        kept, dropped, masks = plain.selection
        selection = Selection(
            {name: np.frombuffer(raw, "<i8").astype(np.int64) for name, raw in kept.items()},
            frozenset(dropped),
            _unpack_masks(masks),
        )
        return DeviceState(
            plain.version,
            selection,
            _dense(plain.held),
            _dense(plain.residual),
            {n: _unpack(t) for n, t in plain.sent.items()},
            tuple(plain.absorbed),
            _dense(plain.own),
            {Selection(masks=m).masks_digest: m for m in map(_unpack_masks, plain.masks)},
            {name: _dense(tensors) for name, tensors in plain.sets.items()},
        )
    except (msgspec.MsgspecError, ValueError, IndexError) as error:
        raise LocalError(f"device state: not readable: {error}") from None


def _nonzero(values: NDArray[np.float32]) -> int:
    return int(np.count_nonzero(values != 0))  # five times as fast as counting floats


def _pack(tensor: NDArray[np.float32] | Sparse) -> tuple[tuple[int, ...], str, bytes | None, memoryview]:
    places: bytes | None = None
    if isinstance(tensor, Sparse):
        places, values = tensor.index.astype("<u4").tobytes(), tensor.values
    else:
        values = tensor.reshape(-1)
        if _nonzero(values) * 2 < values.size:
            index = np.flatnonzero(values)
            places, values = index.astype("<u4").tobytes(), values[index]
    pattern = np.ascontiguousarray(values, "<f4").view("<u4")
    if (pattern & 0xFFFF).any():
        return tensor.shape, _FULL, places, pattern.data
    return tensor.shape, _HALVES, places, (pattern >> 16).astype("<u2").data


def _unpack(packed: _Tensor) -> NDArray[np.float32] | Sparse:
    shape, form, places, raw = packed
    if form == _HALVES:
        values = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
    else:
        values = np.frombuffer(raw, "<f4").astype(np.float32)
    if places is None:
        return values.reshape(shape)
    return Sparse(shape, np.frombuffer(places, "<u4").astype(np.int64), values)


def _dense(tensors: Mapping[str, Any]) -> Params:
    parts = ((name, _unpack(t)) for name, t in tensors.items())
    return {name: t.dense() if isinstance(t, Sparse) else t for name, t in parts}


def _pack_masks(masks: Mapping[str, NDArray[np.bool_]]) -> _Masks:
    return {name: (mask.shape, np.packbits(mask).tobytes()) for name, mask in sorted(masks.items())}


def _unpack_masks(packed: _Masks) -> dict[str, NDArray[np.bool_]]:
    return {name: _mask(shape, raw) for name, (shape, raw) in packed.items()}


def _mask(shape: tuple[int, ...], raw: bytes) -> NDArray[np.bool_]:
    bits = np.unpackbits(np.frombuffer(raw, np.uint8), count=int(np.prod(shape, dtype=np.int64)))
    return bits.astype(np.bool_).reshape(shape)
