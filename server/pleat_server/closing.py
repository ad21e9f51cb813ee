"""Closing: from what a round's reports came to, to the next state. Pure; the only place where the model changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from pleat.elastic.portion import only_held
from pleat.exchange.order import SQUARES, Order
from pleat.exchange.report import Outcome, Report
from pleat.params import Array, Params
from pleat_server.deeper import AHEAD
from pleat_server.desk import part_of
from pleat_server.drift import DRIFT, drifted
from pleat_server.folding import Folded
from pleat_server.reconfigure import reconfigured, share_at, swapped, time_model
from pleat_server.round import Setup
from pleat_server.state import Holding, State
from pleat_server.statistics import buffers_of


def advance(setup: Setup, state: State, folded: Folded) -> State:
    """The model after the round: fill, server momentum, averaged copy; and what each device now holds.

    average = d average + (1 - d) params, from the first model on. Where nothing was accepted the model keeps every
    value and the round counts as failed.
    """
    number = state.round + 1
    if folded.step is None:
        return replace(state, round=number, failed_rounds=state.failed_rounds + 1)
    velocity, moved = _moved(setup, state.velocity or {}, folded.step)
    params = {n: a + moved[n] for n, a in cleared(setup, state.params, [o for o, _ in folded.accepted]).items()}
    extras = _extras(setup, state, params, folded)
    if setup.recipe.objective.dynamic:
        known = max(len(state.table.devices), len(folded.accepted))
        params, drift = drifted(params, folded.step, folded.holders, state.extras.get(DRIFT, {}), known)
        extras = {**extras, DRIFT: drift}
    if setup.recipe.fold.clears == "unreturned":
        parts = [part_of(setup.model, o, r.payloads[0]) for o, r in folded.accepted]
        params = only_held(setup.model, params, parts, setup.recipe.fold.votes)
    holdings = dict(state.holdings)
    for order, report in (*folded.accepted, *folded.empty):
        if report.outcome is Outcome.DONE and order.payloads:
            holdings[order.device] = holding_of(order, report)
        elif report.outcome is Outcome.REFUSED:
            holdings.pop(order.device, None)
    needed = {holding.version for holding in holdings.values()}
    return replace(
        state,
        round=number,
        params=params,
        published={v: patterns for v, patterns in state.published.items() if v in needed},
        velocity=velocity,
        extras=extras,
        average=_averaged(setup, state.average, params),
        holdings=holdings,
        failed_rounds=0,
        done={**state.done, number: tuple(o.id.rank for o, _ in (*folded.accepted, *folded.empty))},
    )


def _moved(setup: Setup, velocity: Params, step: Params) -> tuple[Params | None, Params]:
    """The next velocity v = m v + step, none without momentum, and by what the model moves: rate v.

    Running statistics move by their plain step: beyond the mean of what devices saw, a variance may fall below 0.
    """
    server = setup.recipe.server
    fast = {n: s for n, s in step.items() if setup.model.tensor[n].role == "weight"}
    if server.momentum:
        fast = {n: _scaled_sum(server.momentum, velocity[n], 1.0, s) if n in velocity else s for n, s in fast.items()}
    moved = fast if server.rate == 1 else {n: np.float32(server.rate) * v for n, v in fast.items()}
    return fast if server.momentum else None, {**step, **moved}


def cleared(setup: Setup, params: Params, asked: list[Order]) -> Params:
    """The model that the step is added to: where the recipe says so, 0 in entries that none of these was sent."""
    if setup.recipe.fold.clears == "nothing":
        return params
    received = (o.payloads[0].selection for o in asked)
    return only_held(
        setup.model, params, {o.selection if r is None else r for o, r in zip(asked, received, strict=True)}
    )


def _extras(setup: Setup, state: State, params: Params, folded: Folded) -> Mapping[str, Params]:
    """The method's named tensors after the round: squared gradients, and the shared mask, fitted to them."""
    rule, extras = setup.recipe.rule, state.extras
    if folded.ahead is not None:
        extras = {**extras, AHEAD: folded.ahead}
    if rule.squares and folded.squares is not None:
        extras = {**extras, SQUARES: folded.squares}
    if not rule.reconfigure:
        return extras
    held = folded.accepted[0][0].selection.masks
    if folded.squares is not None and held and rule.fit == "count":
        held = swapped(params, held, folded.squares, share_at(rule.free, rule.until, state.round + 1))
    elif folded.squares is not None and held:
        entry_s, rest_s = time_model(setup.model, setup.recipe, state.table)
        free = rule.free * 0.5 ** ((state.round + 1) / rule.half)
        held = reconfigured(params, held, folded.squares, entry_s, rest_s, free)
    return {**extras, "mask": {n: m.astype(np.float32) for n, m in held.items()}}


def holding_of(order: Order, report: Report) -> Holding:
    """What a device holds after a report: the version it was sent, where it was sent it, and the masks it knows."""
    model = order.payloads[0]
    chosen = next((p.selection for p in report.payloads if p.selection is not None), order.selection)
    received = order.selection if model.selection is None else model.selection
    known = {s.masks_digest for s in (order.selection, received, chosen, *order.nested) if s.masks}
    return Holding(model.version, received, frozenset(known), chosen)


def _averaged(setup: Setup, average: Params | None, params: Params) -> Params | None:
    """The averaged copy's next values. A net with running statistics has one only where devices are asked for them:
    with those that came of training the model itself, its averaged copy, another net, answers at random."""
    decay = setup.recipe.server.average
    if not decay or (buffers_of(setup) and not setup.recipe.objective.statistics):
        return None
    if average is None:
        return params
    return {n: _scaled_sum(decay, average[n], 1 - decay, a) for n, a in params.items()}


def _scaled_sum(left: float, a: Array, right: float, b: Array) -> Array:
    """left a + right b in float32, with one array beside the result at most."""
    out: Array = np.float32(left) * a
    out += b if right == 1 else np.float32(right) * b
    return out
