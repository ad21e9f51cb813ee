"""Our ClientApp serves a stock strategy of Flower's: arrays in, arrays and metrics out, mistakes in one line each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp.strategy import FedAvg

from pleat.exchange.flower import FAILED, RECORD, params_of
from pleat.nets.build import initial, spec
from pleat.params import Params
from pleat.shard import write
from pleat_client.flower_app import app, client_app
from pleat_server.link.grid import to_arrays
from support.digits import digit_shards
from support.flower import LocalGrid

NET = {"model": "mlp", "input-shape": "1x8x8", "classes": 10}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def nodes(folder: Path, **more: Any) -> dict[int, dict[str, Any]]:
    """Two nodes that keep a tenth of their digits to score models on."""
    made = {}
    for number, part in enumerate(digit_shards(2)[0]):
        write(folder / f"{number}.npz", part)
        made[number + 1] = {"data": str(folder / f"{number}.npz"), "state": str(folder / f"state-{number}"), **more}
    return made


def start() -> Params:
    return initial(spec("mlp", (1, 8, 8), 10), 0)


def asked(grid: LocalGrid, **records: Any) -> Message:
    """The reply of node 1 to a train message with these records."""
    message = Message(RecordDict(records), dst_node_id=1, message_type="train")
    (reply,) = grid.send_and_receive([message])
    return reply


def test_a_stock_fedavg_trains_and_evaluates_our_client_app(tmp_path: Path) -> None:
    grid, before = LocalGrid(app, nodes(tmp_path, threads=1), NET), start()
    fedavg = FedAvg(min_train_nodes=2, min_evaluate_nodes=2, min_available_nodes=2)
    result = fedavg.start(grid, to_arrays(before), num_rounds=3, train_config=ConfigRecord({"epochs": 1, "lr": 0.05}))
    after = params_of(result.arrays)
    assert {n: a.shape for n, a in after.items()} == {n: a.shape for n, a in before.items()}
    losses = [float(result.train_metrics_clientapp[r]["loss"]) for r in (1, 2, 3)]
    assert losses[2] < losses[0]
    assert float(result.evaluate_metrics_clientapp[3]["correct"]) > 0


def test_a_stock_message_is_done_the_same_way_every_time_and_leaves_no_state(tmp_path: Path) -> None:
    grid = LocalGrid(app, nodes(tmp_path, threads=1), NET)
    replies = [asked(grid, arrays=to_arrays(start()), config=ConfigRecord({"server-round": 4})) for _ in range(2)]
    first, second = (params_of(r.content["arrays"]) for r in replies)
    assert all(np.array_equal(first[n], second[n]) for n in first)
    assert not (tmp_path / "state-0" / "runs").exists()


def test_keys_of_another_app_in_the_run_config_do_not_matter(tmp_path: Path) -> None:
    grid = LocalGrid(app, nodes(tmp_path, threads=1), {**NET, "their-own": 3})
    assert not asked(grid, arrays=to_arrays(start())).has_error()


def test_defaults_stand_in_for_a_run_config(tmp_path: Path) -> None:
    grid = LocalGrid(client_app(NET), nodes(tmp_path, threads=1), {})
    assert not asked(grid, arrays=to_arrays(start())).has_error()


@pytest.mark.parametrize(
    ("run", "node", "records", "line"),
    [
        ({}, {}, {}, "no key 'model'; add it such as model = \"mlp\""),
        ({"modl": "mlp"}, {}, {}, "no key 'model'; is 'modl' meant?"),
        ({**NET, "model": "mlpp"}, {}, {}, "unknown net 'mlpp'; did you mean 'mlp'?"),
        (
            {**NET, "classes": 7},
            {},
            {},
            "'head.bias' has shape (10,), expected (7,); set model, input-shape",
        ),
        ({**NET, "input-shape": "1x9x9"}, {}, {}, "set model, input-shape and classes in the run config"),
        (NET, {"memry": "1MB"}, {}, "--node-config of the SuperNode: unknown key 'memry'; did you mean 'memory'?"),
        (NET, {"data": "gone.npz"}, {}, "data: there is no file gone.npz; make shards with"),
        (NET, {"memory": "1MiB"}, {}, "refused: does not fit: training needs"),
        (NET, {}, {"arrays": None}, "a train message carries one ArrayRecord, got 0"),
        (NET, {}, {RECORD: ConfigRecord({"order": 3})}, "carries an order as bytes, got int"),
        (NET, {}, {RECORD: ConfigRecord({"order": b"\x00"})}, "order"),
    ],
)
def test_what_cannot_be_done_is_an_error_reply_of_one_line(
    tmp_path: Path, run: dict[str, Any], node: dict[str, Any], records: dict[str, Any], line: str
) -> None:
    grid = LocalGrid(app, nodes(tmp_path, **{"threads": 1, **node}), run)
    given: dict[str, ArrayRecord | ConfigRecord | None] = {"arrays": to_arrays(start()), **records}
    reply = asked(grid, **{name: record for name, record in given.items() if record is not None})
    assert reply.has_error()
    assert reply.error.code == FAILED
    assert line in reply.error.reason
    assert "\n" not in reply.error.reason
