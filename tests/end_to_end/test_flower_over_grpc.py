"""Flower over pleat's own gRPC link, with real device daemons: a stock FedAvg with plain arrays, and our strategy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ConfigRecord
from flwr.serverapp.strategy import FedAvg

from pleat.nets.build import initial, spec
from pleat.shard import write
from pleat_server.link.grid import FleetGrid, from_arrays, to_arrays
from pleat_server.strategy import ElasticStrategy
from support.digits import digit_shards
from support.processes import Processes

NET = spec("mlp", (1, 8, 8), 10)


@pytest.fixture
def grid(tmp_path: Path) -> Iterator[FleetGrid]:
    """Two daemons that hold a tenth of their samples back, joined to a grid in the folder "run"."""
    processes = Processes(tmp_path)
    parts, _ = digit_shards(2)
    with FleetGrid.listen("127.0.0.1:0", tmp_path / "run", NET) as grid:
        try:
            for name, part in zip(("ada", "bob"), parts, strict=True):
                write(tmp_path / f"{name}.npz", part)
                processes.device(name, grid.address, tmp_path / f"{name}.npz", "--holdout", "0.1")
            grid.wait_for(2, timeout_s=90)
            yield grid
        finally:
            processes.stop()


def test_a_stock_fedavg_trains_real_daemons_with_plain_arrays(grid: FleetGrid) -> None:
    before = initial(NET, 0)
    fedavg = FedAvg(min_train_nodes=2, min_evaluate_nodes=2, min_available_nodes=2)
    result = fedavg.start(grid, to_arrays(before), num_rounds=3, train_config=ConfigRecord({"epochs": 1, "lr": 0.05}))
    after = from_arrays(result.arrays)
    assert {n: a.shape for n, a in after.items()} == {n: a.shape for n, a in before.items()}
    assert max(float(np.abs(after[n] - before[n]).max()) for n in before) > 1e-3
    losses = [float(result.train_metrics_clientapp[number]["loss"]) for number in (1, 2, 3)]
    assert losses[2] < losses[0]
    assert float(result.evaluate_metrics_clientapp[3]["correct"]) > 0


def test_our_strategy_runs_on_the_same_grid(grid: FleetGrid, tmp_path: Path) -> None:
    strategy = ElasticStrategy("elastic", "mlp", input_shape=(1, 8, 8), classes=10, folder=tmp_path / "run")
    result = strategy.start(grid, num_rounds=2)
    assert strategy.state.round == 2
    assert sorted(result.evaluate_metrics_serverapp) == [1, 2]
    assert sum(traffic.up for traffic in grid.carrier.traffic().values()) > 0
