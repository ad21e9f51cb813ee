"""One round, pure: decide who trains what, write the orders, fold the reports, close. No sockets, clock or disk.

    decide -> orders -> (carrier) -> fold -> close

`decide` asks the policy; `orders` depends on the state and the decisions alone, so that a resumed round sends the same
bytes; `fold` reads reports one at a time in the order of their ids, so memory does not grow with them; `close` is the
only place where the state changes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pleat.codec.coding import build, uses_base
from pleat.codec.transform import Context
from pleat.elastic.choosers import Draw, choose
from pleat.elastic.fold import Fold
from pleat.elastic.selection import Selection, compose, embed, extract
from pleat.exchange.order import Kind, NetSpec, Order, OrderId, Payload, Return, Work
from pleat.exchange.report import Outcome, Report
from pleat.exchange.wire import report_from_bytes
from pleat.modelmap import Axis, ModelMap
from pleat.params import Params, dense
from pleat.recipes.recipe import Recipe
from pleat_server.desk import decode_payload
from pleat_server.plan.catalogue import Row
from pleat_server.plan.value.cosine import Contribution, data_values, mixed, values_within
from pleat_server.state import Holding, State, publish, version


@dataclass(frozen=True)
class Setup:
    """What stays the same for a whole run."""

    model: ModelMap
    net: NetSpec
    recipe: Recipe
    rows: tuple[Row, ...]

    @property
    def sizes(self) -> dict[float, Selection]:
        """Offered width -> its selection, largest first: what the global model is scored at."""
        return {row.width: row.selection for row in sorted(self.rows, key=lambda r: (-r.width, r.index))}


@dataclass(frozen=True)
class Decisions:
    """Who trains which row of the catalogue in one round, and why; plain data, so that a resumed round repeats it."""

    round: int
    rows: Mapping[str, int]  # device -> row index
    idle: Mapping[str, str]  # device -> why it has nothing to do
    predicted_s: Mapping[str, float]
    policy: Any  # the policy's state after choosing
    diagnostics: Mapping[str, Any]

    def to_plain(self) -> dict[str, Any]:
        return {f: getattr(self, f) for f in self.__dataclass_fields__}

    @staticmethod
    def from_plain(plain: Mapping[str, Any]) -> Decisions:
        return Decisions(**plain)


def seed_of(seed: int, *what: object) -> int:
    """A 63-bit seed that is a function of its arguments alone."""
    text = "/".join(str(w) for w in (seed, *what))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def publication(setup: Setup, state: State) -> State:
    """The state with its current model published, where the downlink codes against earlier versions."""
    return publish(state) if any(uses_base(r.down) for r in setup.rows) else state


def orders(setup: Setup, state: State, decisions: Decisions) -> list[Order]:
    """The orders of one round, ranked by device name; a frame is coded once per distinct selection and base."""
    frames: dict[tuple[bytes, int, bytes, str], bytes] = {}
    out = []
    for rank, device in enumerate(sorted(decisions.rows)):
        row = setup.rows[decisions.rows[device]]
        selection = selection_of(setup, state, row, device, decisions.round)
        out.append(
            Order(
                id=OrderId(state.run, decisions.round, rank),
                device=device,
                kind=Kind.TRAIN,
                net=setup.net,
                selection=selection,
                nested=tuple(compose(setup.model, n, selection) for n in row.nested),
                work=work_of(setup.recipe),
                payloads=(_model_payload(setup, state, selection, device, row.down, decisions.round, frames),),
                returns=(Return(setup.recipe.returns.payload, row.up),),
                seed=seed_of(state.seed, "train", decisions.round, device),
                memory_bytes=row.memory_bytes,
            )
        )
    return out


def selection_of(setup: Setup, state: State, row: Row, device: str, number: int) -> Selection:
    """The row's own selection, or a fresh draw where the recipe redraws each round."""
    rule = setup.recipe.rule
    if not rule.redraw or row.width == 1:
        return row.selection
    return choose(rule.chooser, setup.model, row.width, Draw(state.seed, number, device, state.params))


def work_of(recipe: Recipe) -> Work:
    t = recipe.training
    return Work(
        objective=recipe.objective.name,
        settings=recipe.objective.settings,
        epochs=t.epochs,
        batch=t.batch,
        rate=t.rate,
        momentum=t.momentum,
        decay=t.decay,
        clip=t.clip,
    )


def _model_payload(
    setup: Setup,
    state: State,
    selection: Selection,
    device: str,
    coding: str,
    number: int,
    frames: dict[tuple[bytes, int, bytes, str], bytes],
) -> Payload:
    holding = state.holdings.get(device)
    known = holding is not None and uses_base(coding) and holding.version in state.published
    base_version = holding.version if holding and known else -1
    key = (selection.digest, base_version, holding.selection.digest if holding and known else b"", coding)
    if key not in frames:
        base = held_base(setup.model, state, holding, selection) if holding and known else None
        context = Context(setup.model, selection, number, 0, state.round, base)
        transform = build(coding)
        frames[key], _ = transform.encode(
            extract(setup.model, selection, state.params), transform.init(context), context
        )
    return Payload("model", coding, frames[key], version=state.round, base=base_version)


def held_base(model: ModelMap, state: State, holding: Holding, selection: Selection) -> Params:
    """What the device can build of `selection` from what it holds: its published version, 0 where it held nothing."""
    published = version(state, holding.version)
    if holding.selection == selection:
        return extract(model, selection, published)
    own = dense(embed(model, holding.selection, extract(model, holding.selection, published)))
    return extract(model, selection, own)


@dataclass(frozen=True)
class Folded:
    """What came of a round's reports: the step of the global model (None where none was accepted), the reports that
    count, and those that carried no update; the reports without their payloads."""

    step: Params | None
    values: Mapping[str, float]  # device -> what its data was worth (policy.md 4.5); empty with fewer than two
    accepted: tuple[tuple[Order, Report], ...]
    empty: tuple[tuple[Order, Report], ...]


class Read(Protocol):
    """Reads a report from the spool; `check`: hold it against its checksum."""

    def __call__(self, order_id: OrderId, check: bool = True) -> bytes: ...


def fold(setup: Setup, state: State, asked: Iterable[Order], read: Read, ids: Iterable[OrderId]) -> Folded:
    """Fold the reports `ids` in id order. They have passed the desk, so nothing is rejected here."""
    by_id = {o.id: o for o in asked}
    total, accepted, empty = Fold(setup.model), list[tuple[Order, Report]](), list[tuple[Order, Report]]()
    for order_id in sorted(ids):
        order = by_id[order_id]
        report = _fold_one(setup, total, order, read)
        (accepted if report.outcome is Outcome.DONE else empty).append((order, report))
    values = _values(setup, total, accepted, read) if len(accepted) > 1 else {}
    return Folded(_step(setup, state, total) if accepted else None, values, tuple(accepted), tuple(empty))


def _fold_one(setup: Setup, total: Fold, order: Order, read: Read) -> Report:
    """One report into the fold; a function of its own so that no two reports are in memory at once."""
    report = report_from_bytes(read(order.id))
    if report.outcome is Outcome.DONE:
        update = decode_payload(setup.model, order, report.payloads[0], checked=True)
        total.add(update, order.selection, weight_of(setup.recipe, report), counted_rows(setup, report))
    return replace(report, payloads=())


def _step(setup: Setup, state: State, total: Fold) -> Params:
    """The recipe's fill: sum of p_k delta_k / W^exponent, or the step to the average of zero-filled weights."""
    if setup.recipe.fold.fill == "zero":
        return total.zero_fill(state.params)
    return total.finish(setup.recipe.fold.exponent)


def weight_of(recipe: Recipe, report: Report) -> float:
    return float(report.samples) if recipe.fold.weights == "samples" else 1.0


def counted_rows(setup: Setup, report: Report) -> dict[str, NDArray[np.int64]] | None:
    """Where the recipe says so: tensors of the logits -> rows of the classes that the device has samples of."""
    if not setup.recipe.fold.rows:
        return None
    index = np.asarray(sorted(report.labels), np.int64)
    return {t.name: index for t in setup.model.tensors if t.axes and _is_logits(setup.model, t.axes[0])}


def _is_logits(model: ModelMap, axis: Axis) -> bool:
    return len(axis) == 1 and axis[0].group == "logits"


def _values(setup: Setup, total: Fold, accepted: list[tuple[Order, Report]], read: Read) -> dict[str, float]:
    """Data value of each accepted update: its cosine to the aggregate of the others, mixed with its size.

    The reports are read once more, one at a time; the fold has their sum already, unless it left rows of them out.
    """
    samples = {order.device: report.samples for order, report in accepted}
    if setup.recipe.fold.rows:
        return mixed(data_values(setup.model, lambda: _again(setup, accepted, read)), samples)
    weights = {t.name: total.held_weight(t.name) for t in setup.model.tensors}
    return mixed(values_within(setup.model, total.sums, weights, _again(setup, accepted, read)), samples)


def _again(setup: Setup, accepted: list[tuple[Order, Report]], read: Read) -> Iterator[Contribution]:
    """The accepted updates once more, in their submodels' coordinates."""
    return (_one_again(setup, order, light, read) for order, light in accepted)


def _one_again(setup: Setup, order: Order, light: Report, read: Read) -> Contribution:
    report = report_from_bytes(read(order.id, check=False))
    update = decode_payload(setup.model, order, report.payloads[0], checked=True)
    return order.device, update, order.selection, weight_of(setup.recipe, light)


def advance(setup: Setup, state: State, folded: Folded) -> State:
    """The model after the round: fill, server momentum, averaged copy; and what each device now holds.

    v = m v + step; params += rate v (recipe.md, "sm"); average = d average + (1 - d) params, from the first model on.
    Where nothing was accepted the model keeps every value and the round counts as failed.
    """
    number = state.round + 1
    if folded.step is None:
        return replace(state, round=number, failed_rounds=state.failed_rounds + 1)
    server, velocity, moved = setup.recipe.server, None, folded.step
    if server.momentum:
        old = state.velocity or {}
        velocity = {n: s + np.float32(server.momentum) * old[n] if n in old else s for n, s in moved.items()}
        moved = velocity
    params = {
        n: a + (moved[n] if server.rate == 1 else np.float32(server.rate) * moved[n]) for n, a in state.params.items()
    }
    holdings = dict(state.holdings)
    for order, report in (*folded.accepted, *folded.empty):
        if report.outcome is Outcome.DONE and order.payloads:
            holdings[order.device] = Holding(order.payloads[0].version, order.selection)
        elif report.outcome is Outcome.REFUSED:
            holdings.pop(order.device, None)
    return replace(
        state,
        round=number,
        params=params,
        velocity=velocity,
        average=_averaged(state.average, params, server.average),
        holdings=holdings,
        failed_rounds=0,
        done={**state.done, number: tuple(o.id.rank for o, _ in (*folded.accepted, *folded.empty))},
    )


def _averaged(average: Params | None, params: Params, decay: float) -> Params | None:
    if not decay:
        return None
    if average is None:
        return params
    keep, take = np.float32(decay), np.float32(1 - decay)
    return {n: keep * average[n] + take * a for n, a in params.items()}
