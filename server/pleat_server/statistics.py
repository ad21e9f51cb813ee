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
from pleat.exchange.report import Outcome
from pleat.exchange.returned import returned_model
from pleat.exchange.wire import report_from_bytes
from pleat.params import Params
from pleat_server.desk import decode_payload, part_of
from pleat_server.plan.catalogue import asked_in
from pleat_server.round import Decisions, Setup, seed_of, sizes_of, work_of
from pleat_server.state import State

BESIDE = 1 << 19  # ranks from here on are of orders beside a round's training


def questions(setup: Setup, state: State, decisions: Decisions, devices: Iterable[str]) -> list[Order]:
    """What `devices`, which trained, are asked about the model that came of the round; nothing where the recipe asks
    nothing or the net has no such statistics."""
    every = setup.recipe.objective.statistics
    if not every or decisions.round % every or not _buffers(setup):
        return []
    sizes, out = sizes_of(setup, state), list[Order]()
    coding = asked_in(setup.recipe.returns.down)
    for rank, device in enumerate(sorted(devices)):
        own = sizes[setup.rows[decisions.rows[device]].rung]
        nested = _smaller(setup, sizes, own)
        context = Context(setup.model, own, decisions.round, 0, state.round)
        transform = build(coding)
        frame, _ = transform.encode(extract(setup.model, own, state.evaluated), transform.init(context), context)
        out.append(
            Order(
                id=OrderId(state.run, decisions.round, BESIDE + rank),
                device=device,
                kind=Kind.EVALUATE,
                net=setup.net,
                selection=own,
                nested=tuple(nested),
                work=work_of(setup.recipe),
                payloads=(Payload("model", coding, frame, version=state.round),),
                returns=tuple(Return(f"{STATISTICS}-{n}" if n else STATISTICS, "raw") for n in range(1 + len(nested))),
                seed=seed_of(state.seed, STATISTICS, decisions.round, device),
            )
        )
    return out


def unasked(setup: Setup) -> Setup:
    """The same run for whoever drives rounds without asking: statistics come with the updates."""
    recipe = setup.recipe
    silent = structs.replace(recipe, objective=structs.replace(recipe.objective, statistics=0))
    return replace(setup, recipe=silent) if recipe.objective.statistics else setup


def _buffers(setup: Setup) -> list[str]:
    return [t.name for t in setup.model.tensors if t.role == "buffer"]


def _smaller(setup: Setup, sizes: Mapping[Rung, Selection], own: Selection) -> list[Selection]:
    """The other sizes on offer that lie within `own`."""
    others = {s.digest: s for s in sizes.values() if s != own and within(setup.model, s, own)}
    return list(others.values())


def answered(
    setup: Setup, state: State, asked: Iterable[Order], read: Callable[[OrderId], bytes], has: Callable[[OrderId], bool]
) -> State:
    """The state with the statistics that the reports brought which there are, read in the order of their ids."""
    folds: dict[Selection, Fold] = {}
    of = returned_model(setup.model, STATISTICS)
    for order in sorted((o for o in asked if has(o.id)), key=lambda o: o.id):
        report = report_from_bytes(read(order.id))
        if report.outcome is Outcome.DONE:
            for payload in report.payloads:
                part = part_of(setup.model, order, payload)
                found = decode_payload(setup.model, order, payload, checked=True)
                folds.setdefault(part, Fold(of)).add(found, part, float(report.samples))
    if not folds:
        return state
    sizes, before = sizes_of(setup, state), {n: state.params[n] for n in _buffers(setup)}
    bare = {rung: Selection(s.kept, s.dropped) for rung, s in sizes.items()}
    own = {rung: _over(before, folds[s]) for rung, s in bare.items() if s in folds}
    model = before
    for rung in reversed(list(own)):  # the largest comes last
        model = _over(model, folds[bare[rung]])
    stale = {name_of(rung) for rung in sizes} if setup.recipe.rule.redraw else set()  # of channels drawn before
    extras = {n: e for n, e in state.extras.items() if n not in stale} | {name_of(r): f for r, f in own.items()}
    average = None if state.average is None else {**state.average, **model}
    return replace(state, params={**state.params, **model}, average=average, extras=extras)


def _over(before: Params, fold: Fold) -> Params:
    """The fold's mean, and `before` where it covers nothing."""
    mean = fold.finish(1.0)
    return {n: np.where(fold.covered(n) > 0, mean[n], a).astype(np.float32) for n, a in before.items()}


def name_of(rung: Rung) -> str:
    """Under what name a run keeps the statistics of a size."""
    return f"{STATISTICS} {rung.label}"


def seen_at(params: Params, extras: Mapping[str, Params], rung: Rung) -> Params:
    """The model as it is scored at a size: with that size's own statistics, where they are known."""
    return {**params, **extras.get(name_of(rung), {})}
