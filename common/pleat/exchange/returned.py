"""Which entries a report's payload holds: both ends derive it from the order, and from the masks a device chose."""

from __future__ import annotations

from pleat.elastic.portion import less, outside
from pleat.elastic.selection import Selection, make
from pleat.errors import RemoteError
from pleat.exchange.order import STATISTICS, Order, Part, Payload, Return
from pleat.modelmap import ModelMap


def size_of(name: str) -> int | None:
    """Of which size a payload of running statistics is: 0 = the order's submodel, n = its n-th nested one; None for
    payloads of other names."""
    if name == STATISTICS:
        return 0
    number = name.removeprefix(f"{STATISTICS}-")
    return int(number) if number != name and number.isdigit() else None


def returned_model(model: ModelMap, name: str) -> ModelMap:
    """The map that a payload's entries are those of: running statistics are of the model's buffers alone."""
    if size_of(name) is None:
        return model
    return ModelMap(tuple(t for t in model.tensors if t.role == "buffer"), model.groups, model.units)


def returned_part(model: ModelMap, order: Order, wanted: Return, chosen: Selection | None = None) -> Selection:
    """The selection of what `wanted` brings back: never a personal tensor. `chosen`: the device's masks, if it changed
    the order's."""
    size = size_of(wanted.name)
    if size is not None:
        if size > len(order.nested):
            raise RemoteError(f"order {order.id} asks for {wanted.name!r} and has {len(order.nested)} nested sizes")
        own = order.nested[size - 1] if size else order.selection
        return Selection(own.kept, own.dropped)
    part = order.selection if chosen is None else chosen
    brought = order.payloads[0].selection if order.payloads else None
    if wanted.part in (Part.DENSE, Part.OUTSIDE):
        part = Selection(part.kept, part.dropped)
    if wanted.part is Part.OUTSIDE:
        part = outside(model, part, order.selection if brought is None else brought)
    return less(model, part, (t for t in order.personal if t in model.tensor)) if order.personal else part


def reported_part(model: ModelMap, order: Order, wanted: Return, payload: Payload) -> Selection:
    """The same for a payload that came. Raises RemoteError where it brings masks that it may not, or others than its
    model can have."""
    chosen = payload.selection
    if chosen is None:
        return returned_part(model, order, wanted)
    if wanted.part is not Part.CHOSEN:
        raise RemoteError(f"report {order.id} of {order.device}: {payload.name!r} brings masks that were not asked for")
    if chosen.lent or not _same_cuts(chosen, order.selection):
        raise RemoteError(f"report {order.id} of {order.device}: {payload.name!r} has another submodel than its order")
    return returned_part(model, order, wanted, make(model, chosen.kept, chosen.dropped, chosen.masks))


def _same_cuts(one: Selection, other: Selection) -> bool:
    return Selection(one.kept, one.dropped) == Selection(other.kept, other.dropped)
