"""The Flower app that trains the bare script's CNN on one device. `device_memory.py` submits this file as it is.

PLEAT_BENCH names the folder that holds shard.npz, and gets the file `done` after the last round.
"""

import os
from pathlib import Path
from typing import cast

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

FOLDER = Path(os.environ.get("PLEAT_BENCH", "."))
ROUNDS = int(os.environ.get("PLEAT_BENCH_ROUNDS", "1"))
EPOCHS = int(os.environ.get("PLEAT_BENCH_EPOCHS", "1"))

server = ServerApp()
client = ClientApp()


@server.main()
def main(grid: Grid, context: Context) -> None:
    from pleat_server.bench import bare_torch

    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=1, min_available_nodes=1)
    begin = ArrayRecord(bare_torch.caldas().state_dict())
    strategy.start(grid=grid, initial_arrays=begin, num_rounds=ROUNDS)
    (FOLDER / "done").touch()


@client.train()
def train(message: Message, context: Context) -> Message:
    from pleat_server.bench import bare_torch

    net = bare_torch.caldas()
    net.load_state_dict(cast(ArrayRecord, message.content["arrays"]).to_torch_state_dict())
    x, y = bare_torch.read(str(FOLDER / "shard.npz"))
    loss = bare_torch.train(net, x, y, EPOCHS)
    told = MetricRecord({"num-examples": len(x), "loss": loss})
    return Message(RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": told}), reply_to=message)
