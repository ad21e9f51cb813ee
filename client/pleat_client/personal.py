"""Personal: what a device keeps for itself from order to order: tensors that are not averaged, and its drift. Pure.

The drift is FedDyn's: the device's gradient where its last training ended, by which the next one sees past its own data
(loss - <w, drift> + dynamic/2 |w - what was received|^2). It stays on the device, whatever becomes of the report.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from pleat.elastic.selection import Selection, cut_array, cuts, global_index, held
from pleat.errors import Refused
from pleat.exchange.order import NEEDS_FULL, Order, Work
from pleat.modelmap import ModelMap, TensorSpec
from pleat.params import Params
from pleat_client.state import DeviceState

DRIFT = "drift"


def personal(order: Order, model: ModelMap, state: DeviceState) -> Params:
    """The device's own values of the personal tensors that the order's submodel has. Raises Refused for one that it has
    none of."""
    specs = [s for s in held(model, order.selection) if s.name in order.personal]
    missing = next((s.name for s in specs if s.name not in state.own), None)
    if missing is not None:
        raise Refused(f"{NEEDS_FULL}: {missing} is personal, and this device has none of its own yet")
    return _cut(model, order.selection, specs, state.own)


def keep_personal(order: Order, model: ModelMap, state: DeviceState, trained: Params) -> DeviceState:
    """The state with what was trained of the personal tensors; entries that the submodel lacks stay as they were."""
    if not order.personal:
        return state
    specs = (s for s in held(model, order.selection) if s.name in order.personal)
    return replace(state, own=_put(model, order.selection, specs, state.own, trained))


def strength_of(work: Work) -> float:
    """How hard the loss pulls to what was received: FedDyn's alpha and FedProx's mu."""
    return work.settings.get("dynamic", 0.0) + work.settings.get("proximal", 0.0)


def drift(order: Order, model: ModelMap, state: DeviceState) -> Params:
    """The device's drift in the order's submodel; nothing before it has any, or where the order knows none."""
    if not order.work.settings.get("dynamic", 0.0):
        return {}
    kept = state.sets.get(DRIFT, {})
    return _cut(model, order.selection, (s for s in held(model, order.selection) if s.name in kept), kept)


def keep_drift(order: Order, model: ModelMap, state: DeviceState, received: Params, trained: Params) -> DeviceState:
    """The state with drift - dynamic (trained - received) in every weight of the submodel."""
    alpha = np.float32(order.work.settings.get("dynamic", 0.0))
    if not alpha:
        return state
    before, specs = drift(order, model, state), [s for s in held(model, order.selection) if s.role == "weight"]
    moved = {s.name: alpha * (received[s.name] - trained[s.name]) for s in specs}
    now = {n: before[n] + m if n in before else m for n, m in moved.items()}
    kept = _put(model, order.selection, specs, state.sets.get(DRIFT, {}), now)
    return replace(state, sets={**state.sets, DRIFT: kept})


def _cut(model: ModelMap, selection: Selection, specs: Iterable[TensorSpec], whole: Params) -> Params:
    return {s.name: np.ascontiguousarray(cut_array(whole[s.name], cuts(model, selection, s))) for s in specs}


def _put(model: ModelMap, selection: Selection, specs: Iterable[TensorSpec], whole: Params, part: Params) -> Params:
    """`whole`, in global shapes, with the submodel's entries as in `part`; 0 where there never was one."""
    out = dict(whole)
    for spec in specs:
        before = out.get(spec.name)
        out[spec.name] = np.zeros(spec.shape, np.float32) if before is None else before.copy()
        out[spec.name][global_index(spec, cuts(model, selection, spec))] = part[spec.name]
    return out
