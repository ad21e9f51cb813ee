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
from dataclasses import dataclass, field, replace

from pleat.codec.coding import build as coding
from pleat.codec.coding import uses_base
from pleat.codec.feedback import feedback
from pleat.codec.transform import Context
from pleat.elastic.selection import Selection, embed, extract, shapes
from pleat.elastic.size import activation_floats, count
from pleat.errors import PleatError, Refused, RemoteError
from pleat.exchange.order import Kind, Order, Payload, Return
from pleat.exchange.report import Budgets, Measured, Outcome, Report, Seconds
from pleat.modelmap import ModelMap
from pleat.nets.build import classes_of, input_shape_of
from pleat.nets.trace import model_map
from pleat.params import Params, Update, dense, subtract
from pleat.shard import Shard, check_fits
from pleat_client.state import DeviceState, returned
from pleat_client.trainer import Tick, no_tick, score, time_steps, train

NEEDS_FULL = "needs full"  # begins the reason of a refusal that a complete model would cure
LOSSLESS = ("raw",)  # codings that leave no error to feed back


class Cancelled(PleatError):
    """The order was taken back while the device worked on it."""


Peak = Callable[[], "int | None"]  # the highest resident memory since it was made; ends the interval


def _nothing() -> None:
    return None


@dataclass(frozen=True)
class Sensors:
    """What the task reads of the machine. Unknown is None. `watch_peak` starts an interval; what it returns gives the
    highest resident memory since then, and ends it."""

    clock: Callable[[], float] = time.perf_counter
    watch_peak: Callable[[], Peak] = lambda: _nothing
    resident: Callable[[], int | None] = _nothing
    free: Callable[[], int | None] = _nothing
    readings: Callable[[], Mapping[str, float]] = dict


@dataclass(frozen=True)
class Local:
    """What of the device is no order's business: its data and its owner's limits."""

    shard: Shard
    holdout: Shard | None = None
    budgets: Budgets = Budgets()


@dataclass
class _Watch:
    """Seconds since the last lap."""

    clock: Callable[[], float]
    last: float = field(init=False)

    def __post_init__(self) -> None:
        self.last = self.clock()

    def lap(self) -> float:
        now = self.clock()
        spent, self.last = now - self.last, now
        return spent


def run(
    order: Order,
    state: DeviceState,
    shard: Shard,
    holdout: Shard | None = None,
    sensors: Sensors = Sensors(),  # noqa: B008 - frozen
    budgets: Budgets = Budgets(),  # noqa: B008 - frozen
    before: Seconds = Seconds(),  # noqa: B008 - frozen
    tick: Tick = no_tick,
) -> tuple[Report, DeviceState]:
    """Do one order; returns its report and the state that follows once the report has been staged.

    An order that cannot be done is not an error here but a report: refused (does not fit, does not understand, needs
    another base), aborted (`tick` raised Cancelled) or failed (the loss diverged). `before`: seconds already spent.
    """
    local = Local(shard, holdout, budgets)
    report = Report(order.id, order.device, samples=len(shard), labels=shard.labels, seconds=before)
    peak = sensors.watch_peak()
    try:
        model = _agreed_model(order, local)
        kinds = {Kind.TRAIN: _train, Kind.EVALUATE: _evaluate, Kind.MEASURE: _measure}
        report, state = kinds[order.kind](order, state, model, local, sensors, report, tick)
    except Cancelled as error:
        report = replace(report, outcome=Outcome.ABORTED, reason=str(error))
    except (Refused, RemoteError) as error:
        report = replace(report, outcome=Outcome.REFUSED, reason=str(error))
    except PleatError as error:
        report = replace(report, outcome=Outcome.FAILED, reason=str(error))
    return replace(report, peak_bytes=peak(), sensors=dict(sensors.readings())), state


def _agreed_model(order: Order, local: Local) -> ModelMap:
    """The ModelMap of the order's net, if it is the server's and the shard fits it."""
    model = model_map(order.net)
    if model.digest != order.net.digest:
        raise Refused(
            f"net {order.net.factory} {dict(order.net.arguments)} is another one here: its map has digest "
            f"{model.digest.hex()[:16]}, the server's {order.net.digest.hex()[:16]}; install the server's version of it"
        )
    check_fits(local.shard, input_shape_of(order.net), classes_of(order.net), "of this device")
    return model


def _train(
    order: Order,
    state: DeviceState,
    model: ModelMap,
    local: Local,
    sensors: Sensors,
    report: Report,
    tick: Tick,
) -> tuple[Report, DeviceState]:
    watch = _Watch(sensors.clock)
    _check_memory(order, model, order.selection, local.budgets, sensors)
    received, version, held = receive(order, model, state)
    metrics = _scored(order, model, received, local.holdout)
    build_s = watch.lap()
    trained, measured = train(
        order.net, model, order.selection, received, order.nested, order.work, local.shard, order.seed, tick
    )
    train_s = watch.lap()
    following = replace(held, sent={})
    payloads = []
    for wanted in order.returns:
        payload, following = returned_payload(order, wanted, model, following, received, trained, version)
        payloads.append(payload)
    seconds = replace(report.seconds, build=build_s, train=train_s, encode=watch.lap())
    done = replace(report, payloads=tuple(payloads), metrics={**measured, **metrics}, seconds=seconds)
    return done, following


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


def returned_payload(
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


def _with_feedback(
    text: str, update: Params, state: DeviceState, context: Context
) -> tuple[bytes, DeviceState]:
    transform = feedback(coding(text))
    frame, residual = transform.encode(update, state.residual, context)
    sent: Update = embed(context.model, context.selection, transform.decode(frame, context))
    return frame, replace(state, residual=residual, sent=sent)


def give_back(order: Order, before: DeviceState, after: DeviceState, data: bytes = b"") -> DeviceState:
    """The state when the report that led from `before` to `after` has come back: as if nothing had been sent.

    What was sent joins the residual again; the version held is the one before, for the server acknowledged no other.
    """
    return returned(replace(before, residual=after.residual), after.sent)


def _evaluate(
    order: Order,
    state: DeviceState,
    model: ModelMap,
    local: Local,
    sensors: Sensors,
    report: Report,
    tick: Tick,
) -> tuple[Report, DeviceState]:
    watch = _Watch(sensors.clock)
    received, _, held = receive(order, model, state)
    build_s = watch.lap()
    metrics = _scored(order, model, received, local.holdout)
    seconds = replace(report.seconds, build=build_s, train=watch.lap())
    return replace(report, metrics=metrics, seconds=seconds), held


def _measure(
    order: Order,
    state: DeviceState,
    model: ModelMap,
    local: Local,
    sensors: Sensors,
    report: Report,
    tick: Tick,
) -> tuple[Report, DeviceState]:
    """Time a few steps of each nested selection, in the order's order; the first that would not fit ends the list."""
    watch, measured = _Watch(sensors.clock), list[Measured]()
    for selection in order.nested:
        try:
            _check_memory(order, model, selection, local.budgets, sensors)
        except Refused:
            if not measured:
                raise
            break
        peak = sensors.watch_peak()
        steps = max(1, order.work.steps)
        step_s = time_steps(order.net, model, selection, order.work, local.shard, steps, sensors.clock, tick)
        measured.append(Measured(step_s, peak() or 0))
    return replace(report, measured=tuple(measured), seconds=replace(report.seconds, train=watch.lap())), state


def _scored(order: Order, model: ModelMap, params: Params, holdout: Shard | None) -> dict[str, float]:
    """How the received submodel does on the hold-out, before it is trained; empty without a hold-out."""
    if holdout is None or len(holdout) == 0:
        return {}
    right, samples, loss = score(order.net, model, order.selection, params, holdout)
    return {"correct": float(right), "scored": float(samples), "scored_loss": loss / samples}


def estimated_bytes(order: Order, model: ModelMap, selection: Selection) -> int:
    """Memory of training `selection` over that of the idle trainer: received and trained parameters, update, gradient
    and momentum, and one batch's activations with their gradients."""
    tensors = 5 + (order.work.momentum > 0)
    return 4 * (tensors * count(model, selection) + 2 * order.work.batch * int(activation_floats(model, selection)))


def _check_memory(
    order: Order, model: ModelMap, selection: Selection, budgets: Budgets, sensors: Sensors
) -> None:
    """Raises Refused, with the numbers, where the training would not fit the owner's budget or the free memory."""
    need = estimated_bytes(order, model, selection)
    if order.kind is Kind.TRAIN:
        need = max(need, order.memory_bytes)
    resident, free = sensors.resident(), sensors.free()
    if budgets.memory_bytes is not None and resident is not None and resident + need > budgets.memory_bytes:
        raise Refused(
            f"does not fit: training needs {_mib(need)} over the {_mib(resident)} in use, "
            f"the memory budget is {_mib(budgets.memory_bytes)}"
        )
    if free is not None and need > free:
        raise Refused(f"does not fit: training needs {_mib(need)} more, {_mib(free)} are free")


def _mib(n: int) -> str:
    return f"{n / 2**20:.0f} MiB"
