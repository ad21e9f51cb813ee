"""Static batch norm: running statistics of the model itself, asked of the devices after a round. Pure.

Devices train on the statistics of their batches and return what is trained alone. Then each is sent the new model, at
the size that it trained at, makes a forward pass over its data and answers with the statistics of that size and of
every smaller one on offer that lies within it. A size's statistics are the mean over the devices that answered for it,
weighted by samples; the model's own are those of the largest size that holds an entry. Where nobody answered, the old
ones stay, so that no variance is ever 0 for want of an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import numpy as np
from msgspec import structs

from pleat.codec.coding import build
from pleat.codec.transform import Context
from pleat.elastic.choosers import Rung
from pleat.elastic.fold import Fold
from pleat.elastic.selection import Selection, extract, within
from pleat.exchange.order import STATISTICS, Kind, Order, OrderId, Payload, Return
from pleat.exchange.report import Outcome, Report
from pleat.exchange.returned import returned_model
from pleat.params import Params
from pleat_server.desk import decode_payload, part_of
from pleat_server.plan.catalogue import asked_in
from pleat_server.round import Decisions, Setup, sizes_of, work_of
from pleat_server.state import State, name_of

Ask = Callable[[Decisions, list[Order]], Mapping[OrderId, Report]]  # what came of orders beside a round's training
BESIDE = 1 << 19  # ranks from here on are of orders beside a round's training


def questions(setup: Setup, state: State, decisions: Decisions, devices: Iterable[str]) -> list[Order]:
    """What `devices`, which trained, are asked about the model that came of the round; nothing where the recipe asks
    nothing or the net has no such statistics."""
    every = setup.recipe.objective.statistics
    if not every or decisions.round % every or not buffers_of(setup):
        return []
    sizes, out = sizes_of(setup, state), list[Order]()
    for rank, device in enumerate(sorted(devices)):
        own = sizes[setup.rows[decisions.rows[device]].rung]
        nested = _smaller(setup, sizes, own)
        names = (STATISTICS, *(f"{STATISTICS}-{n + 1}" for n in range(len(nested))))
        order_id = OrderId(state.run, decisions.round, BESIDE + rank)
        out.append(evaluation(setup, order_id, device, own, state.evaluated, names, tuple(nested)))
    return out


def evaluation(
    setup: Setup,
    order_id: OrderId,
    device: str,
    selection: Selection,
    params: Params,
    returns: Iterable[str] = (),
    nested: tuple[Selection, ...] = (),
    settings: Mapping[str, float] | None = None,
) -> Order:
    """An order to look at a model, cut to `selection`, without training it, and to return payloads of these names."""
    work = work_of(setup.recipe)
    coding = asked_in(setup.recipe.returns.down)
    number, transform = order_id.round, build(coding)
    context = Context(setup.model, selection, number, 0, number)
    frame, _ = transform.encode(extract(setup.model, selection, params), transform.init(context), context)
    return Order(
        id=order_id,
        device=device,
        kind=Kind.EVALUATE,
        net=setup.net,
        selection=selection,
        nested=nested,
        work=replace(work, settings={**work.settings, **(settings or {})}),
        payloads=(Payload("model", coding, frame, version=number),),
        returns=tuple(Return(name, "raw") for name in returns),
    )


def unasked(setup: Setup) -> Setup:
    """The same run for whoever drives rounds without asking: statistics come with the updates."""
    recipe = setup.recipe
    silent = structs.replace(recipe, objective=structs.replace(recipe.objective, statistics=0))
    return replace(setup, recipe=silent) if recipe.objective.statistics else setup


def buffers_of(setup: Setup) -> list[str]:
    return [t.name for t in setup.model.tensors if t.role == "buffer"]


def _smaller(setup: Setup, sizes: Mapping[Rung, Selection], own: Selection) -> list[Selection]:
    """The other sizes on offer that lie within `own`."""
    others = {s.digest: s for s in sizes.values() if s != own and within(setup.model, s, own)}
    return list(others.values())


def renewed(setup: Setup, state: State, decisions: Decisions, devices: Iterable[str], ask: Ask) -> State:
    """The state after `devices` were asked, where the round is one in which they are."""
    asked = questions(setup, state, decisions, devices)
    return answered(setup, state, asked, ask(decisions, asked)) if asked else state


def answered(setup: Setup, state: State, asked: Iterable[Order], told: Mapping[OrderId, Report]) -> State:
    """The state with the statistics that the reports brought."""
    folds = pooled(setup, asked, told)
    if not folds:
        return state
    sizes, before = sizes_of(setup, state), {n: state.params[n] for n in buffers_of(setup)}
    bare = {rung: Selection(s.kept, s.dropped) for rung, s in sizes.items()}
    own = {rung: over(before, folds[s]) for rung, s in bare.items() if s in folds}
    model = before
    for rung in reversed(list(own)):  # the largest comes last
        model = over(model, folds[bare[rung]])
    stale = {name_of(rung) for rung in sizes} if setup.recipe.rule.redraw else set()  # of channels drawn before
    extras = {n: e for n, e in state.extras.items() if n not in stale} | {name_of(r): f for r, f in own.items()}
    average = None if state.average is None else {**state.average, **model}
    return replace(state, params={**state.params, **model}, average=average, extras=extras)


def pooled(setup: Setup, asked: Iterable[Order], told: Mapping[OrderId, Report]) -> dict[Selection, Fold]:
    """The statistics of each size, in the order of the reports' ids: sizes are told apart by what they cut."""
    folds: dict[Selection, Fold] = {}
    of = returned_model(setup.model, STATISTICS)
    for order in sorted((o for o in asked if o.id in told), key=lambda o: o.id):
        report = told[order.id]
        if report.outcome is Outcome.DONE:
            for payload in report.payloads:
                part = part_of(setup.model, order, payload)
                found = decode_payload(setup.model, order, payload, checked=True)
                folds.setdefault(part, Fold(of)).add(found, part, float(report.samples))
    return folds


def over(before: Params, fold: Fold) -> Params:
    """The fold's mean, and `before` where it covers nothing."""
    mean = fold.finish(1.0)
    return {n: np.where(fold.covered(n) > 0, mean[n], a).astype(np.float32) for n, a in before.items()}
