"""Folding: a round's reports into one step of the global model, and what each device's data was worth. Pure.

What the step leads to is `closing.py`. Reports are read one at a time in the order of their ids, so memory does not
grow with them and the same reports give the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pleat.elastic.fold import Fold
from pleat.elastic.selection import WHOLE
from pleat.elastic.size import count
from pleat.exchange.order import SQUARES, Order, OrderId, Payload
from pleat.exchange.report import Outcome, Report
from pleat.exchange.wire import report_from_bytes
from pleat.modelmap import OUTPUT, Axis, ModelMap
from pleat.params import Params, Sparse, Update
from pleat_server.deeper import AHEAD, means, mixed_in
from pleat_server.desk import decode_payload, part_of
from pleat_server.drift import holders_of
from pleat_server.plan.value.cosine import Contribution, data_values, mixed, values_within
from pleat_server.round import Setup
from pleat_server.state import State


@dataclass(frozen=True)
class Folded:
    """What came of a round's reports: the step of the global model (None where none was accepted), the reports that
    count, and those that carried no update; the reports without their payloads' frames."""

    step: Params | None
    values: Mapping[str, float]  # device -> what its data was worth (policy.md 4.5); empty with fewer than two
    accepted: tuple[tuple[Order, Report], ...]
    empty: tuple[tuple[Order, Report], ...]
    squares: Params | None = None  # weighted mean of the squared gradients, where the orders asked for them
    holders: Params = field(default_factory=dict)  # FedDyn: how many devices held each entry
    ahead: Params | None = None  # what the round's step leaves to the next one, where the recipe asks for it


class Read(Protocol):
    """Reads a report from the spool; `check`: hold it against its checksum."""

    def __call__(self, order_id: OrderId, check: bool = True) -> bytes: ...


class Folding:
    """A round's reports, folded in the order of their ids: as they come, as far as that order allows, then the rest.

    `read` gives a report's bytes. They have passed the desk, so nothing is rejected here. One report at a time is in
    memory. Which were folded early changes no bit of the result.
    """

    def __init__(self, setup: Setup, asked: Iterable[Order], read: Read) -> None:
        self._setup, self._updates = setup, _Updates(setup, read)
        self._asked = sorted(asked, key=lambda o: o.id)
        self._total = Fold(setup.model)
        self._squares = Fold(setup.model) if any(_asks_squares(o) for o in self._asked) else None
        self._next = 0  # place of the first order of which nothing is folded
        self._accepted: list[tuple[Order, Report]] = []
        self._empty: list[tuple[Order, Report]] = []

    def take(self, here: Collection[OrderId]) -> None:
        """Fold the reports that are `here` (durable, and wanted) up to the first order whose report is not."""
        while self._next < len(self._asked) and self._asked[self._next].id in here:
            self._add(self._asked[self._next])
            self._next += 1

    def close(self, state: State, here: Collection[OrderId]) -> Folded:
        """Fold what else is `here`; what came of the round, whose model is that of `state`."""
        for order in self._asked[self._next :]:
            if order.id in here:
                self._add(order)
        self._next = len(self._asked)
        values = _values(self._setup, self._total, self._accepted, self._updates) if len(self._accepted) > 1 else {}
        step, ahead = _step(self._setup, state, self._total) if self._accepted else (None, None)
        squares = self._squares.finish(1.0) if self._squares and self._accepted else None
        dynamic = self._setup.recipe.objective.dynamic and self._accepted
        holders = holders_of(self._total, len(self._accepted)) if dynamic else {}
        return Folded(step, values, tuple(self._accepted), tuple(self._empty), squares, holders, ahead)

    def _add(self, order: Order) -> None:
        report = self._folded(order)
        (self._accepted if report.outcome is Outcome.DONE else self._empty).append((order, report))

    def _folded(self, order: Order) -> Report:
        """One report into the fold; a function of its own so that no two large updates are in memory at once."""
        report, found = self._updates.first(order)
        if found:
            weight, rows = weight_of(self._setup, order, report), counted_rows(self._setup, report)
            part, *others = (part_of(self._setup.model, order, p) for p in report.payloads)
            self._total.add(found[0], part, weight, rows)
            for squares, where in zip(found[1:], others, strict=True):
                assert self._squares is not None  # the desk has held the payloads against the order
                self._squares.add(squares, where, weight)
        return report


class _Updates:
    """The round's updates, each looked at twice: folded, then valued. Sparse ones, a fraction of a model each, wait in
    memory for the second look, as many as one model's room holds; the others are read and decoded again."""

    def __init__(self, setup: Setup, read: Read) -> None:
        self._setup, self._read = setup, read
        self._room = 4 * sum(math.prod(t.shape) for t in setup.model.tensors)  # bytes
        self._kept: dict[OrderId, Update] = {}

    def first(self, order: Order) -> tuple[Report, list[Update]]:
        """The report without its payloads' frames, and these decoded, its update first; none if it carries none."""
        report = report_from_bytes(self._read(order.id))
        light = replace(report, payloads=tuple(replace(p, frame=b"") for p in report.payloads))
        if report.outcome is not Outcome.DONE:
            return light, []
        update, *others = (self._decoded(order, p) for p in report.payloads)
        size = _sparse_bytes(update)
        if size is not None and size <= self._room:
            self._room -= size
            self._kept[order.id] = update
        return light, [update, *others]

    def again(self, order: Order) -> Update:
        if order.id in self._kept:
            return self._kept[order.id]
        report = report_from_bytes(self._read(order.id, check=False))
        return self._decoded(order, report.payloads[0])

    def _decoded(self, order: Order, payload: Payload) -> Update:
        return decode_payload(self._setup.model, order, payload, checked=True)


def _sparse_bytes(update: Update) -> int | None:
    """Bytes of an update whose matrices are sparse; None for others."""
    dense = any(not isinstance(t, Sparse) and t.ndim > 1 for t in update.values())
    parts = (t.index.nbytes + t.values.nbytes if isinstance(t, Sparse) else t.nbytes for t in update.values())
    return None if dense else sum(parts)


def fold(setup: Setup, state: State, asked: Iterable[Order], read: Read, ids: Iterable[OrderId]) -> Folded:
    """Fold the reports `ids` all at once."""
    return Folding(setup, asked, read).close(state, set(ids))


def _asks_squares(order: Order) -> bool:
    return any(r.name == SQUARES for r in order.returns)


def _step(setup: Setup, state: State, total: Fold) -> tuple[Params, Params | None]:
    """The recipe's fill: sum of p_k delta_k / W^exponent, or the step to the average of zero-filled weights; mixed with
    what the round before left, and what this one leaves, where the recipe asks for it."""
    choice = setup.recipe.fold
    step = total.zero_fill(state.params) if choice.fill == "zero" else total.finish(choice.exponent)
    if not choice.momentum:
        return step, None
    return mixed_in(step, dict(state.extras.get(AHEAD, {})), choice.momentum, total), means(setup.model, step)


def weight_of(setup: Setup, order: Order, report: Report) -> float:
    """p_k before it is divided by its sum: by samples or equal, and by what share of the model was trained."""
    choice = setup.recipe.fold
    weight = float(report.samples) if choice.weights == "samples" else 1.0
    if not choice.size:
        return weight
    share = count(setup.model, order.selection) / count(setup.model, WHOLE)
    return float(weight * share**choice.size)


def counted_rows(setup: Setup, report: Report) -> dict[str, NDArray[np.int64]] | None:
    """Where the recipe says so: tensors of the logits -> rows of the classes that the device has samples of."""
    if not setup.recipe.fold.rows:
        return None
    index = np.asarray(sorted(report.labels), np.int64)
    return {t.name: index for t in setup.model.tensors if t.axes and _is_logits(setup.model, t.axes[0])}


def _is_logits(model: ModelMap, axis: Axis) -> bool:
    return len(axis) == 1 and axis[0].group != "" and model.group[axis[0].group].reason == OUTPUT


def _values(setup: Setup, total: Fold, accepted: list[tuple[Order, Report]], updates: _Updates) -> dict[str, float]:
    """Data value of each accepted update: its cosine to the aggregate of the others, mixed with its size.

    The updates are looked at once more, one at a time; the fold has their sum already, unless it left rows of them out.
    """
    samples = {order.device: report.samples for order, report in accepted}
    if setup.recipe.fold.rows:
        return mixed(data_values(setup.model, lambda: _again(setup, accepted, updates)), samples)
    weights = {t.name: total.held_weight(t.name) for t in setup.model.tensors}
    return mixed(values_within(setup.model, total.sums, weights, _again(setup, accepted, updates)), samples)


def _again(setup: Setup, accepted: list[tuple[Order, Report]], updates: _Updates) -> Iterator[Contribution]:
    """The accepted updates once more, in their submodels' coordinates."""
    for order, report in accepted:
        part = part_of(setup.model, order, report.payloads[0])
        yield order.device, updates.again(order), part, weight_of(setup, order, report)
