"""Trial: does torch work on this board? A program of its own, for a torch that does not may take its process with it.

    python -m pleat_client.trial

Imports what the trainer imports and takes two training steps of a small convolutional net, which touches the kernels
that real work needs. Prints one JSON object; exit status 0 if it came so far.
"""

from __future__ import annotations

import time
from importlib import metadata

import msgspec
import numpy as np

from pleat.elastic.selection import WHOLE
from pleat.exchange.order import Work
from pleat.nets.build import initial, spec
from pleat.nets.trace import model_map
from pleat.shard import Shard
from pleat_client.probe import memory
from pleat_client.trainer import train

SHAPE, CLASSES, SAMPLES = (1, 8, 8), 10, 16


class Trial(msgspec.Struct, frozen=True):
    """`idle_bytes`: resident after the import; `peak_bytes`: while training, None = not told; `step_s`: of one step."""

    torch: str
    idle_bytes: int | None
    peak_bytes: int | None
    step_s: float


def run() -> Trial:
    idle = memory.rss_bytes()
    net = spec("cnn", SHAPE, CLASSES)
    rng = np.random.Generator(np.random.PCG64(0))
    shard = Shard(rng.normal(size=(SAMPLES, *SHAPE)).astype(np.float32), np.arange(SAMPLES, dtype=np.int64) % CLASSES)
    work = Work(batch=SAMPLES // 2)
    began = time.perf_counter()
    train(net, model_map(net), WHOLE, initial(net, 0), (), work, shard, 0)
    return Trial(metadata.version("torch"), idle, memory.peak_bytes(), (time.perf_counter() - began) / 2)


if __name__ == "__main__":
    print(msgspec.json.encode(run()).decode())
