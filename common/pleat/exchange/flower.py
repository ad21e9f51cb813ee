"""What Flower's messages and settings mean to pleat, without Flower: plain values in, orders and reports out.

Both ends read these from here: the server that puts a message into Flower's hands and the `ClientApp` that gets it.

A message of pleat's own carries a `ConfigRecord` named RECORD:

    query  {run}                     -> {hello, reports}   who the device is, and what it was not answered for
    train  {order, acked, returned}  -> {report}           one order, whatever its kind, and its report

`acked` and `returned` list order ids whose reports the server has, or gave back; they ride along because every message
to a Flower node starts a process there. Any other train or evaluate message is a stock one: one set of arrays to train
or to score, numbers in its config, and a reply as Flower's `FedAvg` expects it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

import msgspec
import numpy as np

from pleat.codec.coding import build
from pleat.codec.transform import Context
from pleat.elastic.selection import WHOLE
from pleat.errors import UseError, hint, nearest
from pleat.exchange.order import Kind, NetSpec, Order, OrderId, Payload, Return, Work
from pleat.exchange.report import Report
from pleat.modelmap import ModelMap
from pleat.params import Params, dense

RECORD = "pleat"  # name of the ConfigRecord that makes a message pleat's own
FAILED = 1000  # code of the error replies of pleat's devices; the reason is one line
LOAD_FAILED = 1  # Flower's code where a node cannot load the ClientApp


class Settings(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    """The run config of a Flower app: `[tool.flwr.app.config]`, and `flwr run -c` on top. "" and 0: not said."""

    model: str = ""  # net: mlp, cnn, ... or package.module:function
    recipe: str = "elastic"
    rounds: Annotated[int, msgspec.Meta(ge=1)] = 30
    seed: int = 0
    policy: str = ""  # the recipe's
    least: int = 0  # devices to wait for; 0: the recipe's
    data: str = ""  # .npz on the server to score the model on
    proxy: str = ""  # .npz on the server to prune by before the first round; else some of `data`
    input_shape: str = ""  # such as 1x28x28; from `data`, else asked from the devices
    classes: int = 0
    folder: str = ""  # of the run, on the server; a run that is there goes on
    set: str = ""  # laid over the recipe: "training.epochs=2 plan.policy=fixed"
    shards: str = ""  # folder of device-N.npz, one a partition: for nodes that name no data of their own
    state: str = ""  # folder of the device states, one a name, for nodes that name none
    holdout: float = -1.0  # share that nodes keep for scoring; below 0: as each node says
    threads: int = 0  # of the training; 0: as each node says


KEYS = Settings.__struct_encode_fields__


def settings(config: Mapping[str, Any], ours: bool = True) -> Settings:
    """The run config of an app. `ours` = False: the app is another's, whose own keys are no concern here.

    Raises UseError for an unknown key (of ours), a missing model or a value of the wrong kind.
    """
    for key in config:
        if ours and key not in KEYS:
            raise UseError(f"run config: unknown key {key!r}; {hint(key, KEYS, 'known are')}")
    if not config.get("model"):
        near = nearest("model", [k for k in config if k not in KEYS])
        then = f"is {near!r} meant?" if near else "add it"
        raise UseError(f"run config: no key 'model'; {then} such as model = \"mlp\" in [tool.flwr.app.config]")
    try:
        return msgspec.convert({k: v for k, v in config.items() if k in KEYS}, Settings)
    except msgspec.ValidationError as error:
        raise UseError(f"run config: {error}; see [tool.flwr.app.config] of deploy/flower/pyproject.toml") from None


def shape(text: str) -> tuple[int, ...]:
    """(1, 28, 28) of "1x28x28"; () of "". Raises UseError."""
    try:
        numbers = tuple(int(n) for n in text.lower().split("x")) if text else ()
    except ValueError:
        numbers = (0,)
    if any(n < 1 for n in numbers):
        raise UseError(f"{text!r} is no shape of a sample; write channels x height x width, such as 1x28x28")
    return numbers


def params_of(arrays: Mapping[str, Any]) -> Params:
    """Parameters from a Flower `ArrayRecord`, by name."""
    return {name: np.ascontiguousarray(a.numpy(), np.float32) for name, a in sorted(arrays.items())}


def stock_order(
    order_id: OrderId,
    device: str,
    kind: Kind,
    net: NetSpec,
    model: ModelMap,
    params: Params,
    config: Mapping[str, Any],
    work: Work,
    seed: int,
) -> Order:
    """A stock message as an order: the whole net, dense both ways. Raises UseError where arrays do not fit the net."""
    _check_arrays(net, model, params)
    context = Context(model, WHOLE, order_id.round, 0, 0)
    transform = build("raw")
    frame, _ = transform.encode(params, transform.init(context), context)
    return Order(
        order_id,
        device,
        kind,
        net,
        work=_work(work, config),
        payloads=(Payload("arrays", "raw", frame),),
        returns=(Return("arrays", "raw"),) if kind is Kind.TRAIN else (),
        seed=int(config.get("seed", seed)),
    )


def stock_reply(model: ModelMap, order: Order, report: Report) -> tuple[Params | None, dict[str, Any]]:
    """(arrays, metrics) of the report on a stock order. FedAvg weighs by "num-examples": samples trained, or scored."""
    counted = report.metrics.get("scored", 0) if order.kind is Kind.EVALUATE else report.samples
    metrics: dict[str, Any] = {"num-examples": int(counted)}
    metrics |= {name: float(value) for name, value in report.metrics.items()}
    arrays = None
    for payload in report.payloads:
        context = Context(model, order.selection, order.id.round, order.seed, payload.version)
        arrays = dense(build(payload.coding).decode(payload.frame, context))
    return arrays, metrics


def _check_arrays(net: NetSpec, model: ModelMap, params: Params) -> None:
    wanted = {t.name: t.shape for t in model.tensors}
    for name in sorted({*wanted, *params}):
        got = params[name].shape if name in params else None
        if got != wanted.get(name):
            raise UseError(
                f"arrays do not fit {net.factory} {dict(net.arguments)}: {name!r} has shape {got}, expected "
                f"{wanted.get(name)}; set model, input-shape and classes in the run config to the net that is averaged"
            )


def _work(work: Work, config: Mapping[str, Any]) -> Work:
    """A stock message's settings over `work`: epochs, batch, rate (or lr), momentum, decay, clip."""
    known = {"epochs": int, "batch": int, "rate": float, "lr": float, "momentum": float, "decay": float, "clip": float}
    found = {("rate" if k == "lr" else k): known[k](v) for k, v in config.items() if k in known}
    return replace(work, **found)
