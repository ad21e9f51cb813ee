"""What training one size of ResNet-18 adds to a process: a program of its own, so that no other size's memory counts.

    python -m pleat_server.bench.shrink_memory SIZE

Prints MiB: the highest resident size while the submodel's parameters come, it is built and takes two steps, above that
of the process when it has imported everything, traced the net and trained a tiny one. Memory is kept and given back as
in a device's trainer.
"""

from __future__ import annotations

import os
import sys

import numpy as np
import torch

from pleat.elastic.selection import WHOLE, shapes
from pleat.nets.build import initial, spec
from pleat.nets.trace import model_map
from pleat_client import thrift
from pleat_client.probe import memory
from pleat_server.bench.shrink import batch, ready, sizes_of_resnet18

MIB = 2**20


def added(size: str) -> float:
    """MiB that training this size adds."""
    torch.set_num_threads(1)
    thrift.map_large_buffers()
    small = spec("cnn", (1, 8, 8), 10)
    ready(small, WHOLE, initial(small, 0)).step(*batch(small))
    net, sizes = sizes_of_resnet18()
    wanted = shapes(model_map(net), sizes[size])
    before = memory.rss_bytes() or 0
    peak = memory.Peak((os.getpid(),), poll_s=0.002)
    rng = np.random.default_rng(0)
    params = {name: 0.02 * rng.standard_normal(shape, np.float32) for name, shape in wanted.items()}
    trainer = ready(net, sizes[size], params)
    with thrift.stepping():
        for _ in range(2):
            trainer.step(*batch(net))
    return ((peak.stop() or 0) - before) / MIB


if __name__ == "__main__":
    print(added(sys.argv[1]))
