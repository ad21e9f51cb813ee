"""Which entries a report's payload holds: both ends derive it from the order, and from the masks a device chose."""

from __future__ import annotations

from pleat.elastic.portion import less, outside
from pleat.elastic.selection import Selection, make
from pleat.errors import RemoteError
from pleat.exchange.order import Order, Part, Payload, Return
from pleat.modelmap import ModelMap


def returned_part(model: ModelMap, order: Order, wanted: Return, chosen: Selection | None = None) -> Selection:
    """The selection of what `wanted` brings back: never a personal tensor. `chosen`: the device's masks, if it changed
    the order's."""
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
