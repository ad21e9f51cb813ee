"""The carrier on a foreign Flower grid, with real ClientApps behind it: nothing is lost, nothing counts twice.

The grid runs in this process (support/flower.py); devices come and go, answer late, break and lie.
"""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from pleat.errors import RemoteError
from pleat.exchange.flower import FAILED, LOAD_FAILED, RECORD, params_of
from pleat.exchange.order import Order
from pleat.exchange.report import Outcome
from pleat.exchange.wire import report_from_bytes
from pleat.nets.build import initial, spec
from pleat.shard import write
from pleat_client.flower_app import app, client_app
from pleat_client.lock import hold
from pleat_client.state import from_bytes
from pleat_client.store import Store
from pleat_server import app as runs
from pleat_server.carrier import Event, Joined, Left, Rejected, Reported
from pleat_server.keep.journal import Journal
from pleat_server.keep.spool import Spool
from pleat_server.link.flower_carrier import ASK_AGAIN_S, LOOK_S, FlowerCarrier
from pleat_server.link.grid import FleetGrid, to_arrays
from pleat_server.run_recipe import read_recipe
from pleat_server.strategy import ElasticStrategy
from support.device import RUN, train_order, write_shard
from support.digits import digit_shards
from support.fleet import OpenDesk
from support.flower import UNAVAILABLE, LocalGrid

ADA, BOB = 11, 12


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def node(folder: Path, name: str, **more: Any) -> dict[str, Any]:
    """A node config with a shard and a state folder of its own under `folder`."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    shard = write_shard(folder / name / "shard.npz")
    state = str(folder / name / "state")
    return {"data": str(shard), "state": state, "name": name, "holdout": 0.0, "threads": 1, **more}


class Bench:
    """A carrier for the run RUN over the nodes "a" and "b", with a clock that only its own sleep moves."""

    def __init__(self, folder: Path, made: ClientApp = app) -> None:
        self.folder, self.now = folder, 0.0
        self.grid = LocalGrid(made, {ADA: node(folder, "a"), BOB: node(folder, "b")}, {})
        self.spool = Spool(folder / "spool")
        self.desk = OpenDesk(self.spool)
        self.start()

    def start(self) -> None:
        """A new carrier, as after a restart of the server."""
        self.carrier = FlowerCarrier(self.grid, self.spool, self.desk, RUN, lambda: self.now, self._sleep)

    def _sleep(self, seconds: float) -> None:
        self.now += seconds

    def later(self, seconds: float = LOOK_S) -> list[Event]:
        self.now += seconds
        return self.carrier.poll(0.0)

    def ask(self, order: Order) -> list[Event]:
        self.desk.open[order.id] = order.device
        assert self.carrier.send(order)
        return self.carrier.poll(0.0)

    def store(self, name: str = "a") -> Store:
        return Store(self.folder / name / "state")

    def fates(self, name: str = "a") -> dict[int, str]:
        """Round -> what the device knows of its report."""
        return {p.order_id.round: p.fate for p in self.store(name).past(RUN)}

    def absorbed(self, round: int, name: str = "a") -> tuple[str, ...]:
        """The orders whose returned updates are in the residual that followed a round's order."""
        (state,) = [p.state for p in self.store(name).past(RUN) if p.order_id.round == round]
        return from_bytes(state).absorbed

    def trained(self) -> int:
        return sum(kind == "train" for _, kind in self.grid.seen)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path)
    assert [type(e) for e in bench.carrier.poll(0.0)] == [Joined, Joined]
    return bench


def lossy(round: int) -> Order:
    return train_order(round, coded="topk:0.05/lloyd:4")


# ---- a run


def elastic(folder: Path, **server: Any) -> ElasticStrategy:
    laid = {"plan": {"policy": "fixed"}, "server": server}
    return ElasticStrategy("elastic", "mlp", input_shape=(1, 8, 8), classes=10, folder=folder, overrides=laid)


def digit_nodes(folder: Path, count: int) -> dict[int, dict[str, Any]]:
    nodes = {}
    for number, part in enumerate(digit_shards(count)[0]):
        nodes[100 + number] = node(folder, f"device-{number:03d}")
        write(nodes[100 + number]["data"], part)
    return nodes


def test_our_strategy_over_a_foreign_grid_equals_the_in_process_run_bit_for_bit(tmp_path: Path) -> None:
    grid = LocalGrid(app, digit_nodes(tmp_path, 3), {})
    result = elastic(tmp_path / "grid" / "run", least=3).start(grid, num_rounds=2)
    config = elastic(tmp_path / "here" / "run", least=3).config
    runs.simulate(replace(config, rounds=2), runs.virtual_devices(digit_shards(3)[0]), None)
    state = runs.restore(*_kept(config))
    assert all(np.array_equal(params_of(result.arrays)[n], state.evaluated[n]) for n in state.params)


def _kept(config: Any) -> tuple[Any, ...]:
    keep = runs.Keep(config.folder, Spool(config.folder / "spool"), Journal(config.folder / "journal.jsonl"))
    return runs.set_up(config, read_recipe(config), (1, 8, 8), 10), config, keep, lambda event: None


def hold_orders(grid: LocalGrid, node: int) -> None:
    """From here on the node answers queries alone; its orders wait."""
    push = grid.push_messages

    def pushing(messages: Any) -> Any:
        messages = list(messages)
        grid.slow = {node} if any(m.metadata.message_type == "train" for m in messages) else set()
        return push(messages)

    grid.push_messages = pushing  # type: ignore[method-assign]


def test_a_round_takes_no_longer_than_the_timeout_of_start(tmp_path: Path) -> None:
    grid = LocalGrid(app, digit_nodes(tmp_path, 2), {})
    strategy = elastic(tmp_path / "run", least=2)
    strategy.start(grid, num_rounds=1)
    hold_orders(grid, 101)
    strategy.start(grid, num_rounds=2, timeout=1.0)
    line = Journal.read(tmp_path / "run" / "journal.jsonl")[-1]
    assert line["seconds"] < 60


def test_a_device_without_a_reply_is_late_and_the_round_closes_by_quorum(tmp_path: Path) -> None:
    grid = LocalGrid(app, digit_nodes(tmp_path, 2), {})
    strategy = elastic(tmp_path / "run", least=2, quorum=0.5)
    strategy.start(grid, num_rounds=1)
    hold_orders(grid, 101)
    strategy.start(grid, num_rounds=2)
    line = Journal.read(tmp_path / "run" / "journal.jsonl")[-1]
    outcomes = {d["name"]: d["outcome"] for d in line["devices"]}
    assert outcomes["device-000"] == "done"
    assert outcomes["device-001"] != "done"


# ---- acknowledgement


def test_the_next_order_acknowledges_what_the_server_has(bench: Bench) -> None:
    assert isinstance(bench.ask(lossy(1))[-1], Reported)
    assert bench.fates() == {1: "staged"}
    bench.ask(lossy(2))
    assert bench.fates() == {1: "acked", 2: "staged"}
    assert bench.spool.ids(RUN, 2) == [lossy(2).id]


def test_a_report_that_comes_too_late_goes_back_into_the_residual(bench: Bench) -> None:
    bench.grid.slow = {ADA}
    bench.ask(lossy(1))
    del bench.desk.open[lossy(1).id]  # its round is closed
    bench.grid.slow = set()
    assert bench.later() == []
    assert not bench.spool.has(lossy(1).id)
    assert bench.fates() == {1: "staged"}
    assert isinstance(bench.ask(lossy(2))[-1], Reported)
    assert bench.fates() == {2: "staged"}
    assert bench.absorbed(2) == ("1-0",)


def test_a_report_that_came_in_time_is_not_counted_again(bench: Bench) -> None:
    bench.ask(lossy(1))
    bench.ask(lossy(2))
    assert bench.absorbed(2) == ()


def test_a_refused_report_is_given_back(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(device: str, order_id: Any, data: bytes) -> None:
        raise RemoteError("too large a norm")

    monkeypatch.setattr(bench.desk, "admit", refuse)
    (event,) = bench.ask(lossy(1))
    assert isinstance(event, Rejected)
    assert "too large a norm" in event.reason
    monkeypatch.undo()
    bench.ask(lossy(2))
    assert bench.fates() == {2: "staged"}


def test_answers_are_told_again_until_a_message_that_told_them_was_answered(bench: Bench) -> None:
    bench.ask(lossy(1))
    bench.grid.broken = {ADA: Error(8, "the process died")}
    assert isinstance(bench.ask(lossy(2))[-1], Rejected)
    assert bench.fates() == {1: "staged"}
    bench.grid.broken = {}
    bench.ask(lossy(3))
    assert bench.fates() == {1: "acked", 3: "staged"}


def test_answers_that_were_read_are_not_told_again(bench: Bench) -> None:
    for round in (1, 2, 3):
        bench.ask(lossy(round))
    assert bench.grid.last is not None
    assert bench.grid.last.content[RECORD]["acked"] == [str(lossy(2).id)]


def test_a_device_that_is_behind_gets_the_newest_order_when_it_has_answered(bench: Bench) -> None:
    bench.grid.slow = {ADA}
    bench.ask(lossy(1))
    for round in (1, 2):  # each round closes before the device has answered
        del bench.desk.open[lossy(round).id]
        bench.carrier.cancel(lossy(round).id)
        bench.ask(lossy(round + 1))
    assert len(bench.grid.waiting) == 1
    bench.grid.slow = set()
    assert bench.later() == []
    assert [e.order_id for e in bench.later()] == [lossy(3).id]
    assert bench.trained() == 2
    assert bench.fates() == {3: "staged"}
    assert bench.absorbed(3) == ("1-0",)


def test_an_order_that_was_cancelled_before_it_went_out_is_not_sent(bench: Bench) -> None:
    bench.grid.slow = {ADA}
    bench.ask(lossy(1))
    bench.ask(lossy(2))
    bench.carrier.cancel(lossy(2).id)
    bench.grid.slow = set()
    assert [e.order_id for e in bench.later()] == [lossy(1).id]
    assert bench.later() == []
    assert bench.trained() == 1


def test_a_server_that_restarts_is_offered_what_was_not_answered_and_nothing_is_trained_twice(bench: Bench) -> None:
    bench.desk.open[lossy(1).id] = "a"
    bench.carrier.send(lossy(1))
    bench.grid.pull_messages(list(bench.grid.waiting))  # done by the device; the reply dies with the server
    assert bench.trained() == 1
    bench.start()
    joined, _, reported = sorted(bench.carrier.poll(0.0), key=lambda e: isinstance(e, Reported))
    assert (joined.device, reported.order_id) == ("a", lossy(1).id)
    assert bench.trained() == 1
    bench.ask(lossy(2))
    assert bench.fates() == {1: "acked", 2: "staged"}


def test_reports_of_other_runs_are_not_sent_along(bench: Bench) -> None:
    bench.store().stage(replace(lossy(1).id, run="another"), b"not for this server")
    bench.start()
    assert [type(e) for e in bench.carrier.poll(0.0)] == [Joined, Joined]


def test_an_order_sent_again_after_its_refusal_is_done_anew(bench: Bench) -> None:
    """What the loop does for a device that lacks the version it was sent a difference to."""
    first = lossy(1)
    payload = replace(first.payloads[0], base=0)
    (event,) = bench.ask(replace(first, payloads=(payload,)))
    assert report_from_bytes(bench.spool.read(first.id)).outcome is Outcome.REFUSED
    bench.spool.discard(first.id)
    (event,) = bench.ask(first)
    assert isinstance(event, Reported)
    assert report_from_bytes(bench.spool.read(first.id)).outcome is Outcome.DONE


def test_an_order_on_its_way_is_not_sent_twice(bench: Bench) -> None:
    bench.grid.slow = {ADA}
    bench.ask(lossy(1))
    assert bench.carrier.send(lossy(1))
    bench.grid.slow = set()
    assert [type(e) for e in bench.later()] == [Reported]
    assert bench.later() == []
    assert bench.trained() == 1


# ---- coming and going


def test_a_node_that_goes_offline_leaves_and_joins_again_with_its_answers(bench: Bench) -> None:
    bench.ask(lossy(1))
    bench.grid.away = {ADA}
    assert bench.later() == [Left("a", f"SuperNode {ADA} is offline")]
    assert not bench.carrier.send(lossy(2))
    bench.grid.away = set()
    assert [type(e) for e in bench.later()] == [Joined]
    bench.ask(lossy(2))
    assert bench.fates() == {1: "acked", 2: "staged"}


def test_a_device_that_comes_back_under_another_number_is_sent_its_order_again(bench: Bench) -> None:
    bench.grid.slow = {ADA}
    bench.ask(lossy(1))
    bench.grid.nodes[13] = bench.grid.nodes.pop(ADA)  # its SuperNode was killed and started again
    left, joined = bench.later()
    assert (type(left), type(joined)) == (Left, Joined)
    bench.grid.slow = {13}
    assert bench.carrier.send(lossy(1))
    bench.grid.slow = set()
    events = bench.later()  # the error for the old message is nobody's failure
    assert [type(e) for e in events] == [Reported]


def test_the_second_of_two_nodes_with_one_name_waits_until_the_first_is_gone(bench: Bench) -> None:
    bench.grid.nodes[13] = bench.grid.nodes[ADA]
    (event,) = bench.later()
    assert isinstance(event, Rejected)
    assert event.reason == (
        f"calls itself a, as SuperNode {ADA} does; it waits until that one is gone. Give it a name of its own: "
        "--node-config 'name=\"a-2\"'"
    )
    bench.grid.away = {ADA}
    assert [type(e) for e in bench.later()] == [Left, Joined]


def test_traffic_counts_both_ways_and_the_hello(bench: Bench) -> None:
    before = bench.carrier.traffic()["a"]
    assert min(before.up, before.down) > 0
    bench.ask(lossy(1))
    after = bench.carrier.traffic()["a"]
    report = len(bench.spool.read(lossy(1).id))
    assert report < after.up - before.up < report + 1000
    assert after.down - before.down > len(lossy(1).payloads[0].frame)


def test_polling_ends_in_time_where_nothing_happens(bench: Bench) -> None:
    start = bench.now
    assert bench.carrier.poll(5.0) == []
    assert math.isclose(bench.now - start, 5.0)


# ---- what goes wrong, in one line each


def answering(reply: Callable[[Message], Message]) -> ClientApp:
    made = ClientApp()

    @made.query()
    def query(message: Message, context: Context) -> Message:
        return reply(message)

    return made


BROKEN: dict[str, tuple[Callable[[Message], Message], str]] = {
    "a node without pleat": (
        lambda m: Message(Error(LOAD_FAILED, "An exception was raised when\nattempting to load"), reply_to=m),
        r"^cannot load pleat's ClientApp; install pleat, .* pip install -c constraints.txt '\.\[flower\]'$",
    ),
    "a node without pleat, as flwr 1.41 tells it": (
        lambda m: Message(Error(2, "<class 'ModuleNotFoundError'>:<'No module named 'pleat_client''>"), reply_to=m),
        r"^cannot load pleat's ClientApp",
    ),
    "a failure of the device": (
        lambda m: Message(Error(FAILED, "no shard file x.npz;\n make one"), reply_to=m),
        r"^no shard file x.npz; make one$",
    ),
    "Flower lost it": (
        lambda m: Message(Error(UNAVAILABLE, ""), reply_to=m),
        r"^Flower's error 5$",
    ),
    "another ClientApp": (
        lambda m: Message(RecordDict({"hi": ConfigRecord({"there": 1})}), reply_to=m),
        r"the node's ClientApp is not pleat_client.flower_app$",
    ),
    "no hello": (
        lambda m: Message(RecordDict({RECORD: ConfigRecord({"hello": 7})}), reply_to=m),
        r"'hello' must be bytes, got int$",
    ),
    "a lying hello": (
        lambda m: Message(RecordDict({RECORD: ConfigRecord({"hello": b"\xff\xff"})}), reply_to=m),
        r".",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_node_that_cannot_take_part_is_told_in_one_line_and_asked_again_later(tmp_path: Path, what: str) -> None:
    reply, line = BROKEN[what]
    bench = Bench(tmp_path, answering(reply))
    del bench.grid.nodes[BOB]
    (event,) = bench.later()
    assert isinstance(event, Rejected)
    assert "\n" not in event.reason
    assert re.search(line, event.reason), event.reason
    assert bench.later() == []
    assert [type(e) for e in bench.later(ASK_AGAIN_S)] == [Rejected]


def test_a_reply_without_a_report_is_refused(bench: Bench) -> None:
    made = ClientApp()

    @made.train()
    def train(message: Message, context: Context) -> Message:
        return Message(RecordDict({RECORD: ConfigRecord({"report": "words"})}), reply_to=message)

    bench.grid._app = made
    (event,) = bench.ask(lossy(1))
    assert isinstance(event, Rejected)
    assert event.reason == "a: a report must be bytes, got str"


def test_a_missing_shard_is_told_to_the_server_with_the_command_that_makes_one(bench: Bench) -> None:
    (bench.folder / "a" / "shard.npz").unlink()
    (event,) = bench.ask(lossy(1))
    assert isinstance(event, Rejected)
    assert "there is no file" in event.reason
    assert "pleat shards SOURCE --devices N" in event.reason


def test_a_state_folder_that_a_daemon_holds_is_left_alone(bench: Bench) -> None:
    with hold(bench.folder / "a" / "state"):
        (event,) = bench.ask(lossy(1))
    assert isinstance(event, Rejected)
    assert "in use by another pleat-client" in event.reason


def test_a_device_refuses_an_order_that_is_not_its_own(bench: Bench) -> None:
    bench.grid.nodes[ADA], bench.grid.nodes[BOB] = bench.grid.nodes[BOB], bench.grid.nodes[ADA]
    (event,) = bench.ask(lossy(1))
    assert isinstance(event, Rejected)
    assert event.reason == f"order {lossy(1).id} is for a; this device is b"


def test_a_store_that_was_lost_makes_the_device_ask_for_the_whole_submodel(tmp_path: Path) -> None:
    grid = LocalGrid(client_app(), digit_nodes(tmp_path, 2), {})
    strategy = elastic(tmp_path / "run", least=2)
    strategy.start(grid, num_rounds=1)
    shutil.rmtree(tmp_path / "device-000" / "state" / "runs")
    strategy.start(grid, num_rounds=2)
    line = Journal.read(tmp_path / "run" / "journal.jsonl")[-1]
    assert {d["outcome"] for d in line["devices"]} == {"done"}


def test_a_stock_strategy_runs_over_the_same_grid_by_ours(tmp_path: Path) -> None:
    """FedAvg on a FleetGrid on a foreign grid: one door for stock messages, whatever carries them."""
    net = spec("mlp", (1, 8, 8), 10)
    grid = FleetGrid.over(LocalGrid(app, digit_nodes(tmp_path, 2), {}), tmp_path / "run", net)
    grid.wait_for(2, timeout_s=30)
    fedavg = FedAvg(fraction_evaluate=0.0, min_train_nodes=2, min_available_nodes=2)
    result = fedavg.start(grid, to_arrays(initial(net, 0)), num_rounds=2, train_config=ConfigRecord({"lr": 0.05}))
    losses = [float(result.train_metrics_clientapp[r]["loss"]) for r in (1, 2)]
    assert losses[1] < losses[0]
