"""Shrinking: what a submodel takes to train, as a share of the whole net's, beside its share of the work.

ResNet-18 on 3x32x32 by width and depth, the Caldas CNN on 1x28x28 by width. CPU seconds of one thread, batch 32, SGD
with momentum: steps of all sizes in turn, so that whatever else the machine does meets them alike; a ratio is the
median of the turns' ratios. A ratio of .28 is a speed-up of 3.6. Memory: `shrink_memory.py`.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from pleat.elastic.choosers import Draw, choose
from pleat.elastic.choosers.depth import by_stage
from pleat.elastic.selection import WHOLE, Selection, extract
from pleat.elastic.size import macs, parameters
from pleat.exchange.order import NetSpec, Work
from pleat.modelmap import ModelMap
from pleat.nets.build import initial, input_shape_of, spec
from pleat.nets.trace import model_map
from pleat.params import Params
from pleat_client import thrift
from pleat_client.trainer import Trainer

BATCH = 32
WORK = Work(batch=BATCH, rate=0.01, momentum=0.9)
WIDTHS = {"width_three_quarters": 0.75, "width_half": 0.5, "width_quarter": 0.25, "width_eighth": 0.125}
DEPTHS = {"depth_2211": (2, 2, 1, 1), "depth_1111": (1, 1, 1, 1)}
RESNET_STEPS, CALDAS_STEPS, PROCESSES = 7, 15, 3


def run() -> dict[str, Any]:
    """The figures of shrink.json."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return {**_resnet18(), **_caldas()}
    finally:
        torch.set_num_threads(threads)


def sizes_of_resnet18() -> tuple[NetSpec, dict[str, Selection]]:
    """The net and its sizes, the whole one first."""
    net = spec("resnet18", (3, 32, 32), 10)
    model = model_map(net)
    widths = {name: _width(model, rate) for name, rate in WIDTHS.items()}
    return net, {"whole": WHOLE, **widths, **{name: by_stage(model, kept) for name, kept in DEPTHS.items()}}


def _resnet18() -> dict[str, Any]:
    net, sizes = sizes_of_resnet18()
    model, out = model_map(net), dict[str, Any]()
    ratios, seconds = step_ratios(net, model, sizes, RESNET_STEPS)
    for name, selection in sizes.items():
        out[f"{name}_mmacs"] = macs(model, selection) / 1e6
        out[f"{name}_kparams"] = parameters(model, selection) / 1e3
        out[f"{name}_step_ms"] = 1e3 * seconds[name]
        out[f"{name}_peak_mib"] = statistics.median(_added_mib(name) for _ in range(PROCESSES))
        if selection != WHOLE:
            out[f"{name}_time_ratio"] = ratios[name]
            out[f"{name}_work_ratio"] = macs(model, selection) / macs(model, WHOLE)
    return out | {"step_s": seconds["whole"], "n": RESNET_STEPS, "n_peak": PROCESSES}


def _added_mib(size: str) -> float:
    words = [sys.executable, "-m", "pleat_server.bench.shrink_memory", size]
    as_on_devices = {**os.environ, "MALLOC_ARENA_MAX": "1"}
    return float(subprocess.run(words, stdout=subprocess.PIPE, check=True, env=as_on_devices).stdout)


def _caldas() -> dict[str, Any]:
    net = spec("caldas", (1, 28, 28), 62)
    model = model_map(net)
    sizes = {"whole": WHOLE, "caldas_half": _width(model, 0.5), "caldas_quarter": _width(model, 0.25)}
    ratios, seconds = step_ratios(net, model, sizes, CALDAS_STEPS)
    out: dict[str, Any] = {f"{name}_time_ratio": ratios[name] for name in sizes if name != "whole"}
    return out | {"caldas_step_s": seconds["whole"], "caldas_n": CALDAS_STEPS}


def _width(model: ModelMap, rate: float) -> Selection:
    return choose("prefix", model, rate, Draw(0, 0, "bench", None))


def ready(net: NetSpec, selection: Selection, params: Params) -> Trainer:
    """A trainer of a submodel with these parameters, its own."""
    return Trainer(net, model_map(net), selection, params, (), WORK)


def batch(net: NetSpec) -> tuple[torch.Tensor, torch.Tensor, np.random.Generator]:
    """What a training step takes: random samples, their labels, and a generator."""
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.standard_normal((BATCH, *input_shape_of(net)), dtype=np.float32))
    return x, torch.from_numpy(rng.integers(0, 10, BATCH)), rng


def step_ratios(
    net: NetSpec, model: ModelMap, sizes: Mapping[str, Selection], steps: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Each size's step as a share of the size "whole"'s, and its CPU seconds: medians of `steps` turns in which every
    size takes one step, after one to warm up."""
    params = initial(net, 0)
    trainers = {name: ready(net, s, extract(model, s, params)) for name, s in sizes.items()}
    x, y, rng = batch(net)
    taken: dict[str, list[float]] = {name: [] for name in trainers}
    with thrift.stepping():
        for _ in range(steps + 1):
            for name, trainer in trainers.items():
                begun = time.process_time()
                trainer.step(x, y, rng)
                taken[name].append(time.process_time() - begun)
    turns = {name: seconds[1:] for name, seconds in taken.items()}
    ratios = {n: statistics.median(a / b for a, b in zip(s, turns["whole"], strict=True)) for n, s in turns.items()}
    return ratios, {name: statistics.median(seconds) for name, seconds in turns.items()}
