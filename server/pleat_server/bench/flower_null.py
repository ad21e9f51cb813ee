"""A Flower app of which no client trains: each adds 1 to the model. `round.py` submits this file as it is.

A round starts when the file `go-N` appears in the folder named by PLEAT_BENCH, and leaves its seconds in `done-N`.
"""

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import cast

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

FOLDER = Path(os.environ.get("PLEAT_BENCH", "."))
ROUNDS = int(os.environ.get("PLEAT_BENCH_ROUNDS", "1"))
DEVICES = int(os.environ.get("PLEAT_BENCH_DEVICES", "4"))
PARAMETERS = int(os.environ.get("PLEAT_BENCH_PARAMETERS", "1000000"))

server = ServerApp()
client = ClientApp()


class Timed(FedAvg):
    """FedAvg whose rounds wait for leave and tell how long they took, from the first message to the average."""

    began = 0.0

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        while not (FOLDER / f"go-{server_round}").exists():
            time.sleep(0.01)
        self.began = time.perf_counter()
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        averaged = super().aggregate_train(server_round, replies)
        fresh = FOLDER / f".done-{server_round}"
        fresh.write_text(str(time.perf_counter() - self.began))
        fresh.rename(FOLDER / f"done-{server_round}")
        return averaged


@server.main()
def main(grid: Grid, context: Context) -> None:
    strategy = Timed(fraction_evaluate=0.0, min_train_nodes=DEVICES, min_available_nodes=DEVICES)
    model = np.random.default_rng(0).standard_normal(PARAMETERS, dtype=np.float32)
    strategy.start(grid=grid, initial_arrays=ArrayRecord([model]), num_rounds=ROUNDS)


@client.train()
def train(message: Message, context: Context) -> Message:
    arrays = cast(ArrayRecord, message.content["arrays"])
    trained = ArrayRecord([a + 1 for a in arrays.to_numpy_ndarrays()])
    content = RecordDict({"arrays": trained, "metrics": MetricRecord({"num-examples": 1})})
    return Message(content=content, reply_to=message)
