"""Shrinking: what a training step of a submodel takes, as a share of the whole net's, beside its share of the work.

CPU seconds of one thread, batch 32, SGD with momentum: steps of all sizes in turn, so that whatever else the machine
does meets them alike. ResNet-18 on 3x32x32; the Caldas CNN on 1x28x28. A time ratio of .28 is a speed-up of 3.6.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from pleat.elastic.choosers import Draw, choose
from pleat.elastic.selection import WHOLE, Selection, extract, make
from pleat.elastic.size import macs
from pleat.exchange.order import NetSpec, Work
from pleat.modelmap import ModelMap
from pleat.nets.build import initial, input_shape_of, spec
from pleat.nets.trace import model_map
from pleat_client.trainer import Trainer

BATCH = 32
WORK = Work(batch=BATCH, rate=0.01, momentum=0.9)
SECOND_BLOCKS = ("blocks.1", "blocks.3", "blocks.5", "blocks.7")  # one block a stage stays: depth 1, 1, 1, 1
RESNET_STEPS, CALDAS_STEPS = 5, 15


def run() -> dict[str, Any]:
    """The figures of shrink.json."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return {**_resnet18(), **_caldas()}
    finally:
        torch.set_num_threads(threads)


def _resnet18() -> dict[str, Any]:
    net = spec("resnet18", (3, 32, 32), 10)
    model = model_map(net)
    sizes = {
        "width_half": _width(model, 0.5),
        "width_quarter": _width(model, 0.25),
        "depth_1111": make(model, dropped=SECOND_BLOCKS),
    }
    seconds = step_seconds(net, model, {"whole": WHOLE, **sizes}, RESNET_STEPS)
    out: dict[str, Any] = {f"{name}_time_ratio": seconds[name] / seconds["whole"] for name in sizes}
    out |= {f"{name}_work_ratio": macs(model, s) / macs(model, WHOLE) for name, s in sizes.items()}
    return out | {"step_s": seconds["whole"], "n": RESNET_STEPS}


def _caldas() -> dict[str, Any]:
    net = spec("caldas", (1, 28, 28), 62)
    model = model_map(net)
    sizes = {"caldas_half": _width(model, 0.5), "caldas_quarter": _width(model, 0.25)}
    seconds = step_seconds(net, model, {"whole": WHOLE, **sizes}, CALDAS_STEPS)
    out: dict[str, Any] = {f"{name}_time_ratio": seconds[name] / seconds["whole"] for name in sizes}
    return out | {"caldas_step_s": seconds["whole"], "caldas_n": CALDAS_STEPS}


def _width(model: ModelMap, rate: float) -> Selection:
    return choose("prefix", model, rate, Draw(0, 0, "bench", None))


def step_seconds(net: NetSpec, model: ModelMap, sizes: Mapping[str, Selection], steps: int) -> dict[str, float]:
    """Median CPU seconds of a training step of each size, the sizes in turn, after one step to warm up."""
    params = initial(net, 0)
    trainers = {name: Trainer(net, model, s, extract(model, s, params), (), WORK) for name, s in sizes.items()}
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.standard_normal((BATCH, *input_shape_of(net)), dtype=np.float32))
    y = torch.from_numpy(rng.integers(0, 10, BATCH))
    taken: dict[str, list[float]] = {name: [] for name in trainers}
    for _ in range(steps + 1):
        for name, trainer in trainers.items():
            begun = time.process_time()
            trainer.step(x, y, rng)
            taken[name].append(time.process_time() - begun)
    return {name: statistics.median(seconds[1:]) for name, seconds in taken.items()}
