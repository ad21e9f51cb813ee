"""Learning: an order's training from the parameters received, with the changes of masks that its adjuster makes.

An adjuster may act before the first local epoch, after the epoch that its setting `after` names, or at the end; what
it changes, the epochs that follow train.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from pleat.codec.coding import confined_to
from pleat.codec.subspace import Span, spans
from pleat.codec.transform import Context
from pleat.elastic.selection import Selection, extract
from pleat.exchange.order import SQUARES, Order
from pleat.exchange.returned import returned_part
from pleat.modelmap import ModelMap
from pleat.nets.build import initial
from pleat.params import Params
from pleat.shard import Shard
from pleat_client.adjust import Moment, adjuster
from pleat_client.flat import Pulling
from pleat_client.payloads import Learnt
from pleat_client.personal import strength_of
from pleat_client.trainer import Metrics, Stepping, Tick, gradient, score, train


@dataclass(frozen=True)
class Learning:
    """An order and what its training needs of the device."""

    order: Order
    model: ModelMap
    shard: Shard
    holdout: Shard | None
    tick: Tick
    device: str
    stepping: Stepping
    drift: Params = field(default_factory=dict)  # the device's own of FedDyn, in the order's submodel


class Summed:
    """Adds up the gradients of an order's spans."""

    def __init__(self) -> None:
        self._total: Params = {}

    def __call__(self, gradients: Params) -> None:
        self._total = {n: self._total[n] + g if n in self._total else g for n, g in gradients.items()}

    @property
    def squares(self) -> Params:
        return {n: g * g for n, g in self._total.items()}


def learn(job: Learning, received: Params) -> Learnt:
    """Train `received`. Raises what `train` raises, and UseError for an unknown adjuster."""
    work, first = job.order.work, list[Params]()
    adjust = adjuster(work.adjust)

    def note(epoch: int, params: Callable[[], Params]) -> None:
        if work.adjust and not first:
            first.append(params())

    selection, params = adjust.before(_moment(job, job.order.selection, received, received)) or (
        job.order.selection,
        received,
    )
    until = int(work.settings.get("after", work.epochs)) if adjust.between else work.epochs
    spans = [(0, min(until, work.epochs)), (min(until, work.epochs), work.epochs)]
    metrics, total = Metrics(), Summed() if any(r.name == SQUARES for r in job.order.returns) else None
    for number, (start, end) in enumerate(spans):
        if end > start:
            params, metrics = _train(job, selection, params, (start, end), note, total, received)
        if number == 0 and adjust.between:
            selection, params = adjust.between(_moment(job, selection, params, params)) or (selection, params)
    selection, params = adjust.after(_moment(job, selection, params, first[0] if first else params)) or (
        selection,
        params,
    )
    return Learnt(selection, params, metrics, total.squares if total else {})


def _train(
    job: Learning,
    selection: Selection,
    params: Params,
    span: tuple[int, int],
    note: Callable[[int, Callable[[], Params]], None],
    total: Summed | None,
    received: Params,
) -> tuple[Params, Metrics]:
    """Local epochs from `span[0]` on up to `span[1]`; each span draws its own batches."""
    order = job.order
    settings = {**order.work.settings, "round": float(order.id.round)}
    work, seed = replace(order.work, epochs=span[1] - span[0], settings=settings), order.seed + span[0]
    strength = strength_of(work)
    return train(
        order.net,
        job.model,
        selection,
        params,
        order.nested,
        work,
        job.shard,
        seed,
        job.tick,
        job.device,
        note,
        total,
        job.stepping,
        Pulling(strength, received, job.drift) if strength else None,
        spans_of(order, job.model),
    )


def spans_of(order: Order, model: ModelMap) -> dict[str, Span]:
    """What the training is confined to: the coding of the update to return says it, and the order's seed draws it."""
    for wanted in order.returns:
        subspace = confined_to(wanted.coding)
        if wanted.name == "update" and subspace is not None:
            part = returned_part(model, order, wanted)
            return spans(subspace, Context(model, part, order.id.round, order.seed))
    return {}


def _moment(job: Learning, selection: Selection, params: Params, early: Params) -> Moment:
    """What an adjuster may look at."""
    order, model, shard = job.order, job.model, job.shard
    held_out = job.holdout if job.holdout is not None and len(job.holdout) else shard

    def accuracy(candidate: Params) -> float:
        ensemble = order.work.settings.get("ensemble", 0.0) > 0
        right, samples, _ = score(order.net, model, selection, candidate, held_out, job.device, ensemble)
        return right / samples

    return Moment(
        model,
        selection,
        params,
        order.id.round,
        order.work.settings,
        lambda at: gradient(order.net, model, selection, at, order.work, shard, order.seed, job.device),
        accuracy,
        early,
        lambda: extract(model, selection, initial(order.net, int(order.work.settings.get("start", 0)))),
    )
