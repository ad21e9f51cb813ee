"""The device under Flower: the same task, store and payloads as the daemon's, as a `ClientApp`.

    [tool.flwr.app.components]
    clientapp = "pleat_client.flower_app:app"

Flower starts a process for every message, so nothing stays in memory: what the device remembers lies in pleat's
`Store`, in a folder of the node's own. A report is staged there, together with the state that follows it, before it is
sent. Whether the server has it is told by the next message, which names the reports that are durable and those that
came back; the latter join the residual. A server that begins or goes on with a run first asks who is here (a query),
and is told what was not answered yet.

The node's settings are those of `pleat-client run` but for the link: `--node-config 'data="shard.npz" name="kitchen"'`,
else /etc/pleat/client.toml, else what the run config says (`exchange.flower.Settings`). A stock strategy's message is
done with the run config's net, statelessly, as Flower's own clients do. Needs the extra "flower"; the only file of the
client that imports flwr.
"""

from __future__ import annotations

import hashlib
import io
import logging
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from pleat import __version__
from pleat.errors import PleatError, RemoteError, UseError
from pleat.exchange import flower, limits
from pleat.exchange.envelope import pack
from pleat.exchange.flower import FAILED, RECORD
from pleat.exchange.messages import Hello
from pleat.exchange.order import Kind, OrderId, Work
from pleat.exchange.report import Outcome
from pleat.exchange.wire import order_from_bytes, order_id
from pleat.shard import Shard, read, split_holdout
from pleat_client import pipe
from pleat_client.config import SYSTEM_FILE, Config, check_keys, load
from pleat_client.daemon import describe
from pleat_client.lock import turn
from pleat_client.probe import board
from pleat_client.store import Store

if TYPE_CHECKING:  # brings torch, which a query does not need
    from pleat_client.worker import Worker

OTHERS = ("partition-id", "num-partitions", "config")  # keys of a node config that are no settings of the device
HOLDOUT_SEED = 0  # the same samples are held out for every message
log = logging.getLogger("flwr")


@dataclass(frozen=True)
class Node:
    """One device for the length of a message."""

    config: Config
    store: Store
    train: Shard
    held: Shard

    @property
    def ready(self) -> pipe.Ready:
        classes = max(self.train.classes, self.held.classes)
        return pipe.Ready(len(self.train), len(self.held), self.train.input_shape, classes)

    def worker(self) -> Worker:
        from pleat_client import accelerator
        from pleat_client.worker import Inbox, Worker

        device, unread = accelerator.pick(self.config.accelerator), io.BytesIO()  # nobody reads its progress here
        return Worker(self.store, self.train, self.held, Inbox(), unread, device)

    @property
    def request(self) -> pipe.Train:
        return pipe.Train(order=b"", memory_bytes=self.config.memory, threads=self.config.threads)


Do = Callable[[Node, Message, Context], RecordDict]


def client_app(defaults: Mapping[str, Any] | None = None) -> ClientApp:
    """A `ClientApp`; `defaults` stand where the run config says nothing, as under `run_simulation`, which has none."""
    made, below = ClientApp(), dict(defaults or {})

    @made.query()
    def query(message: Message, context: Context) -> Message:
        return _answered(message, _merged(context, below), _hello)

    @made.train()
    def train(message: Message, context: Context) -> Message:
        return _answered(message, _merged(context, below), _order if RECORD in message.content else _stock)

    @made.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return _answered(message, _merged(context, below), _stock)

    return made


def _merged(context: Context, below: Mapping[str, Any]) -> Context:
    run = {**below, **context.run_config}
    return Context(context.run_id, context.node_id, context.node_config, context.state, run)


def _answered(message: Message, context: Context, do: Do) -> Message:
    """The reply: what `do` brings, or one line of what is wrong."""
    try:
        config = device_config(context.node_config, context.run_config)
        with turn(config.state):
            train, held = split_holdout(read(config.data), config.holdout, HOLDOUT_SEED)
            content = do(Node(config, Store(config.state), train, held), message, context)
        return Message(content, reply_to=message)
    except PleatError as error:
        log.error("pleat: %s", error)
        return Message(Error(FAILED, str(error)), reply_to=message)


def device_config(node: Mapping[str, Any], run: Mapping[str, Any], system: Path = SYSTEM_FILE) -> Config:
    """The settings of the node: its own config, else its file, else the run's. Raises UseError for any bad value."""
    check_keys(node, "--node-config of the SuperNode", OTHERS)
    given = {key: value for key, value in node.items() if key not in OTHERS}
    defaults: dict[str, Any] = {}
    name, partition = given.get("name"), node.get("partition-id")
    if partition is not None:
        name = name or f"device-{int(partition):03d}"
        given["name"] = name
        if run.get("shards"):
            defaults["data"] = str(_shard_of(Path(str(run["shards"])), int(partition)))
    if run.get("state") and name:
        defaults["state"] = str(Path(str(run["state"])) / str(name))
    if float(run.get("holdout", -1)) >= 0:
        defaults["holdout"] = float(run["holdout"])
    if int(run.get("threads", 0)) > 0:
        defaults["threads"] = int(run["threads"])
    if "data" not in given and "data" not in defaults and not system.exists() and "config" not in node:
        raise UseError("this node names no data; start it with --node-config 'data=\"/path/to/shard.npz\"'")
    file = Path(str(node["config"])) if node.get("config") else None
    return load(given, file, system, linked=False, defaults=defaults)


def _shard_of(folder: Path, partition: int) -> Path:
    """device-N.npz of a folder that `pleat shards` wrote, with as many digits as it has."""
    names = (folder / f"device-{partition:0{digits}}.npz" for digits in range(1, 7))
    return next((path for path in names if path.is_file()), folder / f"device-{partition}.npz")


def _hello(node: Node, message: Message, context: Context) -> RecordDict:
    """Who this device is, and every report of the run that nobody answered."""
    run = _record(message).get("run")
    hello = Hello(
        node.config.name,
        hashlib.sha256(node.store.identity()).digest(),
        secrets.token_bytes(16),
        describe(board.board(), node.ready, node.config.budgets),
        software=__version__[:32],
    )
    unsent = [path.read_bytes() for i, path in node.store.staged() if i.run == run]
    answer = ConfigRecord({"hello": pack(hello)})
    if unsent:
        answer["reports"] = unsent
    return RecordDict({RECORD: answer})


def _order(node: Node, message: Message, context: Context) -> RecordDict:
    """Do one of pleat's own orders; its report is staged before it is sent."""
    record = _record(message)
    _settle(node.store, record)
    data = record.get("order")
    if not isinstance(data, bytes):
        raise RemoteError(f"a train message of pleat's carries an order as bytes, got {type(data).__name__}")
    order = order_from_bytes(data)
    if order.device != node.config.name:
        raise RemoteError(f"order {order.id} is for {order.device}; this device is {node.config.name}")
    staged = node.worker().carry_out(order, node.request)
    return RecordDict({RECORD: ConfigRecord({"report": Path(staged.path).read_bytes()})})


def _settle(store: Store, record: ConfigRecord) -> None:
    """What the server says of reports sent before: durable there, or given back."""
    for key, how in (("acked", store.commit), ("returned", store.give_back)):
        names = record.get(key, [])
        for name in names if isinstance(names, list) else [names]:
            how(order_id(str(name)))


def _record(message: Message) -> ConfigRecord:
    record = message.content.get(RECORD)
    if not isinstance(record, ConfigRecord):
        raise RemoteError(f"a query without a {RECORD!r} record is not one of pleat's")
    return record


def _stock(node: Node, message: Message, context: Context) -> RecordDict:
    """Train or score the arrays of a stock strategy, as they come, with the run config's net."""
    from pleat.nets.build import spec
    from pleat.nets.trace import model_map
    from pleat_client.state import DeviceState

    said = flower.settings(context.run_config, ours=False)
    shape, classes = flower.shape(said.input_shape) or node.ready.input_shape, said.classes or node.ready.classes
    net = spec(said.model, shape, classes)
    kind = Kind.EVALUATE if message.metadata.message_type.startswith("evaluate") else Kind.TRAIN
    configs = message.content.config_records.values()
    config: Mapping[str, Any] = next(iter(configs), {})
    number = int(config.get("server-round", 0))
    run = limits.check_run(f"flower-{context.run_id}")
    seed = int.from_bytes(hashlib.sha256(f"{said.seed}/{number}/{node.config.name}".encode()).digest()[:8], "little")
    if len(message.content.array_records) != 1:
        raise RemoteError(f"a {kind.value} message carries one ArrayRecord, got {len(message.content.array_records)}")
    params = flower.params_of(next(iter(message.content.array_records.values())))
    model = model_map(net)
    order = flower.stock_order(
        OrderId(run, number, 0), node.config.name, kind, net, model, params, config, Work(), seed >> 1
    )
    report, _ = node.worker().run(order, DeviceState(), node.request)
    if report.outcome is not Outcome.DONE:
        raise RemoteError(f"{report.device}: {report.outcome.value}: {report.reason}")
    arrays, metrics = flower.stock_reply(model, order, report)
    content = RecordDict({"metrics": MetricRecord(metrics)})
    if arrays is not None:
        content["arrays"] = ArrayRecord({name: Array(a) for name, a in arrays.items()})
    return content


app = client_app()
