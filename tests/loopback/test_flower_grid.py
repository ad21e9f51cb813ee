"""Flower's face: stock strategies run over pleat's grids, and pleat's strategy is a Flower strategy."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Strategy
from safetensors.numpy import load_file

from pleat.nets.build import initial, spec
from pleat.nets.trace import model_map
from pleat.params import Params
from pleat_server import app
from pleat_server.config import RunConfig
from pleat_server.desk import OrderBook
from pleat_server.keep.spool import Spool
from pleat_server.link.grid import FleetGrid, from_arrays, to_arrays
from pleat_server.simulate.grid import InProcess
from pleat_server.strategy import ElasticStrategy
from support.digits import digit_shards


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def grid_over_three_devices(folder: Path) -> FleetGrid:
    net = spec("mlp", (1, 8, 8), 10)
    model = model_map(net)
    spool = Spool(folder / "spool")
    book = OrderBook(folder.name, spool.has)
    book.serve(model, {})
    carrier = InProcess(app.virtual_devices(digit_shards(3)[0], holdout=0.1), spool, book)
    return FleetGrid(carrier, book, spool, folder.name, model, net)


def start_params() -> Params:
    return initial(spec("mlp", (1, 8, 8), 10), 0)


def test_grid_signatures_are_flowers() -> None:
    for name in Grid.__abstractmethods__ - {"run"}:
        theirs, ours = inspect.signature(getattr(Grid, name)), inspect.signature(getattr(FleetGrid, name))
        assert list(theirs.parameters) == list(ours.parameters), name


def test_strategy_signatures_are_flowers() -> None:
    for name in {*Strategy.__abstractmethods__, "start"}:
        theirs, ours = inspect.signature(getattr(Strategy, name)), inspect.signature(getattr(ElasticStrategy, name))
        assert list(theirs.parameters) == list(ours.parameters), name


def test_a_stock_fedavg_trains_over_the_grid_with_plain_arrays(tmp_path: Path) -> None:
    grid, before = grid_over_three_devices(tmp_path), start_params()
    config = ConfigRecord({"epochs": 1, "lr": 0.05})
    result = FedAvg(min_train_nodes=3, min_evaluate_nodes=3, min_available_nodes=3).start(
        grid, to_arrays(before), num_rounds=2, train_config=config
    )
    after = from_arrays(result.arrays)
    assert before.keys() == after.keys()
    assert max(float(np.abs(after[n] - before[n]).max()) for n in before) > 1e-3
    losses = [float(result.train_metrics_clientapp[r]["loss"]) for r in (1, 2)]
    assert losses[1] < losses[0]
    assert {1, 2} <= result.evaluate_metrics_clientapp.keys()


def test_a_stock_message_to_a_device_that_is_away_is_answered_with_an_error(tmp_path: Path) -> None:
    from flwr.app import Message, RecordDict

    grid = grid_over_three_devices(tmp_path)
    message = Message(RecordDict({"arrays": to_arrays(start_params())}), dst_node_id=7, message_type="train")
    (reply,) = grid.send_and_receive([message], timeout=5)
    assert reply.has_error()
    assert "not connected" in reply.error.reason


def elastic(folder: Path) -> ElasticStrategy:
    return ElasticStrategy(
        "elastic", "mlp", input_shape=(1, 8, 8), classes=10, folder=folder, overrides={"plan": {"policy": "fixed"}}
    )


def test_the_elastic_strategy_starts_on_a_grid_and_equals_the_simulated_run(tmp_path: Path) -> None:
    grid = grid_over_three_devices(tmp_path / "grid")
    result = elastic(tmp_path / "grid").start(grid, num_rounds=2)
    config = RunConfig("elastic", "mlp", tmp_path / "grid2" / "grid", rounds=2, policy="fixed")
    app.simulate(
        RunConfig(**{**config.__dict__, "input_shape": (1, 8, 8), "classes": 10}),
        app.virtual_devices(digit_shards(3)[0], holdout=0.1),
        None,
    )
    theirs = load_file(tmp_path / "grid2" / "grid" / "model.safetensors")
    ours = from_arrays(result.arrays)
    assert all(np.array_equal(ours[n], theirs[n]) for n in theirs)


def test_flowers_own_loop_drives_the_same_round_functions(tmp_path: Path) -> None:
    grid, strategy = grid_over_three_devices(tmp_path / "grid"), elastic(tmp_path / "grid")
    result = Strategy.start(strategy, grid, to_arrays(strategy.state.params), num_rounds=2)
    other = grid_over_three_devices(tmp_path / "other")
    ours = elastic(tmp_path / "other")
    ours.start(other, num_rounds=2)
    driven = from_arrays(result.arrays)
    assert all(np.array_equal(driven[n], ours.state.params[n]) for n in driven)
    assert "train_loss" in result.train_metrics_clientapp[2]
