"""Payloads: what an order brings and what its report takes back, decoded and coded, with the state in between.

Pure. An order's first payload is the model; a report's payloads are what the order asks to return. Errors of a lossy
coding stay in the state's residual, in the model's global coordinates, and join the next update.
"""

from __future__ import annotations

from dataclasses import replace

from pleat.codec.coding import build as coding
from pleat.codec.coding import uses_base
from pleat.codec.feedback import fed_back
from pleat.codec.transform import Context
from pleat.elastic.selection import Selection, embed, extract
from pleat.errors import Refused, RemoteError
from pleat.exchange.order import NEEDS_FULL, Order, Payload, Return
from pleat.modelmap import ModelMap
from pleat.params import Params, dense, subtract
from pleat_client.state import DeviceState, returned

LOSSLESS = ("raw",)  # codings that leave no error to feed back


def receive(order: Order, model: ModelMap, state: DeviceState) -> tuple[Params, int, DeviceState]:
    """Decode the order's model payload: (the submodel's parameters, their version, the state that holds them).

    Raises Refused ("needs full ...") when it is coded against a version that the device does not hold, and RemoteError
    for a frame that does not fit.
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
    return params, payload.version, state


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
    trained: Params,
    version: int,
) -> tuple[Payload, DeviceState]:
    """One payload of the report, coded, and the state with the error that its coding left.

    "update" is trained - received, with feedback where the coding loses anything; "arrays" are the trained parameters.
    """
    context = Context(model, order.selection, order.id.round, order.seed, version)
    transform = coding(wanted.coding)
    if wanted.name == "arrays":
        frame, _ = transform.encode(trained, transform.init(context), context)
    elif wanted.name != "update":
        raise Refused(f"order {order.id} asks for {wanted.name!r}; this device can return 'update' and 'arrays'")
    elif wanted.coding in LOSSLESS:
        frame, _ = transform.encode(subtract(trained, received), transform.init(context), context)
    else:
        frame, state = _with_feedback(wanted.coding, subtract(trained, received), state, context)
    return Payload(wanted.name, wanted.coding, frame, version), state


def _with_feedback(text: str, update: Params, state: DeviceState, context: Context) -> tuple[bytes, DeviceState]:
    frame, sent, residual = fed_back(coding(text), update, state.residual, context)
    return frame, replace(state, residual=residual, sent=embed(context.model, context.selection, sent))


def give_back(order: Order, before: DeviceState, after: DeviceState, data: bytes = b"") -> DeviceState:
    """The state when the report that led from `before` to `after` has come back: as if nothing had been sent.

    What was sent joins the residual again; the version held is the one before, for the server acknowledged no other.
    """
    return returned(replace(before, residual=after.residual), after.sent)
