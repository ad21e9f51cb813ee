"""Election of the first mask: which of several candidates the devices' data speak for (FedTiny). Pure, but for asking.

Candidates are masks of one density that share it out among layers in different ways, choosers by name. The norms of a
pruned net have statistics of their own, and judged by others' every candidate looks bad. So devices are asked twice
before anything is trained: for the statistics of each candidate, which are averaged, then for its loss under them. The
candidate of lowest loss becomes the mask, and its statistics the model's. A net without such norms is asked once.

A device is asked only where its download budget affords what comes on top of the first round's order. Where nobody
answers, the first candidate is taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from pleat.elastic.choosers import Draw, choose
from pleat.elastic.selection import Selection
from pleat.exchange.order import OWN_DATA, STATISTICS, Order, OrderId
from pleat.exchange.report import Report
from pleat.params import Params
from pleat_server.round import Decisions, Setup
from pleat_server.state import State
from pleat_server.statistics import BESIDE, Ask, buffers_of, evaluation, over, pooled

FIRST = BESIDE + (1 << 18)  # ranks from here on are of an election's orders
EACH = 1 << 13  # ranks that one candidate has, each time it is asked about


def pending(setup: Setup, state: State) -> bool:
    """Whether the first mask is still to be elected."""
    return bool(setup.recipe.rule.pool) and "mask" not in state.extras and state.round == 0


def elected(setup: Setup, state: State, decisions: Decisions, ask: Ask, tell: Callable[[str], None]) -> State:
    """The state with the elected mask, and the statistics that go with it; `tell` is told the losses."""
    if not pending(setup, state):
        return state
    pool = candidates(setup, state)
    models, losses = dict.fromkeys(pool, state.params), dict[str, float]()
    if len(set(pool.values())) > 1:
        devices = [d for d in sorted(decisions.rows) if affords(setup, state, decisions, d)]
        models, losses = _asked(setup, state, pool, devices, lambda orders: ask(decisions, orders))
        tell("first mask: loss " + (", ".join(f"{x:.4g} of {n}" for n, x in losses.items()) or "not told by anybody"))
    winner = min(pool, key=lambda name: losses.get(name, math.inf))
    mask = {n: m.astype(np.float32) for n, m in pool[winner].masks.items()}
    return replace(state, params=models[winner], extras={**state.extras, "mask": mask})


def candidates(setup: Setup, state: State) -> dict[str, Selection]:
    """The masks to choose from, at the rate of the largest size on offer."""
    extras = {**setup.kept, **state.extras}
    rate, draw = setup.recipe.holds.rungs[0].width, Draw(state.seed, 0, "", state.params, extras)
    return {name: choose(name, setup.model, rate, draw) for name in setup.recipe.rule.pool}


def affords(setup: Setup, state: State, decisions: Decisions, device: str) -> bool:
    """Whether the device's download budget holds the election's orders beside the first round's."""
    limit = state.table[device].budgets.download_bytes if device in state.table else None
    orders = 1 + len(setup.recipe.rule.pool) * (1 + bool(buffers_of(setup)))
    return limit is None or orders * setup.rows[decisions.rows[device]].down_bytes <= limit


def _asked(
    setup: Setup,
    state: State,
    pool: Mapping[str, Selection],
    devices: Sequence[str],
    ask: Callable[[list[Order]], Mapping[OrderId, Report]],
) -> tuple[dict[str, Params], dict[str, float]]:
    """Each candidate's model with its own statistics, and its mean loss a sample as far as devices told it."""
    models = dict.fromkeys(pool, state.params)
    if buffers_of(setup):
        asked = _orders(setup, state, pool, models, devices, 0, (STATISTICS,))
        told = ask([order for orders in asked.values() for order in orders])
        for name, orders in asked.items():
            for fold in pooled(setup, orders, told).values():
                before = {n: state.params[n] for n in buffers_of(setup)}
                models[name] = {**state.params, **over(before, fold)}
    asked = _orders(setup, state, pool, models, devices, len(pool), ())
    told = ask([order for orders in asked.values() for order in orders])
    return models, {n: loss for n, orders in asked.items() if (loss := mean_loss(orders, told)) is not None}


def _orders(
    setup: Setup,
    state: State,
    pool: Mapping[str, Selection],
    models: Mapping[str, Params],
    devices: Sequence[str],
    place: int,
    returns: tuple[str, ...],
) -> dict[str, list[Order]]:
    """Of each candidate, an order a device; what is not asked for statistics is scored, on the shard where need be."""
    out = {}
    for n, (name, selection) in enumerate(pool.items(), place):
        ids = [OrderId(state.run, state.round + 1, FIRST + n * EACH + rank) for rank in range(len(devices))]
        settings = {} if returns else {OWN_DATA: 1.0}
        out[name] = [
            evaluation(setup, order_id, device, selection, models[name], returns, settings=settings)
            for order_id, device in zip(ids, devices, strict=True)
        ]
    return out


def mean_loss(orders: Iterable[Order], told: Mapping[OrderId, Report]) -> float | None:
    """Mean cross-entropy a sample over the devices that scored; None where none did."""
    scores = [told[o.id].metrics for o in orders if o.id in told and told[o.id].metrics.get("scored")]
    samples = sum(m["scored"] for m in scores)
    return sum(m["scored_loss"] * m["scored"] for m in scores) / samples if samples else None
