"""Payloads: what an order brings and what its report takes back, decoded and coded, with the state in between.

Pure. An order's first payload is the model; a report's payloads are what the order asks to return. Errors of a lossy
coding stay in the state's residual, in the model's global coordinates, and join the next update.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from pleat.codec.coding import build as coding
from pleat.codec.coding import lossless, uses_base
from pleat.codec.feedback import fed_back
from pleat.codec.transform import Context
from pleat.elastic.portion import within_masks
from pleat.elastic.selection import Selection, embed, extract, shapes
from pleat.errors import Refused, RemoteError
from pleat.exchange.order import NEEDS_FULL, SQUARES, Order, Part, Payload, Return
from pleat.exchange.returned import returned_model, returned_part
from pleat.modelmap import ModelMap
from pleat.params import Params, dense, subtract
from pleat_client.personal import personal
from pleat_client.state import DeviceState, returned

GIVEN = ("update", "arrays", SQUARES)


@dataclass(frozen=True)
class Learnt:
    """What training led to: the order's selection, its masks as the device changed them; parameters, metrics, and where
    the order asks for them the squares of the summed gradients, at every entry whatever the masks."""

    selection: Selection
    params: Params
    metrics: dict[str, float]
    squares: Params = field(default_factory=dict)


def resolve(order: Order, state: DeviceState) -> Order:
    """The order with the masks that it names by digest looked up. Raises Refused ("needs full ...") for one that the
    device does not hold."""

    def found(selection: Selection) -> Selection:
        if not selection.lent:
            return selection
        if selection.lent not in state.masks:
            raise Refused(f"{NEEDS_FULL}: order {order.id} names mask {selection.lent.hex()[:16]}, {_held(state)}")
        return Selection(selection.kept, selection.dropped, state.masks[selection.lent])

    return replace(
        order,
        selection=found(order.selection),
        nested=tuple(found(n) for n in order.nested),
        payloads=tuple(p if p.selection is None else replace(p, selection=found(p.selection)) for p in order.payloads),
    )


def _held(state: DeviceState) -> str:
    names = ", ".join(sorted(d.hex()[:16] for d in state.masks))
    return f"this device holds {names or 'none'}"


def receive(order: Order, model: ModelMap, state: DeviceState) -> tuple[Params, int, DeviceState]:
    """Decode the order's model payload: (the submodel's parameters, their version, the state that holds them).

    What a payload leaves out of the order's submodel is 0, or for personal tensors the device's own. Raises Refused
    ("needs full ...") when the device does not hold what the payload builds on, and RemoteError for a frame that does
    not fit.
    """
    if not order.payloads:
        raise RemoteError(f"order {order.id}: carries no model")
    payload = order.payloads[0]
    selection = order.selection if payload.selection is None else payload.selection
    base = None
    if payload.base >= 0:
        if payload.base != state.version:
            has = f"version {state.version}" if state.version >= 0 else "none"
            raise Refused(f"{NEEDS_FULL}: the model is coded against version {payload.base}, this device holds {has}")
        base = recut(model, state.held, state.selection, selection)
    context = Context(model, selection, order.id.round, 0, payload.version, base)
    params = dense(coding(payload.coding).decode(payload.frame, context))
    if uses_base(payload.coding):
        state = replace(state, version=payload.version, selection=selection, held=params)
    params = recut(model, params, selection, order.selection)
    if payload.selection is not None and order.personal:
        params |= personal(order, model, state)
    return params, payload.version, remember(state, order)


def remember(state: DeviceState, order: Order) -> DeviceState:
    """The state that holds the masks of this order, and of no earlier one."""
    selections = (order.selection, *order.nested, *(p.selection for p in order.payloads if p.selection is not None))
    return replace(state, masks={s.masks_digest: s.masks for s in selections if s.masks})


def recut(model: ModelMap, params: Params, old: Selection, new: Selection) -> Params:
    """The submodel `new` as far as a holder of the submodel `old` knows it: 0 where it held nothing."""
    if old == new:
        return params
    return extract(model, new, dense(embed(model, old, params)))


def give(
    order: Order,
    wanted: Return,
    model: ModelMap,
    state: DeviceState,
    received: Params,
    learnt: Learnt,
    version: int,
) -> tuple[Payload, DeviceState]:
    """One payload of the report, coded, and the state with the error that its coding left.

    "update" is trained - received, with feedback where the coding loses anything; "arrays" are the trained parameters.
    Where the device changed the order's masks, the payload says so, if it may.
    """
    trained, chosen = learnt.params, None if learnt.selection == order.selection else learnt.selection
    if wanted.part is not Part.CHOSEN:
        chosen = None
    part = returned_part(model, order, wanted, chosen)
    context = Context(model, part, order.id.round, order.seed, version)
    transform = coding(wanted.coding)
    if wanted.name == "arrays":
        frame, _ = transform.encode(within_masks(model, part, trained), transform.init(context), context)
    elif wanted.name == SQUARES:
        squares = within_masks(model, part, _all(model, part, learnt.squares))
        frame, _ = transform.encode(squares, transform.init(context), context)
    elif wanted.name != "update":
        raise Refused(f"order {order.id} asks for {wanted.name!r}; this device can return {', '.join(GIVEN)}")
    else:
        update = within_masks(model, part, subtract(trained, received))
        if lossless(wanted.coding):
            frame, _ = transform.encode(update, transform.init(context), context)
        else:
            frame, state = _with_feedback(wanted.coding, update, state, context)
    if chosen is not None:
        state = replace(state, masks={**state.masks, chosen.masks_digest: chosen.masks})
    return Payload(wanted.name, wanted.coding, frame, version, selection=chosen), state


def give_arrays(order: Order, wanted: Return, model: ModelMap, arrays: Params, version: int) -> Payload:
    """A payload of the report that is no update: what it holds is coded as it is."""
    part = returned_part(model, order, wanted)
    context = Context(returned_model(model, wanted.name), part, order.id.round, order.seed, version)
    transform = coding(wanted.coding)
    frame, _ = transform.encode(arrays, transform.init(context), context)
    return Payload(wanted.name, wanted.coding, frame, version)


def _all(model: ModelMap, part: Selection, found: Params) -> Params:
    """`found`, and zeros for tensors that have no gradient (running statistics)."""
    return {n: found[n] if n in found else np.zeros(shape, np.float32) for n, shape in shapes(model, part).items()}


def _with_feedback(text: str, update: Params, state: DeviceState, context: Context) -> tuple[bytes, DeviceState]:
    frame, sent, residual = fed_back(coding(text), update, state.residual, context)
    return frame, replace(state, residual=residual, sent=embed(context.model, context.selection, sent))


def give_back(order: Order, before: DeviceState, after: DeviceState, data: bytes = b"") -> DeviceState:
    """The state when the report that led from `before` to `after` has come back: as if nothing had been sent.

    What was sent joins the residual again; the version held is the one before, for the server acknowledged no other.
    What the device trained for itself stays.
    """
    return returned(replace(before, residual=after.residual, own=after.own, sets=after.sets), after.sent)
