"""Task: what a device does with one order, as a function of the order, its state, its data and its sensors.

No sockets and no disk; the clock and the sensors are arguments. The same function runs in the daemon's trainer child,
in the in-process carrier and inside a Flower app. It knows no method by name: an order says which submodel, which
objective, which payloads come in and which go out, and how they are coded.

Randomness follows from the order's seed. A report of outcome "done" comes with the state that follows it; every other
report leaves the state as it was.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

from pleat.elastic.selection import Selection
from pleat.elastic.size import activation_floats, allocated
from pleat.errors import PleatError, Refused, RemoteError
from pleat.exchange.order import OWN_DATA, STATISTICS, Kind, Order, Payload, Return
from pleat.exchange.report import Budgets, Measured, Outcome, Report, Seconds
from pleat.exchange.returned import size_of
from pleat.modelmap import ModelMap
from pleat.nets.build import classes_of, input_shape_of
from pleat.nets.trace import model_map
from pleat.params import Params
from pleat.shard import Shard, check_fits
from pleat_client.learning import Learning, learn
from pleat_client.payloads import give, give_arrays, give_back, receive, recut, resolve
from pleat_client.personal import drift, keep_drift, keep_personal, strength_of
from pleat_client.state import DeviceState
from pleat_client.statistics import running_statistics
from pleat_client.trainer import Tick, no_tick, score, time_steps

__all__ = ["Cancelled", "DeviceState", "Peak", "Sensors", "Tick", "give_back", "run"]

NO_LIMITS = Budgets()
NOTHING_SPENT = Seconds()
SCRATCH = 8 << 20  # bytes that torch takes in a first step for kernels and threads, whatever the size


class Cancelled(PleatError):
    """The order was taken back while the device worked on it."""


Peak = Callable[[], "int | None"]  # the highest resident memory since it was made; ends the interval


def _unknown() -> None:
    return None


@dataclass(frozen=True)
class Sensors:
    """What the task reads of the machine. Unknown is None. `watch_peak` starts an interval; what it returns gives the
    highest memory since then, and ends it. `stepping` is entered around optimiser steps. `device`: where
    that is done, as torch names it."""

    clock: Callable[[], float] = time.perf_counter
    watch_peak: Callable[[], Peak] = lambda: _unknown
    resident: Callable[[], int | None] = _unknown
    free: Callable[[], int | None] = _unknown
    readings: Callable[[], Mapping[str, float]] = dict
    stepping: Callable[[], AbstractContextManager[None]] = nullcontext
    device: str = "cpu"


BLIND = Sensors()


@dataclass(frozen=True)
class _Job:
    """An order that the device understands, with all that it needs."""

    order: Order
    model: ModelMap
    state: DeviceState
    shard: Shard
    holdout: Shard | None
    sensors: Sensors
    budgets: Budgets
    tick: Tick


class _Laps:
    """Seconds since the last lap."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._last = clock, clock()

    def lap(self) -> float:
        before, self._last = self._last, self._clock()
        return self._last - before


def run(
    order: Order,
    state: DeviceState,
    shard: Shard,
    holdout: Shard | None = None,
    sensors: Sensors = BLIND,
    budgets: Budgets = NO_LIMITS,
    before: Seconds = NOTHING_SPENT,
    tick: Tick = no_tick,
) -> tuple[Report, DeviceState]:
    """Do one order; returns its report and the state that follows once the report has been staged.

    An order that cannot be done is not an error here but a report: refused (does not fit, does not understand, needs
    another base), aborted (`tick` raised Cancelled) or failed (the loss diverged). `before`: seconds already spent.
    """
    report = Report(order.id, order.device, samples=len(shard), labels=shard.labels, seconds=before)
    peak = sensors.watch_peak()
    try:
        job = _Job(order, _agreed_model(order, shard), state, shard, holdout, sensors, budgets, tick)
        report, state = _KINDS[order.kind](job, report)
    except Cancelled as error:
        report = replace(report, outcome=Outcome.ABORTED, reason=str(error))
    except (Refused, RemoteError) as error:
        report = replace(report, outcome=Outcome.REFUSED, reason=str(error))
    except PleatError as error:
        report = replace(report, outcome=Outcome.FAILED, reason=str(error))
    return replace(report, peak_bytes=peak(), sensors=dict(sensors.readings())), state


def _agreed_model(order: Order, shard: Shard) -> ModelMap:
    """The ModelMap of the order's net, if it is the server's and the shard fits it."""
    model = model_map(order.net)
    if model.digest != order.net.digest:
        raise Refused(
            f"net {order.net.factory} {dict(order.net.arguments)} is another one here: its map has digest "
            f"{model.digest.hex()[:16]}, the server's {order.net.digest.hex()[:16]}; install the server's version of it"
        )
    check_fits(shard, input_shape_of(order.net), classes_of(order.net), "of this device")
    return model


def _train(job: _Job, report: Report) -> tuple[Report, DeviceState]:
    laps, model = _Laps(job.sensors.clock), job.model
    order = resolve(job.order, job.state)
    job = replace(job, order=order)
    _check_memory(job, order.selection)
    received, version, state = receive(order, model, job.state)
    scored = _scored(job, received)
    build_s = laps.lap()
    sensors, own = job.sensors, drift(order, model, state)
    learning = Learning(order, model, job.shard, job.holdout, job.tick, sensors.device, sensors.stepping, own)
    learnt = learn(learning, received)
    train_s = laps.lap()
    payloads, state = [], keep_personal(order, model, replace(state, sent={}), learnt.params)
    state = keep_drift(order, model, state, received, learnt.params)
    for wanted in order.returns:
        payload, state = give(order, wanted, model, state, received, learnt, version)
        payloads.append(payload)
    seconds = replace(report.seconds, build=build_s, train=train_s, encode=laps.lap())
    return replace(report, payloads=tuple(payloads), metrics={**learnt.metrics, **scored}, seconds=seconds), state


def _evaluate(job: _Job, report: Report) -> tuple[Report, DeviceState]:
    """Score the model as it comes, on the hold-out, and take the statistics of the sizes that the order asks for."""
    laps = _Laps(job.sensors.clock)
    job = replace(job, order=resolve(job.order, job.state))
    received, version, state = receive(job.order, job.model, job.state)
    state = replace(state, masks={**job.state.masks, **state.masks})  # those that it trains under stay known
    build_s = laps.lap()
    nothing_held_out = job.holdout is None or not len(job.holdout)
    if nothing_held_out and job.order.work.settings.get(OWN_DATA):
        job = replace(job, holdout=job.shard)
    scored = _scored(job, received)
    payloads = tuple(_statistics(job, wanted, received, version) for wanted in job.order.returns)
    seconds = replace(report.seconds, build=build_s, train=laps.lap())
    return replace(report, payloads=payloads, metrics=scored, seconds=seconds), state


def _statistics(job: _Job, wanted: Return, received: Params, version: int) -> Payload:
    """The running statistics of one size of the model that came."""
    size = size_of(wanted.name)
    if size is None or size > len(job.order.nested):
        raise Refused(f"order {job.order.id} asks an evaluation for {wanted.name!r}; it can return {STATISTICS}")
    own = job.order.nested[size - 1] if size else job.order.selection
    params = recut(job.model, received, job.order.selection, own)
    batch, device = job.order.work.batch, job.sensors.device
    found = running_statistics(job.order.net, job.model, own, params, job.shard, batch, device)
    return give_arrays(job.order, wanted, job.model, found, version)


def _measure(job: _Job, report: Report) -> tuple[Report, DeviceState]:
    """Time a few steps of each nested selection, in the order's order; the first that would not fit ends the list."""
    laps, order, measured = _Laps(job.sensors.clock), job.order, list[Measured]()
    for selection in order.nested:
        try:
            _check_memory(job, selection)
        except Refused:
            if not measured:
                raise
            break
        peak = job.sensors.watch_peak()
        steps = max(1, order.work.steps)
        step_s = time_steps(
            order.net,
            job.model,
            selection,
            order.work,
            job.shard,
            steps,
            job.sensors.clock,
            job.tick,
            job.sensors.device,
            job.sensors.stepping,
        )
        measured.append(Measured(step_s, peak() or 0))
    return replace(report, measured=tuple(measured), seconds=replace(report.seconds, train=laps.lap())), job.state


_KINDS: dict[Kind, Callable[[_Job, Report], tuple[Report, DeviceState]]] = {
    Kind.TRAIN: _train,
    Kind.EVALUATE: _evaluate,
    Kind.MEASURE: _measure,
}


def _scored(job: _Job, params: Params) -> dict[str, float]:
    """How the received submodel does on the hold-out, before it is trained; empty without a hold-out."""
    if job.holdout is None or len(job.holdout) == 0:
        return {}
    order, ensemble = job.order, job.order.work.settings.get("ensemble", 0.0) > 0
    right, samples, loss = score(
        order.net, job.model, order.selection, params, job.holdout, job.sensors.device, ensemble
    )
    return {"correct": float(right), "scored": float(samples), "scored_loss": loss / samples}


def estimated_bytes(order: Order, model: ModelMap, selection: Selection) -> int:
    """Memory of training `selection` over that of the idle trainer: parameters received and trained, the update, its
    residual, gradient, momentum and drift, and one batch's activations with their gradients."""
    work = order.work
    tensors = 5 + (work.momentum > 0) + (strength_of(work) > 0) + 2 * (work.settings.get("dynamic", 0.0) > 0)
    floats = tensors * allocated(model, selection) + 2 * order.work.batch * activation_floats(model, selection)
    return 4 * floats + SCRATCH


def _check_memory(job: _Job, selection: Selection) -> None:
    """Raises Refused, with the numbers, where the training would not fit the owner's budget or the free memory."""
    need = estimated_bytes(job.order, job.model, selection)
    if job.order.kind is Kind.TRAIN:
        need = max(need, job.order.memory_bytes)
    budget, resident, free = job.budgets.memory_bytes, job.sensors.resident(), job.sensors.free()
    if budget is not None and resident is not None and resident + need > budget:
        raise Refused(
            f"does not fit: training needs {_mib(need)} over the {_mib(resident)} in use, "
            f"the memory budget is {_mib(budget)}"
        )
    if free is not None and need > free:
        raise Refused(f"does not fit: training needs {_mib(need)} more, {_mib(free)} are free")


def _mib(n: int) -> str:
    return f"{n / 2**20:.0f} MiB"
